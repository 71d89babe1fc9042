//! Small models with random weights: as tensors, as a Hugging Face folder, and loaded through the
//! real plugins.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{Arc, LazyLock},
};

use candle_core::{Device, Tensor};
use randori_engine::{
    Base, KvCache, Packed, Player, SlotTokens, Weight,
    weights::{self, LoadOptions, Source},
};
use randori_host::{Host, SearchPath};
use serde_json::{Value, json};

/// Every plugin beside the test program, loaded once.
static HOST: LazyLock<Host> =
    LazyLock::new(|| Host::discover(&SearchPath::standard()).expect("the stock plugins load"));

/// Llama 3's frequency scaling.
#[derive(Clone, Copy)]
pub struct Llama3 {
    pub factor: f64,
    pub low: f64,
    pub high: f64,
    pub original: usize,
}

/// What a model looks like.
#[derive(Clone, Copy)]
pub struct Shape {
    /// `llama` or `mistral`.
    pub family: &'static str,
    pub vocab: usize,
    pub width: usize,
    pub ffn: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub theta: f64,
    pub llama3: Option<Llama3>,
    /// The head is the embedding.
    pub tied: bool,
    /// Sliding window.
    pub window: Option<usize>,
}

/// Three blocks; each key-value head serves three query heads.
pub const LLAMA: Shape = Shape {
    family: "llama",
    vocab: 61,
    width: 48,
    ffn: 80,
    layers: 3,
    heads: 6,
    kv_heads: 2,
    head_dim: 8,
    theta: 10_000.0,
    llama3: None,
    tied: false,
    window: None,
};

/// Heads wider than width / heads, as Mistral's later models have them.
pub const MISTRAL: Shape = Shape {
    family: "mistral",
    heads: 4,
    kv_heads: 2,
    head_dim: 16,
    ..LLAMA
};

pub const EPS: f64 = 1e-5;
pub const CONTEXT: usize = 512;

/// Weights by full tensor name, f32.
pub type Weights = BTreeMap<String, Tensor>;

impl Shape {
    /// What `config.json` holds, as transformers v4 wrote it.
    pub fn config(&self) -> Value {
        let mut config = json!({
            "architectures": [if self.family == "llama" { "LlamaForCausalLM" } else { "MistralForCausalLM" }],
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
            "max_position_embeddings": CONTEXT,
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
        if self.family == "mistral" {
            config["sliding_window"] = json!(self.window);
        }
        config
    }

    /// Names and shapes of all weights.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut all = vec![
            (
                "model.embed_tokens".to_string(),
                vec![self.vocab, self.width],
            ),
            ("model.norm".to_string(), vec![self.width]),
        ];
        if !self.tied {
            all.push(("lm_head".to_string(), vec![self.vocab, self.width]));
        }
        for layer in 0..self.layers {
            for (part, shape) in [
                ("input_layernorm", vec![self.width]),
                ("self_attn.q_proj", vec![q, self.width]),
                ("self_attn.k_proj", vec![kv, self.width]),
                ("self_attn.v_proj", vec![kv, self.width]),
                ("self_attn.o_proj", vec![self.width, q]),
                ("post_attention_layernorm", vec![self.width]),
                ("mlp.gate_proj", vec![self.ffn, self.width]),
                ("mlp.up_proj", vec![self.ffn, self.width]),
                ("mlp.down_proj", vec![self.width, self.ffn]),
            ] {
                all.push((format!("model.layers.{layer}.{part}"), shape));
            }
        }
        all.into_iter()
            .map(|(name, shape)| (format!("{name}.weight"), shape))
            .collect()
    }

    /// Random weights: norms in 0.5..1.5, the rest such that attention is far from uniform and
    /// logits are of order 1.
    pub fn random(&self, seed: u64) -> Weights {
        let tensor = |(name, shape): (String, Vec<usize>)| {
            let gain = match name.as_str() {
                n if n.contains("q_proj") || n.contains("k_proj") => 1.5,
                n if n.contains("embed") => 0.5,
                _ => 1.0,
            };
            let (offset, bound) = match shape[..] {
                [_, inputs] => (0.0, gain * (3.0 / inputs as f64).sqrt()),
                _ => (1.0, 0.5),
            };
            let values: Vec<f32> = uniform(seed, &name, shape.iter().product())
                .map(|u| (offset + bound * (2.0 * u - 1.0)) as f32)
                .collect();
            let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
            (name, tensor)
        };
        self.tensors().into_iter().map(tensor).collect()
    }
}

/// `n` numbers in [0, 1) of a seed and a name.
pub fn uniform(seed: u64, name: &str, n: usize) -> impl Iterator<Item = f64> {
    randori_lora::splitmix(seed, name, n)
}

/// `n` token ids below `vocab`.
pub fn tokens(seed: u64, n: usize, vocab: usize) -> Vec<u32> {
    uniform(seed, "tokens", n)
        .map(|u| (u * vocab as f64) as u32)
        .collect()
}

