//! Export: what a player has learned, in the formats people deploy with.
//!
//! [`folder`] merges adapters into the base, once, in f32, one tensor at a time, writes a Hugging Face folder and says how
//! much of the update survived the output's rounding; [`adapter`] writes a PEFT adapter. Both appear whole or not at all.
//! It must not know: recipes, run folders, the terminal, text (tokenizer files are copied as bytes).
mod config;
mod error;
mod folder;
mod merge;
mod shards;

use std::path::Path;

use randori_engine::Player;

pub use config::config_json;
pub use error::{Error, Result};
pub use folder::{Companion, FolderOptions, Report, folder};
pub use merge::{Merged, Survival, Tensors, Whole, merged};

/// Writes a player's adapter as PEFT reads it; `base_name` is the model's name or path as PEFT should find it.
///
/// # Errors
/// A player without LoRA, or a file that cannot be written.
pub fn adapter(player: &Player, dir: &Path, base_name: &str) -> Result<()> {
    let spec = player.lora.as_ref().ok_or_else(|| {
        Error::rule(
            "only a LoRA player has an adapter to export; export this one as a whole model folder",
        )
    })?;
    Ok(randori_lora::peft::save(
        dir,
        spec,
        &player.params,
        base_name,
    )?)
}
