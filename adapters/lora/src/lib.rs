//! LoRA: a trainable low-rank update of a frozen projection, `y = W·x + scale · B·A·x` (arXiv
//! 2106.09685).
//!
//! Defines which projections get an update, its initial values, its product with a hand-written
//! backward, its merge into the weight, the concatenation of several adapters, and the files of
//! PEFT and mlx-lm. DoRA adds a trainable magnitude per row. It must not know: models,
//! architectures, how the frozen weight is stored (dense or quantised), training, or candle's
//! autograd: tensors here are plain values.
mod error;
mod experts;
mod finite;
mod init;
mod matched;
pub mod mlx;
pub mod peft;
mod product;
mod projection;
mod spec;
mod stack;
mod targets;

pub use error::{Error, Result};
pub use finite::finite;
pub use init::splitmix;
pub use matched::Matched;
pub use product::{backward, dropout, forward, merge, row_norms, row_squares};
pub use projection::Projection;
pub use spec::{LoraSpec, Update, saved_by};
pub use stack::stack;
pub use targets::Targets;
