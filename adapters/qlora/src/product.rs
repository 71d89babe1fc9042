//! Products with a matrix that is dequantised a block at a time.
//!
//! Forward splits W by rows: each block gives some columns of y. Backward splits W by columns, and
//! each thread goes through all rows of its columns in order. So every number is summed by one
//! thread in a fixed order, however many threads there are.

use std::ops::Range;

use candle_core::{CpuStorage, Device, Storage, Tensor};
use gemm::{Parallelism, gemm};
use rayon::prelude::*;

use crate::{Error, Result};

/// A matrix (rows = outputs, columns = inputs) that can decode any range of columns of its rows to
/// f32.
pub(crate) trait DecodeRows: Sync {
    /// The shape (out, in).
    fn shape(&self) -> (usize, usize);
    /// Column ranges begin and end at multiples of this (or at the row's end).
    fn grain(&self) -> usize;
    /// Writes `columns` of the rows `rows`, row after row.
    fn fill(&self, rows: Range<usize>, columns: Range<usize>, out: &mut [f32]);
}

/// Floats of a dequantised block: a quarter of a typical L2 cache.
const BLOCK: usize = 96 * 1024;

/// x·Wᵀ: (n, in) -> (n, out).
pub(crate) fn forward(w: &dyn DecodeRows, x: &Tensor) -> Result<Tensor> {
    let (outputs, inputs) = w.shape();
    with_rows(x, inputs, "x", |x, n| {
        let mut y = vec![0f32; n * outputs];
        let step = (BLOCK / inputs.max(1)).clamp(16, 256);
        let out = Shared(y.as_mut_ptr());
        (0..outputs.div_ceil(step))
            .into_par_iter()
            .for_each_init(Vec::new, |buffer, block| {
                let rows = block * step..((block + 1) * step).min(outputs);
                buffer.resize(step * inputs, 0f32);
                w.fill(rows.clone(), 0..inputs, &mut buffer[..rows.len() * inputs]);
                // SAFETY: x is n x inputs, the buffer rows x inputs, y n x outputs; only this block
                // writes y's columns `rows`.
                unsafe {
                    product(
                        (n, rows.len(), inputs),
                        (out.at(rows.start), outputs),
                        (x.as_ptr(), inputs),
                        (buffer.as_ptr(), 1, inputs),
                        false,
                    );
                }
            });
        Ok(Tensor::from_vec(y, (n, outputs), &Device::Cpu)?)
    })
}

/// dy·W: (n, out) -> (n, in).
pub(crate) fn backward(w: &dyn DecodeRows, dy: &Tensor) -> Result<Tensor> {
    let (outputs, inputs) = w.shape();
    with_rows(dy, outputs, "dy", |dy, n| {
        let mut dx = vec![0f32; n * inputs];
        let grain = w.grain();
        let width = inputs.div_ceil(8).clamp(1, 512).next_multiple_of(grain);
        let depth = (BLOCK / 2 / width).clamp(16, 512);
        let out = Shared(dx.as_mut_ptr());
        (0..inputs.div_ceil(width))
            .into_par_iter()
            .for_each_init(Vec::new, |buffer, tile| {
                let columns = tile * width..((tile + 1) * width).min(inputs);
                buffer.resize(depth * width, 0f32);
                for first in (0..outputs).step_by(depth) {
                    let rows = first..(first + depth).min(outputs);
                    w.fill(
                        rows.clone(),
                        columns.clone(),
                        &mut buffer[..rows.len() * columns.len()],
                    );
                    // SAFETY: dy is n x outputs, the buffer rows x columns, dx n x inputs; only
                    // this tile writes dx's `columns`.
                    unsafe {
                        product(
                            (n, columns.len(), rows.len()),
                            (out.at(columns.start), inputs),
                            (dy.as_ptr().add(rows.start), outputs),
                            (buffer.as_ptr(), columns.len(), 1),
                            first > 0,
                        );
                    }
                }
            });
        Ok(Tensor::from_vec(dx, (n, inputs), &Device::Cpu)?)
    })
}

/// The whole matrix in f32.
pub(crate) fn dequantise(w: &dyn DecodeRows) -> Result<Tensor> {
    let (outputs, inputs) = w.shape();
    let mut all = vec![0f32; outputs * inputs];
    let step = (BLOCK / inputs.max(1)).clamp(1, 256);
    all.par_chunks_mut((step * inputs).max(1))
        .enumerate()
        .for_each(|(i, out)| {
            let rows = i * step..i * step + out.len() / inputs;
            w.fill(rows, 0..inputs, out);
        });
    Ok(Tensor::from_vec(all, (outputs, inputs), &Device::Cpu)?)
}

/// Rows `ids` in f32: (ids, in).
pub(crate) fn rows(w: &dyn DecodeRows, ids: &[u32]) -> Result<Tensor> {
    let (outputs, inputs) = w.shape();
    let mut all = vec![0f32; ids.len() * inputs];
    for (&id, out) in ids.iter().zip(all.chunks_mut(inputs.max(1))) {
        let row = id as usize;
        if row >= outputs {
            return Err(Error::rule(format!(
                "row {row} was asked of a matrix of {outputs} rows"
            )));
        }
        w.fill(row..row + 1, 0..inputs, out);
    }
    Ok(Tensor::from_vec(all, (ids.len(), inputs), &Device::Cpu)?)
}

/// dst (m x n, row stride given) = lhs (m x k) · rhs (k x n), or += where `add`.
///
/// # Safety
/// The pointers must cover those shapes with those strides, and nothing else may write dst's
/// elements meanwhile.
unsafe fn product(
    (m, n, k): (usize, usize, usize),
    (dst, dst_stride): (*mut f32, usize),
    (lhs, lhs_stride): (*const f32, usize),
    (rhs, rhs_row, rhs_column): (*const f32, usize, usize),
    add: bool,
) {
    let s = |stride: usize| stride as isize;
    // SAFETY: the caller's contract, in gemm's terms (dst = alpha·dst + beta·lhs·rhs).
    unsafe {
        gemm(
            m,
            n,
            k,
            dst,
            1,
            s(dst_stride),
            add,
            lhs,
            1,
            s(lhs_stride),
            rhs,
            s(rhs_column),
            s(rhs_row),
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// A pointer shared between threads, each of which writes its own columns.
struct Shared(*mut f32);
// SAFETY: only `product` writes through it, to columns that belong to one block each.
unsafe impl Sync for Shared {}
impl Shared {
    fn at(&self, column: usize) -> *mut f32 {
        self.0.wrapping_add(column)
    }
}

/// Calls `f` with the f32 values of a tensor (n, width) and n.
fn with_rows<T>(
    t: &Tensor,
    width: usize,
    what: &str,
    f: impl FnOnce(&[f32], usize) -> Result<T>,
) -> Result<T> {
    let (n, w) = t.dims2()?;
    if w != width {
        return Err(Error::rule(format!(
            "{what} has {w} features a row; the quantised matrix wants {width}"
        )));
    }
    let t = t.contiguous()?;
    let (storage, layout) = t.storage_and_layout();
    let start = layout.start_offset();
    match &*storage {
        Storage::Cpu(CpuStorage::F32(all)) => match all.get(start..start + n * w) {
            Some(values) => f(values, n),
            None => Err(Error::rule(format!(
                "{what} does not lie within its storage"
            ))),
        },
        _ => Err(Error::rule(format!(
            "{what} must be f32 on the CPU, not {:?} on {:?}",
            t.dtype(),
            t.device()
        ))),
    }
}
