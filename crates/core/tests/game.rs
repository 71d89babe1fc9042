//! The loop against the paper's theorems, and what its settings mean.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod semantics;
mod settings;
mod theory;
