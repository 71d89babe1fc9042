//! GGUF files (version 3; 2 is read too), little-endian.
//!
//! candle has a reader too; on damaged files it can divide by zero (alignment 0) and overflow
//! (dimensions), and it needs 32 times the memory of small arrays. This one checks every count
//! against the bytes that are left.
mod blocks;
mod bytes;
mod decode;
mod encode;
mod file;
mod header;
pub mod model;
mod parts;
mod tokenizer;
mod value;

pub use blocks::{Block, Kind};
pub use decode::decode;
pub use encode::encode;
pub use file::{Writer, write};
pub use header::TensorSpec;
pub use parts::parts;
pub use tokenizer::{GgufTokenizer, token, tokenizer};
pub use value::Value;
