//! Models in GGUF, by what plugins say of their families: names, row orders, keys, and the formats
//! of tensors. No family is known here by name.
mod config;
mod dialect;
mod heads;
mod keys;
mod layered;
mod lora;
mod names;
mod plan;
mod quant;
mod rope;
mod tensors;

use std::{path::Path, sync::Arc};

use randori_sdk::{dialect::Divisors, seam::Family};
use serde_json::Value;

pub use lora::{GgufLoraOptions, Param, write_lora};
pub use names::{ROPE_FACTORS, gguf_name, hf_name};
pub use plan::{GgufOptions, GgufReport, Plan, Planned, keys};
pub use quant::GgufQuant;

use dialect::Spoken;
use heads::Heads;
use names::{ROPE_FACTORS_LONG, ROPE_FACTORS_SHORT};

use super::{GgufTokenizer, parts};
use crate::{Error, Index, Result};

/// A model file with metadata and index read, but no weights.
#[derive(Debug)]
pub struct GgufModel {
    /// The configuration as in transformers' `config.json`.
    pub config: Value,
    /// The tokenizer, if the file has one.
    pub tokenizer: Option<GgufTokenizer>,
    /// Tensors by Hugging Face's names.
    pub index: Index,
}

/// Reads a model's metadata and tensor index; `families` are those that plugins know.
///
/// # Errors
/// A missing, truncated or damaged file, an architecture that no family has, or an unsupported
/// feature.
pub fn open(path: &Path, families: &[Family]) -> Result<GgufModel> {
    let (mut header, files) = parts::read(path)?;
    let file = files[0].name.clone();
    let in_file = |what: String| Error::rule(format!("{file}: {what}"));
    let spoken = Spoken::of_file(&header, families).map_err(in_file)?;
    tensors::without_further(&mut header, &spoken).map_err(in_file)?;
    let mut config = config::read(&header, &files, &spoken).map_err(in_file)?;
    let tokenizer = GgufTokenizer::read(&header).map_err(in_file)?;
    tensors::beside(header.tensors.keys()).map_err(|e| in_file(e.to_string()))?;
    tensors::factors(&mut header.tensors, &files, &spoken.gguf)
        .map_err(|e| in_file(e.to_string()))?;
    let heads = Heads::of(&config, &spoken).map_err(|e| in_file(e.to_string()))?;
    let mut index = Index {
        files: files.into_iter().map(Arc::new).collect(),
        ..Index::default()
    };
    // these are part of the configuration now
    let in_config: &[&str] = match spoken.gguf.divisors {
        Divisors::None => &[],
        Divisors::One | Divisors::Proportional => &[ROPE_FACTORS],
        Divisors::LongShort => &[ROPE_FACTORS_LONG, ROPE_FACTORS_SHORT],
    };
    for (name, tensor) in header.tensors {
        if !in_config.contains(&name.as_str()) {
            tensors::add(&mut index, name, tensor, &heads, &spoken.gguf)
                .map_err(|e| in_file(e.to_string()))?;
        }
    }
    tensors::biases(&mut index, &mut config, &spoken.gguf)?;
    Ok(GgufModel {
        config,
        tokenizer,
        index,
    })
}
