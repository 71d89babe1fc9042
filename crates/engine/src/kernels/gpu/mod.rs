//! The kernels' side for tensors in a GPU's memory: makes room for the result, and starts what `randori-cuda` has for it.
//! Values are f32 or bf16, as the pass computes; statistics, log-probs and gradients of parameters are f32.
pub(crate) mod attention;
pub(crate) mod elementwise;
pub(crate) mod layout;
pub(crate) mod linear;
pub(crate) mod logprob;
pub(crate) mod low_rank;
pub(crate) mod norm;

use candle_core::{DType, Tensor};
use randori_cuda::{
    Ptr,
    gpu::{self, Gpu},
    ops,
};

pub(crate) use randori_cuda::gpu::{float, is_on_gpu as on, ptr};

use super::rope::Table;
use crate::Result;

/// The one there is; it is open, or there would be no tensor on it.
pub(crate) fn gpu() -> Result<&'static Gpu> {
    Ok(Gpu::open()?)
}

/// Room for a tensor of another shape in the numbers of `like`. Whoever asks writes all of it.
pub(crate) fn room(like: &Tensor, dims: &[usize]) -> Result<Tensor> {
    Ok(gpu()?.room(dims, like.dtype())?)
}

/// An optional tensor's address.
pub(crate) fn maybe(t: Option<&Tensor>) -> Result<Ptr> {
    Ok(t.map(gpu::ptr).transpose()?.unwrap_or(Ptr::NULL))
}

/// f32 in bf16, to nearest.
pub(crate) fn rounded(x: &Tensor) -> Result<Tensor> {
    let y = gpu()?.room(x.dims(), DType::BF16)?; // written whole
    ops::cast::cast(gpu()?, float(x)?, x.elem_count(), ptr(x)?, ptr(&y)?)?;
    Ok(y)
}

/// x (tokens, heads, d), turned; with `back`, dx from dy.
pub(crate) fn rope(x: &Tensor, table: &Table, back: bool) -> Result<Tensor> {
    let (tokens, heads, dim) = x.dims3()?;
    let gpu = gpu()?;
    let (cosines, sines) = match table.gpu.get() {
        Some(up) => up,
        None => {
            let up = (gpu.upload(&table.cos)?, gpu.upload(&table.sin)?);
            table.gpu.get_or_init(|| up)
        }
    };
    let rope = ops::rope::Rope {
        float: float(x)?,
        tokens,
        heads,
        dim,
        pairs: table.pairs,
        interleaved: table.interleaved,
    };
    let y = room(x, x.dims())?; // written whole: turned, or copied first
    let mut from = ptr(x)?;
    if 2 * table.pairs < dim {
        gpu.copy(from, ptr(&y)?, x.elem_count() * x.dtype().size_in_bytes())?;
        from = ptr(&y)?;
    }
    let angles = (ptr(cosines)?, ptr(sines)?);
    rope.turn(gpu, from, angles, ptr(&y)?, back)?;
    Ok(y)
}
