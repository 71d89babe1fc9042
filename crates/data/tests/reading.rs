//! Data sets, chat templates and tokenizers, read as by other programs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod chat_templates;
mod columns;
mod demo;
mod goldens;
mod kinds;
mod limits;
mod ollama;
mod roles;
mod rows;
mod settings;
mod settled;
mod shapes;
mod smollm2;
mod special;
mod stops;
mod texts;
mod to_gguf;
mod traps;
mod turns;
mod values;
mod vocabularies;
