//! Functions of every element.

use candle_core::Tensor;
use randori_sdk::seam::{Binary, Unary};

use crate::{
    Result,
    kernels::{self, beside, elementwise, host},
};

pub(crate) fn unary(op: Unary, x: &Tensor) -> Result<Tensor> {
    kernels::through_host(x, |x| elementwise::unary(op, x))
}

pub(crate) fn unary_backward(op: Unary, saved: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let saved = host(saved)?;
    kernels::through_host(dy, |dy| elementwise::unary_backward(op, &saved, dy))
}

pub(crate) fn affine(x: &Tensor, mul: f32, add: f32) -> Result<Tensor> {
    kernels::through_host(x, |x| elementwise::affine(x, mul, add))
}

pub(crate) fn binary(op: Binary, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let b = host(b)?;
    kernels::through_host(a, |a| elementwise::binary(op, a, &b))
}

pub(crate) fn binary_backward_b(
    op: Binary,
    a: Option<&Tensor>,
    b: Option<&Tensor>,
    b_dims: &[usize],
    dy: &Tensor,
) -> Result<Tensor> {
    let (a, b) = (a.map(host).transpose()?, b.map(host).transpose()?);
    kernels::through_host(dy, |dy| {
        elementwise::binary_backward_b(op, a.as_ref(), b.as_ref(), b_dims, dy)
    })
}

/// y's columns times their factors, in place.
pub(crate) fn scale_columns(y: &Tensor, factors: &[f32]) -> Result<()> {
    let factors = super::gpu()?.upload(factors)?;
    super::norm::scale_columns(y, Some(&factors), None)
}

/// Writes values over a tensor's.
pub(crate) fn replace(y: &Tensor, values: Tensor) -> Result<()> {
    let new = beside(values, y)?;
    let bytes = y.elem_count() * y.dtype().size_in_bytes();
    Ok(super::gpu()?.copy(super::ptr(&new)?, super::ptr(y)?, bytes)?)
}

/// a += b, in place.
pub(crate) fn add_onto(a: &Tensor, b: &Tensor) -> Result<()> {
    let (near, b) = (host(a)?, host(b)?);
    kernels::layout::add_onto(&near, &b)?;
    replace(a, near)
}
