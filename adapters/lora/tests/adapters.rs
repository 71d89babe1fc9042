//! Low-rank updates: their products, and peft's files.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod mlx;
mod peft;
mod peft_fields;
mod peft_turns;
mod product;
