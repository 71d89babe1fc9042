//! A model whose configuration and tensor index have been read: where it comes from, and how its
//! weights become a base.

use std::{collections::BTreeMap, path::PathBuf};

use randori_formats::{
    ByteSource, Dtype, Format, Index, Stored, experts,
    gguf::{self, GgufTokenizer},
    packed, safetensors,
};
use randori_kernels::{Error, Result};
use randori_sdk::seam::Family;
use serde_json::Value;

use super::{agree, convert, hub, part, unsupported};

/// Where a model comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// A Hugging Face folder: `config.json` and `model.safetensors`, or shards with their index.
    Folder(PathBuf),
    /// A GGUF file (version 2 or 3) of an architecture that a plugin knows.
    Gguf(PathBuf),
    /// A repository of the Hugging Face hub, kept in its usual cache folder.
    Hub {
        /// `HuggingFaceTB/SmolLM2-135M-Instruct`
        repo: String,
        /// A branch, tag or commit; `main` is usual.
        revision: String,
    },
    /// An embedded model.
    Memory {
        /// What `config.json` would hold.
        config: Value,
        /// What `model.safetensors` would hold.
        tensors: Vec<u8>,
    },
    /// Fresh weights: normal with deviation 0.02, norms scale by 1, biases 0; a pure function of
    /// the seed and each tensor's name.
    Random {
        /// What `config.json` would hold.
        config: Value,
        /// Another seed, another model.
        seed: u64,
    },
}

/// How projections are quantised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quant {
    /// The blocks' projections in NF4 while loading; embedding and head stay dense. What a
    /// checkpoint holds in 4 bits (bitsandbytes), or in few that products read with exactly its
    /// values (symmetric integers, MXFP4), is kept so, and what it skips stays dense.
    Nf4 {
        /// Quantise the scales too, where we quantise.
        double: bool,
    },
    /// Keep a GGUF file's own blocks.
    Gguf,
}

/// How a checkpoint becomes a base.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// `None`: everything dense.
    pub quant: Option<Quant>,
    /// For what stays dense; norms and biases are f32 always.
    pub dtype: Dtype,
}

/// Where the tokenizer of a checkpoint is.
#[derive(Debug, Clone, PartialEq)]
pub enum TokenizerSource {
    /// Beside the weights.
    Folder(PathBuf),
    /// In the GGUF's metadata.
    Gguf(Box<GgufTokenizer>),
    /// It brings none.
    None,
}

/// A model whose configuration and index have been read, and no weights yet.
#[derive(Debug)]
pub struct Checkpoint {
    pub(super) config: Value,
    pub(super) tokenizer: TokenizerSource,
    pub(super) weights: Weights,
    pub(super) notes: Vec<String>,
}

/// What the weights of a checkpoint are read from, or the seed that they are made of.
#[derive(Debug)]
pub(super) enum Weights {
    Stored(Index),
    Random(u64),
}

/// Reads a source's configuration and tensor index; `families` are those that plugins know, by
/// which GGUF files and models of several parts are read.
///
/// # Errors
/// A file that is missing, cut short or damaged, naming it and what is wrong with it; for the hub,
/// what it answered.
pub fn open(source: Source, families: &[Family]) -> Result<Checkpoint> {
    match source {
        Source::Folder(dir) => {
            unsupported::refuse_adapter(&dir)?;
            Checkpoint::folder(dir, families)
        }
        Source::Gguf(path) => {
            let opened = gguf::model::open(&path, families)?;
            let tokenizer = match opened.tokenizer {
                Some(t) => TokenizerSource::Gguf(Box::new(t)),
                None => TokenizerSource::None,
            };
            Checkpoint::stored(opened.config, tokenizer, opened.index, families)
        }
        Source::Hub { repo, revision } => {
            Checkpoint::folder(hub::fetch(&repo, &revision)?, families)
        }
        Source::Memory { config, tensors } => {
            let mut index = Index::default();
            safetensors::add(
                &mut index,
                ByteSource::memory("the embedded model", tensors),
            )?;
            Checkpoint::stored(config, TokenizerSource::None, index, families)
        }
        Source::Random { mut config, seed } => {
            is_object(&config, "the configuration")?;
            let mut notes = Vec::new();
            part::settle(&mut config, families, &mut notes);
            unsupported::refuse_keys(&config)?;
            agree::rope(&mut config, &mut notes);
            Ok(Checkpoint {
                config,
                tokenizer: TokenizerSource::None,
                weights: Weights::Random(seed),
                notes,
            })
        }
    }
}

