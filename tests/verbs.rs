//! The real program: each verb, good and bad input, faults and kills.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod adapters;
mod cases;
mod chat;
mod export_verb;
mod faults;
mod init;
mod interrupt;
mod next;
mod opened;
mod play;
mod plugin_verbs;
mod program;
mod recipe;
mod resume;
mod serve;
mod serve_clients;
