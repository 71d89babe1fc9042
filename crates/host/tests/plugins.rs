//! Loading plugins, and calling them over the boundary.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod architectures;
mod boundary;
mod c;
mod loading;
mod losses;
mod recorder;
mod samplers;
