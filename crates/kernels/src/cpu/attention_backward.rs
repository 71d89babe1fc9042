//! The backward pass of attention. With p = softmax(s), o = p v and D = Σ do·o:
//! dv = pᵀ do, ds = p · (do vᵀ - D), dq = scale · ds k, dk = scale · dsᵀ q; with a soft cap ds is
//! multiplied by 1 - (s / cap)².
//!
//! One task for each tree of segments and query head recomputes p block by block. The heads that
//! share keys are then summed in order, so the result does not depend on the number of threads.

use candle_core::Tensor;
use gemm::Parallelism;
use rayon::prelude::*;

use super::{
    Shared, Values,
    attention::{Block, QUERIES, Span, VisibleKeys},
    math::{self, vectorised},
    product::{Output, View, multiply_into},
    tensor,
};
use crate::{Heads, Result};

/// One head's gradients to the keys and values of a tree, in rows of that head's features.
struct KeyGradients {
    dk: Vec<f32>,
    dv: Vec<f32>,
}

/// A tree of segments: its rows `first..end` and its spans.
struct Tree {
    first: usize,
    end: usize,
    spans: Vec<usize>,
}

fn trees(spans: &[Span]) -> Vec<Tree> {
    let mut trees: Vec<Option<Tree>> = Vec::new();
    for (i, span) in spans.iter().enumerate() {
        if trees.len() <= span.tree {
            trees.resize_with(span.tree + 1, || None);
        }
        let end = span.row + span.len;
        let tree = trees[span.tree].get_or_insert(Tree {
            first: span.row,
            end,
            spans: Vec::new(),
        });
        tree.first = tree.first.min(span.row);
        tree.end = tree.end.max(end);
        tree.spans.push(i);
    }
    trees.into_iter().flatten().collect()
}

/// The gradients to q, k and v. The latter's shapes are given; the spans' keys lie at their rows.
pub fn backward(
    q: &Tensor,
    [k_dims, v_dims]: [&[usize]; 2],
    spans: &[Span],
    h: &Heads,
    (out, lse): (&Tensor, &[f32]),
    dout: &Tensor,
) -> Result<[Tensor; 3]> {
    let dims = q.dims();
    let (q, out, dout) = (Values::of(q)?, Values::of(out)?, Values::of(dout)?);
    let inputs = Inputs {
        h,
        q: &q,
        out: &out,
        dout: &dout,
        lse,
        tokens: dims[0],
    };
    let mut dq = vec![0f32; q.len()];
    let dq_at = Shared::new(&mut dq);
    let trees = trees(spans);
    let gradients: Vec<KeyGradients> = (0..trees.len() * h.heads)
        .into_par_iter()
        // each task writes the rows of its tree in the columns of its head of dq; no other does
        .map(|i| inputs.head_of_tree(spans, &trees[i / h.heads], i % h.heads, dq_at))
        .collect();
    let zeros = |dims: &[usize]| vec![0f32; dims.iter().product()];
    let (mut dk, mut dv) = (zeros(k_dims), zeros(v_dims));
    let ((_, k_width), (_, v_width)) = (h.widths(), h.value_widths());
    let group = h.heads / h.kv_heads;
    for (tree, of_heads) in trees.iter().zip(gradients.chunks_exact(h.heads)) {
        let sum = |to: &mut [f32], d: usize, of: fn(&KeyGradients) -> &[f32]| {
            for (head, gradients) in of_heads.iter().enumerate() {
                let column = head / group * d;
                for (to, from) in to
                    .chunks_exact_mut(h.kv_heads * d)
                    .zip(of(gradients).chunks_exact(d))
                {
                    math::add_scaled(&mut to[column..column + d], 1.0, from);
                }
            }
        };
        let dk = &mut dk[tree.first * k_width..tree.end * k_width];
        let dv = &mut dv[tree.first * v_width..tree.end * v_width];
        rayon::join(
            || sum(dk, h.dim, |g| &g.dk),
            || sum(dv, h.value_dim, |g| &g.dv),
        );
    }
    Ok([tensor(dq, dims)?, tensor(dk, k_dims)?, tensor(dv, v_dims)?])
}

/// The inputs of the backward pass, as slices.
struct Inputs<'a> {
    h: &'a Heads,
    q: &'a [f32],
    out: &'a [f32],
    dout: &'a [f32],
    lse: &'a [f32],
    tokens: usize,
}

/// A block's probabilities, their gradients and, with a soft cap, its scores.
#[derive(Default)]
struct Scratch {
    p: Vec<f32>,
    dp: Vec<f32>,
    capped: Vec<f32>,
}

vectorised! {
    /// ds = p · (dp - mean) · scale.
    fn score_slope(p: &[f32], dp: &mut [f32], mean: f32, scale: f32) {
        for (dp, p) in dp.iter_mut().zip(p) {
            *dp = p * (*dp - mean) * scale;
        }
    }
}

