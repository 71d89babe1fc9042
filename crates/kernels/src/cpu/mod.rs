//! The processor's kernels, on contiguous f32 tensors; weights may also be f16, bf16 or quantised.
//!
//! Results are bit-identical for any number of threads: work is split by fixed sizes, and sums have
//! a fixed order.
pub mod attention;
mod attention_backward;
mod cache;
mod conv;
pub mod delta;
mod delta_backward;
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
mod sinks;

use std::{convert::Infallible, ops::Deref};

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Storage, StorageRef, Tensor};
use randori_sdk::seam::{Binary, RopeSpec, RouteSpec, Unary};

use crate::{
    Error, ExpertOutput, ExpertTokens, Gain, Heads, Kernels, Norm, OnCandle, Result, Weight, host,
    on_candle::{call, on_candle},
    rows,
};

/// The kernels of the processor.
pub struct Cpu;

impl OnCandle for Cpu {
    call! {
        layout::row_dots(a: &Tensor, b: &Tensor) -> Tensor;
        layout::scatter_by(
            x: &Tensor, rows: &[u32], factors: Option<&[f32]>, onto: &Tensor
        ) -> ();
    }
}

impl Kernels for Cpu {
    on_candle!();
    type RopeTable = rope::Table;
    type NormStats = Vec<norm::RowStats>;
    /// log Σ e^score, by head, then row.
    type SoftmaxStats = Vec<f32>;
    /// Nothing is offloaded from the machine's own memory.
    type Offloaded = Infallible;

    fn lookup(&self, table: &Weight, ids: &Self::Indices) -> Result<Tensor> {
        match table {
            Weight::Dense(w) => linear::lookup(w, ids),
            Weight::Quant(w) => w.rows(ids).map_err(|e| Error::rule(e.to_string())),
            #[cfg(feature = "cuda")]
            other => Err(other.elsewhere()),
        }
    }
    fn product(&self, x: &Tensor, w: &Weight) -> Result<Tensor> {
        match w {
            Weight::Dense(w) => linear::forward(x, w),
            Weight::Quant(w) => linear::quantised(x, w),
            #[cfg(feature = "cuda")]
            other => Err(other.elsewhere()),
        }
    }
    fn product_backward(&self, dy: &Tensor, w: &Weight) -> Result<Tensor> {
        match w {
            Weight::Dense(w) => linear::backward(dy, w),
            Weight::Quant(w) => linear::quantised_backward(dy, w),
            #[cfg(feature = "cuda")]
            other => Err(other.elsewhere()),
        }
    }
    fn attention(
        &self,
        plan: &Self::Plan,
        [q, k, v]: [&Tensor; 3],
        sinks: Option<&Tensor>,
        heads: &Heads,
    ) -> Result<(Tensor, Self::SoftmaxStats)> {
        cache::with_spans(plan, k, v, heads, |spans| attend(q, spans, sinks, heads))
    }
    fn cached_attention(
        &self,
        cache: &mut Self::Cache,
        at: (usize, usize),
        q: &Tensor,
        kv: Option<[&Tensor; 2]>,
        sinks: Option<&Tensor>,
        heads: &Heads,
    ) -> Result<(Tensor, Self::SoftmaxStats)> {
        if let Some(kv) = kv {
            cache.append(at, kv, heads)?;
        }
        attend(q, &cache.spans(at, heads)?, sinks, heads)
    }
    fn attention_backward(
        &self,
        plan: &Self::Plan,
        [q, k, v]: [&Tensor; 3],
        heads: &Heads,
        (out, lse): (&Tensor, &Self::SoftmaxStats),
        dout: &Tensor,
    ) -> Result<[Tensor; 3]> {
        cache::with_spans(plan, k, v, heads, |spans| {
            let dims = [k.dims(), v.dims()];
            attention_backward::backward(q, dims, spans, heads, (out, lse), dout)
        })
    }
    fn cached_convolve(
        &self,
        cache: &mut Self::Cache,
        at: (usize, usize),
        x: &Tensor,
        w: &Tensor,
    ) -> Result<Tensor> {
        cache.convolve(at, x, w)
    }
    fn cached_delta_rule(
        &self,
        cache: &mut Self::Cache,
        at: (usize, usize),
        inputs: [&Tensor; 5],
    ) -> Result<Tensor> {
        cache.delta_rule(at, inputs)
    }
    call! {
        delta::delta_rule(plan: &Self::Plan, inputs: [&Tensor; 5]) -> Tensor;
        delta_backward::delta_rule_backward(
            plan: &Self::Plan, inputs: [&Tensor; 5], dout: &Tensor
        ) -> [Tensor; 5];
        conv::convolve(plan: &Self::Plan, x: &Tensor, w: &Tensor) -> Tensor;
        conv::convolve_backward(plan: &Self::Plan, w: &Tensor, dy: &Tensor) -> Tensor;
        conv::taps_gradient(plan: &Self::Plan, x: &Tensor, dy: &Tensor, dw: &Tensor) -> ();
    }
    fn sinks_gradient(
        &self,
        sinks: &Tensor,
        heads: &Heads,
        (out, lse): (&Tensor, &Self::SoftmaxStats),
        dout: &Tensor,
    ) -> Result<Tensor> {
        sinks::gradient(sinks, heads, (out, lse), dout)
    }
    /// The tape saves three wide values instead: see its `Factor`.
    fn fuses_silu(&self) -> bool {
        false
    }
    fn offload(&self, _: &Tensor) -> Result<Infallible> {
        Err(Error::rule("a block's input lies in the machine's memory"))
    }
    fn release(&self, offloaded: &mut Infallible) {
        match *offloaded {}
    }
    fn fetch(&self, offloaded: &mut Infallible) -> Result<()> {
        match *offloaded {}
    }
    fn take(&self, offloaded: Infallible) -> Result<Tensor> {
        match offloaded {}
    }
}

