//! A GGUF file: header, metadata as Hugging Face's config and tokenizer, tensors by Hugging Face's names.
//!
//! candle has a reader too; on damaged files it can divide by zero (alignment 0) and overflow (dimensions), and it
//! multiplies small arrays by 32 in memory. This one checks every count against the bytes that are left.
mod config;
mod header;
mod names;
mod parts;
mod rope;
mod tokenizer;

use std::path::Path;

pub use names::hf_name;
pub use tokenizer::GgufTokenizer;

use super::{
    Checkpoint, TokenizerSource,
    index::{Index, Place},
};
use crate::{Error, Result};

pub(super) fn open(path: &Path) -> Result<Checkpoint> {
    let place = Place::open(path)?;
    let header = header::read(&place)?;
    let file = place.name.clone();
    let in_file = |what: String| Error::rule(format!("{file}: {what}"));
    let mut config = config::config(&header, &place).map_err(in_file)?;
    let tokenizer = match tokenizer::tokenizer(&header).map_err(in_file)? {
        Some(t) => TokenizerSource::Gguf(Box::new(t)),
        None => TokenizerSource::None,
    };
    parts::beside(header.tensors.keys()).map_err(|e| in_file(e.to_string()))?;
    let heads = parts::Heads::of(&config);
    let mut index = Index {
        files: vec![place.into()],
        ..Index::default()
    };
    for (name, tensor) in header.tensors {
        if name == names::ROPE_FACTORS {
            continue; // they are in the config now
        }
        parts::add(&mut index, name, tensor, &heads).map_err(|e| in_file(e.to_string()))?;
    }
    parts::biases(&mut index, &mut config)?;
    Checkpoint::stored(config, tokenizer, index)
}
