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

use randori_plugin_qwen2::Qwen2;
use randori_plugin_qwen3::Qwen3;
use randori_sdk::{DenseFamily, Dialect, seam::Family};
use randori_specimens::small as model;

/// The family of a configuration.
fn family(config: &serde_json::Value) -> Family {
    let name = config["model_type"].as_str().unwrap();
    let dialect = match name {
        "llama" => model::DIALECT,
        "qwen2" => Qwen2::DIALECT,
        "qwen3" => Qwen3::DIALECT,
        _ => Dialect::NONE,
    };
    Family::new(name, dialect)
}