/// Attention over the spans' keys, with the sinks if there are any.
fn attend(
    q: &Tensor,
    spans: &[attention::Span],
    sinks: Option<&Tensor>,
    heads: &Heads,
) -> Result<(Tensor, Vec<f32>)> {
    let (out, mut sums) = attention::forward(q, spans, heads)?;
    if let Some(values) = sinks {
        sinks::add(values, heads, &out, &mut sums)?;
    }
    Ok((out, sums))
}

/// Elements of a parallel task.
pub const TASK: usize = 16 * 1024;

/// Read access to a tensor's values.
pub struct Values<'a> {
    guard: StorageRef<'a>,
    start: usize,
    len: usize,
}

impl<'a> Values<'a> {
    /// The values of a contiguous f32 tensor in the machine's memory; any other is an error.
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

/// A tensor of these values in the machine's memory.
pub fn tensor(values: Vec<f32>, dims: &[usize]) -> Result<Tensor> {
    Ok(Tensor::from_vec(values, dims, &Device::Cpu)?)
}

/// Changes a tensor's values in place. Every tensor that shares its memory changes too, so this is
/// only for new tensors that nobody else holds, and for gradients.
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

/// Rows of `width` values in a parallel task.
pub fn task_rows(width: usize) -> usize {
    (TASK / width.max(1)).max(1)
}

/// A pointer shared by tasks that write disjoint elements.
#[derive(Clone, Copy)]
pub struct Shared(*mut f32);

// SAFETY: each task that gets a copy writes only rows and columns that no other task uses, as is
// said where it does.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// A pointer to the first value.
    pub fn new(values: &mut [f32]) -> Self {
        Shared(values.as_mut_ptr())
    }
    /// The shared pointer to the value `offset` further on.
    pub fn from(self, offset: usize) -> Self {
        Shared(self.at(offset))
    }
    /// The pointer to the value `offset` further on.
    pub fn at(self, offset: usize) -> *mut f32 {
        self.0.wrapping_add(offset)
    }
}
