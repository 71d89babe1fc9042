//! LoRA: a trainable low-rank update beside a frozen projection, `y = W·x + scale · B·A·x` (arXiv 2106.09685).
//!
//! Says which projections get one, how it starts, its product with a hand-written backward, how it merges into the
//! weight, and how it is stored (PEFT's format). It must not know: models, architectures, what holds the frozen weight
//! (dense or quantised), training, or candle's autograd: tensors here are plain values.
mod error;
mod init;
pub mod peft;
mod product;
mod spec;
mod targets;

pub use error::{Error, Result};
pub use init::splitmix;
pub use product::{backward, dropout, forward, merge};
pub use spec::LoraSpec;
pub use targets::Targets;
