//! Conversion between a model's `config.json` and GGUF metadata; configurations that llama.cpp or
//! we cannot compute are refused.

use serde_json::{Value, json};

use super::{
    dialect::{Dialect, Keys},
    names::Heads,
    rope::{self, Rope, rope_number},
};
use crate::{
    ByteSource, Error, Result,
    gguf::{self, bytes::Read, header::Header},
};

/// The values of a configuration that a GGUF needs.
#[derive(Debug, Clone)]
pub(super) struct Model {
    pub dialect: &'static Dialect,
    pub layers: usize,
    pub width: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub ffn: usize,
    /// Whether the head shares the embedding's weight.
    pub tied: bool,
    context: usize,
    eps: f64,
    theta: f64,
    rope: Rope,
    /// Remarks on this export for the user.
    pub notes: Vec<String>,
}

impl Model {
    /// Reads a configuration.
    ///
    /// # Errors
    /// Another family, a missing key, or something that llama.cpp does not compute.
    pub fn new(config: &Value) -> Result<Model> {
        let kind = config
            .get("model_type")
            .and_then(Value::as_str)
            .unwrap_or("");
        let (dialect, family) = Dialect::of_family(kind).ok_or_else(|| {
            Error::rule(format!(
                "a GGUF can be written of the model types {}, not of {kind:?}; export a Hugging Face folder",
                Dialect::families()
            ))
        })?;
        refuse_unknown_arithmetic(config)?;
        let number = |key: &str| {
            whole(config, key)?.ok_or_else(|| {
                Error::rule(format!(
                    "the model's configuration has no {key}, which a GGUF needs"
                ))
            })
        };
        let (width, heads) = (number("hidden_size")?, number("num_attention_heads")?);
        // the default of transformers' class for an absent key; null means something else
        let kv_heads = match (config.get("num_key_value_heads"), family.kv_heads) {
            (None, Some(absent)) => absent,
            _ => whole(config, "num_key_value_heads")?.unwrap_or(heads),
        };
        let absent = family.head_dim.unwrap_or(width / heads);
        let head_dim = whole(config, "head_dim")?.unwrap_or(absent);
        if heads % kv_heads != 0 || head_dim % 2 != 0 {
            return Err(Error::rule(format!(
                "{heads} heads of {head_dim} features and {kv_heads} key-value heads do not fit together"
            )));
        }
        if !dialect.any_head_dim && head_dim * heads != width {
            return Err(Error::rule(format!(
                "{heads} heads of {head_dim} features beside a width of {width}: GGUF's {} has heads of width / heads \
                 features only",
                dialect.architecture
            )));
        }
        let mut model = Model {
            dialect,
            layers: number("num_hidden_layers")?,
            width,
            heads,
            kv_heads,
            head_dim,
            ffn: number("intermediate_size")?,
            tied: config
                .get("tie_word_embeddings")
                .and_then(Value::as_bool)
                .unwrap_or(false),
            context: number("max_position_embeddings")?,
            eps: config
                .get("rms_norm_eps")
                .and_then(Value::as_f64)
                .unwrap_or(1e-6),
            theta: rope_number(config, "rope_theta").unwrap_or(10_000.0),
            rope: Rope::new(config, head_dim)?,
            notes: Vec::new(),
        };
        if !dialect.divisors && model.rope_divisors().is_some() {
            return Err(Error::rule(format!(
                "the rope scaling gives each frequency a divisor of its own, which GGUF's {} cannot say; export a \
                 Hugging Face folder",
                dialect.architecture
            )));
        }
        let window = match config.get("sliding_window") {
            None => Some(4096),
            Some(_) => whole(config, "sliding_window")?,
        };
        model.within_window(family.slides.within(window, config));
        Ok(model)
    }

    /// Limits the declared context to the sliding window: llama.cpp attends to everything, which is
    /// the same up to the window's length.
    fn within_window(&mut self, window: Option<usize>) {
        if let Some(window) = window.filter(|w| *w < self.context) {
            self.notes.push(format!(
                "the model attends to the last {window} tokens only, which GGUF's {} cannot say: the file's context is \
                 {window} instead of {} tokens, within which both compute the same",
                self.dialect.architecture, self.context
            ));
            self.context = window;
        }
    }

