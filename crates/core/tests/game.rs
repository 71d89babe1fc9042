//! The loop against the paper's theorems, and the meaning of its settings.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod semantics;
mod settings;
mod theory;
