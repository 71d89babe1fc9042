//! Rotary position embedding.

use candle_core::Tensor;
use randori_cuda::ops;
use randori_sdk::seam::RopeSpec;

use super::memory::{float, gpu, ptr, room};
use crate::{Plan, Result, cpu::rope};

/// Cosines and sines of every row's position, f32 (tokens, pairs).
pub struct Table {
    cosines: Tensor,
    sines: Tensor,
    pairs: usize,
    interleaved: bool,
}

/// Computes the table of a pass's rows.
pub(super) fn table(spec: &RopeSpec, plan: &Plan) -> Result<Table> {
    let table = rope::Table::new(spec, plan)?;
    let gpu = gpu()?;
    Ok(Table {
        cosines: gpu.upload(&table.cos)?,
        sines: gpu.upload(&table.sin)?,
        pairs: table.pairs,
        interleaved: table.interleaved,
    })
}

/// Rotates x (tokens, heads, d); with `back` by the negated angles.
pub(super) fn rotate(x: &Tensor, table: &Table, back: bool) -> Result<Tensor> {
    let (tokens, heads, dim) = x.dims3()?;
    let gpu = gpu()?;
    let rope = ops::rope::Rope {
        float: float(x)?,
        tokens,
        heads,
        dim,
        pairs: table.pairs,
        interleaved: table.interleaved,
    };
    let y = room(x, x.dims())?; // every value is written: rotated, or copied first
    let mut from = ptr(x)?;
    if 2 * table.pairs < dim {
        gpu.copy(from, ptr(&y)?, x.elem_count() * x.dtype().size_in_bytes())?;
        from = ptr(&y)?;
    }
    let angles = (ptr(&table.cosines)?, ptr(&table.sines)?);
    rope.rotate(gpu, from, angles, ptr(&y)?, back)?;
    Ok(y)
}
