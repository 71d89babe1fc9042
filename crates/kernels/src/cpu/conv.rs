//! Causal depthwise convolution along a sequence: every channel of a token becomes a weighted sum
//! of its values at that token and at the few before it.
//!
//! A response's first taps reach back into its prompt's last tokens; those that would reach before
//! a sequence's begin add nothing. Products are added in the order of the taps, oldest first,
//! whether rows come packed or one at a time, so both give the same bits.

use candle_core::Tensor;
use rayon::prelude::*;

use super::{Values, change, linear::floats, math, math::vectorised, rows, task_rows, tensor};
use crate::{Cache, Plan, Result, cache::Held};

/// Rows that are summed to one part of the weight's gradient; the parts are then added in order.
const RUN: usize = 64;

vectorised! {
    /// y += a · b.
    fn add_product(y: &mut [f32], a: &[f32], b: &[f32]) {
        for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
            *y += a * b;
        }
    }
}

/// A weight (channels, 1, taps) tap by tap.
struct Taps {
    /// (taps, channels)
    values: Vec<f32>,
    channels: usize,
    count: usize,
}

impl Taps {
    fn of(w: &Tensor) -> Result<Taps> {
        let (channels, count) = rows(w.dims());
        let stored = floats(w)?;
        let at = |i: usize| stored[i % channels * count + i / channels];
        Ok(Taps {
            values: (0..channels * count).map(at).collect(),
            channels,
            count,
        })
    }

    fn each(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.channels)
    }
}

/// The row that each tap of each row sees, (rows, taps): the oldest first, the row itself last;
/// `None` before its sequence begins.
fn seen(plan: &Plan, taps: usize) -> Vec<Option<u32>> {
    let mut seen = vec![None; plan.positions.len() * taps];
    for mask in &plan.masks {
        let own = mask.queries.row..mask.queries.row + mask.queries.len;
        let ancestors = mask.keys.split_last().map_or(&[][..], |(_, before)| before);
        // the nearest rows before the segment, the nearest first
        let before = ancestors.iter().rev();
        let before = before.flat_map(|run| (run.row..run.row + run.len).rev());
        let mut sequence: Vec<u32> = before.take(taps - 1).map(|row| row as u32).collect();
        sequence.reverse();
        let missing = taps - 1 - sequence.len();
        sequence.extend(own.clone().map(|row| row as u32));
        for (i, row) in own.enumerate() {
            for (tap, place) in seen[row * taps..(row + 1) * taps].iter_mut().enumerate() {
                *place = (i + tap).checked_sub(missing).map(|at| sequence[at]);
            }
        }
    }
    seen
}

/// y\[t\] = Σ w\[tap\] · x\[the row that the tap sees\], of packed rows.
pub fn convolve(plan: &Plan, x: &Tensor, w: &Tensor) -> Result<Tensor> {
    let taps = Taps::of(w)?;
    let (width, seen) = (taps.channels, seen(plan, taps.count));
    let dims = x.dims();
    let x = Values::of(x)?;
    let x: &[f32] = &x;
    let mut y = vec![0f32; x.len()];
    let at_once = task_rows(width * taps.count);
    let work = |(task, y): (usize, &mut [f32])| {
        let seen = seen.chunks_exact(taps.count).skip(task * at_once);
        for (y, seen) in y.chunks_exact_mut(width).zip(seen) {
            for (tap, row) in taps.each().zip(seen) {
                if let Some(row) = row {
                    add_product(y, tap, &x[*row as usize * width..][..width]);
                }
            }
        }
    };
    y.par_chunks_mut(at_once * width).enumerate().for_each(work);
    crate::work::count((x.len() / width, width, taps.count));
    tensor(y, dims)
}

