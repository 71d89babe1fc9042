//! The processor's kernels: functions from tensors to tensors, each on contiguous f32 (weights may
//! be f16 or bf16, or quantised).
//!
//! Results are bit-identical whatever the number of threads: work is cut by fixed sizes, and sums
//! run in a fixed order.
pub(crate) mod attention;
mod attention_backward;
mod cache;
mod dora;
pub(crate) mod elementwise;
mod few;
mod keys;
mod layout;
pub(crate) mod linear;
pub(crate) mod logprob;
mod low_rank;
pub(crate) mod maps;
pub(crate) mod math;
pub(crate) mod norm;
mod panel;
mod product;
pub(crate) mod rope;

use std::{convert::Infallible, ops::Deref};

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Storage, StorageRef, Tensor};
use randori_sdk::seam::{Binary, RopeSpec, RouteSpec, Unary};

#[cfg(feature = "cuda")]
use super::tensors::elsewhere;
use super::{Gain, Heads, Kernels, Mixed, Norm, OnCandle, Share, host, rows, tensors::on_candle};
use crate::{Error, Result, Weight};

/// The kernels of the processor.
pub(crate) struct Cpu;

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

    fn gather(&self, x: &Tensor, rows: &Self::Rows) -> Result<Tensor> {
        layout::gather(x, rows)
    }
    fn add_onto(&self, a: &Tensor, b: &Tensor) -> Result<()> {
        layout::add_onto(a, b)
    }
    fn lookup(&self, table: &Weight, ids: &Self::Rows) -> Result<Tensor> {
        match table {
            Weight::Dense(w) => linear::lookup(w, ids),
            Weight::Quant(w) => w.rows(ids).map_err(|e| Error::rule(e.to_string())),
            #[cfg(feature = "cuda")]
            other => Err(elsewhere(other)),
        }
    }
    fn lookup_gradient(&self, ids: &Self::Rows, dy: &Tensor, dtable: &Tensor) -> Result<()> {
        linear::lookup_gradient(ids, dy, dtable)
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
    fn weight_gradient(&self, x: &Tensor, dy: &Tensor, dw: &Tensor) -> Result<()> {
        linear::weight_gradient(x, dy, dw)
    }
    fn add_bias(&self, y: &Tensor, bias: &Tensor) -> Result<()> {
        linear::add_bias(y, bias)
    }
    fn bias_gradient(&self, dy: &Tensor, db: &Tensor) -> Result<()> {
        linear::bias_gradient(dy, db)
    }
    fn update(&self, x: &Tensor, update: &Self::Update, y: &Tensor) -> Result<Tensor> {
        low_rank::forward(x, update, y)
    }
    fn update_backward(
        &self,
        x: &Tensor,
        xa: &Tensor,
        update: &Self::Update,
        dy: &Tensor,
        [da, db]: [&Tensor; 2],
    ) -> Result<Tensor> {
        low_rank::backward(x, xa, update, dy, da, db)
    }
    fn update_through(&self, u: &Tensor, update: &Self::Update, dx: &Tensor) -> Result<()> {
        low_rank::through(u, &update.a, dx)
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
    fn scale_columns(&self, y: &Tensor, gain: &Gain) -> Result<()> {
        dora::scale_columns(y, gain)
    }
    fn magnitude_gradient(
        &self,
        y: &Tensor,
        bias: Option<&Tensor>,
        dy: &Tensor,
        gain: &Gain,
        dm: &Tensor,
    ) -> Result<()> {
        dora::magnitude_gradient(y, bias, dy, gain, dm)
    }
    fn norm(
        &self,
        x: &Tensor,
        w: &Tensor,
        bias: Option<&Tensor>,
        norm: Norm,
        eps: f64,
    ) -> Result<(Tensor, Self::Stats)> {
        norm::forward(x, w, bias, norm, eps)
    }
    fn norm_backward(
        &self,
        x: &Tensor,
        w: &Tensor,
        norm: Norm,
        stats: &Self::Stats,
        dy: &Tensor,
    ) -> Result<Tensor> {
        norm::backward(x, w, norm, stats, dy)
    }
    fn scale_gradient(
        &self,
        x: &Tensor,
        stats: &Self::Stats,
        dy: &Tensor,
        dw: &Tensor,
    ) -> Result<()> {
        norm::scale_gradient(x, stats, dy, dw)
    }
    fn table(&self, plan: &Self::Plan, spec: &RopeSpec) -> Result<Self::Table> {
        Ok(rope::Table::new(spec, &plan.positions))
    }
    fn turn(&self, x: &Tensor, table: &Self::Table, back: bool) -> Result<Tensor> {
        rope::turn(x, table, back)
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
    fn unary(&self, op: Unary, x: &Tensor) -> Result<Tensor> {
        elementwise::unary(op, x)
    }
    fn unary_backward(&self, op: Unary, saved: &Tensor, dy: &Tensor) -> Result<Tensor> {
        elementwise::unary_backward(op, saved, dy)
    }
    fn binary(&self, op: Binary, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        elementwise::binary(op, a, b)
    }
    fn binary_backward_b(
        &self,
        op: Binary,
        a: Option<&Tensor>,
        b: Option<&Tensor>,
        b_dims: &[usize],
        dy: &Tensor,
    ) -> Result<Tensor> {
        elementwise::binary_backward_b(op, a, b, b_dims, dy)
    }
    /// The tape keeps three wide values instead: see `Factor`.
    fn fuses_silu(&self) -> bool {
        false
    }
    fn swiglu(&self, g: &Tensor, u: &Tensor) -> Result<Tensor> {
        elementwise::swiglu(g, u)
    }
    fn swiglu_backward(&self, g: &Tensor, u: &Tensor, dy: &Tensor) -> Result<(Tensor, Tensor)> {
        elementwise::swiglu_backward(g, u, dy)
    }
    fn affine(&self, x: &Tensor, mul: f32, add: f32) -> Result<Tensor> {
        elementwise::affine(x, mul, add)
    }
    fn narrow(&self, x: &Tensor, start: usize, len: usize) -> Result<Tensor> {
        layout::narrow(x, start, len)
    }
    fn widen(&self, dy: &Tensor, start: usize, width: usize) -> Result<Tensor> {
        layout::widen(dy, start, width)
    }
    fn concat(&self, xs: &[Tensor]) -> Result<Tensor> {
        layout::concat(xs)
    }
    fn log_sum_exp(&self, logits: &Tensor) -> Result<Vec<f64>> {
        logprob::log_sum_exp(logits)
    }
    fn log_probs(
        &self,
        logits: &Tensor,
        sums: &[f64],
        wanted: &Self::Wanted,
        out: &mut [f64],
    ) -> Result<()> {
        logprob::log_probs(logits, sums, wanted, out)
    }
    fn into_gradient(
        &self,
        logits: &Tensor,
        sums: &[f64],
        wanted: &Self::Wanted,
        slope: &(dyn Fn(usize) -> f64 + Sync),
    ) -> Result<()> {
        logprob::into_gradient(logits, sums, wanted, slope)
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
