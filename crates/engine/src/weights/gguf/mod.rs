//! A GGUF file: header, metadata as Hugging Face's config and tokenizer, tensors by Hugging Face's names.
//!
//! candle has a reader too; on damaged files it can divide by zero (alignment 0) and overflow (dimensions), and it
//! multiplies small arrays by 32 in memory. This one checks every count against the bytes that are left.
mod config;
mod header;
mod names;
mod tokenizer;

use std::path::Path;

pub use names::hf_name;
pub use tokenizer::GgufTokenizer;

use super::{
    Checkpoint, TokenizerSource,
    index::{Index, Place, Stored},
};
use crate::{Error, Result};

pub(super) fn open(path: &Path) -> Result<Checkpoint> {
    let place = Place::open(path)?;
    let header = header::read(&place)?;
    let in_file = |what: String| Error::rule(format!("{}: {what}", place.name));
    let config = config::config(&header, &place).map_err(in_file)?;
    let tokenizer = match tokenizer::tokenizer(&header).map_err(in_file)? {
        Some(t) => TokenizerSource::Gguf(Box::new(t)),
        None => TokenizerSource::None,
    };
    let heads = |key: &str| {
        config
            .get(key)
            .and_then(serde_json::Value::as_u64)
            .map(|h| h as usize)
    };
    let (q_heads, k_heads) = (heads("num_attention_heads"), heads("num_key_value_heads"));
    let mut index = Index {
        files: vec![place.into()],
        ..Index::default()
    };
    for (name, tensor) in header.tensors {
        if name == names::ROPE_FACTORS {
            continue; // they are in the config now
        }
        let permuted = match name.rsplit('.').nth(1) {
            Some("attn_q") => q_heads,
            Some("attn_k") => k_heads,
            _ => None,
        };
        index.add(
            hf_name(&name).unwrap_or(name),
            Stored { permuted, ..tensor },
        )?;
    }
    Checkpoint::stored(config, tokenizer, index)
}
