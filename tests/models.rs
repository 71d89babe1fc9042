//! Models and their files, compared with other programs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod bnb;
mod export;
mod gguf;
mod gguf_hybrids;
mod gguf_layered;
mod goldens;
mod interop;
#[path = "oracles/model.rs"]
mod model;
mod opened;
mod oracles;
mod packed;
mod peers;
