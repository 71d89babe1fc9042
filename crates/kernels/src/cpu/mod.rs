//! The processor's kernels: functions from tensors to tensors, each on contiguous f32 (weights may
//! be f16 or bf16, or quantised).
//!
//! Results are bit-identical whatever the number of threads: work is cut by fixed sizes, and sums
//! run in a fixed order.
mod attention;
mod attention_backward;
mod cache;
mod dora;
pub mod elementwise;
mod few;
mod keys;
mod layout;
pub mod linear;
pub mod logprob;
mod low_rank;
pub mod maps;
pub mod math;
pub mod norm;
mod panel;
mod product;
pub mod rope;

use std::{convert::Infallible, ops::Deref};

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Storage, StorageRef, Tensor};
use randori_sdk::seam::{Binary, RopeSpec, RouteSpec, Unary};

#[cfg(feature = "cuda")]
use super::tensors::elsewhere;
pub use attention::QUERIES;

use super::{Gain, Heads, Kernels, Mixed, Norm, OnCandle, Share, host, on_candle::on_candle, rows};
use crate::{Error, Result, Weight};

/// The kernels of the processor.
pub struct Cpu;

impl OnCandle for Cpu {
    fn row_dots(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        layout::row_dots(a, b)
    }
    fn scatter_by(
        &self,
        x: &Tensor,
        rows: &[u32],
        factors: Option<&[f32]>,
        onto: &Tensor,
    ) -> Result<()> {
        layout::scatter(x, rows, factors, onto)
    }
}

impl Kernels for Cpu {
    on_candle!();
    type Table = rope::Table;
    type Stats = Vec<norm::RowStats>;
    type Sums = Vec<f32>;
    type Away = Infallible;

    fn lookup(&self, table: &Weight, ids: &Self::Rows) -> Result<Tensor> {
        match table {
            Weight::Dense(w) => linear::lookup(w, ids),
            Weight::Quant(w) => w.rows(ids).map_err(|e| Error::rule(e.to_string())),
            #[cfg(feature = "cuda")]
            other => Err(elsewhere(other)),
        }
    }
    fn product(&self, x: &Tensor, w: &Weight) -> Result<Tensor> {
        match w {
            Weight::Dense(w) => linear::forward(x, w),
            Weight::Quant(w) => linear::quantised(x, w),
            #[cfg(feature = "cuda")]
            other => Err(elsewhere(other)),
        }
    }
    fn product_backward(&self, dy: &Tensor, w: &Weight) -> Result<Tensor> {
        match w {
            Weight::Dense(w) => linear::backward(dy, w),
            Weight::Quant(w) => linear::quantised_backward(dy, w),
            #[cfg(feature = "cuda")]
            other => Err(elsewhere(other)),
        }
    }
    fn drop_out(
        &self,
        plan: &Self::Plan,
        x: &Tensor,
        p: f32,
        rows: Option<&Self::Rows>,
        salt: u64,
    ) -> Result<Tensor> {
        let keys = plan.keys(rows);
        // a token's heads, where a projection goes over each of them, have one mask together
        let by_token = x.reshape((keys.len(), x.elem_count() / keys.len().max(1)))?;
        let masked = randori_lora::dropout(&by_token, p, &keys, salt);
        Ok(masked
            .map_err(|e| Error::rule(e.to_string()))?
            .reshape(x.dims())?)
    }
    fn attention(
        &self,
        plan: &Self::Plan,
        [q, k, v]: [&Tensor; 3],
        heads: &Heads,
    ) -> Result<(Tensor, Self::Sums)> {
        cache::with_spans(plan, k, v, heads, |spans| {
            attention::forward(q, spans, heads)
        })
    }
    fn cached_attention(
        &self,
        cache: &mut Self::Cache,
        place: (usize, usize),
        [q, k, v]: [&Tensor; 3],
        heads: &Heads,
    ) -> Result<(Tensor, Self::Sums)> {
        let spans = cache.append(place, [k, v], heads.widths().1)?;
        attention::forward(q, &spans, heads)
    }
    fn attention_backward(
        &self,
        plan: &Self::Plan,
        [q, k, v]: [&Tensor; 3],
        heads: &Heads,
        (out, lse): (&Tensor, &Self::Sums),
        dout: &Tensor,
    ) -> Result<[Tensor; 3]> {
        cache::with_spans(plan, k, v, heads, |spans| {
            attention_backward::backward(q, k.dims(), spans, heads, (out, lse), dout)
        })
    }
    /// The tape keeps three wide values instead: see `Factor`.
    fn fuses_silu(&self) -> bool {
        false
    }
    /// What lies in the machine's memory has nowhere to go.
    fn leave(&self, _: &Tensor) -> Result<Infallible> {
        Err(Error::rule("a block's input lies in the machine's memory"))
    }
    fn let_go(&self, away: &mut Infallible) {
        match *away {}
    }
    fn fetch(&self, away: &mut Infallible) -> Result<()> {
        match *away {}
    }
    fn take(&self, away: Infallible) -> Result<Tensor> {
        match away {}
    }
}

/// Elements that are worth a task of their own.
pub const TASK: usize = 16 * 1024;

/// A tensor's values, as long as this lives.
pub struct Values<'a> {
    guard: StorageRef<'a>,
    start: usize,
    len: usize,
}

impl<'a> Values<'a> {
    /// Error unless the tensor is contiguous f32 in the CPU's memory.
    pub fn of(tensor: &'a Tensor) -> Result<Self> {
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
pub fn tensor(values: Vec<f32>, dims: &[usize]) -> Result<Tensor> {
    Ok(Tensor::from_vec(values, dims, &Device::Cpu)?)
}

/// Changes a tensor's values in place. Every tensor that shares its memory changes too: only for
/// tensors that were made here and handed to nobody, and for gradients.
pub fn change(tensor: &Tensor, change: impl Fn(&mut [f32])) -> Result<()> {
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

/// Rows of `width` values that are worth a task of their own.
pub fn task_rows(width: usize) -> usize {
    (TASK / width.max(1)).max(1)
}

/// A pointer that tasks writing disjoint places may share.
#[derive(Clone, Copy)]
pub struct Shared(*mut f32);

// SAFETY: every task that gets a copy writes only rows and columns that no other task touches (said
// where it is used).
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub fn new(values: &mut [f32]) -> Self {
        Shared(values.as_mut_ptr())
    }
    /// The same, `offset` values on.
    pub fn from(self, offset: usize) -> Self {
        Shared(self.at(offset))
    }
    pub fn at(self, offset: usize) -> *mut f32 {
        self.0.wrapping_add(offset)
    }
}
