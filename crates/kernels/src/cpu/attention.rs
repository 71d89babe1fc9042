//! Causal attention in O(tokens) memory, over packed segments or a cache, one block of queries at a
//! time.
//!
//! A [`Span`] is a run of queries with the runs of keys that they may see: a packed segment with
//! its ancestors and itself, or a cached sequence with all its tokens. A key is visible to a query
//! if `query position - window < key position <= query position`. The forward pass saves each
//! query's log Σ e^score, from which the backward pass ([`super::attention_backward`]) recomputes
//! the probabilities (FlashAttention, arXiv 2205.14135).

use candle_core::Tensor;
use gemm::Parallelism;
use rayon::prelude::*;

use super::{
    Shared, Values, keys, math,
    product::{Output, View, multiply_into},
    tensor,
};
use crate::{Heads, Result};

/// Queries of a block, which are computed together.
pub const QUERIES: usize = 64;
/// Multiply-adds below which one thread is faster than several.
const SERIAL: usize = 1 << 18;

/// Keys and values at consecutive positions, in rows of all heads.
#[derive(Clone, Copy)]
pub struct Keys<'a> {
    pub k: &'a [f32],
    pub v: &'a [f32],
    /// First row in the packed tensor (unused for a cache).
    pub row: usize,
    pub len: usize,
    /// Position of the first key.
    pub position: usize,
}

/// A run of queries with the keys that they may see.
pub struct Span<'a> {
    /// First row of the queries.
    pub row: usize,
    pub len: usize,
    /// Position of the first query.
    pub position: usize,
    pub keys: Vec<Keys<'a>>,
    /// Number of the tree of segments it belongs to; gradients to keys are summed within a tree.
    pub tree: usize,
}

impl Heads {
    /// First column of the keys of a query head.
    pub(super) fn key_column(&self, head: usize) -> usize {
        head / (self.heads / self.kv_heads) * self.dim
    }

    /// First column of the values of a query head.
    pub(super) fn value_column(&self, head: usize) -> usize {
        head / (self.heads / self.kv_heads) * self.value_dim
    }

    /// The range of `keys` that any query at positions `first..=last` sees.
    fn visible(&self, keys: &Keys, first: usize, last: usize) -> (usize, usize) {
        let low = (first + 1)
            .saturating_sub(self.window)
            .saturating_sub(keys.position);
        let high = (last + 1).saturating_sub(keys.position);
        (low.min(keys.len), high.min(keys.len))
    }
}

/// The part of a run of keys that a block of queries sees. A block's parts stand side by side in
/// its score matrix.
pub struct VisibleKeys<'a> {
    pub keys: Keys<'a>,
    pub from: usize,
    pub to: usize,
    /// First column in the score matrix.
    pub column: usize,
}

/// A block of queries of one span.
pub struct Block<'a> {
    /// First row of q.
    pub row: usize,
    pub len: usize,
    /// Position of the first query.
    pub position: usize,
    pub seen: Vec<VisibleKeys<'a>>,
    /// Columns of the score matrix.
    pub columns: usize,
}

impl<'a> Block<'a> {
    pub fn new(h: &Heads, span: &Span<'a>, from: usize) -> Self {
        let len = QUERIES.min(span.len - from);
        let position = span.position + from;
        let (mut seen, mut columns) = (Vec::with_capacity(span.keys.len()), 0);
        for keys in &span.keys {
            let (low, high) = h.visible(keys, position, position + len - 1);
            if low < high {
                seen.push(VisibleKeys {
                    keys: *keys,
                    from: low,
                    to: high,
                    column: columns,
                });
                columns += high - low;
            }
        }
        Block {
            row: span.row + from,
            len,
            position,
            seen,
            columns,
        }
    }

    /// scores = scale · q kᵀ, soft-capped. Those of keys that a query must not see are not masked.
    pub fn scores(&self, h: &Heads, head: usize, q: &[f32], scores: &mut [f32]) {
        let ((q_width, k_width), d) = (h.widths(), h.dim);
        let q = &q[self.row * q_width + head * d..];
        for seen in &self.seen {
            let k = &seen.keys.k[seen.from * k_width + h.key_column(head)..];
            let n = seen.to - seen.from;
            if self.len == 1 {
                let scores = &mut scores[seen.column..][..n];
                keys::dots(&q[..d], k, k_width, h.scale, scores);
                continue;
            }
            let to = scores[seen.column..].as_mut_ptr();
            let into = Output::new(to, self.columns, false);
            // SAFETY: `scores` holds len rows of `columns` values; this writes n columns from
            // `column`.
            unsafe {
                let (q, k) = (View::new(q, q_width, 1), View::new(k, 1, k_width));
                multiply_into((self.len, n, d), q, k, h.scale, into, Parallelism::None);
            }
        }
        if let Some(cap) = h.softcap {
            math::softcap(&mut scores[..self.len * self.columns], cap);
        }
    }

