//! The backward pass of the gated delta rule.
//!
//! It keeps nothing of the forward pass: it computes the states of a segment once more, keeps every
//! [`EVERY`]-th, and from these those between while it goes back. With G the gradient to a token's
//! state after it, u = Gᵀk after G += q ⊗ do, and P = e^g·S before it: dv = b·u, db = u·(v - Pᵀk),
//! dq = P do + k (d·do), dk = G d - b·P u, and of P it is G - b·k ⊗ u =: H, from which dg = Σ H∘P
//! and G = e^g·H before it. Gradients to the state at a prompt's end are added over its responses
//! before it goes on.

use candle_core::Tensor;

use super::{
    Shared, Values,
    delta::{
        BACKWARD, EVERY, Forest, Inputs, Rows, Sizes, count, in_tasks, recall, strengthen,
        with_inputs,
    },
    math::{self, vectorised},
    tensor,
};
use crate::{Plan, Result};

/// Partial sums of a dot product.
const LANES: usize = 16;

/// Σ a·b.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (aw, bw) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let (ar, br) = (aw.remainder(), bw.remainder());
    for (a, b) in aw.zip(bw) {
        for i in 0..LANES {
            lanes[i] += a[i] * b[i];
        }
    }
    for (i, (a, b)) in ar.iter().zip(br).enumerate() {
        lanes[i] += a * b;
    }
    lanes.iter().sum()
}

vectorised! {
    /// S += k ⊗ d.
    fn write(state: &mut [f32], k: &[f32], d: &[f32]) {
        for (row, k) in state.chunks_exact_mut(d.len()).zip(k) {
            for (s, d) in row.iter_mut().zip(d) {
                *s += k * d;
            }
        }
    }
}

vectorised! {
    /// G += q ⊗ do; u = Gᵀk; dk += G d.
    fn back_through_read(
        g: &mut [f32], q: &[f32], k: &[f32], d: &[f32], dout: &[f32], u: &mut [f32], dk: &mut [f32],
    ) {
        u.fill(0.0);
        for (((row, q), k), dk) in g.chunks_exact_mut(d.len()).zip(q).zip(k).zip(dk) {
            for ((g, dout), u) in row.iter_mut().zip(dout).zip(u.iter_mut()) {
                *g += q * dout;
                *u += k * *g;
            }
            *dk += dot(row, d);
        }
    }
}

vectorised! {
    /// With P = decay·S: dq += P do + k·along; dk -= P w; H = G - k ⊗ w; G = decay·H. Returns
    /// Σ H∘P.
    fn back_through_write(
        g: &mut [f32], state: &[f32], decay: f32, k: &[f32], dout: &[f32], along: f32, w: &[f32],
        dq: &mut [f32], dk: &mut [f32],
    ) -> f32 {
        let mut dg = 0f64;
        let width = w.len();
        let rows = g.chunks_exact_mut(width).zip(state.chunks_exact(width));
        for ((((row, s), k), dq), dk) in rows.zip(k).zip(dq).zip(dk) {
            *dq += decay * dot(s, dout) + k * along;
            *dk -= decay * dot(s, w);
            for (g, w) in row.iter_mut().zip(w) {
                *g -= k * w;
            }
            dg += f64::from(decay * dot(s, row));
            for g in row.iter_mut() {
                *g *= decay;
            }
        }
        dg as f32
    }
}

/// The gradients to q, k, v, beta and gate.
pub fn delta_rule_backward(
    plan: &Plan,
    inputs: [&Tensor; 5],
    dout: &Tensor,
) -> Result<[Tensor; 5]> {
    let dims = inputs.map(Tensor::dims);
    let dout = Values::of(dout)?;
    with_inputs(inputs, |inputs| {
        let (s, forest) = (inputs.sizes, Forest::of(plan));
        let mut grads = dims.map(|dims| vec![0f32; dims.iter().product()]);
        let to = grads.each_mut().map(|grad| Shared::new(grad));
        let back = Back {
            inputs: &inputs,
            forest: &forest,
            dout: &dout,
            to,
        };
        let roots = forest.roots.iter();
        let tasks = roots.flat_map(|root| (0..s.key_heads).map(move |head| (*root, head)));
        in_tasks(tasks.collect(), &s, |(root, key_head)| {
            let mut scratch = Scratch::new(&s);
            let each = s.heads / s.key_heads;
            for head in key_head * each..(key_head + 1) * each {
                let start = vec![0f32; s.state()];
                // SAFETY: segments share no row, and a tree's heads of one key head are one task's.
                unsafe { back.segment(root, head, start, &mut scratch) };
            }
        });
        count(&s, BACKWARD);
        let [q, k, v, beta, gate] = grads;
        Ok([
            tensor(q, dims[0])?,
            tensor(k, dims[1])?,
            tensor(v, dims[2])?,
            tensor(beta, dims[3])?,
            tensor(gate, dims[4])?,
        ])
    })
}

/// The backward pass.
struct Back<'a> {
    inputs: &'a Inputs<'a>,
    forest: &'a Forest,
    dout: &'a [f32],
    /// The gradients to the inputs.
    to: [Shared; 5],
}

