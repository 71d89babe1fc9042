//! The engine: base weights, the op set (eager and traced), packed attention, KV cache, generation, scoring, training.
//!
//! It runs what a [`randori_sdk::seam::Architecture`] describes, on candle tensors, with its own reverse pass.
//! It must not know: a plugin's ABI, the recipe, the run folder, the terminal, text (it sees token ids only).
mod adapter;
pub mod base;
mod block_input;
pub mod cache;
mod dora;
mod error;
pub mod fit;
pub mod generate;
pub mod head;
pub mod heap;
pub mod hub;
mod inputs;
mod kernels;
mod passes;
pub mod plan;
pub mod player;
mod progress;
pub mod rng;
pub mod score;
mod tape;
pub mod trace;
pub mod train;
mod training_pass;
pub mod weights;
pub mod work;

pub use adapter::{matched, trainable_in_full};
#[cfg(feature = "cuda")]
pub use base::card;
pub use base::{Base, Compute, Weight};
pub use cache::KvCache;
pub use error::{Error, Result};
pub use generate::{GenerateOptions, Generation, generate};
pub use inputs::Inputs;
pub use plan::{Packed, Segment, Target};
pub use player::{Grads, Params, PassOptions, Player, SlotTokens};
pub use progress::Progress;
pub use score::{ScoreItem, score};
pub use trace::{Trace, trace};
