//! Several files of weights in one folder, and configuration keys with the value null. Expected
//! values: transformers 5.24.0, as in files.rs, or (where that fails) the rule in
//! docs/reference/models.md.

use std::fs;

use serde_json::{Value, json};

use super::files::{PLAIN, computed, near, plain};
use super::seeded::{refused, scored};
use crate::program::World;

/// `model.safetensors` takes precedence over all other weight files, as in transformers.
#[test]
fn the_whole_file_goes_before_shards_and_pickles() {
    let w = World::new();
    let dir = plain().write(&w, "model");
    let index = |map: Value| {
        let text = json!({"metadata": {"total_size": 0}, "weight_map": map}).to_string();
        fs::write(dir.join("model.safetensors.index.json"), text).unwrap();
    };
    index(json!({"lm_head.weight": "gone.safetensors"}));
    fs::write(dir.join("pytorch_model.bin"), b"other weights").unwrap();
    let (got, said) = scored(&w, "model");
    near("whole", got, PLAIN);
    assert!(!said.contains("note:"), "{said}");
    // without it the index counts, and what it says of its shards must be so; transformers makes
    // random weights up where it is not
    fs::rename(dir.join("model.safetensors"), dir.join("a.safetensors")).unwrap();
    let names = plain().tensors.into_keys();
    let mut map: Value = names.map(|name| (name, json!("a.safetensors"))).collect();
    index(map.clone());
    near("shards", scored(&w, "model").0, PLAIN);
    let stray = plain().tensors["model.norm.weight"].clone();
    let other = std::collections::HashMap::from([("stray.weight".to_string(), stray)]);
    candle_core::safetensors::save(&other, dir.join("b.safetensors")).unwrap();
    map["lm_head.weight"] = json!("b.safetensors");
    index(map);
    refused(&w, "model", "lm_head.weight is in b.safetensors; it is not");
    // only pickles
    fs::remove_file(dir.join("model.safetensors.index.json")).unwrap();
    refused(
        &w,
        "model",
        "pickled weights (pytorch_model.bin) are not read",
    );
}

/// An adapter beside the weights, which transformers' `AutoModelForCausalLM` would apply, whatever
/// base it names.
#[test]
fn an_adapter_beside_the_weights_is_refused_by_name() {
    let w = World::new();
    let dir = plain().write(&w, "model");
    near("alone", scored(&w, "model").0, PLAIN);
    let config = json!({"peft_type": "LORA", "base_model_name_or_path": "another"});
    fs::write(dir.join("adapter_config.json"), config.to_string()).unwrap();
    let why = "model/adapter_config.json: an adapter beside the model";
    refused(&w, "model", why);
    let line = w.refused(
        &["fit", "m.toml", "-q", "--set", "data.train=data.jsonl"],
        why,
    );
    assert!(line.contains("adapter.init"), "{line}");
    // of the configuration alone too
    fs::remove_file(dir.join("model.safetensors")).unwrap();
    w.refused(
        &["fit", "m.toml", "-q", "--set", "data.train=data.jsonl"],
        why,
    );
    // what only lies there plays no part
    let dir = plain().write(&w, "other");
    fs::write(dir.join("adapter_model.safetensors"), b"no weights").unwrap();
    near("without a configuration", scored(&w, "other").0, PLAIN);
}

/// Keys that transformers follows in every class: bidirectional attention, another file, or an
/// error.
#[test]
fn keys_that_every_class_obeys_are_refused() {
    let w = World::new();
    for (keys, words) in [
        (
            json!({"is_causal": false}),
            "is_causal is false: only what reads from left to right",
        ),
        (json!({"is_causal": 0}), "is_causal is 0: only"),
        (
            json!({"transformers_weights": "other.safetensors"}),
            "transformers_weights is \"other.safetensors\": transformers reads the weights there",
        ),
        (
            json!({"transformers_weights": ["a"]}),
            "transformers_weights is [\"a\"]: ",
        ),
        (
            json!({"per_layer_config": {"0": {"rms_norm_eps": 0.5}}}),
            "has per_layer_config: layers whose settings differ",
        ),
        (
            json!({"text_config": {"rms_norm_eps": 0.5}}),
            "has text_config: a model of several parts",
        ),
        (
            json!({"decoder": {}}),
            "has decoder: a model of several parts",
        ),
        (
            json!({"generator": {}}),
            "has generator: a model of several parts",
        ),
        (
            json!({"quantization_config": {}}),
            "quantization_config is {}: it names no quant_method",
        ),
        (
            json!({"quantization_config": {"quant_method": null, "load_in_4bit": false}}),
            "it names no quant_method",
        ),
        (
            json!({"quantization_config": []}),
            "quantization_config is []: it names no",
        ),
    ] {
        plain().with(keys).write(&w, "model");
        refused(&w, "model", words);
    }
}

/// Numbers that Python's JSON reader accepts (NaN, infinities) and no setting can have.
#[test]
fn numbers_that_json_does_not_have_are_refused() {
    let w = World::new();
    let text = plain().config.to_string();
    for not_json in ["NaN", "Infinity", "-Infinity", "1e999"] {
        let dir = plain().write(&w, "model");
        let text = text.replacen('{', &format!("{{\"x\": {not_json}, "), 1);
        fs::write(dir.join("config.json"), text).unwrap();
        refused(&w, "model", "config.json: not JSON");
    }
}

/// The same keys with values that change nothing, and keys that these classes ignore.
#[test]
fn keys_that_change_nothing_are_passed_over() {
    computed(vec![
        ("causal", plain().with(json!({"is_causal": true})), PLAIN),
        (
            "absent by null",
            plain().with(json!({"is_causal": null, "transformers_weights": null,
                "text_config": null, "quantization_config": null, "per_layer_config": null})),
            PLAIN,
        ),
        (
            "the usual file, no layer",
            plain()
                .with(json!({"transformers_weights": "model.safetensors", "per_layer_config": {}})),
            PLAIN,
        ),
        (
            "what other classes read",
            plain().with(
                json!({"is_decoder": false, "text_encoder": {"rms_norm_eps": 0.5},
                "attn_logit_softcapping": 1.0, "use_qk_norm": true, "attention_chunk_size": 4}),
            ),
            PLAIN,
        ),
        (
            "a size written as a float", // an error in transformers 5
            plain().with(json!({"hidden_size": 32.0, "num_hidden_layers": 2.0})),
            PLAIN,
        ),
    ]);
}
