//! Dense decoders in GGUF (Llama and Mistral, Qwen2, Qwen3): names, row orders, keys, and the
//! formats of tensors. What differs between families is one table, `dialect.rs`.
mod config;
mod dialect;
mod lora;
mod names;
mod plan;
mod quant;
mod rope;
mod tensors;

use std::{path::Path, sync::Arc};

use serde_json::Value;

pub use lora::{GgufLoraOptions, Param, write_lora};
pub use names::{ROPE_FACTORS, gguf_name, hf_name, model_rows, stored_rows};
pub use plan::{GgufOptions, GgufReport, Plan, Planned, keys};
pub use quant::GgufQuant;

use dialect::Dialect;

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

/// Reads a model's metadata and tensor index.
///
/// # Errors
/// A missing, truncated or damaged file, another architecture, or an unsupported feature.
pub fn open(path: &Path) -> Result<GgufModel> {
    let (mut header, files) = parts::read(path)?;
    let source = &files[0];
    let file = source.name.clone();
    let in_file = |what: String| Error::rule(format!("{file}: {what}"));
    let dialect = Dialect::of_file(&header).map_err(in_file)?;
    let mut config = config::read(&header, source, dialect).map_err(in_file)?;
    let tokenizer = GgufTokenizer::read(&header).map_err(in_file)?;
    tensors::beside(header.tensors.keys()).map_err(|e| in_file(e.to_string()))?;
    tensors::factors(&mut header.tensors, &files).map_err(|e| in_file(e.to_string()))?;
    let counts = tensors::HeadCounts::of(&config);
    let mut index = Index {
        files: files.into_iter().map(Arc::new).collect(),
        ..Index::default()
    };
    for (name, tensor) in header.tensors {
        if name == ROPE_FACTORS && dialect.divisors {
            continue; // now part of the config
        }
        tensors::add(&mut index, name, tensor, &counts, dialect)
            .map_err(|e| in_file(e.to_string()))?;
    }
    tensors::biases(&mut index, &mut config, dialect)?;
    Ok(GgufModel {
        config,
        tokenizer,
        index,
    })
}
