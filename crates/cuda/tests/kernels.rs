//! Every GPU kernel on the emulator, against f64.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod adamw;
mod attention;
mod attention_decode;
#[path = "emulator/blocks.rs"]
mod blocks;
mod cast;
mod elementwise;
mod emulator;
mod gguf;
mod matvec;
mod nf4;
mod norm;
mod rows;
mod sample;
mod sinks;
