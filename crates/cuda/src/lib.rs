//! CUDA kernels (`kernels/*.cu`), their launches ([`ops`]) and, with the feature `cuda`,
//! `gpu`: running them on candle's CUDA tensors.
//!
//! Kernels and launches are tested without a GPU: a host compiler builds the same sources against
//! `kernels/emulate.hpp`, and the ops launch them there. This crate knows no model, adapter, plan
//! or pass.
mod error;
#[cfg(feature = "cuda")]
pub mod gpu;
mod launch;
pub mod ops;

pub use error::{Error, Result};
pub use launch::{Arg, Float, Grid, Launch, Ptr, int};
