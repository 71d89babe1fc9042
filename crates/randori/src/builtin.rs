//! What the binary carries: the demo's recipe (configs/demo.toml), data, tokenizer, configuration
//! and weights (configs/demo, made by configs/demo/make.sh), so that the demo needs nothing but the
//! binary.

use crate::request::Split;

const RECIPE: &str = include_str!("../../../configs/demo.toml");
const TRAIN: &[u8] = include_bytes!("../../../configs/demo/train.jsonl");
const VALIDATION: &[u8] = include_bytes!("../../../configs/demo/validation.jsonl");
const HELD_OUT: &[u8] = include_bytes!("../../../configs/demo/held_out.jsonl");
const CONFIG: &[u8] = include_bytes!("../../../configs/demo/model/config.json");
const TOKENIZER: &[u8] = include_bytes!("../../../configs/demo/model/tokenizer.json");
const TOKENIZER_CONFIG: &[u8] = include_bytes!("../../../configs/demo/model/tokenizer_config.json");
#[cfg(demo_weights)]
const WEIGHTS: &[u8] = include_bytes!("../../../configs/demo/model/model.safetensors");

/// A built-in recipe.
pub fn recipe(name: &str) -> Option<&'static str> {
    (name == "demo").then_some(RECIPE)
}

/// Name and bytes of a built-in data set's split.
pub fn data(name: &str, split: Split) -> Option<(&'static str, &'static [u8])> {
    (name == "demo").then_some(match split {
        Split::Train => ("builtin:demo/train.jsonl", TRAIN),
        Split::Validation => ("builtin:demo/validation.jsonl", VALIDATION),
        Split::HeldOut => ("builtin:demo/held_out.jsonl", HELD_OUT),
    })
}

/// A built-in model.
pub struct Model {
    /// `config.json`
    pub config: &'static [u8],
    /// `tokenizer.json`
    pub tokenizer: &'static [u8],
    /// `tokenizer_config.json`
    pub tokenizer_config: &'static [u8],
    /// safetensors
    pub weights: &'static [u8],
}

/// A built-in model by name.
#[cfg(demo_weights)]
pub fn model(name: &str) -> Option<Model> {
    (name == "demo").then_some(Model {
        config: CONFIG,
        tokenizer: TOKENIZER,
        tokenizer_config: TOKENIZER_CONFIG,
        weights: WEIGHTS,
    })
}

/// Built before configs/demo/model/model.safetensors was made.
#[cfg(not(demo_weights))]
pub fn model(_name: &str) -> Option<Model> {
    let _ = (CONFIG, TOKENIZER, TOKENIZER_CONFIG);
    None
}

/// Tells one built-in data set from another version's.
pub fn data_digest(name: &str) -> String {
    let splits = [Split::Train, Split::Validation, Split::HeldOut];
    randori_store::hash_bytes(
        splits
            .into_iter()
            .filter_map(|split| data(name, split))
            .map(|d| d.1),
    )
}

/// Tells one built-in model from another version's.
pub fn model_digest(name: &str) -> String {
    randori_store::hash_bytes(
        model(name)
            .into_iter()
            .flat_map(|m| [m.config, m.tokenizer, m.tokenizer_config, m.weights]),
    )
}

/// There is no such built-in.
pub fn unknown(name: &str) -> anyhow::Error {
    anyhow::anyhow!("{name} is not built in; there is only builtin:demo")
}
