//! LoRA: a trainable low-rank update beside a frozen projection, `y = W·x + scale · B·A·x` (arXiv 2106.09685).
//!
//! Says which projections get one, how it starts, its product with a hand-written backward, how it merges into the
//! weight, how several become one, and how it is stored (PEFT's format). DoRA adds a trainable magnitude a row. It must not know: models, architectures, what holds the frozen weight
//! (dense or quantised), training, or candle's autograd: tensors here are plain values.
mod error;
mod finite;
mod init;
mod matched;
pub mod peft;
mod product;
mod spec;
mod stack;
mod targets;

pub use error::{Error, Result};
pub use finite::finite;
pub use init::splitmix;
pub use matched::{Matched, Projection};
pub use product::{backward, dropout, forward, merge, row_norms, row_squares};
pub use spec::{LoraSpec, Update, saved_by};
pub use stack::stack;
pub use targets::Targets;
