//! Run folders: their contents, through faults and kills.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod board;
mod faults;
mod folder;
mod kept;
mod outbox;
mod rows;
mod scene;
