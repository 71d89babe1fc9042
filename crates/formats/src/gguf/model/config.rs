//! Conversion between a model's `config.json` and GGUF metadata; configurations that llama.cpp or
//! we cannot compute are refused.

mod reading;

use std::borrow::Cow;

use randori_sdk::{
    dialect::{Divisors, Gguf, Size},
    seam::Family,
};
use serde_json::Value;

use super::{
    dialect::Spoken,
    heads::{self, Heads, KEY_HEADS},
    keys::{self, Sizes, whole},
    layered::{FFN, Layered, OfKind, name_kinds},
    rope::{self, Rope, rope_number},
};
use crate::{Error, Result, gguf};

pub(super) use reading::read;

/// The values of a configuration that a GGUF needs.
#[derive(Debug, Clone)]
pub(super) struct Model {
    pub gguf: Gguf,
    pub layers: usize,
    pub width: usize,
    pub heads: Heads,
    /// Sizes of the layers, if they differ.
    layered: Option<Layered>,
    /// Which layers attend, if not all do.
    attends: Option<Vec<bool>>,
    pub ffn: usize,
    /// Whether the head shares the embedding's weight.
    pub tied: bool,
    context: usize,
    eps: f64,
    theta: f64,
    rope: Rope,
    /// Features of a head that are rotated.
    rotated: usize,
    /// Keys beside Llama's, without the architecture.
    more: Vec<(String, gguf::Value)>,
    /// Remarks on this export for the user.
    pub notes: Vec<String>,
}

impl Model {
    /// Reads a configuration of this family.
    ///
    /// # Errors
    /// A family that GGUF does not store, a missing key, or something that llama.cpp does not
    /// compute.
    pub fn new(config: &Value, family: &Family) -> Result<Model> {
        let spoken = Spoken::of(family)?;
        let config = completed(config, &spoken);
        let config = config.as_ref();
        let number = |key: &str| {
            let there = whole(&spoken.value(config, key), key)?;
            there.ok_or_else(|| {
                Error::rule(format!(
                    "the model's configuration has no {key}, which a GGUF needs"
                ))
            })
        };
        let sizes = Model::sizes(config, &spoken, &number)?;
        keys::check(&spoken, config, &sizes)?;
        let Sizes {
            heads,
            head_dim,
            theta,
            ..
        } = sizes;
        let real = |key: &str, otherwise: f64| {
            let there = spoken.value(config, key).as_f64();
            there.unwrap_or(otherwise)
        };
        let kv_heads = kv_heads(config, &spoken, heads, head_dim)?;
        let windowed = OfKind {
            key_heads: kv_heads,
            features: head_dim,
        };
        let layered = Layered::of(config, &spoken, sizes.layers, windowed)?;
        let everything = layered.as_ref().map_or(windowed, |l| l.everything);
        fit(heads, everything)?;
        let rotated = rotated(config, &spoken, everything.features)?;
        let mut model = Model {
            gguf: spoken.gguf,
            layers: sizes.layers,
            width: sizes.width,
            heads: Heads::new([heads, kv_heads, head_dim], config, &spoken)?,
            layered,
            attends: heads::attending(config, &spoken, sizes.layers)?,
            ffn: number("intermediate_size")?,
            tied: spoken
                .value(config, "tie_word_embeddings")
                .as_bool()
                .unwrap_or(false),
            context: number("max_position_embeddings")?,
            eps: real("rms_norm_eps", 1e-6),
            theta,
            rope: Rope::new(config, rotated, &spoken.gguf)?,
            rotated,
            more: keys::written(&spoken, config)?,
            notes: Vec::new(),
        };
        if spoken.gguf.divisors == Divisors::None && !model.rope_tensors().is_empty() {
            return Err(Error::rule(format!(
                "the rope scaling gives each frequency a divisor of its own, which GGUF's {} cannot say; export a \
                 Hugging Face folder",
                spoken.gguf.architecture
            )));
        }
        let window = whole(&spoken.value(config, "sliding_window"), "sliding_window")?;
        model.within_window(spoken.within(window, config));
        if matches!(model.rope, Rope::Yarn { .. }) && !spoken.gguf.yarn_truncates {
            model.notes.push(
                "yarn's ramp ends between two pairs of features (truncate is false), which llama.cpp rounds to whole \
                 pairs: pairs near its ends turn a little otherwise there"
                    .into(),
            );
        }
        Ok(model)
    }

