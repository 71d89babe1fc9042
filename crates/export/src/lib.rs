//! Export: a trained player in the formats that other programs load.
//!
//! Every format is written from [`Tensors`]: a player's weights, merged in f32, one at a time
//! ([`FromDisk`]: with the base on disk; [`InMemory`]: in memory). [`folder`] writes a Hugging Face
//! folder, [`adapter`] a PEFT adapter, [`gguf()`] and [`gguf_lora`] files for llama.cpp and Ollama,
//! [`bnb()`] a bitsandbytes checkpoint; all are written whole or not at all. [`Fidelity`] measures
//! how much of the update survives the output's rounding. It must not know: recipes, run folders,
//! the terminal, text (tokenizer files are copied as bytes).
mod bnb;
mod config;
mod error;
mod fidelity;
mod folder;
mod gguf;
mod merge;
mod rounding;
mod stacked;

use std::path::Path;

use randori_engine::Player;
use randori_lora::peft;

pub use bnb::{BnbOptions, BnbReport, bnb};
pub use config::config_json;
pub use error::{Error, Result};
pub use fidelity::{
    DtypeFidelity, Fidelity, FidelityReport, KEPT, Module, NOISE, OnTensor, RoundTrip, Survival,
};
pub use folder::{Companion, FolderOptions, Report, folder};
pub use gguf::{gguf, gguf_lora};
pub use merge::{FromDisk, InMemory, Merged, Onto, Tensors, merged};
pub use randori_formats::gguf::model::{GgufLoraOptions, GgufOptions, GgufQuant, GgufReport};
pub use rounding::Rounding;

/// Writes a player's adapter in PEFT's format; `base_name` is the model's name or path for PEFT.
///
/// # Errors
/// The player has no LoRA, or a file cannot be written.
pub fn adapter(player: &Player, dir: &Path, base_name: &str) -> Result<()> {
    let spec = player.lora.as_ref().ok_or_else(|| {
        Error::rule(
            "only a LoRA player has an adapter to export; export this one as a whole model folder",
        )
    })?;
    let save = match player.base.arch.dialect().takes_turns() {
        true => peft::save_dealt,
        false => peft::save,
    };
    Ok(save(dir, spec, &player.params, base_name)?)
}
