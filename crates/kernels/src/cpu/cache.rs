//! Spans for attention: of the packed rows of a pass, or of a cache.

use candle_core::Tensor;

use super::{
    Values,
    attention::{Keys, Span},
    maps::Maps,
};
use crate::{Cache, Error, Heads, Plan, Result, Run, SegmentMask, cache::Memory, chunks};

/// Calls `use_it` with the spans of a pass's packed rows over their k and v.
pub(super) fn with_spans<T>(
    plan: &Plan,
    k: &Tensor,
    v: &Tensor,
    heads: &Heads,
    use_it: impl FnOnce(&[Span]) -> Result<T>,
) -> Result<T> {
    let (k, v) = (Values::of(k)?, Values::of(v)?);
    let span = |mask: &SegmentMask| span(mask.queries, &mask.keys, [&k, &v], heads, mask.tree);
    let spans: Vec<Span> = match heads.chunk {
        None => plan.masks.iter().map(span).collect(),
        Some(chunk) => within_chunks(plan, chunk).iter().map(span).collect(),
    };
    use_it(&spans)
}

/// The mask of a pass's packed rows within chunks.
fn within_chunks(plan: &Plan, chunk: usize) -> Vec<SegmentMask> {
    let cut = |mask: &SegmentMask| {
        let tree = mask.tree;
        let parts = chunks::parts(mask.queries, &mask.keys, chunk).into_iter();
        parts.map(move |(queries, keys)| SegmentMask {
            queries,
            keys,
            tree,
        })
    };
    plan.masks.iter().flat_map(cut).collect()
}

/// A run of queries over runs of keys, whose rows are rows of k and v.
fn span<'a>(
    queries: Run,
    keys: &[Run],
    [k, v]: [&'a [f32]; 2],
    heads: &Heads,
    tree: usize,
) -> Span<'a> {
    let ((_, k_width), (_, v_width)) = (heads.widths(), heads.value_widths());
    let keys = keys.iter().map(|run| Keys {
        k: &k[run.row * k_width..(run.row + run.len) * k_width],
        v: &v[run.row * v_width..(run.row + run.len) * v_width],
        row: run.row,
        len: run.len,
        position: run.position,
    });
    Span {
        row: queries.row,
        len: queries.len,
        position: queries.position,
        keys: keys.collect(),
        tree,
    }
}

impl Cache {
    /// Appends the new rows of k and v. (`layer`, `call`) is the block and the number of the call
    /// of attention inside it.
    pub(super) fn append(
        &mut self,
        (layer, call): (usize, usize),
        [k, v]: [&Tensor; 2],
        heads: &Heads,
    ) -> Result<()> {
        let (lens, batch) = (&self.lens, &self.batch);
        let calls = match &mut self.memory {
            Memory::Host(blocks) => &mut blocks[layer],
            #[cfg(feature = "cuda")]
            Memory::Card(_) => return Err(elsewhere()),
        };
        let most = batch.iter().map(|e| lens[e.slot] + e.len).max();
        let most = most.unwrap_or(0);
        let widths = [heads.widths().1, heads.value_widths().1];
        if calls.len() == call {
            let room = self.room.max(most);
            calls.push(Maps::new(lens.len(), room, widths)?);
        }
        let rows = &mut calls[call];
        rows.grow(most, lens)?;
        let (k, v) = (Values::of(k)?, Values::of(v)?);
        for e in batch {
            let [k_new, v_new] = widths.map(|width| e.row * width..(e.row + e.len) * width);
            rows.write(e.slot, lens[e.slot], [&k[k_new], &v[v_new]]);
        }
        Ok(())
    }

    /// The spans of the step's queries over the sequences, whose keys and values this call of
    /// attention has appended.
    pub(super) fn spans(
        &self,
        (layer, call): (usize, usize),
        heads: &Heads,
    ) -> Result<Vec<Span<'_>>> {
        let (lens, batch) = (&self.lens, &self.batch);
        let calls = match &self.memory {
            Memory::Host(blocks) => &blocks[layer],
            #[cfg(feature = "cuda")]
            Memory::Card(_) => return Err(elsewhere()),
        };
        let rows = calls.get(call);
        let rows = rows.ok_or_else(|| Error::rule("no call of attention has cached these keys"))?;
        let mut spans = Vec::with_capacity(batch.len());
        for (tree, e) in batch.iter().enumerate() {
            let old = lens[e.slot];
            let kv = rows.slot(e.slot, old + e.len);
            let queries = Run {
                row: e.row,
                len: e.len,
                position: old,
            };
            let held = Run {
                row: 0,
                len: old + e.len,
                position: 0,
            };
            match heads.chunk {
                None => spans.push(span(queries, &[held], kv, heads, tree)),
                Some(chunk) => {
                    let parts = chunks::parts(queries, &[held], chunk).into_iter();
                    let parts = parts.map(|(queries, keys)| span(queries, &keys, kv, heads, tree));
                    spans.extend(parts);
                }
            }
        }
        Ok(spans)
    }
}

#[cfg(feature = "cuda")]
fn elsewhere() -> Error {
    Error::rule("this cache is on the GPU")
}
