//! RMSNorm, and sums over rows.

use candle_core::{DType, Tensor};
use randori_cuda::ops::norm::RmsNorm;

use super::{elementwise::replace, float, gpu, ptr, room};
use crate::{
    Result,
    kernels::{self, host, rows},
};

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

/// dw += Σ dy · x̂ over rows.
pub(crate) fn scale_gradient(x: &Tensor, inverse: &Tensor, dy: &Tensor, dw: &Tensor) -> Result<()> {
    let (_, width) = rows(x.dims());
    let (x, dy, inverse) = (host(x)?, host(dy)?, host(inverse)?);
    let (x, dy) = (kernels::Values::of(&x)?, kernels::Values::of(&dy)?);
    let inverse = kernels::Values::of(&inverse)?;
    kernels::add_through_host(dw, |dw| {
        kernels::change(dw, |dw| {
            let rows = x.chunks_exact(width).zip(dy.chunks_exact(width));
            for ((x, dy), r) in rows.zip(inverse.iter()) {
                for ((dw, x), dy) in dw.iter_mut().zip(x).zip(dy) {
                    *dw += dy * x * r;
                }
            }
        })
    })
}

/// y += b on every row, in place.
pub(crate) fn add_bias(y: &Tensor, bias: &Tensor, _rows: usize, _width: usize) -> Result<()> {
    let near = host(y)?;
    kernels::linear::add_bias(&near, &host(bias)?)?;
    replace(y, near)
}

/// onto += the sum of dy's rows.
pub(crate) fn add_columns(dy: &Tensor, onto: &Tensor) -> Result<()> {
    let dy = host(dy)?;
    kernels::add_through_host(onto, |onto| kernels::linear::bias_gradient(&dy, onto))
}
