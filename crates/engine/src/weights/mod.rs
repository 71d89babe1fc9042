//! Where base weights come from: a Hugging Face folder, a GGUF file, the hub, bytes in memory, or a
//! seed.
//!
//! [`open`] reads configuration and tensor index only. [`Checkpoint::load`] first holds every name
//! and shape that the architecture asks for against the file, then reads one tensor at a time,
//! quantising or converting as it goes, so that the peak of memory is the result plus one tensor.
//! Files are read by position, not mapped: a file that is cut short while it is read is an error,
//! not a crash. No input, however damaged, may panic or make us allocate more than the file's size
//! warrants.
mod agree;
mod checkpoint;
mod convert;
mod describe;
mod hub;
mod load;
mod part;
mod random;
mod stream;
mod unsupported;

pub use checkpoint::{Checkpoint, LoadOptions, Quant, Source, TokenizerSource, open};
pub use describe::{Described, HeldWeight, configuration, describe, without_weights};
pub use randori_formats::{
    Dtype,
    gguf::{parts as gguf_parts, tokenizer as gguf_tokenizer},
    weight_files,
};
pub use randori_kernels::shapes::Holding;
pub use stream::Stream;
