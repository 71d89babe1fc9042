//! Conversion between a Llama's or Mistral's `config.json` and GGUF metadata; configurations that
//! llama.cpp or we cannot compute are refused.

use serde_json::{Value, json};

use super::{
    names::Heads,
    rope::{self, Rope, rope_number},
};
use crate::{
    ByteSource, Error, Result,
    gguf::{self, bytes::Read, header::Header},
};

/// GGUF's name of the architecture for both families.
pub(super) const ARCHITECTURE: &str = "llama";

/// The values of a configuration that a GGUF needs.
#[derive(Debug, Clone)]
pub(super) struct Model {
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
        // the default of transformers' class for an absent key; null means something else
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

    /// Limits the declared context to the sliding window: llama.cpp's `llama` attends to
    /// everything, which is the same up to the window's length.
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

    /// The `llama.*` keys; `vocabulary` is the number of rows of the embedding.
    pub fn keys(&self, vocabulary: usize) -> Vec<(String, gguf::Value)> {
        let name = |key: &str| format!("{ARCHITECTURE}.{key}");
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

    /// Number of heads that permute a tensor's rows.
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

/// Whether any layer uses the sliding window: all of them, or those that `layer_types` names.
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

/// Converts metadata to a configuration with both spellings of transformers (v4: `rope_theta`,
/// `rope_scaling`; v5: `rope_parameters`).
pub(super) fn read(header: &Header, source: &ByteSource) -> Read<Value> {
    supported(header)?;
    let number = |key: &str| -> Read<usize> {
        let key = format!("llama.{key}");
        match header.whole(&key)? {
            Some(0) => Err(format!("{key} is 0")),
            Some(n) => Ok(n),
            None => Err(format!("{key} is missing")),
        }
    };
    let layers = number("block_count")?;
    // one number, or one per layer
    let each = |key: &str| header.alike(&format!("llama.{key}"), layers);
    let needed = |key: &str| match each(key)? {
        Some(0) => Err(format!("llama.{key} is 0")),
        Some(n) => Ok(n),
        None => Err(format!("llama.{key} is missing")),
    };
    let (width, heads) = (number("embedding_length")?, needed("attention.head_count")?);
    let kv_heads = each("attention.head_count_kv")?.unwrap_or(heads);
    if kv_heads == 0 || heads % kv_heads != 0 {
        return Err(format!(
            "{heads} heads cannot share {kv_heads} key-value heads"
        ));
    }
    let head_dim = header
        .whole("llama.attention.key_length")?
        .unwrap_or(width / heads);
    whole_heads(header, head_dim)?;
    let epsilon = header
        .float("llama.attention.layer_norm_rms_epsilon")?
        .ok_or("llama.attention.layer_norm_rms_epsilon is missing")?;
    let theta = f64::from(header.float("llama.rope.freq_base")?.unwrap_or(10_000.0) as f32);
    let has = |name: &str| header.tensors.contains_key(name);
    let id = |name: &str| header.whole(&format!("tokenizer.ggml.{name}_token_id"));
    let context = number("context_length")?;
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
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
    let scaling = rope::scaling(header, source, theta, head_dim, context)?;
    let mut parameters = json!({"rope_type": "default"});
    if let Some(scaling) = scaling {
        config["rope_scaling"] = scaling.clone();
        parameters = scaling;
    }
    parameters["rope_theta"] = json!(theta);
    config["rope_parameters"] = parameters;
    Ok(config)
}

/// Refuses other architectures and features that are not supported.
fn supported(header: &Header) -> Read<()> {
    let arch = header
        .text("general.architecture")?
        .ok_or("general.architecture is missing")?;
    if arch != "llama" {
        return Err(format!(
            "the GGUF architecture {arch} is not supported; llama (which Llama and Mistral go by) is"
        ));
    }
    if header.whole("llama.expert_count")?.unwrap_or(0) > 0 {
        return Err("a mixture of experts, which is not supported from GGUF".into());
    }
    for key in ["llama.expert_used_count", "llama.expert_group_count"] {
        if let Some(n @ 1..) = header.whole(key)? {
            return Err(format!("{key} is {n}, but there are no experts"));
        }
    }
    if let Some(n @ 1..) = header.whole("llama.nextn_predict_layers")? {
        return Err(format!(
            "llama.nextn_predict_layers is {n}: blocks that predict further tokens are not supported"
        ));
    }
    if header.flag("llama.attention.causal")? == Some(&false) {
        return Err(
            "llama.attention.causal is false: only what reads from left to right is supported"
                .into(),
        );
    }
    if let Some(parts @ 2..) = header.whole("split.count")? {
        return Err(format!(
            "one of {parts} parts of a model; join them with llama-gguf-split --merge"
        ));
    }
    Ok(())
}

/// Refuses heads whose values have another size, or that are rotated only in part.
fn whole_heads(header: &Header, head_dim: usize) -> Read<()> {
    let of_values = header
        .whole("llama.attention.value_length")?
        .unwrap_or(head_dim);
    if of_values != head_dim {
        return Err(format!(
            "heads of {head_dim} features whose values have {of_values}, which is not supported from GGUF"
        ));
    }
    let turned = header
        .whole("llama.rope.dimension_count")?
        .unwrap_or(head_dim);
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

    #[test]
    fn a_configuration_is_read_as_it_was_written() {
        for (kv, width) in [(4, 64), (1, 128)] {
            let mut given = config();
            (given["model_type"], given["sliding_window"]) = (json!("llama"), Value::Null);
            (given["num_key_value_heads"], given["hidden_size"]) = (json!(kv), json!(width));
            let Ok(model) = Model::new(&given) else {
                panic!()
            };
            let kind = gguf::Kind::Dense(crate::Dtype::F32);
            let embedding = gguf::TensorSpec::new("token_embd.weight", &[100, width], kind);
            let mut keys = model.keys(100);
            keys.push((
                "general.architecture".into(),
                gguf::Value::Text(ARCHITECTURE.into()),
            ));
            let Ok(mut bytes) = gguf::header::write(&keys, std::slice::from_ref(&embedding)) else {
                panic!()
            };
            bytes.resize(bytes.len() + embedding.bytes() as usize, 0);
            let source = ByteSource::memory("x.gguf", bytes);
            let Ok(header) = Header::read(&source) else {
                panic!()
            };
            let Ok(read) = super::read(&header, &source) else {
                panic!()
            };
            for (key, value) in given.as_object().into_iter().flatten() {
                if !value.is_null() {
                    assert_eq!(&read[key], value, "{key}");
                }
            }
            assert_eq!(read["tie_word_embeddings"], true);
        }
    }
}