    /// The keys of its architecture; `vocabulary` is the number of rows of the embedding.
    pub fn keys(&self, vocabulary: usize) -> Vec<(String, gguf::Value)> {
        let name = |key: &str| format!("{}.{key}", self.dialect.architecture);
        let count = |key: &str, n: usize| (name(key), gguf::Value::Int(n as i128));
        let real = |key: &str, v: f64| (name(key), gguf::Value::Float(v));
        let mut keys = vec![
            count("vocab_size", vocabulary),
            count("context_length", self.context),
            count("embedding_length", self.width),
            count("block_count", self.layers),
            count("feed_forward_length", self.ffn),
            count("attention.head_count", self.heads),
            count("attention.head_count_kv", self.kv_heads),
            count("attention.key_length", self.head_dim),
            count("attention.value_length", self.head_dim),
            real("attention.layer_norm_rms_epsilon", self.eps),
            count("rope.dimension_count", self.head_dim),
            real("rope.freq_base", self.theta),
        ];
        keys.extend(self.rope.keys(|key| name(&format!("rope.scaling.{key}"))));
        keys
    }

    /// Number of heads by which a tensor's rows are permuted; `None`: they are not.
    pub fn permuted(&self, heads: Heads) -> Option<usize> {
        self.count(heads).filter(|_| self.dialect.permuted)
    }

    /// Number of heads that a tensor's rows are.
    pub fn count(&self, heads: Heads) -> Option<usize> {
        match heads {
            Heads::None => None,
            Heads::Query => Some(self.heads),
            Heads::Key => Some(self.kv_heads),
        }
    }

    /// Divisors of the rotary frequencies, (head_dim / 2), if they are not all equal.
    pub fn rope_divisors(&self) -> Option<Vec<f32>> {
        self.rope.divisors(self.theta, self.head_dim)
    }
}

/// A positive integer; null counts as absent.
fn whole(config: &Value, key: &str) -> Result<Option<usize>> {
    match config.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(v) => v
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| *n > 0)
            .map(Some)
            .ok_or_else(|| {
                Error::rule(format!(
                    "{key} of the model's configuration must be a whole number above 0, not {v}"
                ))
            }),
    }
}

fn refuse_unknown_arithmetic(config: &Value) -> Result<()> {
    match config.get("hidden_act").and_then(Value::as_str) {
        None | Some("silu" | "swish") => Ok(()),
        Some(other) => Err(Error::rule(format!(
            "hidden_act is {other:?}; llama.cpp computes silu here"
        ))),
    }
}

/// Converts metadata to a configuration with both spellings of transformers (v4: `rope_theta`,
/// `rope_scaling`; v5: `rope_parameters`).
pub(super) fn read(header: &Header, source: &ByteSource, dialect: &Dialect) -> Read<Value> {
    let keys = Keys::new(header, dialect);
    supported(&keys)?;
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
    let kv_heads = keys
        .alike("attention.head_count_kv", layers)?
        .unwrap_or(heads);
    if kv_heads == 0 || heads % kv_heads != 0 {
        return Err(format!(
            "{heads} heads cannot share {kv_heads} key-value heads"
        ));
    }
    let head_dim = keys.whole("attention.key_length")?.unwrap_or(width / heads);
    whole_heads(&keys, head_dim)?;
    let epsilon = "attention.layer_norm_rms_epsilon";
    let epsilon = keys
        .float(epsilon)?
        .ok_or_else(|| format!("{} is missing", keys.name(epsilon)))?;
    let theta = f64::from(keys.float("rope.freq_base")?.unwrap_or(10_000.0) as f32);
    let has = |name: &str| header.tensors.contains_key(name);
    let id = |name: &str| header.whole(&format!("tokenizer.ggml.{name}_token_id"));
    let context = number("context_length")?;
    let mut config = json!({
        "architectures": dialect.family().map(|family| [family.class]),
        "model_type": dialect.family().map(|family| family.name),
        "hidden_act": "silu",
        "hidden_size": width,
        "intermediate_size": needed("feed_forward_length")?,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": context,
        "vocab_size": vocabulary(header)?,
        "rms_norm_eps": shortest(epsilon),
        "tie_word_embeddings": !has("output.weight"),
        "bos_token_id": id("bos")?,
        "eos_token_id": id("eos")?,
        "pad_token_id": id("padding")?,
        "rope_theta": theta,
        "torch_dtype": "float32",
        "dtype": "float32",
    });
    let scaling = rope::scaling(header, source, dialect, theta, head_dim, context)?;
    let mut parameters = json!({"rope_type": "default"});
    if let Some(scaling) = scaling {
        config["rope_scaling"] = scaling.clone();
        parameters = scaling;
    }
    parameters["rope_theta"] = json!(theta);
    config["rope_parameters"] = parameters;
    Ok(config)
}