    /// Takes the width of the perceptron from the tensors of this list, where the configuration
    /// says it in other words.
    ///
    /// # Errors
    /// Layers of different widths.
    pub fn measure(&mut self, list: &[(String, Vec<usize>)]) -> Result<()> {
        if self.gguf.ffn.is_empty() {
            return Ok(());
        }
        let end = format!(".{}.weight", self.gguf.ffn);
        let all = list.iter().filter(|(name, _)| name.ends_with(&end));
        let mut widths = all.filter_map(|(name, shape)| Some((name, *shape.first()?)));
        let Some((_, first)) = widths.next() else {
            return Ok(());
        };
        if let Some((name, other)) = widths.find(|(_, width)| *width != first) {
            return Err(Error::rule(format!(
                "{name} has {other} rows and that of the first layer {first}: a GGUF has one number for all"
            )));
        }
        self.ffn = first;
        Ok(())
    }

    /// The sizes from which others follow.
    fn sizes(
        config: &Value,
        spoken: &Spoken,
        number: &dyn Fn(&str) -> Result<usize>,
    ) -> Result<Sizes> {
        let (width, heads) = (number("hidden_size")?, number("num_attention_heads")?);
        let there = config.get("head_dim").unwrap_or(&Value::Null);
        let absent = whole(&spoken.default("head_dim"), "head_dim")?.unwrap_or(width / heads);
        let head_dim = whole(there, "head_dim")?.unwrap_or(absent);
        if !spoken.gguf.any_head_dim && head_dim * heads != width {
            return Err(Error::rule(format!(
                "{heads} heads of {head_dim} features beside a width of {width}: GGUF's {} has heads of width / heads \
                 features only",
                spoken.gguf.architecture
            )));
        }
        Ok(Sizes {
            layers: number("num_hidden_layers")?,
            width,
            heads,
            head_dim,
            theta: rope_number(config, "rope_theta")
                .or(spoken.default("rope_theta").as_f64())
                .unwrap_or(1e4),
        })
    }

    /// Limits the declared context to the sliding window: llama.cpp attends to everything, which is
    /// the same up to the window's length.
    fn within_window(&mut self, window: Option<usize>) {
        if let Some(window) = window.filter(|w| *w < self.context) {
            self.notes.push(format!(
                "the model attends to the last {window} tokens only, which GGUF's {} cannot say: the file's context is \
                 {window} instead of {} tokens, within which both compute the same",
                self.gguf.architecture, self.context
            ));
            self.context = window;
        }
    }

    /// The keys of its architecture; `vocabulary` is the number of rows of the embedding.
    pub fn keys(&self, vocabulary: usize) -> Vec<(String, gguf::Value)> {
        let name = |key: &str| format!("{}.{key}", self.gguf.architecture);
        let count = |key: &str, n: usize| (name(key), gguf::Value::Int(n as i128));
        let real = |key: &str, v: f64| (name(key), gguf::Value::Float(v));
        let features = match &self.layered {
            Some(layered) => layered.everything.features,
            None => self.heads.features,
        };
        let sizes = match &self.layered {
            Some(layered) => layered.keys(self.ffn),
            None => vec![
                (FFN, gguf::Value::Int(self.ffn as i128)),
                (KEY_HEADS, self.key_heads()),
            ],
        };
        let mut keys = vec![
            count("vocab_size", vocabulary),
            count("context_length", self.context),
            count("embedding_length", self.width),
            count("block_count", self.layers),
            count("attention.head_count", self.heads.query),
        ];
        keys.extend(sizes.into_iter().map(|(key, value)| (name(key), value)));
        keys.extend([
            count("attention.key_length", features),
            count("attention.value_length", features),
            real(self.gguf.epsilon, self.eps),
            count("rope.dimension_count", self.rotated),
            real("rope.freq_base", self.theta),
        ]);
        keys.extend(self.rope.keys(|key| name(&format!("rope.scaling.{key}"))));
        let more = self.more.iter().cloned();
        keys.extend(more.map(|(key, value)| (name(&key), value)));
        keys
    }