    /// The columns of one run's keys that query `i` sees.
    pub fn row_range(&self, h: &Heads, seen: &VisibleKeys, i: usize) -> std::ops::Range<usize> {
        let (low, high) = h.visible(&seen.keys, self.position + i, self.position + i);
        let low = low.clamp(seen.from, seen.to);
        let high = high.clamp(low, seen.to);
        seen.column + low - seen.from..seen.column + high - seen.from
    }
}

/// Attention of q (tokens, heads, dim) over the spans' keys: the result (tokens, heads, value_dim),
/// and log Σ e^score (heads, tokens).
pub fn forward(q: &Tensor, spans: &[Span], h: &Heads) -> Result<(Tensor, Vec<f32>)> {
    let tokens = q.dims()[0];
    let q = Values::of(q)?;
    let q: &[f32] = &q;
    let (width, _) = h.value_widths();
    let (mut out, mut lse) = (vec![0f32; tokens * width], vec![0f32; h.heads * tokens]);
    let (out_at, lse_at) = (Shared::new(&mut out), Shared::new(&mut lse));

    let mut blocks = Vec::new();
    for span in spans {
        blocks.extend(
            (0..span.len)
                .step_by(QUERIES)
                .map(|from| Block::new(h, span, from)),
        );
    }
    let task = |scratch: &mut Vec<f32>, block: &Block, head: usize| {
        let size = block.len * block.columns;
        if scratch.len() < size {
            scratch.resize(size, 0.0);
        }
        block.scores(h, head, q, &mut scratch[..size]);
        let lse = lse_at.at(head * tokens + block.row);
        // SAFETY: a task writes the rows of its block in the columns of its head, of `out` and of
        // `lse`; no other does.
        unsafe { attend(h, block, head, &mut scratch[..size], out_at, lse) };
    };
    let work: usize = blocks
        .iter()
        .map(|b| b.len * b.columns * h.dim * h.heads)
        .sum();
    // a lone query does not use the product that counts itself, which would be twice: the scores,
    // then their sum over v
    let alone = blocks.iter().filter(|b| b.len == 1).map(|b| b.columns);
    crate::work::count((h.heads, alone.sum(), h.dim + h.value_dim));
    if work < SERIAL {
        let mut scratch = Vec::new();
        for block in &blocks {
            (0..h.heads).for_each(|head| task(&mut scratch, block, head));
        }
    } else {
        (0..blocks.len() * h.heads)
            .into_par_iter()
            .for_each_init(Vec::new, |scratch, i| {
                task(scratch, &blocks[i / h.heads], i % h.heads);
            });
    }
    Ok((tensor(out, &[tokens, h.heads, h.value_dim])?, lse))
}

/// out = softmax(scores) v for one head of a block, with log Σ e^score to `lse`.
///
/// # Safety
/// No other task may use the block's rows of `out` in the head's columns, or of `lse`.
unsafe fn attend(
    h: &Heads,
    block: &Block,
    head: usize,
    scores: &mut [f32],
    out: Shared,
    lse: *mut f32,
) {
    let ((width, v_width), d) = (h.value_widths(), h.value_dim);
    let mut inverse = [0f32; QUERIES];
    for (i, row) in scores.chunks_exact_mut(block.columns).enumerate() {
        let mut most = f32::NEG_INFINITY;
        for seen in &block.seen {
            let m = math::max(&row[block.row_range(h, seen, i)]);
            most = if m > most || m.is_nan() { m } else { most };
        }
        let mut sum = 0f64;
        for seen in &block.seen {
            let range = block.row_range(h, seen, i);
            sum += math::exp_sum(&mut row[range.clone()], most);
            row[seen.column..range.start].fill(0.0);
            row[range.end..seen.column + seen.to - seen.from].fill(0.0);
        }
        inverse[i] = (1.0 / sum) as f32;
        // SAFETY: lse holds this block's rows from here on.
        unsafe { *lse.add(i) = (f64::from(most) + sum.ln()) as f32 };
    }
    let to = out.at(block.row * width + head * d);
    for (n, seen) in block.seen.iter().enumerate() {
        let v = &seen.keys.v[seen.from * v_width + h.value_column(head)..];
        let count = seen.to - seen.from;
        if block.len == 1 {
            // SAFETY: d values of this block's only row; `out` began as zeros.
            let out = unsafe { std::slice::from_raw_parts_mut(to, d) };
            keys::weigh(&scores[seen.column..][..count], v, v_width, out);
            continue;
        }
        let p = View::new(&scores[seen.column..], block.columns, 1);
        let into = Output::new(to, width, n > 0);
        // SAFETY: the block's rows in the head's columns.
        unsafe {
            let v = View::new(v, v_width, 1);
            multiply_into((block.len, d, count), p, v, 1.0, into, Parallelism::None);
        }
    }
    for (i, inverse) in inverse[..block.len].iter().enumerate() {
        // SAFETY: as above.
        let out = unsafe { std::slice::from_raw_parts_mut(to.add(i * width), d) };
        math::scale(out, *inverse);
    }
}
