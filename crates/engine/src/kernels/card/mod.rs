//! The kernels of a GPU: each makes room for the result, and starts what `randori-cuda` has for it.
//! Values are f32 or bf16, as the pass computes; statistics, log-probs and gradients of parameters
//! are f32.
pub(crate) mod attention;
mod elementwise;
mod layout;
pub(crate) mod linear;
mod logprob;
mod low_rank;
mod matrix;
mod norm;
mod offload;
pub(crate) mod pages;
mod rope;

use candle_core::{DType, Tensor};
use randori_cuda::{
    Ptr,
    gpu::{self, Gpu, host::PinnedPool},
    ops,
};
use randori_sdk::seam::{Binary, RopeSpec, RouteSpec, Unary};

pub use matrix::GpuMatrix;
pub(crate) use randori_cuda::gpu::{float, ptr};

use super::{
    Gain, Heads, Kernels, Mixed, Norm, OnCandle, Share,
    tensors::{elsewhere, on_candle},
};
use crate::{Compute, Error, Result, Weight};

/// The kernels of a GPU.
pub(crate) struct Card {
    /// Where values wait that leave the card.
    pinned: PinnedPool,
}

impl Card {
    /// Of the card that `compute` is about.
    pub(crate) fn of(compute: &Compute) -> Self {
        Card {
            pinned: compute.pinned.clone(),
        }
    }
}

impl OnCandle for Card {
    fn row_dots(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        elementwise::row_dots(a, b)
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

impl Kernels for Card {
    on_candle!();
    type Table = rope::Table;
    type Stats = norm::Stats;
    type Sums = Option<Tensor>;
    type Away = offload::Offloaded;

    fn gather(&self, x: &Tensor, rows: &Self::Rows) -> Result<Tensor> {
        layout::gather(x, rows)
    }
    fn add_onto(&self, a: &Tensor, b: &Tensor) -> Result<()> {
        elementwise::add_onto(a, b)
    }
    fn lookup(&self, table: &Weight, ids: &Self::Rows) -> Result<Tensor> {
        match table {
            Weight::Dense(w) => layout::gather(w, ids),
            Weight::Gpu(w) => w.rows(ids),
            other => Err(elsewhere(other)),
        }
    }
    fn lookup_gradient(&self, ids: &Self::Rows, dy: &Tensor, dtable: &Tensor) -> Result<()> {
        linear::lookup_gradient(ids, dy, dtable)
    }
    fn product(&self, x: &Tensor, w: &Weight) -> Result<Tensor> {
        match w {
            Weight::Dense(w) => linear::forward(x, w),
            Weight::Gpu(w) => w.forward(x),
            other => Err(elsewhere(other)),
        }
    }
    fn product_backward(&self, dy: &Tensor, w: &Weight) -> Result<Tensor> {
        match w {
            Weight::Dense(w) => linear::backward(dy, w),
            Weight::Gpu(w) => w.backward(dy),
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
        low_rank::backward(x, xa, update, dy, [da, db])
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
        Ok(elementwise::drop_out(&by_token, p, &keys, salt)?.reshape(x.dims())?)
    }
    fn scale_columns(&self, y: &Tensor, gain: &Gain) -> Result<()> {
        elementwise::scale_columns(y, &gain.factors)
    }
    fn magnitude_gradient(
        &self,
        y: &Tensor,
        bias: Option<&Tensor>,
        dy: &Tensor,
        gain: &Gain,
        dm: &Tensor,
    ) -> Result<()> {
        norm::magnitude_gradient(y, bias, dy, &gain.magnitude, dm)
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
        rope::Table::new(spec, &plan.positions)
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
        attention::by_lists([q, k, v], heads, &plan.lists, || attention::spans(plan))
    }
    fn cached_attention(
        &self,
        cache: &mut Self::Cache,
        place: (usize, usize),
        [q, k, v]: [&Tensor; 3],
        heads: &Heads,
    ) -> Result<(Tensor, Self::Sums)> {
        cache.attend(place, [q, k, v], heads)
    }
    fn attention_backward(
        &self,
        plan: &Self::Plan,
        qkv: [&Tensor; 3],
        heads: &Heads,
        done: (&Tensor, &Self::Sums),
        dout: &Tensor,
    ) -> Result<[Tensor; 3]> {
        attention::backward(plan, qkv, heads, done, dout)
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
    fn fuses_silu(&self) -> bool {
        true
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
    fn leave(&self, x: &Tensor) -> Result<Self::Away> {
        offload::Offloaded::of(x, &self.pinned)
    }
    fn let_go(&self, away: &mut Self::Away) {
        away.let_go();
    }
    fn fetch(&self, away: &mut Self::Away) -> Result<()> {
        away.fetch()
    }
    fn take(&self, away: Self::Away) -> Result<Tensor> {
        away.take()
    }
}

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
