use randori_plugin_mistral::Mistral;
use randori_plugin_qwen2::Qwen2;
use randori_plugin_qwen3::Qwen3;
use randori_sdk::{
    DenseFamily, Dialect,
    dialect::{Form, Implied, Is, Key, Renamed},
};
use serde_json::json;

use super::*;
use crate::{ByteSource, gguf::header::Header};

/// The family of a configuration.
fn family(config: &Value) -> Family {
    let name = config["model_type"].as_str().unwrap_or_default();
    let dialect = match name {
        "mistral" => Mistral::DIALECT,
        "qwen2" => Qwen2::DIALECT,
        "qwen3" => Qwen3::DIALECT,
        "llama" => of(Gguf::LLAMA),
        _ => Dialect::NONE,
    };
    Family::new(name, dialect)
}

fn of(gguf: Gguf) -> Dialect {
    Dialect {
        gguf: Some(gguf),
        ..Dialect::NONE
    }
}

fn model(config: &Value) -> Result<Model> {
    Model::new(config, &family(config))
}

fn config() -> Value {
    json!({"model_type": "mistral", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 100,
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "sliding_window": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}})
}

fn with(key: &str, value: Value) -> Result<Model> {
    let mut config = config();
    config[key] = value;
    model(&config)
}

#[test]
fn a_window_shortens_the_context_and_says_so() {
    let Ok(model) = model(&config()) else {
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
fn what_llama_cpp_cannot_compute_is_refused() {
    for (key, value, words) in [
        ("model_type", json!("gemma2"), "\"gemma2\""),
        ("hidden_act", json!("gelu"), "gelu"),
        ("head_dim", json!(-4), "head_dim"),
        ("num_hidden_layers", Value::Null, "num_hidden_layers"),
        (
            "rope_parameters",
            json!({"rope_type": "dynamic", "factor": 4.0}),
            "dynamic",
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
    let tensors = model.rope_tensors();
    let [(_, ours)] = &tensors[..] else { panic!() };
    assert_eq!(ours.len(), 16);
    for (a, b) in ours.iter().zip(theirs) {
        assert!((a - b).abs() < 1e-5, "{ours:?}");
    }
}

/// The configuration that is read from the keys of `given`.
fn again(given: &Value) -> Value {
    again_as(given, &family(given))
}

/// The same of a configuration of this family.
fn again_as(given: &Value, family: &Family) -> Value {
    let Ok(model) = Model::new(given, family) else {
        panic!("{given}")
    };
    let kind = gguf::Kind::Dense(crate::Dtype::F32);
    let embedding = gguf::TensorSpec::new("token_embd.weight", &[100, model.width], kind);
    let mut keys = model.keys(100);
    let architecture = model.gguf.architecture.into();
    keys.push((
        "general.architecture".into(),
        gguf::Value::Text(architecture),
    ));
    let Ok(mut bytes) = gguf::header::write(&keys, std::slice::from_ref(&embedding)) else {
        panic!()
    };
    bytes.resize(bytes.len() + embedding.bytes() as usize, 0);
    let source = ByteSource::memory("x.gguf", bytes);
    let Ok(header) = Header::read(&source) else {
        panic!()
    };
    let families = std::slice::from_ref(family);
    let read = Spoken::of_file(&header, families)
        .and_then(|spoken| super::read(&header, std::slice::from_ref(&source), &spoken));
    match read {
        Ok(read) => read,
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn a_configuration_is_read_as_it_was_written() {
    for (family, kv, width, head_dim) in [
        ("llama", 4, 64, 32),
        ("llama", 1, 128, 32),
        ("qwen2", 2, 64, 16),
        ("qwen3", 2, 64, 32),
    ] {
        let mut given = config();
        (given["model_type"], given["sliding_window"]) = (json!(family), Value::Null);
        (given["num_key_value_heads"], given["hidden_size"]) = (json!(kv), json!(width));
        given["head_dim"] = json!(head_dim);
        let read = again(&given);
        for (key, value) in given.as_object().into_iter().flatten() {
            if !value.is_null() {
                assert_eq!(&read[key], value, "{key}");
            }
        }
        assert_eq!(read["tie_word_embeddings"], true);
    }
}

#[test]
fn qwen_s_windows_count_where_they_are_in_use() {
    let context = |more: &[(&str, Value)]| {
        let mut given = config();
        (given["model_type"], given["head_dim"]) = (json!("qwen2"), json!(16));
        for (key, value) in more {
            given[*key] = value.clone();
        }
        again(&given)["max_position_embeddings"].as_u64()
    };
    let used = ("use_sliding_window", json!(true));
    let from = |layer: usize| ("max_window_layers", json!(layer));
    assert_eq!(context(&[]), Some(8192));
    assert_eq!(context(std::slice::from_ref(&used)), Some(8192)); // from layer 28 on, of 2
    assert_eq!(context(&[used.clone(), from(2)]), Some(8192));
    assert_eq!(context(&[used.clone(), from(1)]), Some(4096));
    let kinds = |kind: &str| ("layer_types", json!(["full_attention", kind]));
    let each = [used.clone(), from(2), kinds("sliding_attention")];
    assert_eq!(context(&each), Some(4096));
    assert_eq!(
        context(&[used, from(1), kinds("full_attention")]),
        Some(8192)
    );
}

/// transformers 5.24 (modeling_qwen3_moe.py) takes one mask for all layers, and the configuration's
/// class has neither `max_window_layers` nor `layer_types`, though folders have the first.
#[test]
fn a_window_of_a_class_without_max_window_layers_is_in_all_layers() {
    let within = |dialect: Dialect, more: &[&(&str, Value)]| {
        let mut given = config();
        for (key, value) in more {
            given[*key] = value.clone();
        }
        let family = Family::new("qwen3_moe", dialect);
        let Ok(spoken) = Spoken::of(&family) else {
            panic!()
        };
        spoken.within(Some(4096), &given)
    };
    let mixture = Dialect {
        defaults: r#"{"sliding_window": 4096}"#,
        ..Qwen3::DIALECT
    };
    let (used, from) = (
        ("use_sliding_window", json!(true)),
        ("max_window_layers", json!(28)),
    );
    let kinds = ("layer_types", json!(["full_attention", "full_attention"]));
    assert_eq!(within(mixture, &[&from]), None);
    assert_eq!(within(mixture, &[&used]), Some(4096));
    assert_eq!(within(mixture, &[&used, &from]), Some(4096));
    assert_eq!(within(mixture, &[&used, &kinds]), Some(4096));
    // which a dense model's class has
    assert_eq!(within(Qwen3::DIALECT, &[&used, &from]), None);
}

#[test]
fn what_qwen_s_architectures_cannot_say_is_refused() {
    let refused = |family: &str, head_dim: usize, rope: Value, words: &str| {
        let mut given = config();
        (given["model_type"], given["head_dim"]) = (json!(family), json!(head_dim));
        given["rope_parameters"] = rope;
        let Err(e) = model(&given) else {
            panic!("{words}")
        };
        assert!(e.to_string().contains(words), "{e}");
    };
    let plain = json!({"rope_type": "default", "rope_theta": 1e6});
    // llama.cpp b11549 wants as many rows of q as the model is wide
    refused(
        "qwen2",
        32,
        plain,
        "GGUF's qwen2 has heads of width / heads",
    );
    let list = vec![1.5; 16];
    let divided = json!({"rope_type": "longrope", "short_factor": list, "long_factor": list,
        "attention_factor": 1.0});
    refused("qwen3", 32, divided, "which GGUF's qwen3 cannot say");
}

/// A family that differs from Llama wherever it can.
const ODD: Gguf = Gguf {
    architecture: "odd",
    partial_rotary: true,
    renamed: &[Renamed::new("rms_norm_eps", "norm_eps")],
    keys: &[
        Key::real("attention.scale", &["attention_multiplier"]),
        Key::whole("expert_count", &["num_local_experts", "num_experts"]).required(),
        Key::whole("attention.sliding_window", &["sliding_window"]),
        Key::whole("attention.sliding_window_pattern", &["layer_types"]).of(Form::Slides),
        Key::real("rope.freq_base_swa", &["rope_local_base_freq"]),
        Key {
            factor: 4.0,
            reciprocal: true,
            ..Key::real("logit_scale", &["logits_scaling"])
        },
    ],
    implied: &[
        Implied::json("hidden_act", &["\"gelu\"", "\"gelu_new\""]),
        Implied::number("scalar", Is::WidthPerHead).with_layers(46),
        Implied::number("scalar", Is::HeadDim),
        Implied::cycle("kinds", &["a", "b", "c"]),
        Implied::json("silent", &["1"]).unsaid(),
    ],
    ..Gguf::LLAMA
};

fn odd() -> (Value, Family) {
    let kinds = ["sliding_attention", "full_attention"];
    let config = json!({"model_type": "odd", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 100,
        "max_position_embeddings": 8192, "norm_eps": 1e-5, "sliding_window": 16, "hidden_act": "gelu",
        "partial_rotary_factor": 0.5, "attention_multiplier": 0.0625, "num_local_experts": 8, "layer_types": kinds,
        "rope_local_base_freq": 1e4, "logits_scaling": 8.0, "rope_theta": 1e6});
    (config, Family::new("odd", of(ODD)))
}

#[test]
fn what_a_dialect_says_is_read_as_it_was_written() {
    let (config, family) = odd();
    let Ok(model) = Model::new(&config, &family) else {
        panic!()
    };
    let keys = model.keys(100);
    for (key, value) in [
        ("rope.dimension_count", gguf::Value::Int(16)),
        ("attention.scale", gguf::Value::Float(0.0625)),
        ("expert_count", gguf::Value::Int(8)),
        ("logit_scale", gguf::Value::Float(0.5)),
        (
            "attention.sliding_window_pattern",
            gguf::Value::Bools(vec![true, false]),
        ),
    ] {
        let wanted = (format!("odd.{key}"), value);
        assert!(keys.contains(&wanted), "{wanted:?} in {keys:?}");
    }
    assert!(model.notes.is_empty());
    let read = again_as(&config, &family);
    for (key, value) in config.as_object().into_iter().flatten() {
        assert_eq!(&read[key], value, "{key}");
    }
    assert_eq!(
        (&read["scalar"], &read["kinds"]),
        (&json!(32), &json!(["a", "b"]))
    );
    assert!(read.get("silent").is_none() && read.get("rms_norm_eps").is_none());
    let bases = &read["rope_parameters"];
    assert_eq!(bases["full_attention"]["rope_theta"], 1e6);
    assert_eq!(bases["sliding_attention"]["rope_theta"], 1e4);
}

#[test]
fn what_a_dialect_cannot_say_is_refused() {
    for (key, value, words) in [
        (
            "hidden_act",
            json!("silu"),
            "hidden_act of the model's configuration is \"silu\"; GGUF's odd means \"gelu\"",
        ),
        ("scalar", json!(16), "GGUF's odd means 32"),
        ("kinds", json!(["a", "c"]), "means [\"a\",\"b\"]"),
        ("silent", json!(2), "means 1"),
        (
            "num_local_experts",
            Value::Null,
            "has no num_local_experts or num_experts",
        ),
        (
            "attention_multiplier",
            json!("x"),
            "is \"x\", which GGUF's attention.scale cannot hold",
        ),
        ("partial_rotary_factor", json!(0.01), "cannot be rotated"),
    ] {
        let (mut config, family) = odd();
        config[key] = value;
        let Err(e) = Model::new(&config, &family) else {
            panic!("{key}")
        };
        assert!(e.to_string().contains(words), "{e}");
    }
    let (mut config, family) = odd();
    for (layers, scalar) in [(2, 32), (46, 16)] {
        (config["num_hidden_layers"], config["scalar"]) = (json!(layers), json!(scalar));
        config["layer_types"] = Value::Null;
        assert!(Model::new(&config, &family).is_ok(), "{layers}");
    }
}

#[test]
fn families_of_one_architecture_are_told_apart() {
    let llama = Family::new("llama", of(Gguf::LLAMA));
    let mistral = Family::new("mistral", Mistral::DIALECT);
    let told = Family::new(
        "told",
        of(Gguf {
            told_by: "expert_count",
            also: &["llama_too"],
            ..Gguf::LLAMA
        }),
    );
    let families = [mistral, told, llama];
    let name = |architecture: &str, experts: Option<i128>| {
        let text = gguf::Value::Text(architecture.into());
        let mut keys = vec![("general.architecture".to_string(), text)];
        let key = format!("{architecture}.expert_count");
        keys.extend(experts.map(|n| (key, gguf::Value::Int(n))));
        let bytes = gguf::header::write(&keys, &[]).map_err(|e| e.to_string())?;
        let source = ByteSource::memory("x", bytes);
        let header = Header::read(&source).map_err(|e| e.to_string())?;
        Spoken::of_file(&header, &families).map(|spoken| spoken.family.name.clone())
    };
    assert_eq!(name("llama", None).as_deref(), Ok("llama"));
    assert_eq!(name("llama", Some(0)).as_deref(), Ok("llama"));
    assert_eq!(name("llama", Some(8)).as_deref(), Ok("told"));
    assert_eq!(name("llama_too", Some(8)).as_deref(), Ok("told"));
    for none in [name("llama_too", None), name("gemma", None)] {
        let e = none.unwrap_or_default();
        assert_eq!(e, "", "no family");
    }
    let Err(e) = name("gemma", None) else {
        panic!()
    };
    let says = "the GGUF architecture gemma is not supported; those of the loaded plugins are: llama, llama (mistral), llama (told)";
    assert_eq!(e, says);
}
