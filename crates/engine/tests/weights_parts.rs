//! Folders of models of several parts: the text part is found by its family's dialect, and what
//! nobody reads is left out.

use std::sync::Arc;

use candle_core::DType;
use randori_engine::weights::{Checkpoint, LoadOptions, Source, open};
use randori_sdk::{
    Dialect,
    dialect::Prefix,
    seam::{Architecture, Backend, Family, Id, OpResult},
};
use serde_json::{Value, json};

use crate::model::{self, config, tensors, weight};

const DIALECT: Dialect = Dialect {
    wholes: &["sighted"],
    prefixes: &[
        Prefix::new("talk.model.", "model."),
        Prefix::new("talk.lm_head.", "lm_head."),
    ],
    ignored: &["tower.*", "model.layers.*.spare"],
    ..model::DIALECT
};

/// The small model's architecture with this dialect.
struct Sighted;

impl Architecture for Sighted {
    fn name(&self) -> &str {
        "llama"
    }
    fn dialect(&self) -> Dialect {
        DIALECT
    }
    fn layers(&self) -> usize {
        model::LAYERS
    }
    fn embed(&self, _: &mut dyn Backend, _: Id) -> OpResult {
        Err("not run".into())
    }
    fn block(&self, _: &mut dyn Backend, _: usize, _: Id) -> OpResult {
        Err("not run".into())
    }
    fn head(&self, _: &mut dyn Backend, _: Id) -> OpResult {
        Err("not run".into())
    }
}

/// The small model as the text part of one that sees.
fn whole() -> Value {
    let mut text = config();
    let text_keys = text.as_object_mut().unwrap();
    for key in ["model_type", "tie_word_embeddings", "architectures"] {
        text_keys.remove(key);
    }
    json!({"model_type": "sighted", "architectures": ["SightedForAll"], "tie_word_embeddings": true,
        "eos_token_id": 7, "vision_config": {"hidden_size": 3}, "text_config": text})
}

/// Its tensors, and the others that its checkpoint carries.
fn stored(more: &[&str]) -> model::Tensors {
    let all = tensors().into_iter();
    let mut all: model::Tensors = all
        .map(|(name, t)| (name.replacen("model.", "talk.model.", 1), t))
        .collect();
    let norm = tensors()["model.norm.weight"].clone();
    all.extend(more.iter().map(|name| (name.to_string(), norm.clone())));
    all
}

fn opened(config: Value, tensors: &model::Tensors) -> randori_engine::Result<Checkpoint> {
    let source = Source::Memory {
        config,
        tensors: model::safetensors_bytes(tensors, DType::F32),
    };
    open(source, &[Family::new("llama", DIALECT)])
}

#[test]
fn the_text_part_is_the_model() {
    let unread = [
        "tower.blocks.0.weight",
        "talk.model.layers.1.spare",
        "model.layers.0.self_attn.rotary_emb.inv_freq",
    ];
    let checkpoint = opened(whole(), &stored(&unread)).unwrap();
    let read = checkpoint.config();
    for (key, value) in config().as_object().unwrap() {
        assert_eq!(&read[key], value, "{key}");
    }
    assert_eq!(read["architectures"], json!(["LlamaForCausalLM"]));
    assert_eq!(
        (&read["eos_token_id"], &read["vision_config"]),
        (&json!(7), &Value::Null)
    );
    let notes = checkpoint.notes().join(" ");
    assert!(notes.contains("its text part (llama) is played"), "{notes}");
    let options = LoadOptions::default();
    let base = checkpoint
        .load_traced(Arc::new(Sighted), &model::trace(), &options, &mut |_, _| {})
        .unwrap();
    for (name, t) in tensors() {
        assert_eq!(weight(&base, &name), model::values(&t), "{name}");
    }
}

#[test]
fn what_no_dialect_knows_is_refused_by_name() {
    let options = LoadOptions::default();
    for stray in [
        "towers.weight",
        "talk.model.layers.1.spares",
        "talk.head.weight",
    ] {
        let checkpoint = opened(whole(), &stored(&[stray])).unwrap();
        let trace = model::trace();
        let loaded = checkpoint.load_traced(Arc::new(Sighted), &trace, &options, &mut |_, _| {});
        let e = loaded.err().unwrap().to_string();
        let name = stray.replacen("talk.model.", "model.", 1);
        assert!(e.contains(&format!("the file has {name}, which")), "{e}");
    }
    // two names of one tensor
    let e = opened(whole(), &stored(&["model.norm.weight"]))
        .err()
        .unwrap();
    assert!(
        e.to_string()
            .contains("two tensors that are model.norm.weight"),
        "{e}"
    );
    // another family's text, or a whole of another kind
    for (key, value, words) in [
        (
            "text_config",
            json!({"model_type": "other"}),
            "has text_config: a model of several",
        ),
        (
            "model_type",
            json!("hearing"),
            "has text_config: a model of several",
        ),
    ] {
        let mut config = whole();
        config[key] = value;
        let e = opened(config, &stored(&[])).err().unwrap().to_string();
        assert!(e.contains(words), "{e}");
    }
}
