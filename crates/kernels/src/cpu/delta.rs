//! The gated delta rule (arXiv 2412.06464): a recurrent state S (key features, value features) for
//! every value head. A token with query q, key k, value v, write strength b and log-decay g turns
//! it into e^g·S + k ⊗ d, where d = b·(v - (e^g·S)ᵀk), and reads o = Sᵀq from the result.
//! Consecutive value heads share a head of queries and keys.
//!
//! Tokens are taken one by one, whether they come packed or cached, so both give the same bits. A
//! response's state begins as its prompt's ended.

use candle_core::Tensor;
use rayon::prelude::*;

use super::{
    Shared, Values,
    math::{self, vectorised},
    tensor,
};
use crate::{Cache, Error, Plan, Result, cache::Held};

/// Tokens between two states that the backward pass keeps of a segment.
pub const EVERY: usize = 64;
/// Multiply-adds of a token and value head, times (key features · value features).
pub const FORWARD: usize = 4;
/// The same of the backward pass: the states twice, then eight products.
pub const BACKWARD: usize = 14;
/// Multiply-adds below which one thread is faster than several.
const SERIAL: usize = 1 << 18;

vectorised! {
    /// S = decay·S; held = Sᵀk.
    pub(super) fn recall(state: &mut [f32], decay: f32, k: &[f32], held: &mut [f32]) {
        held.fill(0.0);
        for (row, k) in state.chunks_exact_mut(held.len()).zip(k) {
            for (s, held) in row.iter_mut().zip(held.iter_mut()) {
                *s *= decay;
                *held += k * *s;
            }
        }
    }
}

vectorised! {
    /// S += k ⊗ d; out = Sᵀq.
    fn write_and_read(state: &mut [f32], k: &[f32], d: &[f32], q: &[f32], out: &mut [f32]) {
        out.fill(0.0);
        for ((row, k), q) in state.chunks_exact_mut(d.len()).zip(k).zip(q) {
            for ((s, d), out) in row.iter_mut().zip(d).zip(out.iter_mut()) {
                *s += k * d;
                *out += q * *s;
            }
        }
    }
}

/// Sizes of a call.
#[derive(Clone, Copy)]
pub struct Sizes {
    /// Rows.
    pub rows: usize,
    /// Heads of queries and keys.
    pub key_heads: usize,
    /// Heads of values: a multiple of the key heads.
    pub heads: usize,
    /// Features of a query or key.
    pub key: usize,
    /// Features of a value.
    pub value: usize,
}

impl Sizes {
    /// Those of queries or keys (rows, key heads, key) and values (rows, heads, value).
    ///
    /// # Errors
    /// Other numbers of axes.
    pub fn of(q: &[usize], v: &[usize]) -> Result<Sizes> {
        match (q, v) {
            (&[rows, key_heads, key], &[_, heads, value]) => Ok(Sizes {
                rows,
                key_heads,
                heads,
                key,
                value,
            }),
            _ => Err(Error::rule(format!(
                "the delta rule wants (tokens, heads, features), not {q:?} and {v:?}"
            ))),
        }
    }

    /// Values of a head's state.
    pub fn state(&self) -> usize {
        self.key * self.value
    }

    /// Bytes of scratch of a thread in the backward pass, in which no token sees more than `keys`:
    /// the states between two kept ones, those that are kept, and of every segment on the way the
    /// state and the gradient to it.
    pub fn scratch(&self, keys: usize) -> u64 {
        let states = EVERY.min(keys) + keys.div_ceil(EVERY) + 8;
        4 * (states * self.state()) as u64
    }
}

/// The inputs, as slices.
pub(super) struct Inputs<'a> {
    pub(super) sizes: Sizes,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    beta: &'a [f32],
    gate: &'a [f32],
}

/// One head's inputs of a token.
pub(super) struct Token<'a> {
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
    pub(super) beta: f32,
    pub(super) decay: f32,
}

impl Inputs<'_> {
    pub(super) fn token(&self, row: usize, head: usize) -> Token<'_> {
        let s = &self.sizes;
        let key_head = head / (s.heads / s.key_heads);
        let key = (row * s.key_heads + key_head) * s.key;
        let at = row * s.heads + head;
        Token {
            q: &self.q[key..key + s.key],
            k: &self.k[key..key + s.key],
            v: &self.v[at * s.value..(at + 1) * s.value],
            beta: self.beta[at],
            decay: math::exp(self.gate[at]),
        }
    }

    /// Takes a head's tokens one after the other.
    ///
    /// # Safety
    /// `out` points to (rows, heads, value) values, of which nobody else uses this head's of these
    /// rows.
    unsafe fn walk(&self, head: usize, rows: Rows, state: &mut [f32], out: Shared) {
        let s = &self.sizes;
        let mut held = vec![0f32; s.value];
        for row in rows {
            let t = self.token(row, head);
            recall(state, t.decay, t.k, &mut held);
            strengthen(&mut held, t.v, t.beta);
            let to = out.at((row * s.heads + head) * s.value);
            // SAFETY: this head's values of this row.
            let out = unsafe { std::slice::from_raw_parts_mut(to, s.value) };
            write_and_read(state, t.k, &held, t.q, out);
        }
    }
}