impl Inputs<'_> {
    /// The gradients of one head to a tree's keys and values; writes those to its queries to dq.
    fn head_of_tree(&self, spans: &[Span], tree: &Tree, head: usize, dq: Shared) -> KeyGradients {
        let rows = tree.end - tree.first;
        let mut gradients = KeyGradients {
            dk: vec![0.0; rows * self.h.dim],
            dv: vec![0.0; rows * self.h.value_dim],
        };
        let mut scratch = Scratch::default();
        for &i in &tree.spans {
            for from in (0..spans[i].len).step_by(QUERIES) {
                let block = Block::new(self.h, &spans[i], from);
                self.probabilities(&block, head, &mut scratch);
                self.block(&block, head, &mut scratch, tree.first, &mut gradients, dq);
            }
        }
        gradients
    }

    /// p = e^(score - lse), 0 for keys that a query does not see.
    fn probabilities(&self, block: &Block, head: usize, scratch: &mut Scratch) {
        let size = block.len * block.columns;
        for buffer in [&mut scratch.p, &mut scratch.dp] {
            if buffer.len() < size {
                buffer.resize(size, 0.0);
            }
        }
        let p = &mut scratch.p[..size];
        block.scores(self.h, head, self.q, p);
        if self.h.softcap.is_some() {
            scratch.capped.clear();
            scratch.capped.extend_from_slice(p);
        }
        let lse = &self.lse[head * self.tokens + block.row..][..block.len];
        for (i, (row, lse)) in p.chunks_exact_mut(block.columns).zip(lse).enumerate() {
            for seen in &block.seen {
                let range = block.row_range(self.h, seen, i);
                math::exp_scaled(&mut row[range.clone()], *lse, 1.0);
                row[seen.column..range.start].fill(0.0);
                row[range.end..seen.column + seen.to - seen.from].fill(0.0);
            }
        }
    }

    /// Adds a block's part to the gradients to keys and values, and writes its dq.
    fn block(
        &self,
        block: &Block,
        head: usize,
        scratch: &mut Scratch,
        first: usize,
        gradients: &mut KeyGradients,
        dq: Shared,
    ) {
        let ((q_width, k_width), h) = (self.h.widths(), self.h);
        let (width, v_width) = h.value_widths();
        let (m, d, e, columns) = (block.len, h.dim, h.value_dim, block.columns);
        let start = block.row * q_width + head * d;
        let begin = block.row * width + head * e;
        let dout = View::new(&self.dout[begin..], width, 1);
        let q = View::new(&self.q[start..], q_width, 1);
        let (p, dp) = (&scratch.p[..m * columns], &mut scratch.dp[..m * columns]);
        let n = |seen: &VisibleKeys| seen.to - seen.from;
        for seen in &block.seen {
            let v = &seen.keys.v[seen.from * v_width + h.value_column(head)..];
            let into = Output::new(dp[seen.column..].as_mut_ptr(), columns, false);
            let p = View::new(&p[seen.column..], columns, 1);
            let to = gradients.dv[(seen.keys.row + seen.from - first) * e..].as_mut_ptr();
            // SAFETY: dp holds m rows of `columns`; the gradients hold the tree's rows, among which
            // the keys are.
            unsafe {
                let v = View::new(v, 1, v_width);
                multiply_into((m, n(seen), e), dout, v, 1.0, into, Parallelism::None);
                let into = Output::new(to, e, true);
                multiply_into((n(seen), e, m), p.t(), dout, 1.0, into, Parallelism::None);
            }
        }
        for i in 0..m {
            let own = begin + i * width..begin + i * width + e;
            let mean = math::dot(&self.dout[own.clone()], &self.out[own]) as f32;
            let row = i * columns..(i + 1) * columns;
            score_slope(&p[row.clone()], &mut dp[row], mean, h.scale);
        }
        if let Some(cap) = h.softcap {
            for (dp, s) in dp.iter_mut().zip(&scratch.capped) {
                *dp *= 1.0 - (s / cap) * (s / cap);
            }
        }
        for (i, seen) in block.seen.iter().enumerate() {
            let k = &seen.keys.k[seen.from * k_width + h.key_column(head)..];
            let ds = View::new(&dp[seen.column..], columns, 1);
            let into = Output::new(dq.at(start), q_width, i > 0);
            let to = gradients.dk[(seen.keys.row + seen.from - first) * d..].as_mut_ptr();
            // SAFETY: this task alone writes its tree's rows in its head's columns of dq; the
            // gradients are its own.
            unsafe {
                let k = View::new(k, k_width, 1);
                multiply_into((m, d, n(seen)), ds, k, 1.0, into, Parallelism::None);
                let into = Output::new(to, d, true);
                multiply_into((n(seen), d, m), ds.t(), q, 1.0, into, Parallelism::None);
            }
        }
    }
}
