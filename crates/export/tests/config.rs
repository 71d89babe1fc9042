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
