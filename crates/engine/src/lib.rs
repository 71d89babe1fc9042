//! The engine: base weights, the tape and the passes over it, KV cache, generation, scoring,
//! training.
//!
//! It runs what a [`randori_sdk::seam::Architecture`] describes, with its own reverse pass, on the
//! kernels of `randori-kernels`: the processor's, a GPU's, or those that only count, by which
//! [`fit`] knows what a recipe takes.
//! It must not know: a plugin's ABI, the recipe, the run folder, the terminal, text (it sees token
//! ids only).
mod adapter;
pub mod base;
mod block_input;
pub mod cache;
mod dora;
pub mod fit;
pub mod generate;
pub mod head;
pub mod heap;
pub mod hub;
mod inputs;
mod params;
mod passes;
pub mod plan;
pub mod player;
mod progress;
pub mod rng;
mod rows;
pub mod score;
mod tape;
pub mod trace;
pub mod train;
mod training_pass;
pub mod weights;

pub use adapter::{matched, trainable_in_full};
#[cfg(feature = "cuda")]
pub use base::card::card;
pub use base::{Base, Compute};
pub use cache::KvCache;
pub use generate::batch::{Asked, Batch, Likely, Token};
pub use generate::{GenerateOptions, Generation, generate};
pub use params::{Grads, Params};
pub use plan::{Packed, Segment, Target};
pub use player::{PassOptions, Player, passes::SlotTokens, probe::Inputs};
pub use progress::Progress;
#[cfg(feature = "cuda")]
pub use randori_kernels::GpuMatrix;
pub use randori_kernels::{Error, Result, Weight, work};
pub use score::{ScoreItem, score, score_tokens};
pub use trace::{Trace, trace};
