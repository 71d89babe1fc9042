//! Files of weights beside each other, and keys that are there without a value. Right values:
//! transformers 5.24.0, as in files.rs, or (where that fails) the rule that docs/formats.md states.

use std::fs;

use serde_json::{Value, json};

use super::files::{PLAIN, computed, near, plain};
use super::program::World;
use super::seeded::{refused, scored};

/// `model.safetensors` counts, whatever lies beside it, as in transformers.
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
