//! RMSNorm, and sums over rows.

use candle_core::{DType, Tensor};
use randori_cuda::ops::{columns::Columns, norm::RmsNorm};

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
pub(crate) fn forward(x: &Tensor, w: &Tensor, eps: f64, plus: f32) -> Result<(Tensor, Tensor)> {
    let n = sizes(x, eps, plus)?;
    let (y, inverse) = (room(x, x.dims())?, gpu()?.room(&[n.rows], DType::F32)?);
    let w = w.to_dtype(DType::F32)?;
    n.forward(gpu()?, ptr(x)?, ptr(&w)?, ptr(&y)?, ptr(&inverse)?)?;
    Ok((y, inverse))
}

/// dx.
pub(crate) fn backward(
    x: &Tensor,
    w: &Tensor,
    inverse: &Tensor,
    plus: f32,
    dy: &Tensor,
) -> Result<Tensor> {
    let n = sizes(x, 0.0, plus)?;
    let dx = room(x, x.dims())?;
    let w = w.to_dtype(DType::F32)?;
    let (x, dy) = (ptr(x)?, ptr(dy)?);
    n.backward(gpu()?, x, ptr(&w)?, ptr(inverse)?, dy, ptr(&dx)?)?;
    Ok(dx)
}

/// onto += Σ over rows of dy, or of dy · x · inverse.
fn sum(dy: &Tensor, by: Option<(&Tensor, &Tensor)>, onto: &Tensor) -> Result<()> {
    let (rows, width) = rows(dy.dims());
    let columns = Columns {
        float: float(dy)?,
        rows,
        width,
    };
    let parts = gpu()?.room(&[columns.room().max(1)], DType::F32)?; // written before it is read
    let by = by.map(|(x, inverse)| -> Result<_> { Ok((ptr(x)?, ptr(inverse)?)) });
    let by = by.transpose()?;
    Ok(columns.sum(gpu()?, ptr(dy)?, by, ptr(&parts)?, ptr(onto)?)?)
}

/// dw += Σ dy · x̂ over rows.
pub(crate) fn scale_gradient(x: &Tensor, inverse: &Tensor, dy: &Tensor, dw: &Tensor) -> Result<()> {
    sum(dy, Some((x, inverse)), dw)
}

/// onto += the sum of dy's rows.
pub(crate) fn add_columns(dy: &Tensor, onto: &Tensor) -> Result<()> {
    sum(dy, None, onto)
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
