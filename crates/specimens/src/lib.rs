//! Small models, their files and a hub that serves them, for tests only: the binary and the
//! libraries never depend on it. It knows no recipe, no run folder and no plugin.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

pub mod hub;
pub mod llama;
pub mod small;
