//! The GPU side: CUDA kernels (`kernels/*.cu`), how each is launched ([`ops`]), and, with the feature `cuda`, running them on
//! candle's CUDA tensors.
//!
//! Kernels and launches are tested without a GPU: a host compiler builds the same sources against `kernels/emulate.hpp`, and
//! the ops launch them there. It must not know: models, adapters, plans, what a pass is.
mod error;
#[cfg(feature = "cuda")]
pub mod gpu;
mod launch;
pub mod ops;

pub use error::{Error, Result};
pub use launch::{Arg, Float, Grid, Launch, Ptr, int};
