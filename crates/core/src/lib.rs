//! The self-play loop: iterations, the opponent's update, the data window, per-iteration settings,
//! the stop rule, and the measures of an iteration.
//!
//! This crate knows no tensor, file format, clock or terminal; it depends on nothing but
//! `thiserror`. It is generic over the players ([`Game`]) and over the store of finished stages
//! ([`Journal`]), so the loop that trains a 7B model is the loop that `tests/theory.rs` plays with
//! soft-max tables in milliseconds, against the theorems of the paper (SPIN, arXiv 2401.01335).
#![forbid(unsafe_code)]

mod game;
mod journal;
mod rules;
mod signals;
mod stop;
mod window;

pub use game::{Ended, Game, Outcome, play};
pub use journal::{Journal, NoJournal, NothingStored, Stage, Stores};
pub use rules::{BadRule, Iteration, OpponentRule, PerIteration, Rules};
pub use signals::{PairLogps, Signals};
pub use stop::StopRule;
pub use window::Window;
