//! Frozen quantised matrices (NF4 with double quantisation, and GGUF's block formats) with a
//! product and its backward to the input, for training an adapter on a base in little memory.
//!
//! Weights are dequantised exactly, a block of rows at a time into a buffer that fits in cache, and
//! multiplied in f32: activations are never quantised, and results do not depend on the number of
//! threads. It must not know: models, adapters, or candle's autograd.
mod error;
mod fused;
mod gguf;
mod matrix;
mod nf4;
mod product;
mod wide;

pub use error::{Error, Result};
pub use gguf::{GgufMatrix, decode, dtype};
pub use matrix::QuantMatrix;
pub use nf4::Nf4Matrix;
pub use randori_formats::bnb::{NF4_LEVELS, Nf4Parts, Nf4Scales, signed_map, unsigned_map};
pub use randori_formats::gguf::encode;
