//! The kernels of a GPU: each makes room for the result, and starts what `randori-cuda` has for it.
//! Values are f32 or bf16, as the pass computes; statistics, log-probs and gradients of parameters
//! are f32.
pub mod attention;
mod dora;
mod elementwise;
mod layout;
pub mod linear;
mod logprob;
mod low_rank;
mod matrix;
mod norm;
mod offload;
pub mod pages;
mod rope;

use candle_core::{DType, Tensor};
use randori_cuda::{
    Ptr,
    gpu::{self, Gpu, host::PinnedPool},
    ops,
};
use randori_sdk::seam::{Binary, RopeSpec, RouteSpec, Unary};

pub use matrix::GpuMatrix;
pub use randori_cuda::gpu::{float, ptr};

use super::{
    Gain, Heads, Kernels, Mixed, Norm, OnCandle, Share, on_candle::on_candle, tensors::elsewhere,
};
use crate::{Result, Weight};

/// The kernels of a GPU.
pub struct Card {
    /// Where values wait that leave the card.
    pinned: PinnedPool,
}

impl Card {
    /// With the memory of the host's where values wait that leave the card.
    pub fn new(pinned: PinnedPool) -> Self {
        Card { pinned }
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

    fn lookup(&self, table: &Weight, ids: &Self::Rows) -> Result<Tensor> {
        match table {
            Weight::Dense(w) => layout::gather(w, ids),
            Weight::Gpu(w) => w.rows(ids),
            other => Err(elsewhere(other)),
        }
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
    fn fuses_silu(&self) -> bool {
        true
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
pub fn gpu() -> Result<&'static Gpu> {
    Ok(Gpu::open()?)
}

/// Room for a tensor of another shape in the numbers of `like`. Whoever asks writes all of it.
pub fn room(like: &Tensor, dims: &[usize]) -> Result<Tensor> {
    Ok(gpu()?.room(dims, like.dtype())?)
}

/// An optional tensor's address.
pub fn maybe(t: Option<&Tensor>) -> Result<Ptr> {
    Ok(t.map(gpu::ptr).transpose()?.unwrap_or(Ptr::NULL))
}

/// f32 in bf16, to nearest.
pub fn rounded(x: &Tensor) -> Result<Tensor> {
    let y = gpu()?.room(x.dims(), DType::BF16)?; // written whole
    ops::cast::cast(gpu()?, float(x)?, x.elem_count(), ptr(x)?, ptr(&y)?)?;
    Ok(y)
}
