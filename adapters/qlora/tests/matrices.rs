//! Quantised matrices against their definitions and other programs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod bnb;
mod gguf;
mod nf4;
