//! What a model's weights would take in memory, from its configuration (and, where there is one,
//! its file's index) alone.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};

use randori_formats::{
    Format, Stored,
    bnb::{BLOCK, NESTED, scale_bytes},
    has_weights,
    packed::{Exact, Supposed},
    read_json,
};
use randori_kernels::{Error, Result, shapes::Holding};
use randori_sdk::seam::{Architecture, Family};
use serde_json::Value;

use super::{
    agree,
    checkpoint::{
        Checkpoint, LoadOptions, Quant, Source, TokenizerSource, Weights, is_object, open,
    },
    convert, hub,
    load::Loader,
    part, unsupported,
};
use crate::trace::{Trace, TracedWeight};

/// A model of which nothing but the configuration, and an index where it has one, was read.
#[derive(Debug)]
pub struct Described {
    config: Value,
    tokenizer: TokenizerSource,
    /// `None`: the weights are not at hand, and are taken for safetensors as `supposed` has them.
    weights: Option<Weights>,
    /// What the configuration says of weights that are not at hand; `None`: they are dense.
    supposed: Option<Supposed>,
    notes: Vec<String>,
}

/// One weight as a base would hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldWeight {
    /// Full tensor name.
    pub name: String,
    /// Bytes it holds.
    pub bytes: u64,
    /// Most bytes that are needed besides, while it is read or made.
    pub scratch: u64,
    /// Whether products go over it a few widened rows at a time: it is not f32.
    pub widened: bool,
    /// How it is held.
    pub held: Holding,
}

/// Reads a source's configuration, and its index where the weights are at hand. Of a hub repository
/// that is not in the cache only `config.json` is fetched; a folder may have `config.json` and no
/// weights. `families` are as in [`open`].
///
/// # Errors
/// As [`open`]; for the hub, what it answered.
pub fn describe(source: Source, families: &[Family]) -> Result<Described> {
    match source {
        Source::Hub { repo, revision } => match hub::find_cached(&repo, &revision) {
            Some(dir) => Checkpoint::folder(dir, families).map(Described::of),
            None => bare(
                &hub::configuration(&repo, &revision)?,
                TokenizerSource::None,
                families,
            ),
        },
        Source::Folder(dir) if dir.join("config.json").exists() && !has_weights(&dir) => {
            folder(dir, families)
        }
        other => open(other, families).map(Described::of),
    }
}

/// Reads a source's configuration alone, whatever weights lie beside it: of a GGUF its header, of a
/// hub repository `config.json`, which is fetched where the cache has it not.
///
/// # Errors
/// As [`describe`].
pub fn configuration(source: Source, families: &[Family]) -> Result<Described> {
    match source {
        Source::Hub { repo, revision } => bare(
            &hub::configuration(&repo, &revision)?,
            TokenizerSource::None,
            families,
        ),
        Source::Folder(dir) => folder(dir, families),
        other => open(other, families).map(Described::of),
    }
}

/// The same with the tokenizer: of a hub repository its files are fetched too, and no weight is.
///
/// # Errors
/// As [`describe`].
pub fn without_weights(source: Source, families: &[Family]) -> Result<Described> {
    match source {
        Source::Hub { repo, revision } => folder(hub::without_weights(&repo, &revision)?, families),
        other => configuration(other, families),
    }
}

/// A folder's configuration, and where its tokenizer is.
fn folder(dir: PathBuf, families: &[Family]) -> Result<Described> {
    unsupported::refuse_adapter(&dir)?;
    let config = dir.join("config.json");
    bare(&config, TokenizerSource::Folder(dir), families)
}

fn bare(config: &Path, tokenizer: TokenizerSource, families: &[Family]) -> Result<Described> {
    let (mut value, mut notes) = (read_json(config)?, Vec::new());
    is_object(&value, &config.display().to_string())?;
    part::settle(&mut value, families, &mut notes);
    unsupported::refuse_keys(&value)?;
    agree::rope(&mut value, &mut notes);
    let supposed = Supposed::of(&value)?;
    Ok(Described {
        config: value,
        tokenizer,
        weights: None,
        supposed,
        notes,
    })
}

impl Described {
    fn of(checkpoint: Checkpoint) -> Self {
        Described {
            config: checkpoint.config,
            tokenizer: checkpoint.tokenizer,
            weights: Some(checkpoint.weights),
            supposed: None,
            notes: checkpoint.notes,
        }
    }

    /// The configuration in Hugging Face's spelling.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// As [`Checkpoint::notes`].
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Whether the weights themselves are at hand, so that their formats are known and not
    /// supposed.
    pub fn at_hand(&self) -> bool {
        self.weights.is_some()
    }

    /// Whether its file has GGUF blocks, and a base can keep all of them ([`Quant::Gguf`]).
    pub fn keeps_blocks(&self) -> bool {
        let Some(Weights::Stored(index)) = &self.weights else {
            return false;
        };
        let mut blocks = index
            .tensors
            .values()
            .filter(|t| matches!(t.format, Format::Block(_)))
            .peekable();
        blocks.peek().is_some() && blocks.all(convert::can_keep)
    }

    /// What weights that are not at hand are supposed to be in, where that is not dense.
    pub fn supposed(&self) -> Option<String> {
        Some(self.some_projection()?.format.to_string())
    }

