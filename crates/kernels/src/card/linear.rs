//! Projections by dense weights, biases, and their gradients. Shapes: x (n, in), W (out, in), y (n,
//! out).

use candle_core::{DType, Tensor};
use randori_cuda::{
    gpu::product::{Matrix, Product},
    ops,
};

use super::{float, gpu, layout, ptr, room};
use crate::{Result, rows};

/// A matrix as it lies: the last axis is a row.
pub(super) fn matrix(t: &Tensor) -> Result<Matrix> {
    Ok(Matrix::rows(ptr(t)?, float(t)?, rows(t.dims()).1))
}

/// c = alpha · a b + beta · c over tensors, `a` and `b` as they lie or transposed.
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

/// dW += dyᵀ x, in f32.
pub fn weight_gradient(x: &Tensor, dy: &Tensor, dw: &Tensor) -> Result<()> {
    let ((n, inputs), (_, outputs)) = (rows(x.dims()), rows(dy.dims()));
    let size = (outputs, inputs, n);
    multiply(size, matrix(dy)?.t(), matrix(x)?, dw, 1.0, 1.0)
}

/// y += b on every row, in place.
pub fn add_bias(y: &Tensor, bias: &Tensor) -> Result<()> {
    super::norm::scale_columns(y, None, Some(&single(bias)?))
}

/// db += sum of dy's rows.
pub fn bias_gradient(dy: &Tensor, db: &Tensor) -> Result<()> {
    super::norm::add_columns(dy, db)
}

/// dtable[id] += dy's row; dtable is f32, and so is what is added.
pub fn lookup_gradient(ids: &[u32], dy: &Tensor, dtable: &Tensor) -> Result<()> {
    layout::scatter(&single(dy)?, ids, None, dtable)
}

/// In f32.
fn single(t: &Tensor) -> Result<Tensor> {
    if t.dtype() == DType::F32 {
        return Ok(t.clone());
    }
    let y = gpu()?.room(t.dims(), DType::F32)?; // written whole
    ops::cast::cast(gpu()?, float(t)?, t.elem_count(), ptr(t)?, ptr(&y)?)?;
    Ok(y)
}
