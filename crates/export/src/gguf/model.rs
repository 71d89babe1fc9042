//! A Llama's or Mistral's `config.json` as GGUF metadata, and what llama.cpp could not compute refused.

use serde_json::Value;

use super::{
    Meta,
    names::Heads,
    rope::{Rope, rope_number},
};
use crate::{Error, Result};

/// Both families go by this architecture.
pub(super) const ARCHITECTURE: &str = "llama";

/// What a GGUF needs to know of a configuration.
#[derive(Debug, Clone)]
pub(super) struct Model {
    pub layers: usize,
    pub width: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub ffn: usize,
    /// Whether the embedding makes the logits too.
    pub tied: bool,
    context: usize,
    eps: f64,
    theta: f64,
    rope: Rope,
    /// What the user should know about this export.
    pub notes: Vec<String>,
}

impl Model {
    /// # Errors
    /// Another family, a missing key, or something that llama.cpp's `llama` does not compute.
    pub fn new(config: &Value) -> Result<Model> {
        let kind = config
            .get("model_type")
            .and_then(Value::as_str)
            .unwrap_or("");
        if !["llama", "mistral"].contains(&kind) {
            return Err(Error::rule(format!(
                "a GGUF can be written of the model types llama and mistral, not of {kind:?}; export a Hugging Face folder"
            )));
        }
        refuse_unknown_arithmetic(config)?;
        let number = |key: &str| {
            whole(config, key)?.ok_or_else(|| {
                Error::rule(format!(
                    "the model's configuration has no {key}, which a GGUF needs"
                ))
            })
        };
        let (width, heads) = (number("hidden_size")?, number("num_attention_heads")?);
        let mistral = kind == "mistral";
        let absent = |key: &str| mistral && config.get(key).is_none();
        // what transformers' class has where the key is absent; null means something else
        let kv_heads = match absent("num_key_value_heads") {
            true => 8,
            false => whole(config, "num_key_value_heads")?.unwrap_or(heads),
        };
        let head_dim = whole(config, "head_dim")?.unwrap_or(width / heads);
        if heads % kv_heads != 0 || head_dim % 2 != 0 {
            return Err(Error::rule(format!(
                "{heads} heads of {head_dim} features and {kv_heads} key-value heads do not fit together"
            )));
        }
        let mut model = Model {
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
        let window = match absent("sliding_window") {
            true => Some(4096),
            false => whole(config, "sliding_window")?,
        };
        model.within_window(window.filter(|_| mistral && slides(config)));
        Ok(model)
    }

    /// llama.cpp's `llama` attends to everything. Up to the window's length that is the same, so that is the context the
    /// file declares.
    fn within_window(&mut self, window: Option<usize>) {
        if let Some(window) = window.filter(|w| *w < self.context) {
            self.notes.push(format!(
                "the model attends to the last {window} tokens only, which GGUF's llama cannot say: the file's context is \
                 {window} instead of {} tokens, within which both compute the same",
                self.context
            ));
            self.context = window;
        }
    }

    /// The `llama.*` keys; `vocabulary` counts the embedding's rows.
    pub fn keys(&self, vocabulary: usize) -> Result<Vec<(String, Meta)>> {
        let count = |key: &str, n: usize| -> Result<(String, Meta)> {
            let n = u32::try_from(n)
                .map_err(|_| Error::rule(format!("{key} is {n}, which 32 bits do not hold")))?;
            Ok((format!("{ARCHITECTURE}.{key}"), Meta::U32(n)))
        };
        let real = |key: &str, v: f64| (format!("{ARCHITECTURE}.{key}"), Meta::F32(v as f32));
        let mut keys = vec![
            count("vocab_size", vocabulary)?,
            count("context_length", self.context)?,
            count("embedding_length", self.width)?,
            count("block_count", self.layers)?,
            count("feed_forward_length", self.ffn)?,
            count("attention.head_count", self.heads)?,
            count("attention.head_count_kv", self.kv_heads)?,
            count("attention.key_length", self.head_dim)?,
            count("attention.value_length", self.head_dim)?,
            real("attention.layer_norm_rms_epsilon", self.eps),
            count("rope.dimension_count", self.head_dim)?,
            real("rope.freq_base", self.theta),
        ];
        let prefix = |key: &str| format!("{ARCHITECTURE}.rope.scaling.{key}");
        keys.extend(self.rope.keys(prefix));
        Ok(keys)
    }

    /// Heads that permute a tensor's rows.
    pub fn count(&self, heads: Heads) -> Option<usize> {
        match heads {
            Heads::None => None,
            Heads::Query => Some(self.heads),
            Heads::Key => Some(self.kv_heads),
        }
    }

    /// The divisor of every rotary frequency, (head_dim / 2), where they are not all the same.
    pub fn rope_divisors(&self) -> Option<Vec<f32>> {
        self.rope.divisors(self.theta, self.head_dim)
    }
}

/// A whole number above 0; null counts as absent.
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

/// Whether any layer has the sliding window: all of them, or those that `layer_types` names.
fn slides(config: &Value) -> bool {
    match config.get("layer_types").and_then(Value::as_array) {
        Some(kinds) => kinds.iter().any(|kind| kind == "sliding_attention"),
        None => true,
    }
}

fn refuse_unknown_arithmetic(config: &Value) -> Result<()> {
    match config.get("hidden_act").and_then(Value::as_str) {
        None | Some("silu" | "swish") => Ok(()),
        Some(other) => Err(Error::rule(format!(
            "hidden_act is {other:?}; GGUF's llama computes silu"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
        let Ok(keys) = model.keys(100) else { panic!() };
        assert!(keys.contains(&("llama.context_length".into(), Meta::U32(4096))));
        assert!(keys.contains(&("llama.rope.freq_base".into(), Meta::F32(1e6))));
        assert!(keys.contains(&("llama.rope.dimension_count".into(), Meta::U32(32))));
        assert!(model.notes.len() == 1 && model.notes[0].contains("4096 instead of 8192"));
        let Ok(whole) = with("sliding_window", Value::Null) else {
            panic!()
        };
        assert!(whole.notes.is_empty());
    }

    #[test]
    fn what_llama_cannot_compute_is_refused() {
        for (key, value, words) in [
            ("model_type", json!("qwen2"), "\"qwen2\""),
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
}
