//! Tensors in a GPU's memory: room for results, addresses, the dtypes that kernels take.

use candle_core::{DType, Tensor};
use randori_cuda::{Ptr, gpu::Gpu, ops};

pub use randori_cuda::gpu::{float, ptr};

use crate::{Result, tensors::beside};

/// The process's GPU. It is open already, or there would be no tensor on it.
pub fn gpu() -> Result<&'static Gpu> {
    Ok(Gpu::open()?)
}

/// An uninitialised tensor of the dtype of `like`: the caller writes all of it.
pub fn room(like: &Tensor, dims: &[usize]) -> Result<Tensor> {
    Ok(gpu()?.room(dims, like.dtype())?)
}

/// The address of an optional tensor, null for none.
pub fn maybe(t: Option<&Tensor>) -> Result<Ptr> {
    Ok(t.map(ptr).transpose()?.unwrap_or(Ptr::NULL))
}

/// An f32 tensor in bf16, rounded to nearest.
///
/// # Errors
/// Not enough memory.
pub fn rounded(x: &Tensor) -> Result<Tensor> {
    cast(x, DType::BF16)
}

/// A tensor in f32: itself if it is that already.
pub fn single(x: &Tensor) -> Result<Tensor> {
    if x.dtype() == DType::F32 {
        return Ok(x.clone());
    }
    cast(x, DType::F32)
}

/// A tensor in f32 or bf16: itself if it is that already.
///
/// # Errors
/// Another dtype than these two, not enough memory.
pub fn in_float(x: &Tensor, to: DType) -> Result<Tensor> {
    match x.dtype() == to {
        true => Ok(x.clone()),
        false => cast(x, to),
    }
}

/// A copy in the other dtype: f32 from bf16, or bf16 from f32.
fn cast(x: &Tensor, to: DType) -> Result<Tensor> {
    let y = gpu()?.room(x.dims(), to)?; // every value is written
    ops::cast::cast(gpu()?, float(x)?, x.elem_count(), ptr(x)?, ptr(&y)?)?;
    Ok(y)
}

/// Overwrites y with values of its shape.
pub fn overwrite(y: &Tensor, values: Tensor) -> Result<()> {
    let new = beside(values, y)?;
    let bytes = y.elem_count() * y.dtype().size_in_bytes();
    Ok(gpu()?.copy(ptr(&new)?, ptr(y)?, bytes)?)
}
