//! Held-out measures: exact match, likelihood, multiple choice, benchmark tasks, and confidence
//! intervals.
//!
//! Everything here is arithmetic over texts and log-probs computed elsewhere. It must not know a
//! model, a tensor, a file or the terminal, so that every figure a run prints can be checked by
//! hand.

mod answer;
mod bootstrap;
mod choice;
mod likelihood;
mod signs;
mod spread;
pub mod task;

pub use answer::{Check, Error, Tally};
pub use bootstrap::{Resamples, ratio};
pub use choice::{Choice, MultipleChoice};
pub use likelihood::Likelihood;
pub use signs::{Iteration, Moved, Sign, signs};
pub use spread::{Spread, spread};
