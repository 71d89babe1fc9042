//! What queries see: the packed rows of a pass, or what sequences hold.

use candle_core::Tensor;

use super::{
    Values,
    attention::{Keys, Span},
    maps::Maps,
};
use crate::{Cache, Entry, Heads, Plan, Result, Run, Sight, cache::Held};

/// Calls `use_it` with the spans of packed rows over their k and v.
pub(super) fn with_spans<T>(
    plan: &Plan,
    k: &Tensor,
    v: &Tensor,
    heads: &Heads,
    use_it: impl FnOnce(&[Span]) -> Result<T>,
) -> Result<T> {
    let (_, width) = heads.widths();
    let (k, v) = (Values::of(k)?, Values::of(v)?);
    let keys = |run: &Run| {
        let place = run.row * width..(run.row + run.len) * width;
        Keys {
            k: &k[place.clone()],
            v: &v[place],
            row: run.row,
            len: run.len,
            position: run.position,
        }
    };
    let span = |sight: &Sight| Span {
        row: sight.own.row,
        len: sight.own.len,
        position: sight.own.position,
        keys: sight.seen.iter().map(keys).collect(),
        tree: sight.tree,
    };
    let spans: Vec<Span> = plan.sights.iter().map(span).collect();
    use_it(&spans)
}

impl Cache {
    /// Puts the new rows of k and v, `width` values each, behind what their slots hold in a block,
    /// at its n-th call of attention, and answers what the step's queries see there.
    pub(super) fn append(
        &mut self,
        (layer, call): (usize, usize),
        [k, v]: [&Tensor; 2],
        width: usize,
    ) -> Result<Vec<Span<'_>>> {
        let (lens, batch) = (&self.lens, &self.batch);
        let calls = match &mut self.held {
            Held::Near(blocks) => &mut blocks[layer],
            #[cfg(feature = "cuda")]
            Held::Card(_) => return Err(crate::Error::rule("this cache is on the GPU")),
        };
        let most = batch.iter().map(|e| lens[e.slot] + e.len).max();
        let most = most.unwrap_or(0);
        if calls.len() == call {
            let room = self.room.max(most);
            calls.push(Maps::new(lens.len(), room, width)?);
        }
        let rows = &mut calls[call];
        rows.grow(most, lens)?;
        let (k, v) = (Values::of(k)?, Values::of(v)?);
        for e in batch {
            let new = e.row * width..(e.row + e.len) * width;
            rows.write(e.slot, lens[e.slot], [&k[new.clone()], &v[new]]);
        }
        let rows = &*rows;
        let span = |(tree, e): (usize, &Entry)| {
            let old = lens[e.slot];
            let [k, v] = rows.slot(e.slot, old + e.len);
            let keys = Keys {
                k,
                v,
                row: 0,
                len: old + e.len,
                position: 0,
            };
            Span {
                row: e.row,
                len: e.len,
                position: old,
                keys: vec![keys],
                tree,
            }
        };
        Ok(batch.iter().enumerate().map(span).collect())
    }
}