/// The gradient to x: each row's is summed over the rows whose taps see it, in order.
pub fn convolve_backward(plan: &Plan, w: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let taps = Taps::of(w)?;
    let width = taps.channels;
    let dims = dy.dims();
    let mut seen_by = vec![Vec::new(); dims[0]];
    for (at, row) in seen(plan, taps.count).into_iter().enumerate() {
        if let Some(row) = row {
            seen_by[row as usize].push((at / taps.count, at % taps.count));
        }
    }
    let dy = Values::of(dy)?;
    let dy: &[f32] = &dy;
    let mut dx = vec![0f32; dy.len()];
    let at_once = task_rows(width * taps.count);
    let work = |(task, dx): (usize, &mut [f32])| {
        for (dx, seen_by) in dx.chunks_exact_mut(width).zip(&seen_by[task * at_once..]) {
            for &(row, tap) in seen_by {
                let tap = &taps.values[tap * width..][..width];
                add_product(dx, tap, &dy[row * width..][..width]);
            }
        }
    };
    dx.par_chunks_mut(at_once * width)
        .enumerate()
        .for_each(work);
    crate::work::count((dims[0], width, taps.count));
    tensor(dx, dims)
}

/// dw += Σ dy · x over the rows that each tap sees.
pub fn taps_gradient(plan: &Plan, x: &Tensor, dy: &Tensor, dw: &Tensor) -> Result<()> {
    let (width, taps) = rows(dw.dims());
    let seen = seen(plan, taps);
    let (x, dy) = (Values::of(x)?, Values::of(dy)?);
    let (x, dy): (&[f32], &[f32]) = (&x, &dy);
    let parts: Vec<Vec<f32>> = dy
        .par_chunks(RUN * width)
        .zip(seen.par_chunks(RUN * taps))
        .map(|(dy, seen)| {
            let mut part = vec![0f32; taps * width];
            for (dy, seen) in dy.chunks_exact(width).zip(seen.chunks_exact(taps)) {
                for (part, row) in part.chunks_exact_mut(width).zip(seen) {
                    if let Some(row) = row {
                        add_product(part, dy, &x[*row as usize * width..][..width]);
                    }
                }
            }
            part
        })
        .collect();
    let mut sum = vec![0f32; taps * width];
    for part in &parts {
        math::add_scaled(&mut sum, 1.0, part);
    }
    crate::work::count((dy.len() / width, width, taps));
    change(dw, |dw| {
        for (channel, dw) in dw.chunks_exact_mut(taps).enumerate() {
            for (dw, sum) in dw.iter_mut().zip(sum.chunks_exact(width)) {
                *dw += sum[channel];
            }
        }
    })
}

impl Cache {
    /// [`convolve`] of a step's new rows behind those that the cache holds: of each sequence its
    /// last inputs, one fewer than there are taps, the oldest first.
    pub(super) fn convolve(
        &mut self,
        at: (usize, usize),
        x: &Tensor,
        w: &Tensor,
    ) -> Result<Tensor> {
        let taps = Taps::of(w)?;
        let (width, before) = (taps.channels, taps.count - 1);
        let dims = x.dims();
        let x = Values::of(x)?;
        let mut y = vec![0f32; x.len()];
        let Held {
            values,
            lens,
            batch,
        } = self.states(at, before * width)?;
        for e in batch {
            let state = &mut values[e.slot * before * width..][..before * width];
            let known = lens[e.slot].min(before);
            let new = &x[e.row * width..][..e.len * width];
            // what the sequence is known to have been, then its new rows
            let row = |i: usize| match i.checked_sub(before) {
                Some(i) => &new[i * width..][..width],
                None => &state[i * width..][..width],
            };
            for (i, y) in y[e.row * width..]
                .chunks_exact_mut(width)
                .take(e.len)
                .enumerate()
            {
                for (tap, weight) in taps.each().enumerate() {
                    if i + tap >= before - known {
                        add_product(y, weight, row(i + tap));
                    }
                }
            }
            let kept: Vec<f32> = (e.len..e.len + before)
                .flat_map(|i| row(i).iter().copied())
                .collect();
            state.copy_from_slice(&kept);
        }
        crate::work::count((x.len() / width, width, taps.count));
        tensor(y, dims)
    }
}