/// Refuses features that are not supported.
fn supported(keys: &Keys) -> Read<()> {
    if keys.whole("expert_count")?.unwrap_or(0) > 0 {
        return Err("a mixture of experts, which is not supported from GGUF".into());
    }
    for key in ["expert_used_count", "expert_group_count"] {
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

/// Refuses heads whose values have another size, or that are rotated only in part.
fn whole_heads(keys: &Keys, head_dim: usize) -> Read<()> {
    let of_values = keys.whole("attention.value_length")?.unwrap_or(head_dim);
    if of_values != head_dim {
        return Err(format!(
            "heads of {head_dim} features whose values have {of_values}, which is not supported from GGUF"
        ));
    }
    let turned = keys.whole("rope.dimension_count")?.unwrap_or(head_dim);
    if turned != head_dim {
        return Err(format!(
            "heads of {head_dim} features of which {turned} are rotated, which is not supported from GGUF"
        ));
    }
    Ok(())
}

/// Size of the vocabulary, from the embedding's rows, since files disagree on the key.
fn vocabulary(header: &Header) -> Read<usize> {
    let rows = header
        .tensors
        .get("token_embd.weight")
        .and_then(|t| t.shape.first().copied());
    rows.ok_or_else(|| "token_embd.weight is missing".to_string())
}

/// The shortest decimal number that gives the same f32: 1e-5, not 9.999999747378752e-6.
fn shortest(v: f64) -> f64 {
    format!("{}", v as f32).parse().unwrap_or(v)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Value {
        json!({"model_type": "mistral", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 100,
            "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "sliding_window": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}})
    }

    fn with(key: &str, value: Value) -> Result<Model> {
        let mut config = config();
        config[key] = value;
        Model::new(&config)
    }

    #[test]
    fn a_window_shortens_the_context_and_says_so() {
        let Ok(model) = Model::new(&config()) else {
            panic!()
        };
        let keys = model.keys(100);
        assert!(keys.contains(&("llama.context_length".into(), gguf::Value::Int(4096))));
        assert!(keys.contains(&("llama.rope.freq_base".into(), gguf::Value::Float(1e6))));
        assert!(keys.contains(&("llama.rope.dimension_count".into(), gguf::Value::Int(32))));
        assert!(model.notes.len() == 1 && model.notes[0].contains("4096 instead of 8192"));
        let Ok(whole) = with("sliding_window", Value::Null) else {
            panic!()
        };
        assert!(whole.notes.is_empty());
    }

    #[test]
    fn what_llama_cpp_cannot_compute_is_refused() {
        for (key, value, words) in [
            ("model_type", json!("gemma2"), "\"gemma2\""),
            ("hidden_act", json!("gelu"), "gelu"),
            ("head_dim", json!(-4), "head_dim"),
            ("num_hidden_layers", Value::Null, "num_hidden_layers"),
            (
                "rope_parameters",
                json!({"rope_type": "yarn", "factor": 4.0}),
                "yarn",
            ),
            ("rope_parameters", json!({"rope_type": "linear"}), "factor"),
        ] {
            let Err(e) = with(key, value) else {
                panic!("{key}")
            };
            assert!(e.to_string().contains(words), "{e}");
        }
    }

    #[test]
    fn llama3_divisors_are_those_of_llama_cpp() {
        let Ok(model) = with(
            "rope_parameters",
            json!({"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 64}),
        ) else {
            panic!()
        };
        // by the converter's formula, in PyTorch
        let theirs = [1.0, 1.0, 1.293_975_8, 2.765_173_2, 7.667_385, 8.0];
        let ours = model.rope_divisors().unwrap_or_default();
        assert_eq!(ours.len(), 16);
        for (a, b) in ours.iter().zip(theirs) {
            assert!((a - b).abs() < 1e-5, "{ours:?}");
        }
    }

    /// The configuration that is read from the keys of `given`.
    fn again(given: &Value) -> Value {
        let Ok(model) = Model::new(given) else {
            panic!("{given}")
        };
        let kind = gguf::Kind::Dense(crate::Dtype::F32);
        let embedding = gguf::TensorSpec::new("token_embd.weight", &[100, model.width], kind);
        let mut keys = model.keys(100);
        let architecture = model.dialect.architecture.into();
        keys.push((
            "general.architecture".into(),
            gguf::Value::Text(architecture),
        ));
        let Ok(mut bytes) = gguf::header::write(&keys, std::slice::from_ref(&embedding)) else {
            panic!()
        };
        bytes.resize(bytes.len() + embedding.bytes() as usize, 0);
        let source = ByteSource::memory("x.gguf", bytes);
        let Ok(header) = Header::read(&source) else {
            panic!()
        };
        let read = Dialect::of_file(&header).and_then(|d| super::read(&header, &source, d));
        let Ok(read) = read else { panic!() };
        read
    }

    #[test]
    fn a_configuration_is_read_as_it_was_written() {
        for (family, kv, width, head_dim) in [
            ("llama", 4, 64, 32),
            ("llama", 1, 128, 32),
            ("qwen2", 2, 64, 16),
            ("qwen3", 2, 64, 32),
        ] {
            let mut given = config();
            (given["model_type"], given["sliding_window"]) = (json!(family), Value::Null);
            (given["num_key_value_heads"], given["hidden_size"]) = (json!(kv), json!(width));
            given["head_dim"] = json!(head_dim);
            let read = again(&given);
            for (key, value) in given.as_object().into_iter().flatten() {
                if !value.is_null() {
                    assert_eq!(&read[key], value, "{key}");
                }
            }
            assert_eq!(read["tie_word_embeddings"], true);
        }
    }

    #[test]
    fn qwen_s_windows_count_where_they_are_in_use() {
        let context = |more: &[(&str, Value)]| {
            let mut given = config();
            (given["model_type"], given["head_dim"]) = (json!("qwen2"), json!(16));
            for (key, value) in more {
                given[*key] = value.clone();
            }
            again(&given)["max_position_embeddings"].as_u64()
        };
        let used = ("use_sliding_window", json!(true));
        let from = |layer: usize| ("max_window_layers", json!(layer));
        assert_eq!(context(&[]), Some(8192));
        assert_eq!(context(std::slice::from_ref(&used)), Some(8192)); // from layer 28 on, of 2
        assert_eq!(context(&[used.clone(), from(2)]), Some(8192));
        assert_eq!(context(&[used.clone(), from(1)]), Some(4096));
        let kinds = |kind: &str| ("layer_types", json!(["full_attention", kind]));
        let each = [used.clone(), from(2), kinds("sliding_attention")];
        assert_eq!(context(&each), Some(4096));
        assert_eq!(
            context(&[used, from(1), kinds("full_attention")]),
            Some(8192)
        );
    }

    #[test]
    fn what_qwen_s_architectures_cannot_say_is_refused() {
        let refused = |family: &str, head_dim: usize, rope: Value, words: &str| {
            let mut given = config();
            (given["model_type"], given["head_dim"]) = (json!(family), json!(head_dim));
            given["rope_parameters"] = rope;
            let Err(e) = Model::new(&given) else {
                panic!("{words}")
            };
            assert!(e.to_string().contains(words), "{e}");
        };
        let plain = json!({"rope_type": "default", "rope_theta": 1e6});
        // llama.cpp b11549 wants as many rows of q as the model is wide
        refused(
            "qwen2",
            32,
            plain,
            "GGUF's qwen2 has heads of width / heads",
        );
        let list = vec![1.5; 16];
        let divided = json!({"rope_type": "longrope", "short_factor": list, "long_factor": list,
            "attention_factor": 1.0});
        refused("qwen3", 32, divided, "which GGUF's qwen3 cannot say");
    }
}
