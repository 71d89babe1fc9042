//! RMSNorm, and sums over rows.

use candle_core::{DType, Tensor};
use randori_cuda::ops::{
    columns::Columns,
    norm::{LayerNorm, RmsNorm},
};

use super::{float, gpu, maybe, ptr, room};
use crate::{Result, kernels::rows};

fn sizes(x: &Tensor, eps: f64, plus: f32) -> Result<RmsNorm> {
    let (rows, width) = rows(x.dims());
    Ok(RmsNorm {
        float: float(x)?,
        rows,
        width,
        eps: eps as f32,
        plus,
    })
}

/// y, and each row's 1 / rms (rows) in f32. w is f32.
pub(crate) fn forward(
    x: &Tensor,
    w: &Tensor,
    eps: f64,
    plus: f32,
) -> Result<(Tensor, Tensor, Option<Tensor>)> {
    let n = sizes(x, eps, plus)?;
    let (y, inverse) = (room(x, x.dims())?, gpu()?.room(&[n.rows], DType::F32)?);
    let (x, w, to) = (ptr(x)?, ptr(w)?, ptr(&y)?);
    n.forward(gpu()?, x, w, to, ptr(&inverse)?)?;
    Ok((y, inverse, None))
}

/// y, and each row's 1 / standard deviation and mean (rows) in f32. w and the bias are f32.
pub(crate) fn layer_forward(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    eps: f64,
) -> Result<(Tensor, Tensor, Option<Tensor>)> {
    let n = layer(x, eps)?;
    let stats = || {
        gpu()?
            .room(&[n.rows], DType::F32)
            .map_err(crate::Error::from)
    };
    let (y, means, inverse) = (room(x, x.dims())?, stats()?, stats()?);
    let (m, i) = (ptr(&means)?, ptr(&inverse)?);
    n.forward(gpu()?, ptr(x)?, ptr(w)?, maybe(bias)?, ptr(&y)?, m, i)?;
    Ok((y, inverse, Some(means)))
}

fn layer(x: &Tensor, eps: f64) -> Result<LayerNorm> {
    let (rows, width) = rows(x.dims());
    Ok(LayerNorm {
        float: float(x)?,
        rows,
        width,
        eps: eps as f32,
    })
}

/// dx; with means of layer norm.
pub(crate) fn backward(
    x: &Tensor,
    w: &Tensor,
    (inverse, means): (&Tensor, Option<&Tensor>),
    plus: f32,
    dy: &Tensor,
) -> Result<Tensor> {
    let dx = room(x, x.dims())?; // every value is written
    let (w, inverse, to) = (ptr(w)?, ptr(inverse)?, ptr(&dx)?);
    let (from, dy) = (ptr(x)?, ptr(dy)?);
    match means {
        Some(means) => {
            layer(x, 0.0)?.backward(gpu()?, from, w, ptr(means)?, inverse, dy, to)?;
        }
        None => sizes(x, 0.0, plus)?.backward(gpu()?, from, w, inverse, dy, to)?,
    }
    Ok(dx)
}

/// dw += Σ dy · x̂ over rows.
pub(crate) fn scale_gradient(
    x: &Tensor,
    (inverse, means): (&Tensor, Option<&Tensor>),
    dy: &Tensor,
    dw: &Tensor,
) -> Result<()> {
    let (columns, parts) = columns(dy)?;
    let (means, inverse) = (maybe(means)?, ptr(inverse)?);
    let (x, dy, parts) = (ptr(x)?, ptr(dy)?, ptr(&parts)?);
    Ok(columns.scale_gradient(gpu()?, x, means, inverse, dy, parts, ptr(dw)?)?)
}

/// Sizes of sums over rows, and room for their parts (written before they are read).
fn columns(dy: &Tensor) -> Result<(Columns, Tensor)> {
    let (rows, width) = rows(dy.dims());
    let columns = Columns {
        float: float(dy)?,
        rows,
        width,
    };
    let parts = gpu()?.room(&[columns.room().max(1)], DType::F32)?;
    Ok((columns, parts))
}

/// onto += the sum of dy's rows.
pub(crate) fn add_columns(dy: &Tensor, onto: &Tensor) -> Result<()> {
    let (columns, parts) = columns(dy)?;
    let (dy, parts) = (ptr(dy)?, ptr(&parts)?);
    Ok(columns.sum(gpu()?, dy, None, parts, ptr(onto)?)?)
}

/// DoRA's dm += Σ dy · (y - bias) / m over the rows, nothing where m is 0.
pub(crate) fn magnitude_gradient(
    y: &Tensor,
    bias: Option<&Tensor>,
    dy: &Tensor,
    magnitude: &[f32],
    dm: &Tensor,
) -> Result<()> {
    let (columns, parts) = columns(dy)?;
    let magnitude = gpu()?.upload(magnitude)?;
    let (y, bias, dy) = (ptr(y)?, maybe(bias)?, ptr(dy)?);
    let (magnitude, parts) = (ptr(&magnitude)?, ptr(&parts)?);
    Ok(columns.magnitude_gradient(gpu()?, y, bias, dy, magnitude, parts, ptr(dm)?)?)
}

/// y's columns times factors, then plus a bias, both f32 (width) where they are given, in place.
pub(crate) fn scale_columns(
    y: &Tensor,
    factors: Option<&Tensor>,
    bias: Option<&Tensor>,
) -> Result<()> {
    let (rows, width) = rows(y.dims());
    let columns = Columns {
        float: float(y)?,
        rows,
        width,
    };
    Ok(columns.scale(gpu()?, ptr(y)?, maybe(factors)?, maybe(bias)?)?)
}
