//! Real inputs of every projection, from a forward pass: what an export's rounding is measured on.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, sync::Arc};

use candle_core::{Tensor, TensorId};
use randori_lora::LoraSpec;
use randori_sdk::seam::Architecture;

use crate::{
    Packed, Params, Player, Result,
    kernels::layout,
    tape::{Pass, Place},
    trace::{Part, wanted},
    weights::Stream,
};

/// By projection (`model.layers.0.mlp.up_proj`): some of the rows that it multiplied, (rows, in) in f32.
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
    /// [`Player::inputs`] of a player on this base, with the weights of one block at a time in memory.
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
    let embedding = player(Part::Embed)?;
    let pass = Pass::packed(&embedding, plan, None)?;
    let mut x = embedding.run_embed(&pass, false)?.output;
    drop(pass);
    drop(embedding);
    for layer in 0..arch.layers() {
        let player = player(Part::Block(layer))?;
        let mut pass = Pass::packed(&player, plan, None)?;
        pass.probe = Some(probe.clone());
        x = player
            .run_block(&pass, Place::Packed, layer, false, x, false)?
            .output;
    }
    let player = player(Part::Head)?;
    let mut pass = Pass::packed(&player, plan, None)?;
    pass.probe = Some(probe.clone());
    let x = layout::gather(&x, &spread(x.dims()[0], rows))?; // a head's row is wide
    player.run_head(&pass, Place::Rows, false, x, false)?;
    Ok(probe.seen.take())
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
    pub(crate) fn see(&self, projection: &str, x: &Tensor) -> Result<()> {
        let mut last = self.last.borrow_mut();
        let kept = match &*last {
            Some((id, kept)) if *id == x.id() => kept.clone(),
            _ => layout::gather(x, &spread(x.dims()[0], self.rows))?,
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
