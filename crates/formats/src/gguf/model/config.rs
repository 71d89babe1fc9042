//! Conversion between a model's `config.json` and GGUF metadata; configurations that llama.cpp or
//! we cannot compute are refused.

use std::borrow::Cow;

use randori_sdk::{
    dialect::{Divisors, Gguf, Size},
    seam::Family,
};
use serde_json::{Value, json};

use super::{
    dialect::{Keys, Spoken},
    heads::{self, Heads, KEY_HEADS},
    keys::{self, Sizes, shortest},
    rope::{self, Rope, rope_number},
};
use crate::{
    ByteSource, Error, Result,
    gguf::{self, bytes::Read, header::Header},
};

/// The values of a configuration that a GGUF needs.
#[derive(Debug, Clone)]
pub(super) struct Model {
    pub gguf: Gguf,
    pub layers: usize,
    pub width: usize,
    pub heads: Heads,
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
        let rotated = rotated(config, &spoken, head_dim)?;
        let kv_heads = kv_heads(config, &spoken, heads, head_dim)?;
        let mut model = Model {
            gguf: spoken.gguf,
            layers: sizes.layers,
            width: sizes.width,
            heads: Heads::new([heads, kv_heads, head_dim], config, &spoken)?,
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
        let mut keys = vec![
            count("vocab_size", vocabulary),
            count("context_length", self.context),
            count("embedding_length", self.width),
            count("block_count", self.layers),
            count("feed_forward_length", self.ffn),
            count("attention.head_count", self.heads.query),
            match &self.attends {
                None => count(KEY_HEADS, self.heads.key),
                Some(each) => {
                    let heads = |attends: &bool| if *attends { self.heads.key as i64 } else { 0 };
                    let each = each.iter().map(heads).collect();
                    (name(KEY_HEADS), gguf::Value::Ints(each))
                }
            },
            count("attention.key_length", self.heads.features),
            count("attention.value_length", self.heads.features),
            real(self.gguf.epsilon, self.eps),
            count("rope.dimension_count", self.rotated),
            real("rope.freq_base", self.theta),
        ];
        keys.extend(self.rope.keys(|key| name(&format!("rope.scaling.{key}"))));
        let more = self.more.iter().cloned();
        keys.extend(more.map(|(key, value)| (name(&key), value)));
        keys
    }

