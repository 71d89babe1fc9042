//! Real inputs of every projection, from a forward pass: what an export's rounding is measured on.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, sync::Arc};

use candle_core::{Tensor, TensorId};
use randori_lora::LoraSpec;
use randori_sdk::seam::Architecture;

use crate::{
    Error, Packed, Params, Player, Result,
    base::on_kernels,
    kernels::OnCandle,
    player::weights::Weights,
    tape::{Pass, Place},
    trace::{Part, wanted},
    weights::Stream,
};

/// By projection (`model.layers.0.mlp.up_proj`): some of the rows that it multiplied, (rows, in) in
/// f32.
pub type Inputs = BTreeMap<String, Tensor>;

impl Player {
    /// At most `rows` rows of each projection's inputs, spread evenly over the plan's tokens.
    ///
    /// # Errors
    /// As [`Player::hidden`].
    pub fn inputs(&self, plan: &Packed, rows: usize) -> Result<Inputs> {
        walk(&*self.base.arch, plan, rows, &|_| Ok(self.clone()))
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
        walk(&**self.arch(), plan, rows, &|part| {
            Ok(Player {
                base: self.some(&wanted(&**self.arch(), part, width)?)?,
                lora: lora.clone(),
                params: params.clone(),
            })
        })
    }
}

/// A forward pass; `player` answers one whose base has the weights of that part at least.
fn walk(
    arch: &dyn Architecture,
    plan: &Packed,
    rows: usize,
    player: &dyn Fn(Part) -> Result<Player>,
) -> Result<Inputs> {
    let probe = Rc::new(Probe {
        rows,
        seen: RefCell::default(),
        last: RefCell::default(),
    });
    let mut x = None;
    for part in [Part::Embed]
        .into_iter()
        .chain((0..arch.layers()).map(Part::Block))
        .chain([Part::Head])
    {
        let player = player(part)?;
        let probe = (part != Part::Embed).then(|| probe.clone());
        let weights = Weights::new(&player, Arc::default())?.probed(probe);
        let plan = plan.rows(None)?;
        x = Some(on_kernels!(player.base.compute, kernels => {
            through(&Pass::new(kernels, &weights, plan), part, x, rows)?
        }));
    }
    Ok(probe.seen.take())
}

/// What comes out of a part of the model, given what came out of the one before.
fn through<K: OnCandle>(
    pass: &Pass<K>,
    part: Part,
    x: Option<Tensor>,
    rows: usize,
) -> Result<Tensor> {
    let before = || x.ok_or_else(|| Error::rule("a pass begins with the embedding"));
    let done = match part {
        Part::Embed => pass.run_embed(false)?,
        Part::Block(layer) => pass.run_block(Place::Packed, layer, false, before()?, false)?,
        Part::Head => {
            let x = before()?;
            // a head's row is wide
            let picked = pass.kernels.gather(&x, &spread(x.dims()[0], rows).into())?;
            pass.run_head(Place::Rows, false, picked, false)?
        }
    };
    Ok(done.output)
}

/// Keeps rows of what projections multiply.
pub(crate) struct Probe {
    rows: usize,
    seen: RefCell<Inputs>,
    /// q, k and v multiply the same value: its rows are kept once.
    last: RefCell<Option<(TensorId, Tensor)>>,
}

impl Probe {
    /// `x` (n, in) is what this projection multiplies.
    pub(crate) fn see<K: OnCandle>(&self, kernels: &K, projection: &str, x: &Tensor) -> Result<()> {
        let mut last = self.last.borrow_mut();
        let kept = match &*last {
            Some((id, kept)) if *id == x.id() => kept.clone(),
            _ => kernels.gather(x, &spread(x.dims()[0], self.rows).into())?,
        };
        *last = Some((x.id(), kept.clone()));
        self.seen.borrow_mut().insert(projection.into(), kept);
        Ok(())
    }
}

/// At most `wanted` of `n` rows, evenly spread.
fn spread(n: usize, wanted: usize) -> Vec<u32> {
    let count = wanted.min(n);
    (0..count).map(|i| (i * n / count) as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn rows_are_spread_evenly() {
        assert_eq!(spread(10, 4), [0, 2, 5, 7]);
        assert_eq!(spread(3, 8), [0, 1, 2]);
        assert!(spread(0, 8).is_empty());
    }
}
