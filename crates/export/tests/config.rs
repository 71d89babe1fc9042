//! The configuration of an exported model in transformers' v4 and v5 spellings.

use randori_engine::weights::Dtype;
use randori_export::config_json;
use randori_sdk::Dialect;
use serde_json::{Value, json};

#[test]
fn both_spellings_of_the_config() {
    let v4 = json!({"model_type": "llama", "rope_theta": 5e5, "torch_dtype": "float32", "quantization_config": {},
        "rope_scaling": {"type": "linear", "factor": 2.0}});
    let v5 = json!({"model_type": "llama", "dtype": "float32",
        "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}});
    for config in [v4, v5] {
        let c = config_json(&config, &Dialect::NONE, Dtype::Bf16).unwrap();
        assert_eq!(
            (&c["torch_dtype"], &c["dtype"]),
            (&json!("bfloat16"), &json!("bfloat16"))
        );
        assert_eq!(c["rope_theta"], json!(5e5));
        assert_eq!(
            c["rope_scaling"],
            json!({"rope_type": "linear", "factor": 2.0})
        );
        assert_eq!(
            c["rope_parameters"],
            json!({"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5})
        );
        assert_eq!(c["architectures"], json!(["LlamaForCausalLM"]));
        assert!(c.get("quantization_config").is_none());
    }
    let plain = config_json(
        &json!({"model_type": "mistral", "rope_theta": 1e4}),
        &Dialect {
            class: "Odd",
            ..Dialect::NONE
        },
        Dtype::F32,
    )
    .unwrap();
    assert_eq!(plain["rope_scaling"], Value::Null);
    assert_eq!(plain["architectures"], json!(["Odd"]));
    assert_eq!(
        plain["rope_parameters"],
        json!({"rope_type": "default", "rope_theta": 1e4})
    );
    assert!(config_json(&json!({}), &Dialect::NONE, Dtype::F32).is_err());
}

/// A flat section beside them would be read in place of what they say, or be an error.
#[test]
fn rotary_keys_that_only_one_spelling_has_stay_alone() {
    let layered = json!({"model_type": "gemma3_text", "rope_theta": 1e6, "rope_local_base_freq": 1e4,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0}});
    let unsaid = json!({"model_type": "ministral3", "rope_scaling": null});
    for config in [layered, unsaid] {
        let c = config_json(&config, &Dialect::NONE, Dtype::F32).unwrap();
        assert!(c.get("rope_parameters").is_none(), "{c}");
        for key in ["rope_theta", "rope_scaling"] {
            assert_eq!(c.get(key), config.get(key), "{key}");
        }
    }
}

/// OLMo 3's v4 folders: transformers 5.24 has a section for each kind of layers; v4's keys reach
/// those that see everything (`AutoConfig` of what is written here reads the same two sections as
/// that of the folder itself; with one section for all it fails).
#[test]
fn v4_keys_of_a_family_with_two_rotary_sections_are_one_of_them() {
    let dialect = Dialect {
        defaults: r#"{"rope_parameters": {"sliding_attention": {"rope_theta": 500000.0}}}"#,
        ..Dialect::NONE
    };
    let yarn = json!({"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64});
    let windowed = json!({"rope_type": "default", "rope_theta": 500_000.0});
    for (scaling, full) in [
        (
            yarn.clone(),
            json!({"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64,
                "rope_theta": 5e4}),
        ),
        (
            Value::Null,
            json!({"rope_type": "default", "rope_theta": 5e4}),
        ),
    ] {
        let config = json!({"model_type": "olmo3", "rope_theta": 5e4, "rope_scaling": scaling});
        let c = config_json(&config, &dialect, Dtype::F32).unwrap();
        let wanted = json!({"full_attention": full, "sliding_attention": windowed});
        assert_eq!(c["rope_parameters"], wanted);
        assert_eq!(
            (&c["rope_theta"], &c["rope_scaling"]),
            (&json!(5e4), &scaling)
        );
    }
    // nothing said stays nothing, and sections that are there stay
    let silent = config_json(&json!({"model_type": "olmo3"}), &dialect, Dtype::F32).unwrap();
    assert!(silent.get("rope_parameters").is_none());
    let nested = json!({"full_attention": yarn, "sliding_attention": windowed});
    let config = json!({"model_type": "olmo3", "rope_parameters": nested});
    let c = config_json(&config, &dialect, Dtype::F32).unwrap();
    assert_eq!(c["rope_parameters"], nested);
}
