//! Parts of the last axis, joins, rows gathered and scattered.

use candle_core::Tensor;

use super::elementwise::replace;
use crate::{
    Result,
    kernels::{self, host, layout},
};

pub(crate) fn narrow(x: &Tensor, start: usize, len: usize) -> Result<Tensor> {
    kernels::through_host(x, |x| layout::narrow(x, start, len))
}

pub(crate) fn widen(dy: &Tensor, start: usize, width: usize) -> Result<Tensor> {
    kernels::through_host(dy, |dy| layout::widen(dy, start, width))
}

pub(crate) fn concat(xs: &[Tensor]) -> Result<Tensor> {
    let near = xs.iter().map(host).collect::<Result<Vec<_>>>()?;
    kernels::beside(layout::concat(&near)?, &xs[0])
}

pub(crate) fn gather(x: &Tensor, index: &[u32]) -> Result<Tensor> {
    kernels::through_host(x, |x| layout::gather(x, index))
}

pub(crate) fn scatter(
    x: &Tensor,
    index: &[u32],
    factors: Option<&[f32]>,
    onto: &Tensor,
) -> Result<()> {
    let (x, near) = (host(x)?, host(onto)?);
    layout::scatter(&x, index, factors, &near)?;
    replace(onto, near)
}

pub(crate) fn add_onto(a: &Tensor, b: &Tensor) -> Result<()> {
    let (near, b) = (host(a)?, host(b)?);
    layout::add_onto(&near, &b)?;
    replace(a, near)
}
