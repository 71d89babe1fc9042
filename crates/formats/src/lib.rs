//! Model files: GGUF, safetensors folders, and the quantised formats in them (bitsandbytes' 4 bits,
//! whose reader is beside its writer, and those that are only read: GPTQ, AWQ, FP8, …).
//!
//! Files are read by position and written in one pass, so no file is ever in memory as a whole:
//! [`Index`] locates tensors, and a writer takes names and shapes first, then bytes. No input,
//! however damaged, may cause a panic or an allocation larger than the file's size warrants. It
//! must not know: tensors, candle, players, adapters, nor any family of models: what llama.cpp
//! calls one and does with it, [`gguf::model`] is told by its plugin's [`randori_sdk::Dialect`].
mod auxiliary;
pub mod bnb;
mod dense;
mod error;
pub mod experts;
mod folder;
pub mod gguf;
mod index;
mod order;
pub mod packed;
pub mod safetensors;
mod source;

pub use dense::Dtype;
pub use error::{Error, Result};
pub use folder::{
    INDEX, Layout, UNSHARDED, has_weights, open, read_json, shard_names, weight_files,
};
pub use index::{Columns, Format, Index, Stored};
pub use order::Swap;
pub use source::ByteSource;