impl Checkpoint {
    /// The configuration in Hugging Face's spelling, settled: where it disagrees with itself or
    /// with the weights, it says what holds.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// What whoever opened it should be told: where its files disagree, and what was decided. A
    /// sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Where its tokenizer is.
    pub fn tokenizer(&self) -> TokenizerSource {
        self.tokenizer.clone()
    }

    /// The files that its weights are read from (none for those in memory and fresh ones).
    pub fn files(&self) -> Vec<PathBuf> {
        match &self.weights {
            Weights::Stored(index) => index.files.iter().filter_map(|f| f.path.clone()).collect(),
            Weights::Random(_) => Vec::new(),
        }
    }

    /// Every tensor the file has, by Hugging Face's names, with its shape (none for
    /// [`Source::Random`]).
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        match &self.weights {
            Weights::Stored(index) => index
                .tensors
                .iter()
                .map(|(n, t)| (n.clone(), t.shape.clone()))
                .collect(),
            Weights::Random(_) => Vec::new(),
        }
    }

    pub(super) fn folder(dir: PathBuf, families: &[Family]) -> Result<Self> {
        let (config, index) = randori_formats::open(&dir)?;
        Checkpoint::stored(config, TokenizerSource::Folder(dir), index, families)
    }

    fn stored(
        mut config: Value,
        tokenizer: TokenizerSource,
        mut index: Index,
        families: &[Family],
    ) -> Result<Self> {
        is_object(&config, "the configuration")?;
        let mut notes = Vec::new();
        let family = part::settle(&mut config, families, &mut notes);
        unsupported::refuse_keys(&config)?;
        notes.extend(packed::join(&mut index, &config)?);
        notes.extend(decoded(&index));
        notes.extend(unpacked(&index));
        if let Some(family) = family {
            part::rename(&mut index, &family.dialect)?;
            experts::unstack(&mut index, family.dialect.stacks)?;
        }
        agree::rope(&mut config, &mut notes);
        agree::head(&mut config, &mut index, &mut notes)?;
        Ok(Checkpoint {
            config,
            tokenizer,
            weights: Weights::Stored(index),
            notes,
        })
    }
}

/// A note on blocks that no product reads.
fn decoded(index: &Index) -> Option<String> {
    let blocks = |t: &Stored| matches!(t.format, Format::Block(_)) && !convert::can_keep(t);
    let (place, list) = counted(index, blocks)?;
    Some(format!(
        "{place} has tensors in blocks that no product reads ({list}): they are decoded as they \
         load, and held in model.dtype, or in NF4 with adapter.quant = \"nf4\""
    ))
}

/// A note on a folder's quantised matrices that no product reads as they are.
fn unpacked(index: &Index) -> Option<String> {
    let packed = |t: &Stored| matches!(t.format, Format::Packed(_)) && !convert::is_chosen(t);
    let (place, list) = counted(index, packed)?;
    Some(format!(
        "{place} has matrices that no product reads as they are ({list}): they are decoded as they \
         load, and held in model.dtype, or quantised anew, to NF4, with adapter.kind = \"qlora\""
    ))
}

/// The first file, and how many of these tensors the index has in each format; `None`: none.
fn counted(index: &Index, of: impl Fn(&Stored) -> bool) -> Option<(&str, String)> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for stored in index.tensors.values().filter(|stored| of(stored)) {
        *counts.entry(stored.format.to_string()).or_default() += 1;
    }
    let place = &index.files.first()?.name;
    let list: Vec<String> = counts
        .iter()
        .map(|(format, n)| format!("{n} in {format}"))
        .collect();
    (!list.is_empty()).then(|| (place.as_str(), list.join(", ")))
}

pub(super) fn is_object(config: &Value, place: &str) -> Result<()> {
    if config.is_object() {
        return Ok(());
    }
    Err(Error::rule(format!("{place} must be a JSON object")))
}