    /// A size; `None`: the configuration does not determine it.
    pub fn size(&self, size: Size) -> Option<usize> {
        match size {
            Size::Free => None,
            Size::Width => Some(self.width),
            Size::Query => Some(self.heads.query * self.heads.features),
            Size::Key => Some(self.heads.key * self.heads.features),
            Size::Ffn => Some(self.ffn),
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
    if rotary.get("rope_type").is_some() && !rope::is_said(&config) {
        config.to_mut()["rope_parameters"] = rotary;
    }
    for key in spoken.gguf.renamed {
        if let Some(value) = config.get(key.here).cloned() {
            config.to_mut()[key.usual] = value;
        }
    }
    config
}

/// A positive integer; null counts as absent.
fn whole(value: &Value, key: &str) -> Result<Option<usize>> {
    if value.is_null() {
        return Ok(None);
    }
    let number = value.as_u64().and_then(|n| usize::try_from(n).ok());
    number.filter(|n| *n > 0).map(Some).ok_or_else(|| {
        Error::rule(format!(
            "{key} of the model's configuration must be a whole number above 0, not {value}"
        ))
    })
}

fn kv_heads(config: &Value, spoken: &Spoken, heads: usize, head_dim: usize) -> Result<usize> {
    // the default of transformers' class is for an absent key; null means something else
    let there = spoken.value(config, "num_key_value_heads");
    let kv_heads = whole(&there, "num_key_value_heads")?.unwrap_or(heads);
    if !heads.is_multiple_of(kv_heads) || !head_dim.is_multiple_of(2) {
        return Err(Error::rule(format!(
            "{heads} heads of {head_dim} features and {kv_heads} key-value heads do not fit together"
        )));
    }
    Ok(kv_heads)
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

/// Converts metadata to a configuration with both spellings of transformers (v4: `rope_theta`,
/// `rope_scaling`; v5: `rope_parameters`).
pub(super) fn read(header: &Header, files: &[ByteSource], spoken: &Spoken) -> Read<Value> {
    let keys = Keys::new(header)?;
    supported(&keys, &spoken.gguf)?;
    let positive = |key: &str, found: Option<usize>| match found {
        Some(0) => Err(format!("{} is 0", keys.name(key))),
        Some(n) => Ok(n),
        None => Err(format!("{} is missing", keys.name(key))),
    };
    let number = |key: &str| positive(key, keys.whole(key)?);
    let layers = number("block_count")?;
    // one number, or one per layer
    let needed = |key: &str| positive(key, keys.alike(key, layers)?);
    let (width, heads) = (number("embedding_length")?, needed("attention.head_count")?);
    let (kv_heads, kinds) = heads::key_heads(&keys, spoken, layers)?;
    let kv_heads = kv_heads.unwrap_or(heads);
    if kv_heads == 0 || heads % kv_heads != 0 {
        return Err(format!(
            "{heads} heads cannot share {kv_heads} key-value heads"
        ));
    }
    let head_dim = keys.whole("attention.key_length")?.unwrap_or(width / heads);
    let rotated = turned(&keys, head_dim, spoken.gguf.partial_rotary)?;
    let epsilon = spoken.gguf.epsilon;
    let epsilon = keys
        .float(epsilon)?
        .ok_or_else(|| format!("{} is missing", keys.name(epsilon)))?;
    let class = spoken.family.dialect.class;
    let has = |name: &str| header.tensors.contains_key(name);
    let id = |name: &str| header.whole(&format!("tokenizer.ggml.{name}_token_id"));
    let mut config = json!({
        "architectures": (!class.is_empty()).then_some([class]),
        "model_type": spoken.family.name,
        "hidden_size": width,
        "intermediate_size": needed("feed_forward_length")?,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": number("context_length")?,
        "vocab_size": vocabulary(header)?,
        "rms_norm_eps": shortest(epsilon),
        "tie_word_embeddings": !has("output.weight"),
        "bos_token_id": id("bos")?,
        "eos_token_id": id("eos")?,
        "pad_token_id": id("padding")?,
        "torch_dtype": "float32",
        "dtype": "float32",
    });
    if spoken.gguf.partial_rotary {
        config["partial_rotary_factor"] = json!(rotated as f64 / head_dim as f64);
    }
    if let Some(kinds) = kinds {
        config["layer_types"] = kinds;
    }
    rotary(&keys, files, spoken, rotated, &mut config)?;
    keys::read(spoken, &keys, layers, &mut config)?;
    spell_v4(&mut config);
    let sizes = Sizes {
        layers,
        width,
        heads,
        head_dim,
        theta: theta(&keys)?,
    };
    keys::imply(spoken, &sizes, &mut config);
    for key in spoken.gguf.renamed.iter().filter(|key| !key.older) {
        let map = config.as_object_mut();
        if let Some(map) = map
            && let Some(value) = map.remove(key.usual)
        {
            map.insert(key.here.into(), value);
        }
    }
    Ok(config)
}

/// A file's rotary base.
fn theta(keys: &Keys) -> Read<f64> {
    let base = keys.float("rope.freq_base")?;
    Ok(f64::from(base.unwrap_or(10_000.0) as f32))
}

/// The rotary keys of a configuration whose other keys are there.
fn rotary(
    keys: &Keys,
    files: &[ByteSource],
    spoken: &Spoken,
    rotated: usize,
    config: &mut Value,
) -> Read<()> {
    let theta = theta(keys)?;
    let context = config["max_position_embeddings"].as_u64().unwrap_or(0) as usize;
    config["rope_theta"] = json!(theta);
    let mut parameters = json!({"rope_type": "default"});
    if let Some(scaling) = rope::scaling(keys, files, spoken, theta, rotated, context)? {
        if spoken.gguf.divisors == Divisors::LongShort
            && let Some(original) = scaling.get(rope::ORIGINAL)
        {
            config[rope::ORIGINAL] = original.clone(); // a class with two lists looks there
        }
        config["rope_scaling"] = scaling.clone();
        parameters = scaling;
    }
    parameters["rope_theta"] = json!(theta);
    if spoken.gguf.partial_rotary {
        parameters["partial_rotary_factor"] = config["partial_rotary_factor"].clone();
    }
    config["rope_parameters"] = match keys::two_bases(spoken) {
        false => parameters,
        // layers with a window turn by a base of their own, never scaled
        true => {
            let base = keys::windowed_base(spoken, keys)?.unwrap_or(theta);
            json!({"full_attention": parameters, "sliding_attention":
                {"rope_type": "default", "rope_theta": base}})
        }
    };
    Ok(())
}

/// Gives v4's section, where there is one, what keys of the family have put into v5's.
fn spell_v4(config: &mut Value) {
    let more = config["rope_parameters"].as_object().cloned();
    let scaling = config.get_mut("rope_scaling");
    let Some(scaling) = scaling.and_then(Value::as_object_mut) else {
        return;
    };
    let beside = ["rope_theta", "partial_rotary_factor"];
    for (key, value) in more.into_iter().flatten() {
        if !value.is_object() && !beside.contains(&key.as_str()) {
            scaling.entry(key).or_insert(value);
        }
    }
}

/// Refuses features that are not supported.
fn supported(keys: &Keys, gguf: &Gguf) -> Read<()> {
    let known = |key: &str| gguf.keys.iter().any(|known| known.key == key);
    if !known("expert_count") && keys.whole("expert_count")?.unwrap_or(0) > 0 {
        return Err("a mixture of experts, which no loaded plugin reads from GGUF".into());
    }
    for key in ["expert_used_count", "expert_group_count"] {
        if known(key) {
            continue;
        }
        if let Some(n @ 1..) = keys.whole(key)? {
            let key = keys.name(key);
            return Err(format!("{key} is {n}, but there are no experts"));
        }
    }
    if let Some(n @ 1..) = keys.whole("nextn_predict_layers")? {
        return Err(format!(
            "{} is {n}: blocks that predict further tokens are not supported",
            keys.name("nextn_predict_layers")
        ));
    }
    if keys.flag("attention.causal")? == Some(false) {
        return Err(format!(
            "{} is false: only what reads from left to right is supported",
            keys.name("attention.causal")
        ));
    }
    Ok(())
}

/// How many features of a head are rotated; refuses heads whose values have another size, and a
/// part where the architecture has none.
fn turned(keys: &Keys, head_dim: usize, partial: bool) -> Read<usize> {
    let of_values = keys.whole("attention.value_length")?.unwrap_or(head_dim);
    if of_values != head_dim {
        return Err(format!(
            "heads of {head_dim} features whose values have {of_values}, which is not supported from GGUF"
        ));
    }
    let turned = keys.whole("rope.dimension_count")?.unwrap_or(head_dim);
    if turned != head_dim && !(partial && (1..head_dim).contains(&turned)) {
        return Err(format!(
            "heads of {head_dim} features of which {turned} are rotated, which is not supported from GGUF"
        ));
    }
    Ok(turned)
}

/// Size of the vocabulary, from the embedding's rows, since files disagree on the key.
fn vocabulary(header: &Header) -> Read<usize> {
    let rows = header
        .tensors
        .get("token_embd.weight")
        .and_then(|t| t.shape.first().copied());
    rows.ok_or_else(|| "token_embd.weight is missing".to_string())
}

#[cfg(test)]
mod tests;
