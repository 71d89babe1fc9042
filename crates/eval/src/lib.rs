//! Held-out measures: is an answer right, how likely is the data, which choice wins, how sure are
//! we.
//!
//! Everything here is arithmetic over texts and log-probs that somebody else produced. It must not
//! know a model, a tensor, a file or the terminal; so every figure that a run prints can be checked
//! by hand.

mod answer;
mod bootstrap;
mod choice;
mod likelihood;
mod spread;

pub use answer::{Check, Tally};
pub use bootstrap::{Resamples, ratio};
pub use choice::{Choice, MultipleChoice};
pub use likelihood::Likelihood;
pub use spread::{Spread, spread};

/// What can be wrong with an evaluation's settings.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Error {
    /// The recipe's `eval.answer` is not a rule.
    #[error("eval.answer must be \"exact\" or \"after:MARK\" (such as \"after:####\"), got {0:?}")]
    Rule(String),
}