    /// Some projection of a block that is not at hand, of an expert where only those are quantised.
    fn some_projection(&self) -> Option<Stored> {
        let some = "model.layers.0.mlp.experts.0.up_proj";
        self.supposed.as_ref()?.matrix(some, [1024, 1024])
    }

    /// Whether a base keeps matrices in few bits of it with [`Quant::Nf4`].
    pub fn keeps_few_bits(&self) -> bool {
        match &self.weights {
            Some(Weights::Stored(index)) => index.tensors.values().any(convert::is_chosen),
            Some(Weights::Random(_)) => false,
            None => self
                .some_projection()
                .is_some_and(|w| convert::is_chosen(&w)),
        }
    }

    /// Where its tokenizer is.
    pub fn tokenizer(&self) -> TokenizerSource {
        self.tokenizer.clone()
    }

    /// Every weight that the trace asks for, in the order in which they are loaded.
    ///
    /// # Errors
    /// What [`Checkpoint::load`] would refuse before it reads; blocks asked of weights that are not
    /// at hand.
    pub fn held(
        &self,
        trace: &Trace,
        options: &LoadOptions,
        arch: &dyn Architecture,
    ) -> Result<Vec<HeldWeight>> {
        let loader = Loader { trace, options };
        match &self.weights {
            Some(weights) => loader.check(weights, arch)?,
            None if options.quant == Some(Quant::Gguf) => {
                return Err(Error::rule(
                    "a base quantised as its GGUF file is needs that file; only a configuration is at hand",
                ));
            }
            None => {}
        }
        let supposed = |w: &TracedWeight| {
            let &[rows, columns] = &w.shape[..] else {
                return None;
            };
            let supposed = self.supposed.as_ref()?;
            supposed.matrix(loader.projection(w)?, [rows, columns])
        };
        let stored = |w: &TracedWeight| match &self.weights {
            Some(Weights::Stored(index)) => index.tensors.get(&w.name).map(Cow::Borrowed),
            Some(Weights::Random(_)) => None,
            None => supposed(w).map(Cow::Owned),
        };
        // a checkpoint in few bits has chosen what stays dense
        let chosen = trace
            .weights
            .iter()
            .filter_map(stored)
            .any(|stored| convert::is_chosen(&stored));
        let random = matches!(self.weights, Some(Weights::Random(_)));
        let one = |w: &TracedWeight| held(&loader, w, stored(w).as_deref(), chosen, random);
        Ok(trace.weights.iter().map(one).collect())
    }
}

fn held(
    loader: &Loader,
    wanted: &TracedWeight,
    stored: Option<&Stored>,
    chosen: bool,
    random: bool,
) -> HeldWeight {
    let count = wanted.shape.iter().product::<usize>() as u64;
    let item = |bytes, scratch, widened, held| HeldWeight {
        name: wanted.name.clone(),
        bytes,
        scratch,
        widened,
        held,
    };
    if let Some(stored) = stored.filter(|s| loader.keeps(wanted, s)) {
        return match &stored.format {
            Format::Bnb4(four) => {
                let double = four.double();
                let bytes = stored.len + four.scale_bytes(count);
                item(bytes, 0, true, Holding::Nf4 { double })
            }
            Format::Packed(packed) => {
                let scratch = stored.len + packed.reading();
                match packed.exact() {
                    Some(exact @ Exact::Four { .. }) => {
                        let (bytes, double) = (packed.exact_bytes(exact), false);
                        item(bytes, scratch, true, Holding::Nf4 { double })
                    }
                    exact => {
                        let bytes = exact.map_or(0, |exact| packed.exact_bytes(exact));
                        item(bytes, scratch + bytes, true, Holding::Blocks)
                    }
                }
            }
            _ => item(stored.len, stored.len, true, Holding::Blocks), // the bytes as they were read
        };
    }
    let reading = match stored {
        Some(stored) => convert::reading(stored),
        None if random => 0,
        None => convert::CHUNK,
    };
    let packed = stored.is_some_and(|s| matches!(s.format, Format::Packed(_)));
    if let Some(double) = loader.nf4(wanted).filter(|_| packed || !chosen) {
        let bytes = nf4_bytes(count, double);
        // in f32, and once more as a list, with plain scales until they are quantised
        let scales = if double {
            scale_bytes(count, BLOCK, None)
        } else {
            0
        };
        let scratch = (8 * count + scales).max(4 * count + reading);
        return item(bytes, scratch, true, Holding::Nf4 { double });
    }
    let size = loader.dtype(wanted).width();
    let made = if random && size != 4 { 4 * count } else { 0 };
    item(size * count, made.max(reading), size != 4, Holding::Dense)
}

/// Bytes of `count` weights in NF4: two a byte, and their scales.
fn nf4_bytes(count: u64, double: bool) -> u64 {
    count.div_ceil(2) + scale_bytes(count, BLOCK, double.then_some(NESTED))
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};
    use randori_qlora::QuantMatrix;

    use super::nf4_bytes;

    #[test]
    fn nf4s_size_is_that_of_a_quantised_matrix() {
        for (rows, columns) in [(3, 7), (64, 64), (130, 384), (512, 1408)] {
            let w = Tensor::ones((rows, columns), DType::F32, &Device::Cpu).unwrap();
            for double in [false, true] {
                let held = QuantMatrix::nf4(&w, double).unwrap().bytes() as u64;
                assert_eq!(nf4_bytes((rows * columns) as u64, double), held);
            }
        }
    }
}
