//! Model files: GGUF, safetensors folders, and bitsandbytes' 4 bits in them; of each the reader
//! beside the writer.
//!
//! Files are read by position and written in one pass, so that nobody holds a file whole: [`Index`]
//! says which tensor lies where, a writer is told names and shapes first and then gets bytes. No
//! input, however damaged, may panic or make us allocate more than the file's size warrants. It
//! must not know: tensors, candle, players, adapters. What it knows of an architecture lies in
//! [`gguf::llama`]: llama.cpp's names, row orders and keys for Llama and Mistral.
pub mod bnb;
mod dense;
mod error;
mod folder;
pub mod gguf;
mod index;
pub mod safetensors;

pub use dense::Dtype;
pub use error::{Error, Result};
pub use folder::{INDEX, Layout, WHOLE, has_weights, open, read_json, shard_names, weight_files};
pub use index::{Format, Index, Place, Stored};
