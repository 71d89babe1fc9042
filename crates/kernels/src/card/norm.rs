//! RMSNorm and layer norm, and sums over rows.

use candle_core::{DType, Tensor};
use randori_cuda::ops::{
    columns::Columns,
    norm::{LayerNorm, RmsNorm},
};

use super::memory::{float, gpu, maybe, ptr, room};
use crate::{Norm, Result, rows};

/// The sizes of an RMSNorm of x.
fn rms(x: &Tensor, eps: f64, plus: f32) -> Result<RmsNorm> {
    let (rows, width) = rows(x.dims());
    Ok(RmsNorm {
        float: float(x)?,
        rows,
        width,
        eps: eps as f32,
        plus,
    })
}

/// The rows' statistics, saved for the backward pass in f32: the inverse root mean squares or
/// standard deviations (rows), and for layer norm the means.
pub struct Stats {
    inverse: Tensor,
    means: Option<Tensor>,
}

/// Normalises the rows of x; also returns their statistics. w and the bias are f32.
pub(super) fn norm(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    norm: Norm,
    eps: f64,
) -> Result<(Tensor, Stats)> {
    let y = room(x, x.dims())?;
    let row = || Ok::<_, crate::Error>(gpu()?.room(&[rows(x.dims()).0], DType::F32)?);
    let (inverse, to) = (row()?, ptr(&y)?);
    let (from, scale, i) = (ptr(x)?, ptr(w)?, ptr(&inverse)?);
    let means = match norm {
        Norm::Rms { plus } => {
            rms(x, eps, plus)?.forward(gpu()?, from, scale, to, i)?;
            None
        }
        Norm::Layer => {
            let means = row()?;
            let bias = maybe(bias)?;
            layer(x, eps)?.forward(gpu()?, from, scale, bias, to, ptr(&means)?, i)?;
            Some(means)
        }
    };
    Ok((y, Stats { inverse, means }))
}

/// The sizes of a layer norm of x.
fn layer(x: &Tensor, eps: f64) -> Result<LayerNorm> {
    let (rows, width) = rows(x.dims());
    Ok(LayerNorm {
        float: float(x)?,
        rows,
        width,
        eps: eps as f32,
    })
}

/// The gradient to x.
pub fn norm_backward(
    x: &Tensor,
    w: &Tensor,
    norm: Norm,
    stats: &Stats,
    dy: &Tensor,
) -> Result<Tensor> {
    let dx = room(x, x.dims())?; // every value is written
    let (w, inverse, to) = (ptr(w)?, ptr(&stats.inverse)?, ptr(&dx)?);
    let (from, dy) = (ptr(x)?, ptr(dy)?);
    match &stats.means {
        Some(means) => {
            layer(x, 0.0)?.backward(gpu()?, from, w, ptr(means)?, inverse, dy, to)?;
        }
        None => rms(x, 0.0, norm.plus())?.backward(gpu()?, from, w, inverse, dy, to)?,
    }
    Ok(dx)
}

/// dw += Σ dy · x̂ over the rows.
pub fn scale_gradient(x: &Tensor, stats: &Stats, dy: &Tensor, dw: &Tensor) -> Result<()> {
    let (columns, parts) = columns(dy)?;
    let (means, inverse) = (maybe(stats.means.as_ref())?, ptr(&stats.inverse)?);
    let (x, dy, parts) = (ptr(x)?, ptr(dy)?, ptr(&parts)?);
    Ok(columns.scale_gradient(gpu()?, x, means, inverse, dy, parts, ptr(dw)?)?)
}

/// A tensor's sizes as a matrix.
fn sizes(t: &Tensor) -> Result<Columns> {
    let (rows, width) = rows(t.dims());
    Ok(Columns {
        float: float(t)?,
        rows,
        width,
    })
}

/// The sizes of sums over rows, and scratch for their parts (written before they are read).
pub(super) fn columns(dy: &Tensor) -> Result<(Columns, Tensor)> {
    let columns = sizes(dy)?;
    let parts = gpu()?.room(&[columns.room().max(1)], DType::F32)?;
    Ok((columns, parts))
}

/// onto += the sum of dy's rows.
pub fn add_columns(dy: &Tensor, onto: &Tensor) -> Result<()> {
    let (columns, parts) = columns(dy)?;
    let (dy, parts) = (ptr(dy)?, ptr(&parts)?);
    Ok(columns.sum(gpu()?, dy, parts, ptr(onto)?)?)
}

/// Multiplies y's columns by factors, then adds a bias, both f32 (width) and optional, in place.
pub fn scale_columns(y: &Tensor, factors: Option<&Tensor>, bias: Option<&Tensor>) -> Result<()> {
    Ok(sizes(y)?.scale(gpu()?, ptr(y)?, maybe(factors)?, maybe(bias)?)?)
}
