//! Exports read by other libraries' readers, and how much of the update survives each format.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod config;
mod fidelity;
mod folder;
mod gguf;
mod gguf_lora;

use randori_specimens::small as model;