/// Writes `config.json` and `model.safetensors`.
pub fn write_folder(dir: &Path, config: &Value, weights: &Weights) {
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let map: HashMap<&str, Tensor> = weights
        .iter()
        .map(|(n, t)| (n.as_str(), t.clone()))
        .collect();
    candle_core::safetensors::save(&map, dir.join("model.safetensors")).unwrap();
}

/// Opens a source and loads it with the plugin of its `model_type`.
pub fn load(source: Source, options: &LoadOptions) -> Arc<Base> {
    let checkpoint = weights::open(source).unwrap();
    let config = checkpoint.config().clone();
    let family = config["model_type"].as_str().expect("a model_type");
    let arch = HOST.architecture(family, &config.to_string()).unwrap();
    Arc::new(checkpoint.load(arch, options, &mut |_, _| ()).unwrap())
}

/// The model through a Hugging Face folder.
pub fn base_from(config: &Value, weights: &Weights, options: &LoadOptions) -> Arc<Base> {
    let dir = tempfile::tempdir().unwrap();
    write_folder(dir.path(), config, weights);
    load(Source::Folder(dir.path().to_owned()), options)
}

/// The bare base of a shape with these weights.
pub fn player(shape: &Shape, weights: &Weights) -> Player {
    Player::bare(base_from(&shape.config(), weights, &LoadOptions::default()))
}

/// A base's weights in f32, whatever holds them.
pub fn dense(base: &Base) -> Weights {
    let tensor = |weight: &Weight| match weight {
        Weight::Dense(t) => t.to_dtype(candle_core::DType::F32).unwrap(),
        other => other.to_f32().unwrap(),
    };
    base.weights
        .iter()
        .map(|(name, weight)| (name.clone(), tensor(weight)))
        .collect()
}

/// Rows of numbers, one a position.
pub type Rows = Vec<Vec<f64>>;

/// Rows of a tensor (rows, columns).
pub fn rows(t: &Tensor) -> Rows {
    let rows: Vec<Vec<f32>> = t.to_vec2().unwrap();
    rows.into_iter()
        .map(|row| row.into_iter().map(f64::from).collect())
        .collect()
}

/// Logits at every position, each from its own whole prefix and an empty cache.
pub fn by_prefix(player: &Player, tokens: &[u32]) -> Rows {
    let last = |n: usize| {
        let mut cache = KvCache::new(player, 1);
        let batch = [SlotTokens {
            slot: 0,
            tokens: &tokens[..n],
        }];
        rows(&player.step(&mut cache, &batch).unwrap()).remove(0)
    };
    (1..=tokens.len()).map(last).collect()
}

/// Logits after each of the pieces that `tokens` is cut into, fed one after the other into one
/// cache.
pub fn cached(player: &Player, tokens: &[u32], pieces: &[usize]) -> Rows {
    let (mut cache, mut start) = (KvCache::new(player, 1), 0);
    let mut feed = |len: &usize| {
        let batch = [SlotTokens {
            slot: 0,
            tokens: &tokens[start..start + len],
        }];
        start += len;
        let row = rows(&player.step(&mut cache, &batch).unwrap()).remove(0);
        assert_eq!(cache.len(0), start);
        row
    };
    pieces.iter().map(&mut feed).collect()
}

/// log soft-max at every position by the training path: one packed plan in which every prefix is a
/// prompt and every token of the vocabulary a response to it.
pub fn packed(player: &Player, tokens: &[u32], vocab: usize) -> Rows {
    let answers: Vec<[u32; 1]> = (0..vocab as u32).map(|t| [t]).collect();
    let answers: Vec<&[u32]> = answers.iter().map(|a| a.as_slice()).collect();
    let mut plan = Packed::default();
    for n in 1..=tokens.len() {
        plan.push(&tokens[..n], &answers);
    }
    let logps = player.logps(&plan).unwrap();
    logps.chunks(vocab).map(<[f64]>::to_vec).collect()
}

/// logits - log Σ exp logits, row by row.
pub fn log_softmax(logits: &Rows) -> Rows {
    let row = |row: &Vec<f64>| {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let lse = max + row.iter().map(|l| (l - max).exp()).sum::<f64>().ln();
        row.iter().map(|l| l - lse).collect()
    };
    logits.iter().map(row).collect()
}

/// The largest difference of any row, relative to that row's largest value.
pub fn distance(got: &Rows, want: &Rows) -> f64 {
    assert_eq!(got.len(), want.len(), "rows");
    let of_row = |(got, want): (&Vec<f64>, &Vec<f64>)| {
        assert_eq!(got.len(), want.len(), "columns");
        let size = want.iter().map(|w| w.abs()).fold(0.0, f64::max);
        let worst = got
            .iter()
            .zip(want)
            .map(|(g, w)| (g - w).abs())
            .fold(
                0.0,
                |a: f64, d| {
                    if d.is_nan() { f64::INFINITY } else { a.max(d) }
                },
            );
        worst / size
    };
    got.iter().zip(want).map(of_row).fold(0.0, f64::max)
}

/// Fails unless the rows agree to 1e-5 of each row's largest value.
pub fn agree(what: &str, got: &Rows, want: &Rows) {
    let worst = distance(got, want);
    assert!(
        worst <= 1e-5,
        "{what}: differs by {worst:.2e} of the largest value"
    );
}
