//! Llamas, Mistrals, Qwens and their mixtures of any shape: configuration, tensors, folder.

use std::{collections::BTreeMap, path::Path};

use candle_core::{Device, Tensor};
use serde_json::{Value, json};

/// Llama 3's frequency scaling.
#[derive(Clone, Copy)]
pub struct Llama3 {
    /// Low frequencies are divided by it.
    pub factor: f64,
    /// `low_freq_factor`.
    pub low: f64,
    /// `high_freq_factor`.
    pub high: f64,
    /// `original_max_position_embeddings`.
    pub original: usize,
}

/// What a model looks like.
#[derive(Clone, Copy)]
pub struct Shape {
    /// `model_type`: `llama`, `mistral`, `qwen2`, `qwen3`, `mixtral` or `qwen3_moe`.
    pub family: &'static str,
    /// Tokens.
    pub vocab: usize,
    /// Features of the residual stream.
    pub width: usize,
    /// Features inside the perceptron, or inside each expert.
    pub ffn: usize,
    /// Experts of every layer, of which a token goes to two; 0: a perceptron.
    pub experts: usize,
    /// Blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Features per head.
    pub head_dim: usize,
    /// `rope_theta`.
    pub theta: f64,
    /// Llama 3's scaling.
    pub llama3: Option<Llama3>,
    /// The head is the embedding.
    pub tied: bool,
    /// Sliding window.
    pub window: Option<usize>,
    /// Projections with a bias: `q_proj`, ….
    pub biases: &'static [&'static str],
    /// `max_position_embeddings`.
    pub context: usize,
}

/// Three blocks; each key-value head serves three query heads.
pub const LLAMA: Shape = Shape {
    family: "llama",
    vocab: 61,
    width: 48,
    ffn: 80,
    experts: 0,
    layers: 3,
    heads: 6,
    kv_heads: 2,
    head_dim: 8,
    theta: 10_000.0,
    llama3: None,
    tied: false,
    window: None,
    biases: &[],
    context: 512,
};

/// Heads wider than width / heads, as Mistral's later models have them.
pub const MISTRAL: Shape = Shape {
    family: "mistral",
    heads: 4,
    kv_heads: 2,
    head_dim: 16,
    ..LLAMA
};

/// Biases on the projections to queries, keys and values, and on no other.
pub const QWEN2: Shape = Shape {
    family: "qwen2",
    biases: &["q_proj", "k_proj", "v_proj"],
    ..LLAMA
};

/// Norms of the heads of queries and keys, which are wider than width / heads.
pub const QWEN3: Shape = Shape {
    family: "qwen3",
    ..MISTRAL
};

/// Four experts in every layer.
pub const MIXTRAL: Shape = Shape {
    family: "mixtral",
    ffn: 32,
    experts: 4,
    ..MISTRAL
};

/// The same number under Qwen3's attention.
pub const QWEN3_MOE: Shape = Shape {
    family: "qwen3_moe",
    ffn: 32,
    experts: 4,
    ..MISTRAL
};

/// `rms_norm_eps` of all of them.
pub const EPS: f64 = 1e-5;

/// Weights by full tensor name, f32.
pub type Weights = BTreeMap<String, Tensor>;

impl Shape {
    /// What `config.json` holds, as transformers v4 wrote it.
    pub fn config(&self) -> Value {
        let mut config = json!({
            "architectures": [self.class()],
            "model_type": self.family,
            "hidden_act": "silu",
            "vocab_size": self.vocab,
            "hidden_size": self.width,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "rms_norm_eps": EPS,
            "rope_theta": self.theta,
            "max_position_embeddings": self.context,
            "tie_word_embeddings": self.tied,
        });
        if let Some(l) = self.llama3 {
            config["rope_scaling"] = json!({
                "rope_type": "llama3",
                "factor": l.factor,
                "low_freq_factor": l.low,
                "high_freq_factor": l.high,
                "original_max_position_embeddings": l.original,
            });
        }
        if self.family != "llama" {
            config["sliding_window"] = json!(self.window);
        }
        if self.family.starts_with("qwen") {
            config["use_sliding_window"] = json!(self.window.is_some());
            config["max_window_layers"] = json!(0);
        }
        if self.experts > 0 {
            config["num_local_experts"] = json!(self.experts);
            config["num_experts_per_tok"] = json!(2);
        }
        if self.family == "qwen3_moe" {
            config["moe_intermediate_size"] = json!(self.ffn);
            config["norm_topk_prob"] = json!(true);
        }
        config
    }