/// What a task computes with.
struct Scratch {
    /// The states before some consecutive tokens.
    states: Vec<f32>,
    /// v - held of each of them.
    missing: Vec<f32>,
    held: Vec<f32>,
    written: Vec<f32>,
    u: Vec<f32>,
}

impl Scratch {
    fn new(s: &Sizes) -> Scratch {
        Scratch {
            states: Vec::new(),
            missing: Vec::new(),
            held: vec![0.0; s.value],
            written: vec![0.0; s.value],
            u: vec![0.0; s.value],
        }
    }
}

impl Back<'_> {
    /// Adds a head's gradients of a segment and of all that go on from it, whose state before them
    /// is `state`. Returns the gradient to that state.
    ///
    /// # Safety
    /// Nobody else uses the gradients of these rows to this head, and to its head of queries and
    /// keys.
    unsafe fn segment(
        &self,
        segment: usize,
        head: usize,
        mut state: Vec<f32>,
        scratch: &mut Scratch,
    ) -> Vec<f32> {
        let rows = self.forest.rows[segment].clone();
        let mut kept = Vec::with_capacity(rows.len().div_ceil(EVERY) * state.len());
        for (i, row) in rows.clone().enumerate() {
            if i % EVERY == 0 {
                kept.extend_from_slice(&state);
            }
            let t = self.inputs.token(row, head);
            recall(&mut state, t.decay, t.k, &mut scratch.held);
            strengthen(&mut scratch.held, t.v, t.beta);
            write(&mut state, t.k, &scratch.held);
        }
        let mut g = vec![0f32; state.len()];
        for child in &self.forest.children[segment] {
            // SAFETY: the caller's promise, which is of these rows too.
            let of_child = unsafe { self.segment(*child, head, state.clone(), scratch) };
            math::add_scaled(&mut g, 1.0, &of_child);
        }
        let size = state.len();
        drop(state);
        for (run, kept) in kept.chunks_exact(size).enumerate().rev() {
            let first = rows.start + run * EVERY;
            let end = rows.end.min(first + EVERY);
            self.states(first..end, head, kept, scratch);
            for row in (first..end).rev() {
                // SAFETY: as above.
                unsafe { self.token(row, row - first, head, &mut g, scratch) };
            }
        }
        g
    }

    /// The states before these tokens, the first of which is `state`, and v - held of each.
    fn states(&self, rows: Rows, head: usize, state: &[f32], scratch: &mut Scratch) {
        let (size, width) = (state.len(), scratch.held.len());
        scratch.states.clear();
        scratch.states.resize(rows.len() * size, 0.0);
        scratch.missing.clear();
        let mut now = state.to_vec();
        for (row, before) in rows.zip(scratch.states.chunks_exact_mut(size)) {
            before.copy_from_slice(&now);
            let t = self.inputs.token(row, head);
            recall(&mut now, t.decay, t.k, &mut scratch.held);
            let missing = t.v.iter().zip(&scratch.held).map(|(v, held)| v - held);
            scratch.missing.extend(missing);
            let at = scratch.missing.len() - width;
            for (held, missing) in scratch.held.iter_mut().zip(&scratch.missing[at..]) {
                *held = t.beta * missing;
            }
            write(&mut now, t.k, &scratch.held);
        }
    }

    /// Adds a token's gradients; `g` is the gradient to the state after it, and becomes that to the
    /// state before it, which is the scratch's `at`-th.
    ///
    /// # Safety
    /// As [`Back::segment`].
    unsafe fn token(
        &self,
        row: usize,
        at: usize,
        head: usize,
        g: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let s = &self.inputs.sizes;
        let t = self.inputs.token(row, head);
        let (key_head, of_head) = (head / (s.heads / s.key_heads), row * s.heads + head);
        let key = (row * s.key_heads + key_head) * s.key;
        let [dq, dk, dv, dbeta, dgate] = self.to;
        // SAFETY: this head's gradients of this row, which nobody else uses, as the caller says.
        let (dq, dk, dv) = unsafe {
            (
                std::slice::from_raw_parts_mut(dq.at(key), s.key),
                std::slice::from_raw_parts_mut(dk.at(key), s.key),
                std::slice::from_raw_parts_mut(dv.at(of_head * s.value), s.value),
            )
        };
        let dout = &self.dout[of_head * s.value..(of_head + 1) * s.value];
        let missing = &scratch.missing[at * s.value..(at + 1) * s.value];
        for (d, missing) in scratch.written.iter_mut().zip(missing) {
            *d = t.beta * missing;
        }
        let (d, u) = (&scratch.written, &mut scratch.u);
        back_through_read(g, t.q, t.k, d, dout, u, dk);
        // dv = b·u, which is also what goes back to the state through what it held
        for (dv, u) in dv.iter_mut().zip(&*u) {
            *dv = t.beta * u;
        }
        let state = &scratch.states[at * s.state()..(at + 1) * s.state()];
        let along = dot(d, dout);
        let dg = back_through_write(g, state, t.decay, t.k, dout, along, dv, dq, dk);
        // SAFETY: as above.
        unsafe {
            *dbeta.at(of_head) = dot(u, missing);
            *dgate.at(of_head) = dg;
        }
    }
}
