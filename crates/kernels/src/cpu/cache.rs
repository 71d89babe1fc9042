//! Spans for attention: of the packed rows of a pass, or of a cache.

use candle_core::Tensor;

use super::{
    Values,
    attention::{Keys, Span},
    maps::Maps,
};
use crate::{Cache, Entry, Heads, Plan, Result, Run, SegmentMask, cache::Memory};

/// Calls `use_it` with the spans of a pass's packed rows over their k and v.
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
        let rows = run.row * width..(run.row + run.len) * width;
        Keys {
            k: &k[rows.clone()],
            v: &v[rows],
            row: run.row,
            len: run.len,
            position: run.position,
        }
    };
    let span = |mask: &SegmentMask| Span {
        row: mask.queries.row,
        len: mask.queries.len,
        position: mask.queries.position,
        keys: mask.keys.iter().map(keys).collect(),
        tree: mask.tree,
    };
    let spans: Vec<Span> = plan.masks.iter().map(span).collect();
    use_it(&spans)
}

impl Cache {
    /// Appends the new rows of k and v, `width` values each, and returns the spans of the step's
    /// queries over the sequences. (`layer`, `call`) is the block and the number of the call of
    /// attention inside it.
    pub(super) fn append(
        &mut self,
        (layer, call): (usize, usize),
        [k, v]: [&Tensor; 2],
        width: usize,
    ) -> Result<Vec<Span<'_>>> {
        let (lens, batch) = (&self.lens, &self.batch);
        let calls = match &mut self.memory {
            Memory::Host(blocks) => &mut blocks[layer],
            #[cfg(feature = "cuda")]
            Memory::Card(_) => return Err(crate::Error::rule("this cache is on the GPU")),
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
