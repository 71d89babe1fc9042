//! Frozen quantised matrices (NF4 with double quantisation, and GGUF's block formats) with a product and its backward to
//! the input, for training an adapter on a base that stays small in memory.
//!
//! Weights are dequantised exactly, a block of rows at a time into a buffer that stays in cache, and multiplied in f32:
//! activations are never quantised, and results do not depend on the number of threads. It must not know: models, files,
//! adapters, or candle's autograd.
mod dynamic;
mod error;
mod fused;
mod gguf;
mod matrix;
mod nf4;
mod product;
mod scales;
mod wide;

pub use dynamic::{signed_map, unsigned_map};
pub use error::{Error, Result};
pub use gguf::GgufMatrix;
pub use matrix::QuantMatrix;
pub use nf4::{NF4_LEVELS, Nf4Matrix, Nf4Parts};
pub use scales::Nf4Scales;
