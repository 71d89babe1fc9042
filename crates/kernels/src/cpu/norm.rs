//! RMSNorm and layer norm over the last axis, forward and backward.
//!
//! With x̂ = (x - μ)·s (μ = 0 for RMSNorm), g = plus + w, y = x̂·g + b and u = dy·g:
//! dx = s·(u - mean(u) - x̂·mean(u·x̂)), without mean(u) for RMSNorm; dw = Σ dy·x̂; db = Σ dy.

use candle_core::Tensor;
use rayon::prelude::*;

use super::{
    Values, change,
    linear::floats,
    math::{add_scaled, dot, sum, vectorised},
    rows, task_rows, tensor,
};
use crate::{Norm, Result};

/// Rows that are summed to one part of dw; the parts are then added in order.
const RUN: usize = 64;

/// Statistics of a row, saved for the backward pass.
#[derive(Clone, Copy, Default)]
pub struct RowStats {
    mean: f32,
    /// Inverse root mean square, or inverse standard deviation.
    inverse: f32,
}

vectorised! {
    fn scale_row(x: &[f32], w: &[f32], mean: f32, inverse: f32, plus: f32, y: &mut [f32]) {
        for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
            *y = (x - mean) * inverse * (plus + w);
        }
    }
}

/// Normalises the rows of x; `bias` is added if there is one. Also returns the rows' statistics.
pub fn norm(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    norm: Norm,
    eps: f64,
) -> Result<(Tensor, Vec<RowStats>)> {
    let (w, bias) = (floats(w)?, bias.map(floats).transpose()?);
    let (n, width) = rows(x.dims());
    let dims = x.dims();
    let x = Values::of(x)?;
    let (mut y, mut stats) = (vec![0f32; n * width], vec![RowStats::default(); n]);
    let at_once = task_rows(width);
    let work = |((y, stats), x): ((&mut [f32], &mut [RowStats]), &[f32])| {
        for ((y, stats), x) in y
            .chunks_exact_mut(width)
            .zip(stats)
            .zip(x.chunks_exact(width))
        {
            let mean = match norm {
                Norm::Rms { .. } => 0.0,
                Norm::Layer => sum(x) / width as f64,
            };
            let variance = if mean == 0.0 {
                dot(x, x) / width as f64
            } else {
                x.iter()
                    .map(|&x| (f64::from(x) - mean).powi(2))
                    .sum::<f64>()
                    / width as f64
            };
            let inverse = (1.0 / (variance + eps).sqrt()) as f32;
            *stats = RowStats {
                mean: mean as f32,
                inverse,
            };
            scale_row(x, &w, mean as f32, inverse, norm.plus(), y);
            if let Some(bias) = &bias {
                y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
            }
        }
    };
    if n <= at_once {
        work(((&mut y, &mut stats), &x));
    } else {
        let x: &[f32] = &x;
        y.par_chunks_mut(at_once * width)
            .zip(stats.par_chunks_mut(at_once))
            .zip(x.par_chunks(at_once * width))
            .for_each(work);
    }
    Ok((tensor(y, dims)?, stats))
}

vectorised! {
    /// Writes u = dy · g and x̂.
    fn prepare(dy: &[f32], x: &[f32], w: &[f32], at: RowStats, plus: f32, u: &mut [f32], xhat: &mut [f32]) {
        for i in 0..u.len().min(xhat.len()).min(dy.len()).min(x.len()).min(w.len()) {
            u[i] = dy[i] * (plus + w[i]);
            xhat[i] = (x[i] - at.mean) * at.inverse;
        }
    }
}

vectorised! {
    fn combine(dx: &mut [f32], u: &[f32], xhat: &[f32], inverse: f32, mean_u: f32, mean_ux: f32) {
        for ((dx, u), xhat) in dx.iter_mut().zip(u).zip(xhat) {
            *dx = inverse * (u - mean_u - xhat * mean_ux);
        }
    }
}

/// The gradient to x.
pub fn norm_backward(
    x: &Tensor,
    w: &Tensor,
    norm: Norm,
    stats: &[RowStats],
    dy: &Tensor,
) -> Result<Tensor> {
    let w = &floats(w)?;
    let (n, width) = rows(x.dims());
    let dims = x.dims();
    let (x, dy) = (Values::of(x)?, Values::of(dy)?);
    let mut dx = vec![0f32; n * width];
    let at_once = task_rows(width);
    let (x, dy): (&[f32], &[f32]) = (&x, &dy);
    let work = |(task, dx): (usize, &mut [f32])| {
        let (mut u, mut xhat) = (vec![0f32; width], vec![0f32; width]);
        for (row, dx) in (task * at_once..).zip(dx.chunks_exact_mut(width)) {
            let own = row * width..(row + 1) * width;
            let (dy, x, at) = (&dy[own.clone()], &x[own], stats[row]);
            prepare(dy, x, w, at, norm.plus(), &mut u, &mut xhat);
            let mean_ux = (dot(&u, &xhat) / width as f64) as f32;
            let mean_u = match norm {
                Norm::Rms { .. } => 0.0,
                Norm::Layer => (sum(&u) / width as f64) as f32,
            };
            combine(dx, &u, &xhat, at.inverse, mean_u, mean_ux);
        }
    };
    if n <= at_once {
        work((0, &mut dx));
    } else {
        dx.par_chunks_mut(at_once * width)
            .enumerate()
            .for_each(work);
    }
    tensor(dx, dims)
}

/// dw += Σ dy · x̂ over the rows.
pub fn scale_gradient(x: &Tensor, stats: &[RowStats], dy: &Tensor, dw: &Tensor) -> Result<()> {
    let (_, width) = rows(x.dims());
    let (x, dy) = (Values::of(x)?, Values::of(dy)?);
    let (x, dy): (&[f32], &[f32]) = (&x, &dy);
    let parts: Vec<Vec<f32>> = stats
        .par_chunks(RUN)
        .enumerate()
        .map(|(run, stats)| {
            let mut part = vec![0f32; width];
            for (row, at) in (run * RUN..).zip(stats) {
                let own = row * width..(row + 1) * width;
                for ((s, x), dy) in part.iter_mut().zip(&x[own.clone()]).zip(&dy[own]) {
                    *s += dy * (x - at.mean) * at.inverse;
                }
            }
            part
        })
        .collect();
    change(dw, |dw| {
        for part in &parts {
            add_scaled(dw, 1.0, part);
        }
    })
}
