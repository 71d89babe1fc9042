//! Arithmetic: what each op computes, forward and backward, for every kind of machine.
//!
//! The tape and the passes are written once, over the trait [`Kernels`], which has three
//! implementations:
//! - [`Cpu`] works on slices in the machine's memory, with rayon and gemm;
//! - `Card` (feature `cuda`) launches the kernels of `randori-cuda` on a GPU;
//! - [`shapes::Shapes`] computes nothing: it declares, kernel by kernel, the bytes and
//!   multiply-adds that the other two take, which is how `fit` predicts memory and time.
//!
//! A player chooses one where its pass begins. This crate alone looks into a tensor's memory. It
//! knows no model, no player and no pass, and uses none of candle's autograd.
mod cache;
#[cfg(feature = "cuda")]
mod card;
mod chunks;
mod cpu;
mod error;
mod kind;
mod norm;
mod on_candle;
mod route;
pub mod shapes;
mod tensors;
mod weight;
pub mod work;

pub use cache::Cache;
#[cfg(feature = "cuda")]
pub use card::{
    Card,
    matrix::GpuMatrix,
    memory::{in_float, rounded},
};
pub use cpu::{Cpu, attention::QUERIES, math};
pub use error::{Error, Result};
pub use kind::{ExpertOutput, ExpertTokens, Gain, Heads, Kernels, Shaped};
pub use norm::Norm;
pub use on_candle::OnCandle;
pub use tensors::{ChunkTarget, Entry, Lengths, PAGE, Plan, Run, SegmentMask, host, rows};
pub use weight::Weight;