    /// transformers' class.
    fn class(&self) -> &'static str {
        match self.family {
            "llama" => "LlamaForCausalLM",
            "mistral" => "MistralForCausalLM",
            "qwen2" => "Qwen2ForCausalLM",
            "mixtral" => "MixtralForCausalLM",
            "qwen3_moe" => "Qwen3MoeForCausalLM",
            _ => "Qwen3ForCausalLM",
        }
    }

    /// Whether the heads of queries and keys have norms.
    pub fn head_norms(&self) -> bool {
        self.family.starts_with("qwen3")
    }

    /// The modules of a layer's perceptron, or of its router and experts, with their shapes.
    fn mlp(&self) -> Vec<(String, Vec<usize>)> {
        let (module, names) = match self.family {
            "mixtral" => ("block_sparse_moe", ["w1", "w3", "w2"]),
            _ => ("mlp", ["gate_proj", "up_proj", "down_proj"]),
        };
        let (inside, outside) = (vec![self.ffn, self.width], vec![self.width, self.ffn]);
        let shapes = [inside.clone(), inside, outside];
        let perceptron = |place: String| {
            let named = names.into_iter().zip(shapes.clone());
            named.map(move |(name, shape)| (format!("{place}.{name}"), shape))
        };
        if self.experts == 0 {
            return perceptron(module.to_string()).collect();
        }
        let router = (format!("{module}.gate"), vec![self.experts, self.width]);
        let experts = (0..self.experts).flat_map(|e| perceptron(format!("{module}.experts.{e}")));
        [router].into_iter().chain(experts).collect()
    }

    /// Names and shapes of all tensors.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut all = vec![(
            "model.embed_tokens.weight".to_string(),
            vec![self.vocab, self.width],
        )];
        for layer in 0..self.layers {
            let others = [
                ("input_layernorm", vec![self.width]),
                ("self_attn.q_proj", vec![q, self.width]),
                ("self_attn.k_proj", vec![kv, self.width]),
                ("self_attn.v_proj", vec![kv, self.width]),
                ("self_attn.o_proj", vec![self.width, q]),
                ("post_attention_layernorm", vec![self.width]),
            ];
            let others = others.map(|(part, shape)| (part.to_string(), shape));
            for (part, shape) in others.into_iter().chain(self.mlp()) {
                let name = format!("model.layers.{layer}.{part}");
                if self.biases.iter().any(|bias| part.ends_with(bias)) {
                    all.push((format!("{name}.bias"), vec![shape[0]]));
                }
                all.push((format!("{name}.weight"), shape));
            }
            for norm in ["q_norm", "k_norm"]
                .into_iter()
                .filter(|_| self.head_norms())
            {
                let name = format!("model.layers.{layer}.self_attn.{norm}.weight");
                all.push((name, vec![self.head_dim]));
            }
        }
        all.push(("model.norm.weight".to_string(), vec![self.width]));
        if !self.tied {
            all.push(("lm_head.weight".to_string(), vec![self.vocab, self.width]));
        }
        all
    }

    /// All tensors, in f32, with the values that a function has for a name and a shape.
    pub fn weights(&self, values: impl Fn(&str, &[usize]) -> Vec<f32>) -> Weights {
        let tensor = |(name, shape): (String, Vec<usize>)| {
            let tensor = Tensor::from_vec(values(&name, &shape), shape, &Device::Cpu).unwrap();
            (name, tensor)
        };
        self.tensors().into_iter().map(tensor).collect()
    }

    /// Random weights: norms in 0.5..1.5, biases in -0.5..0.5, the rest such that attention is far
    /// from uniform and logits are of order 1.
    pub fn random(&self, seed: u64) -> Weights {
        self.weights(|name, shape| {
            let gain = match name {
                n if n.contains("q_proj") || n.contains("k_proj") => 1.5,
                n if n.contains("embed") => 0.5,
                _ => 1.0,
            };
            let (offset, bound) = match shape[..] {
                [_, inputs] => (0.0, gain * (3.0 / inputs as f64).sqrt()),
                _ if name.ends_with("bias") => (0.0, 0.5),
                _ => (1.0, 0.5),
            };
            uniform(seed, name, shape.iter().product())
                .map(|u| (offset + bound * (2.0 * u - 1.0)) as f32)
                .collect()
        })
    }
}

/// `n` numbers in [0, 1) of a seed and a name.
pub fn uniform(seed: u64, name: &str, n: usize) -> impl Iterator<Item = f64> {
    randori_lora::splitmix(seed, name, n)
}

/// Writes `config.json` and `model.safetensors`.
pub fn write_folder(dir: &Path, config: &Value, weights: &Weights) {
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let bytes = safetensors::serialize(weights, None).unwrap();
    std::fs::write(dir.join("model.safetensors"), bytes).unwrap();
}

/// Rows of q or k as llama.cpp's converter stores them:
/// `W.reshape(heads, 2, d / 2, …).swapaxes(1, 2)`. A bias is a matrix of one column.
pub fn permute(t: &Tensor, heads: usize) -> Tensor {
    swap(t, heads, 2)
}

/// [`permute`] undone.
pub fn unpermute(t: &Tensor, heads: usize) -> Tensor {
    swap(t, heads, t.dims()[0] / heads / 2)
}

fn swap(t: &Tensor, heads: usize, parts: usize) -> Tensor {
    let rows = t.dims()[0];
    let columns = t.elem_count() / rows;
    t.reshape((heads, parts, rows / heads / parts, columns))
        .and_then(|split| split.transpose(1, 2)?.contiguous()?.reshape(t.dims()))
        .unwrap()
}
