//! The largest values of numbers that are counted with: far beyond what anybody computes, and small
//! enough that their products fit 64 bits.

/// Passes over data.
pub const EPOCHS: f64 = 1e6;
/// Iterations of a game: a plan lists each.
pub const ITERATIONS: f64 = 1e4;
/// Rank of an update; no model is as wide.
pub const RANK: f64 = 65536.0;
/// Tokens of a prompt, a response, a micro-batch.
pub const TOKENS: f64 = 16_777_216.0;
/// Examples of a step, prompts at a time.
pub const AT_ONCE: f64 = 16_777_216.0;
