//! Arithmetic: functions from tensors to tensors, forward and backward, each on contiguous f32 (weights may be f16 or bf16).
//!
//! This is the only place that looks into a tensor's memory. A function dispatches on where the
//! tensor lies: on the CPU it works on slices, with rayon and gemm; on a GPU it starts a kernel of
//! `randori-cuda`, where there is one. Nothing here uses candle's autograd.
//!
//! Results are bit-identical whatever the number of threads: work is cut by fixed sizes, and sums run in a fixed order.
pub(crate) mod attention;
pub(crate) mod attention_backward;
pub(crate) mod elementwise;
pub(crate) mod few;
#[cfg(feature = "cuda")]
pub(crate) mod gpu;
mod keys;
pub(crate) mod layout;
pub(crate) mod linear;
pub(crate) mod logprob;
pub(crate) mod low_rank;
pub(crate) mod math;
pub(crate) mod norm;
mod panel;
pub(crate) mod product;
pub(crate) mod rope;
pub(crate) mod route;

use std::ops::Deref;

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Storage, StorageRef, Tensor};

use crate::{Error, Result};

/// Elements that are worth a task of their own.
pub(crate) const TASK: usize = 16 * 1024;

/// A tensor's values, as long as this lives.
pub(crate) struct Values<'a> {
    guard: StorageRef<'a>,
    start: usize,
    len: usize,
}

impl<'a> Values<'a> {
    /// Error unless the tensor is contiguous f32 in the CPU's memory.
    pub(crate) fn of(tensor: &'a Tensor) -> Result<Self> {
        let (guard, layout) = tensor.storage_and_layout();
        let Some((start, end)) = layout.contiguous_offsets() else {
            return Err(Error::rule(format!(
                "a kernel wants contiguous values, not shape {:?} with strides {:?}",
                layout.dims(),
                layout.stride()
            )));
        };
        match &*guard {
            Storage::Cpu(CpuStorage::F32(_)) => {}
            Storage::Cpu(other) => {
                use candle_core::backend::BackendStorage;
                return Err(Error::rule(format!(
                    "a kernel wants f32, not {:?}",
                    other.dtype()
                )));
            }
            _ => {
                return Err(Error::rule(
                    "the kernels have no side for this device yet; use the CPU",
                ));
            }
        }
        Ok(Values {
            guard,
            start,
            len: end - start,
        })
    }
}

impl Deref for Values<'_> {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        match &*self.guard {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.start..self.start + self.len],
            _ => &[], // refused by `of`
        }
    }
}

/// A tensor of these values on the CPU.
pub(crate) fn tensor(values: Vec<f32>, dims: &[usize]) -> Result<Tensor> {
    Ok(Tensor::from_vec(values, dims, &Device::Cpu)?)
}

/// A copy of x's values in f32 in the machine's memory; x itself where it is that already.
pub(crate) fn host(x: &Tensor) -> Result<Tensor> {
    Ok(x.to_device(&Device::Cpu)?.to_dtype(DType::F32)?)
}

/// y in the numbers of `like`, and where that lies.
pub(crate) fn beside(y: Tensor, like: &Tensor) -> Result<Tensor> {
    Ok(y.to_dtype(like.dtype())?.to_device(like.device())?)
}

/// Answers from the GPU's side of a kernel where the tensor lies there.
macro_rules! on_gpu {
    ($x:expr, $call:expr) => {
        #[cfg(feature = "cuda")]
        if crate::kernels::gpu::on($x) {
            return $call;
        }
    };
}
use on_gpu;

/// Changes a tensor's values in place. Every tensor that shares its memory changes too: only for tensors that were
/// made here and handed to nobody, and for gradients.
pub(crate) fn change(tensor: &Tensor, change: impl Fn(&mut [f32])) -> Result<()> {
    struct Change<F>(F);
    impl<F: Fn(&mut [f32])> InplaceOp1 for Change<F> {
        fn name(&self) -> &'static str {
            "change"
        }
        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
            let (CpuStorage::F32(values), Some((start, end))) =
                (storage, layout.contiguous_offsets())
            else {
                candle_core::bail!("only contiguous f32 can be changed in place");
            };
            (self.0)(&mut values[start..end]);
            Ok(())
        }
    }
    Ok(tensor.inplace_op1(&Change(change))?)
}

/// (rows, last axis) of a shape.
pub(crate) fn rows(dims: &[usize]) -> (usize, usize) {
    let last = dims.last().copied().unwrap_or(1);
    (dims[..dims.len().saturating_sub(1)].iter().product(), last)
}

/// Rows of `width` values that are worth a task of their own.
pub(crate) fn task_rows(width: usize) -> usize {
    (TASK / width.max(1)).max(1)
}

/// A pointer that tasks writing disjoint places may share.
#[derive(Clone, Copy)]
pub(crate) struct Shared(*mut f32);

// SAFETY: every task that gets a copy writes only rows and columns that no other task touches (said where it is used).
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub(crate) fn new(values: &mut [f32]) -> Self {
        Shared(values.as_mut_ptr())
    }
    /// The same, `offset` values on.
    pub(crate) fn from(self, offset: usize) -> Self {
        Shared(self.at(offset))
    }
    pub(crate) fn at(self, offset: usize) -> *mut f32 {
        self.0.wrapping_add(offset)
    }
}
