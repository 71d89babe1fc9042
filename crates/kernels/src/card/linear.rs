//! Products with dense weights, biases, and their gradients: x (n, in), W (out, in), y (n, out).

use candle_core::Tensor;
use randori_cuda::gpu::product::{Matrix, Product};

use super::{
    layout,
    memory::{float, gpu, ptr, room, single},
    norm,
};
use crate::{Result, rows};

/// A tensor as a matrix: its last axis is a row.
pub(super) fn matrix(t: &Tensor) -> Result<Matrix> {
    Ok(Matrix::rows(ptr(t)?, float(t)?, rows(t.dims()).1))
}

/// c = alpha · a b + beta · c.
pub(super) fn multiply(
    (m, n, k): (usize, usize, usize),
    a: Matrix,
    b: Matrix,
    c: &Tensor,
    alpha: f32,
    beta: f32,
) -> Result<()> {
    let c = matrix(c)?;
    let product = Product {
        m,
        n,
        k,
        a,
        b,
        c,
        alpha,
        beta,
    };
    crate::work::count((m, n, k));
    Ok(gpu()?.multiply(&product)?)
}

/// y = x Wᵀ.
pub fn forward(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    let ((outputs, inputs), (n, _)) = (w.dims2()?, rows(x.dims()));
    let y = room(x, &[n, outputs])?;
    let size = (n, outputs, inputs);
    multiply(size, matrix(x)?, matrix(w)?.t(), &y, 1.0, 0.0)?;
    Ok(y)
}

/// dx = dy W.
pub fn backward(dy: &Tensor, w: &Tensor) -> Result<Tensor> {
    let ((outputs, inputs), (n, _)) = (w.dims2()?, rows(dy.dims()));
    let dx = room(dy, &[n, inputs])?;
    let size = (n, inputs, outputs);
    multiply(size, matrix(dy)?, matrix(w)?, &dx, 1.0, 0.0)?;
    Ok(dx)
}

/// dW += dyᵀ x; dW is f32.
pub fn weight_gradient(x: &Tensor, dy: &Tensor, dw: &Tensor) -> Result<()> {
    let ((n, inputs), (_, outputs)) = (rows(x.dims()), rows(dy.dims()));
    let size = (outputs, inputs, n);
    multiply(size, matrix(dy)?.t(), matrix(x)?, dw, 1.0, 1.0)
}

/// y += b on every row, in place.
pub fn add_bias(y: &Tensor, bias: &Tensor) -> Result<()> {
    norm::scale_columns(y, None, Some(&single(bias)?))
}

/// db += the sum of dy's rows.
pub fn bias_gradient(dy: &Tensor, db: &Tensor) -> Result<()> {
    norm::add_columns(dy, db)
}

/// dtable\[ids\[i\]\] += dy\[i\], in order; dtable is f32, and so are the sums.
pub fn lookup_gradient(ids: &[u32], dy: &Tensor, dtable: &Tensor) -> Result<()> {
    layout::scatter_by(&single(dy)?, ids, None, dtable)
}
