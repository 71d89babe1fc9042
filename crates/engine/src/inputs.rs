//! Real inputs of every projection, from a forward pass: what an export's rounding is measured on.

use std::{rc::Rc, sync::Arc};

use candle_core::Tensor;
use randori_kernels::{Error, OnCandle, Result};
use randori_lora::LoraSpec;
use randori_sdk::seam::Architecture;

use crate::{
    Packed, Params, Player,
    base::on_kernels,
    player::{
        probe::{Inputs, Probe, spread},
        weights::PassWeights,
    },
    tape::{Carried, Context, Pass},
    trace::{Call, call::weights_of},
    weights::Stream,
};

impl Player {
    /// At most `rows` rows of each projection's inputs, spread evenly over the plan's tokens.
    ///
    /// # Errors
    /// As [`Player::hidden`].
    pub fn inputs(&self, plan: &Packed, rows: usize) -> Result<Inputs> {
        run_probed(&*self.base.arch, plan, rows, &|_| Ok(self.clone()))
    }
}

impl Stream {
    /// [`Player::inputs`] of a player on this base, with the weights of one block at a time in
    /// memory.
    ///
    /// # Errors
    /// As there, or what the file refuses.
    pub fn inputs(
        &self,
        lora: Option<Arc<LoraSpec>>,
        params: Arc<Params>,
        plan: &Packed,
        rows: usize,
    ) -> Result<Inputs> {
        let width = self.trace().width;
        run_probed(&**self.arch(), plan, rows, &|call| {
            let wanted = weights_of(&**self.arch(), call, width, &self.trace().carried)?;
            Ok(Player {
                base: self.some(&wanted)?,
                lora: lora.clone(),
                params: params.clone(),
            })
        })
    }
}

/// A forward pass, call by call; `player` answers one whose base has the weights of that call at
/// least.
fn run_probed(
    arch: &dyn Architecture,
    plan: &Packed,
    rows: usize,
    player: &dyn Fn(Call) -> Result<Player>,
) -> Result<Inputs> {
    let probe = Rc::new(Probe::new(rows));
    let (mut x, mut carried) = (None, Carried::new());
    for call in [Call::Embed]
        .into_iter()
        .chain((0..arch.layers()).map(Call::Block))
        .chain([Call::Head])
    {
        let player = player(call)?;
        let weights = PassWeights::new(&player, Arc::default())?.with_probe(Some(probe.clone()));
        let plan = plan.to_plan(None)?;
        x = Some(on_kernels!(player.base.compute, kernels => {
            run_call(&Pass::new(kernels, &weights, plan), call, (x, &mut carried), rows)?
        }));
    }
    Ok(probe.take())
}

/// Runs one call of the model; `x` is the result of the call before, beside what crosses blocks.
fn run_call<K: OnCandle>(
    pass: &Pass<K>,
    call: Call,
    (x, carried): (Option<Tensor>, &mut Carried<Tensor>),
    rows: usize,
) -> Result<Tensor> {
    let before = || x.ok_or_else(|| Error::rule("a pass begins with the embedding"));
    let done = match call {
        Call::Embed => pass.run_embed(false, carried)?,
        Call::Block(layer) => {
            pass.run_block(Context::Packed, layer, false, before()?, false, carried)?
        }
        Call::Head => {
            let x = before()?;
            // a head's row is wide
            let picked = pass.kernels.gather(&x, &spread(x.dims()[0], rows).into())?;
            pass.run_head(Context::Alone, false, picked, false)?
        }
    };
    Ok(done.output)
}
