//! The kernels of a GPU: each allocates its result and launches `randori-cuda`'s kernel.
//! Activations are f32 or bf16, as the pass computes; statistics, log-probs and gradients to
//! parameters are f32.
mod attention;
mod cached;
mod dora;
mod elementwise;
mod layout;
mod linear;
pub mod lists;
mod logprob;
mod low_rank;
pub mod matrix;
pub mod memory;
mod norm;
mod offload;
pub mod pages;
mod rope;

use candle_core::Tensor;
use randori_cuda::gpu::host::PinnedPool;
use randori_sdk::seam::{Binary, RopeSpec, RouteSpec, Unary};

use crate::{
    ExpertOutput, ExpertTokens, Gain, Heads, Kernels, Norm, OnCandle, Result, Weight,
    error::on_processor,
    on_candle::{call, on_candle},
};

/// The kernels of a GPU.
pub struct Card {
    /// The memory that tensors are offloaded to.
    pinned: PinnedPool,
}

impl Card {
    /// The kernels, with the memory that tensors are offloaded to.
    pub fn new(pinned: PinnedPool) -> Self {
        Card { pinned }
    }
}

impl OnCandle for Card {
    call! {
        elementwise::row_dots(a: &Tensor, b: &Tensor) -> Tensor;
        layout::scatter_by(
            x: &Tensor, rows: &[u32], factors: Option<&[f32]>, onto: &Tensor
        ) -> ();
    }
}

impl Kernels for Card {
    on_candle!();
    type RopeTable = rope::Table;
    type NormStats = norm::Stats;
    type SoftmaxStats = Option<Tensor>;
    type Offloaded = offload::Offloaded;

    fn lookup(&self, table: &Weight, ids: &Self::Indices) -> Result<Tensor> {
        match table {
            Weight::Dense(w) => layout::gather(w, ids),
            Weight::Gpu(w) => w.rows(ids),
            other => Err(other.elsewhere()),
        }
    }
    fn product(&self, x: &Tensor, w: &Weight) -> Result<Tensor> {
        match w {
            Weight::Dense(w) => linear::forward(x, w),
            Weight::Gpu(w) => w.forward(x),
            other => Err(other.elsewhere()),
        }
    }
    fn product_backward(&self, dy: &Tensor, w: &Weight) -> Result<Tensor> {
        match w {
            Weight::Dense(w) => linear::backward(dy, w),
            Weight::Gpu(w) => w.backward(dy),
            other => Err(other.elsewhere()),
        }
    }
    fn attention(
        &self,
        plan: &Self::Plan,
        qkv: [&Tensor; 3],
        sinks: Option<&Tensor>,
        heads: &Heads,
    ) -> Result<(Tensor, Self::SoftmaxStats)> {
        attention::forward(qkv, sinks, heads, &plan.lists, || attention::spans(plan))
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
        cache.attend(at, q, kv, sinks, heads)
    }
    fn attention_backward(
        &self,
        plan: &Self::Plan,
        qkv: [&Tensor; 3],
        heads: &Heads,
        results: (&Tensor, &Self::SoftmaxStats),
        dout: &Tensor,
    ) -> Result<[Tensor; 3]> {
        attention::backward(plan, qkv, heads, results, dout)
    }
    fn convolve(&self, _: &Self::Plan, _: &Tensor, _: &Tensor) -> Result<Tensor> {
        Err(on_processor("conv"))
    }
    fn cached_convolve(
        &self,
        _: &mut Self::Cache,
        _: (usize, usize),
        _: &Tensor,
        _: &Tensor,
    ) -> Result<Tensor> {
        Err(on_processor("conv"))
    }
    fn convolve_backward(&self, _: &Self::Plan, _: &Tensor, _: &Tensor) -> Result<Tensor> {
        Err(on_processor("conv"))
    }
    fn taps_gradient(&self, _: &Self::Plan, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<()> {
        Err(on_processor("conv"))
    }
    fn delta_rule(&self, _: &Self::Plan, _: [&Tensor; 5]) -> Result<Tensor> {
        Err(on_processor("delta_rule"))
    }
    fn cached_delta_rule(
        &self,
        _: &mut Self::Cache,
        _: (usize, usize),
        _: [&Tensor; 5],
    ) -> Result<Tensor> {
        Err(on_processor("delta_rule"))
    }
    fn delta_rule_backward(
        &self,
        _: &Self::Plan,
        _: [&Tensor; 5],
        _: &Tensor,
    ) -> Result<[Tensor; 5]> {
        Err(on_processor("delta_rule"))
    }
    fn sinks_gradient(
        &self,
        sinks: &Tensor,
        heads: &Heads,
        results: (&Tensor, &Self::SoftmaxStats),
        dout: &Tensor,
    ) -> Result<Tensor> {
        attention::sinks_gradient(sinks, heads, results, dout)
    }
    fn fuses_silu(&self) -> bool {
        true
    }
    fn offload(&self, x: &Tensor) -> Result<Self::Offloaded> {
        offload::Offloaded::of(x, &self.pinned)
    }
    fn release(&self, offloaded: &mut Self::Offloaded) {
        offloaded.release();
    }
    fn fetch(&self, offloaded: &mut Self::Offloaded) -> Result<()> {
        offloaded.fetch()
    }
    fn take(&self, offloaded: Self::Offloaded) -> Result<Tensor> {
        offloaded.take()
    }
}
