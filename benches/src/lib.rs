//! Models of the benches: SmolLM2-135M's shapes with random weights, and architectures of a single
//! op.
//!
//! Speed does not depend on a weight's value, so nothing is downloaded. `RANDORI_BENCH_LAYERS` sets
//! the number of blocks (6; SmolLM2 has 30). This crate does not know what is measured, or how.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a bench stops at the first thing that does not work"
)]

mod clock;
pub mod files;
pub mod roofline;

pub use clock::{Clock, criterion};

use std::sync::Arc;

use randori_engine::{
    Base, Packed,
    train::Pair,
    weights::{LoadOptions, Source, open},
};
use randori_host::{Host, SearchPath};
use randori_lora::{LoraSpec, Targets};
use randori_sdk::seam::{Architecture, Backend, Id, OpResult};
use serde_json::{Value, json};

/// Tokens of SmolLM2's vocabulary.
pub const VOCAB: usize = 49_152;
/// Features of SmolLM2's residual stream.
pub const WIDTH: usize = 576;
/// Features of SmolLM2's feed-forward layer.
pub const FFN: usize = 1536;
/// Query heads of SmolLM2.
pub const HEADS: usize = 9;
/// Key-value heads of SmolLM2.
pub const KV_HEADS: usize = 3;
/// Features of a head of SmolLM2.
pub const HEAD_DIM: usize = 64;

/// Mean lengths of GSM8K's prompts, human responses and SmolLM2's own, in tokens.
pub const PROMPT: usize = 73;
/// See [`PROMPT`].
pub const REAL: usize = 51;
/// See [`PROMPT`].
pub const GENERATED: usize = 93;

/// A whole number from the environment.
pub fn number(variable: &str, default: usize) -> usize {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{variable} is {text:?}; it must be a whole number")),
        Err(_) => default,
    }
}

/// Blocks of the benched model.
pub fn layers() -> usize {
    number("RANDORI_BENCH_LAYERS", 6)
}

/// SmolLM2-135M's configuration, but for the number of blocks.
pub fn config() -> Value {
    config_of(layers(), WIDTH)
}

/// The same family in another size: SmolLM2-135M's proportions at a width that is a multiple of
/// 192.
pub fn config_of(layers: usize, width: usize) -> Value {
    json!({
        "model_type": "llama",
        "vocab_size": VOCAB,
        "hidden_size": width,
        "intermediate_size": width * FFN / WIDTH,
        "num_hidden_layers": layers,
        "num_attention_heads": width / HEAD_DIM,
        "num_key_value_heads": width / HEAD_DIM * KV_HEADS / HEADS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100_000.0,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": true,
    })
}

/// The stock plugins, which cargo has built beside the bench.
pub fn host() -> Host {
    Host::discover(&SearchPath::standard()).unwrap()
}

/// Opens a source and loads it with its plugin.
pub fn load(host: &Host, source: Source, options: &LoadOptions) -> Arc<Base> {
    let checkpoint = open(source, host.families().unwrap()).unwrap();
    let config = checkpoint.config();
    let family = config["model_type"].as_str().expect("a model_type");
    let arch = host.architecture(family, &config.to_string()).unwrap();
    Arc::new(checkpoint.load(arch, options, &mut |_, _| ()).unwrap())
}

/// SmolLM2's shapes with random weights.
pub fn smollm2(host: &Host, options: &LoadOptions) -> Arc<Base> {
    random(host, config(), options)
}

/// A configuration with random weights.
pub fn random(host: &Host, config: Value, options: &LoadOptions) -> Arc<Base> {
    load(host, Source::Random { config, seed: 1 }, options)
}

/// The PyTorch peer's adapter: rank 8 on every projection of the blocks.
pub fn adapter() -> LoraSpec {
    LoraSpec {
        rank: 8,
        alpha: 16.0,
        rslora: false,
        dropout: 0.0,
        targets: Targets::AllLinear,
        ..LoraSpec::default()
    }
}

/// `n` random token ids below `vocab`.
pub fn tokens(seed: u64, n: usize, vocab: usize) -> Vec<u32> {
    randori_lora::splitmix(seed, "tokens", n)
        .map(|u| (u * vocab as f64) as u32)
        .collect()
}

/// `n` pairs as long as GSM8K's.
pub fn pairs(n: usize) -> Vec<Pair> {
    pairs_of(n, [PROMPT, REAL, GENERATED])
}

/// `n` pairs with so many tokens in prompt, real and generated response.
pub fn pairs_of(n: usize, [prompt, real, generated]: [usize; 3]) -> Vec<Pair> {
    let pair = |i: u64| Pair {
        prompt: tokens(3 * i, prompt, VOCAB),
        real: tokens(3 * i + 1, real, VOCAB),
        generated: tokens(3 * i + 2, generated, VOCAB),
        ref_real: -500.0,
        ref_generated: -900.0,
        rewards: None,
        place: format!("bench:{i}"),
    };
    (0..n as u64).map(pair).collect()
}

/// An embedding, `layers` blocks of one function, and a head: the smallest model around an op.
pub struct Probe<F> {
    /// Size of the vocabulary.
    pub vocab: usize,
    /// Features of the embedding.
    pub width: usize,
    /// How often the block is applied.
    pub layers: usize,
    /// The block.
    pub block: F,
}

impl<F: Fn(&mut dyn Backend, Id) -> OpResult + Send + Sync> Architecture for Probe<F> {
    fn name(&self) -> &str {
        "probe"
    }
    fn layers(&self) -> usize {
        self.layers
    }
    fn embed(&self, ops: &mut dyn Backend, ids: Id) -> OpResult {
        ops.embed("embed", ids, self.vocab, self.width)
    }
    fn block(&self, ops: &mut dyn Backend, _: usize, x: Id) -> OpResult {
        (self.block)(ops, x)
    }
    fn head(&self, ops: &mut dyn Backend, x: Id) -> OpResult {
        ops.linear("head", x, self.vocab, false)
    }
}

impl<F: Fn(&mut dyn Backend, Id) -> OpResult + Send + Sync + 'static> Probe<F> {
    /// The model with random weights.
    pub fn base(self) -> Arc<Base> {
        let source = Source::Random {
            config: json!({}),
            seed: 2,
        };
        let checkpoint = open(source, &[]).unwrap();
        let base = checkpoint.load(Arc::new(self), &LoadOptions::default(), &mut |_, _| ());
        Arc::new(base.unwrap())
    }
}

/// One sequence of `n` rows, every one of which predicts a token.
pub fn sequence(n: usize, vocab: usize) -> Packed {
    let mut plan = Packed::default();
    plan.push(&tokens(1, 1, vocab), &[&tokens(2, n, vocab)]);
    plan
}