/// What a token writes, d = beta·(v - held), in place of what was held for its key.
pub(super) fn strengthen(held: &mut [f32], v: &[f32], beta: f32) {
    for (held, v) in held.iter_mut().zip(v) {
        *held = beta * (v - *held);
    }
}

pub(super) type Rows = std::ops::Range<usize>;

/// The segments of a pass: who goes on from whom.
pub(super) struct Forest {
    pub(super) rows: Vec<Rows>,
    pub(super) children: Vec<Vec<usize>>,
    pub(super) roots: Vec<usize>,
}

impl Forest {
    pub(super) fn of(plan: &Plan) -> Forest {
        let masks = &plan.masks;
        let mut forest = Forest {
            rows: Vec::with_capacity(masks.len()),
            children: vec![Vec::new(); masks.len()],
            roots: Vec::new(),
        };
        for (i, mask) in masks.iter().enumerate() {
            let own = &mask.queries;
            forest.rows.push(own.row..own.row + own.len);
            let ancestors = mask.keys.split_last().map_or(&[][..], |(_, before)| before);
            let parent = ancestors.last();
            match parent.and_then(|p| forest.rows.iter().position(|rows| rows.start == p.row)) {
                Some(parent) => forest.children[parent].push(i),
                None => forest.roots.push(i),
            }
        }
        forest
    }
}

/// Runs the tasks of a call, each with its number, in parallel where that is worth it.
pub(super) fn in_tasks<T: Send>(tasks: Vec<T>, sizes: &Sizes, run: impl Fn(T) + Send + Sync) {
    let work = FORWARD * sizes.rows * sizes.heads * sizes.state();
    match work < SERIAL {
        true => tasks.into_iter().for_each(run),
        false => tasks.into_par_iter().for_each(run),
    }
}

/// Calls `use_it` with the inputs q, k, v, beta and gate.
pub(super) fn with_inputs<T>(
    [q, k, v, beta, gate]: [&Tensor; 5],
    use_it: impl FnOnce(Inputs) -> Result<T>,
) -> Result<T> {
    let sizes = Sizes::of(q.dims(), v.dims())?;
    let (q, k, v) = (Values::of(q)?, Values::of(k)?, Values::of(v)?);
    let (beta, gate) = (Values::of(beta)?, Values::of(gate)?);
    use_it(Inputs {
        sizes,
        q: &q,
        k: &k,
        v: &v,
        beta: &beta,
        gate: &gate,
    })
}

/// The rule over packed rows: (rows, heads, value).
pub fn delta_rule(plan: &Plan, inputs: [&Tensor; 5]) -> Result<Tensor> {
    let dims = inputs[2].dims();
    with_inputs(inputs, |inputs| {
        let (s, forest) = (inputs.sizes, Forest::of(plan));
        let mut out = vec![0f32; s.rows * s.heads * s.value];
        let to = Shared::new(&mut out);
        let roots = forest.roots.iter();
        let tasks = roots.flat_map(|root| (0..s.heads).map(move |head| (*root, head)));
        in_tasks(tasks.collect(), &s, |(root, head)| {
            let mut open = vec![(root, vec![0f32; s.state()])];
            while let Some((segment, mut state)) = open.pop() {
                // SAFETY: segments share no row, and a head of a tree is one task's.
                unsafe { inputs.walk(head, forest.rows[segment].clone(), &mut state, to) };
                let children = forest.children[segment].iter();
                open.extend(children.map(|child| (*child, state.clone())));
            }
        });
        count(&s, FORWARD);
        tensor(out, dims)
    })
}

/// Counts the multiply-adds of a pass.
pub(super) fn count(s: &Sizes, each: usize) {
    crate::work::count((each * s.rows * s.heads, s.key, s.value));
}

impl Cache {
    /// [`delta_rule`] of a step's new rows behind those that the cache holds.
    pub(super) fn delta_rule(
        &mut self,
        at: (usize, usize),
        inputs: [&Tensor; 5],
    ) -> Result<Tensor> {
        let dims = inputs[2].dims();
        with_inputs(inputs, |inputs| {
            let s = inputs.sizes;
            let mut out = vec![0f32; s.rows * s.heads * s.value];
            let to = Shared::new(&mut out);
            let width = s.heads * s.state();
            let Held {
                values,
                lens,
                batch,
            } = self.states(at, width)?;
            let mut tasks = Vec::with_capacity(batch.len() * s.heads);
            for (slot, states) in values.chunks_exact_mut(width).enumerate() {
                let Some(e) = batch.iter().find(|e| e.slot == slot) else {
                    continue;
                };
                if lens[slot] == 0 {
                    states.fill(0.0);
                }
                let heads = states.chunks_exact_mut(s.state()).enumerate();
                tasks.extend(heads.map(|(head, state)| (e.row..e.row + e.len, head, state)));
            }
            in_tasks(tasks, &s, |(rows, head, state)| {
                // SAFETY: sequences share no row, and a head of one is one task's.
                unsafe { inputs.walk(head, rows, state, to) };
            });
            count(&s, FORWARD);
            tensor(out, dims)
        })
    }
}
