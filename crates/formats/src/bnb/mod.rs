//! bitsandbytes' 4-bit format: quantisation of weights and scales, and a checkpoint's tensors and
//! configuration.
mod declared;
mod dynamic;
mod matrix;
mod nf4;
mod scales;
mod stored;
mod supposed;

pub(crate) use declared::is_skipped;
pub use declared::quantization_config;
pub use dynamic::{signed_map, unsigned_map};
pub use matrix::Bnb4;
pub use nf4::{BLOCK, NF4_LEVELS, Nf4Parts};
pub use scales::{NESTED, Nf4Scales, scale_bytes};
pub use stored::{bytes, join, tensor_specs};
pub(crate) use supposed::supposed;