    /// The number of key-value heads, or that of each layer.
    fn key_heads(&self) -> gguf::Value {
        match &self.attends {
            None => gguf::Value::Int(self.heads.key as i128),
            Some(each) => {
                let heads = |attends: &bool| if *attends { self.heads.key as i64 } else { 0 };
                gguf::Value::Ints(each.iter().map(heads).collect())
            }
        }
    }

    /// A size, of a layer where it is in one; `None`: the configuration does not determine it.
    pub fn size(&self, size: Size, layer: Option<usize>) -> Option<usize> {
        let usual = OfKind {
            key_heads: self.heads.key,
            features: self.heads.features,
        };
        let layered = self.layered.as_ref().zip(layer);
        let heads = layered.map_or(usual, |(all, layer)| all.heads(layer));
        match size {
            Size::Free | Size::Vocabulary => None,
            Size::Width => Some(self.width),
            Size::Query => Some(self.heads.query * heads.features),
            Size::Key => Some(heads.key_heads * heads.features),
            Size::Ffn => Some(layered.map_or(self.ffn, |(all, layer)| all.ffn(layer, self.ffn))),
        }
    }

    /// Tensors of divisors of the rotary frequencies, each half as long as features are rotated.
    pub fn rope_tensors(&self) -> Vec<(&'static str, Vec<f32>)> {
        self.rope.tensors(self.theta, self.rotated)
    }
}

/// A configuration in which keys that the family has under other names have the usual ones too, and
/// which has the rotary section of the family's class where it has none.
fn completed<'c>(config: &'c Value, spoken: &Spoken) -> Cow<'c, Value> {
    let mut config = Cow::Borrowed(config);
    let rotary = spoken.default("rope_parameters");
    let plain = rotary.get("rope_type").is_none() && rotary.get("full_attention").is_none();
    if !plain && !rope::is_said(&config) {
        config.to_mut()["rope_parameters"] = rotary;
    }
    for key in spoken.gguf.renamed {
        if let Some(value) = config.get(key.here).cloned() {
            config.to_mut()[key.usual] = value;
        }
    }
    if spoken.gguf.kinds.is_some() {
        name_kinds(config.to_mut(), spoken);
    }
    config
}

fn kv_heads(config: &Value, spoken: &Spoken, heads: usize, head_dim: usize) -> Result<usize> {
    // the default of transformers' class is for an absent key; null means something else
    let there = spoken.value(config, "num_key_value_heads");
    let kv_heads = whole(&there, "num_key_value_heads")?.unwrap_or(heads);
    fit(
        heads,
        OfKind {
            key_heads: kv_heads,
            features: head_dim,
        },
    )?;
    Ok(kv_heads)
}

/// Refuses key-value heads that so many heads cannot share, and features that are not pairs.
fn fit(heads: usize, of: OfKind) -> Result<()> {
    match heads.is_multiple_of(of.key_heads) && of.features.is_multiple_of(2) {
        true => Ok(()),
        false => Err(Error::rule(format!(
            "{heads} heads of {} features and {} key-value heads do not fit together",
            of.features, of.key_heads
        ))),
    }
}

/// Features of a head that are rotated.
fn rotated(config: &Value, spoken: &Spoken, head_dim: usize) -> Result<usize> {
    let key = "partial_rotary_factor";
    let share = rope_number(config, key).or(spoken.default(key).as_f64());
    let Some(share) = share.filter(|_| spoken.gguf.partial_rotary) else {
        return Ok(head_dim); // where the architecture has no such key, the plugin has refused it
    };
    let rotated = (share * head_dim as f64) as usize;
    match rotated.is_multiple_of(2) && (1..=head_dim).contains(&rotated) {
        true => Ok(rotated),
        false => Err(Error::rule(format!(
            "{key} of the model's configuration is {share}: {rotated} of {head_dim} features cannot be rotated"
        ))),
    }
}

#[cfg(test)]
mod tests;
