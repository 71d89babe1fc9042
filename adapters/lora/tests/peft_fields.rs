//! Every field of peft 0.21.2's LoraConfig: honoured, without effect, or refused by name with its
//! value; and values of another type than expected.

use std::{collections::BTreeMap, fs, path::Path};

use candle_core::{DType, Device, Tensor};
use randori_lora::{LoraSpec, Projection, Targets, peft};
use serde_json::{Value, json};

/// `dataclasses.fields(LoraConfig)` of peft 0.21.2, sorted.
const FIELDS: [&str; 42] = [
    "alora_invocation_tokens",
    "alpha_pattern",
    "arrow_config",
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "kasa_config",
    "layer_replication",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_alpha",
    "lora_bias",
    "lora_dropout",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "modules_to_save",
    "monteclora_config",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "target_parameters",
    "task_type",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
    "use_rslora",
    "velora_config",
];

const Q: &str = "model.layers.1.self_attn.q_proj";

/// An adapter of rank 2 on two projections in a folder, its settings changed.
fn with(changes: &[(&str, Value)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let spec = LoraSpec {
        rank: 2,
        alpha: 6.0,
        targets: Targets::Names(vec!["q_proj".into()]),
        ..LoraSpec::default()
    };
    let mut params = BTreeMap::new();
    let (a, b) = spec.init(&Projection::new(Q, 4, 3), 1).unwrap();
    params.insert(format!("{Q}.lora_A"), a);
    params.insert(format!("{Q}.lora_B"), b);
    peft::save(dir.path(), &spec, &params, "base").unwrap();
    let path = dir.path().join(peft::CONFIG);
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (key, value) in changes {
        config[*key] = value.clone();
    }
    fs::write(path, config.to_string()).unwrap();
    dir
}

fn read(changes: &[(&str, Value)]) -> LoraSpec {
    peft::load(with(changes).path()).unwrap().0
}

#[track_caller]
fn refused(key: &str, value: Value) {
    let dir = with(&[(key, value.clone())]);
    let e = peft::load(dir.path()).unwrap_err().to_string();
    let spelt = value.to_string();
    let words = [peft::CONFIG, key, spelt.as_str()];
    assert!(words.iter().all(|w| e.contains(w)), "{key} {value}: {e}");
}

/// The table of docs/reference/adapters.md has a row for each field, and each row a field.
#[test]
fn the_documents_say_what_becomes_of_every_field() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/adapters.md");
    let page = fs::read_to_string(page).unwrap();
    let table = page.split("| `LoraConfig` | here |").nth(1).unwrap();
    let rows = table.lines().skip(2).take_while(|l| l.starts_with("| `"));
    let mut found: Vec<&str> = rows
        .flat_map(|row| {
            let first = row.split(" | ").next().unwrap();
            first.split('`').skip(1).step_by(2)
        })
        .collect();
    found.sort_unstable();
    assert_eq!(found, FIELDS);
}

#[test]
fn what_we_do_not_compute_is_refused_with_its_value() {
    for (key, value) in [
        ("alora_invocation_tokens", json!([1, 2])),
        ("arrow_config", json!({"top_k": 3})),
        ("kasa_config", json!({"beta": 0.1})),
        ("layer_replication", json!([[0, 2], [1, 3]])),
        ("lora_bias", json!(true)),
        ("megatron_config", json!({"tensor_model_parallel_size": 1})),
        ("monteclora_config", json!({"num_samples": 4})),
        (
            "target_parameters",
            json!(["mlp.experts.gate_up_proj_bias"]),
        ),
        ("trainable_token_indices", json!([5])),
        ("trainable_token_indices", json!({"embed_tokens": [5]})),
        ("use_bdlora", json!({"nblocks": 2})),
        ("use_bdlora", json!(true)),
        ("use_qalora", json!(true)),
        ("velora_config", json!({"num_groups": 4})),
        ("peft_type", json!("IA3")),
        ("peft_type", json!("ADALORA")),
        ("peft_type", Value::Null),
        ("peft_type", json!(1)),
        ("bias", json!("some")),
        ("bias", json!(true)),
        ("init_lora_weights", json!("pissa_niter_4")),
        ("init_lora_weights", json!("olora")),
        ("init_lora_weights", json!("corda")),
        ("init_lora_weights", json!("lora_ga")),
        ("init_lora_weights", json!("loftq")),
        ("init_lora_weights", json!("other")),
        ("init_lora_weights", json!(1)),
    ] {
        refused(key, value);
    }
    let tied = [
        ("ensure_weight_tying", json!(true)),
        ("modules_to_save", json!(["embed_tokens"])),
    ];
    let e = peft::load(with(&tied).path()).unwrap_err().to_string();
    assert!(e.contains("ensure_weight_tying is true"), "{e}");
}

/// Fields that change nothing of what a stored adapter computes.
#[test]
fn what_has_no_effect_is_taken() {
    let plain = read(&[]);
    for (key, value) in [
        (
            "auto_mapping",
            json!({"base_model_class": "LlamaForCausalLM"}),
        ),
        ("base_model_name_or_path", Value::Null),
        ("bias", json!("all")), // where there is no bias
        ("corda_config", json!({"corda_method": "ipm"})),
        ("ensure_weight_tying", json!(true)),
        ("eva_config", json!({"rho": 2.0})),
        ("fan_in_fan_out", json!(true)),
        ("inference_mode", json!(false)),
        ("init_lora_weights", json!("gaussian")),
        ("init_lora_weights", json!("eva")),
        ("init_lora_weights", json!("orthogonal")),
        ("init_lora_weights", json!("mica")),
        ("init_lora_weights", json!(false)),
        ("init_lora_weights", Value::Null),
        ("loftq_config", json!({})),
        ("lora_ga_config", json!({"scale": "stable"})),
        ("megatron_core", json!("megatron.core")),
        ("peft_version", json!("0.99.0")),
        ("qalora_group_size", json!(16)),
        ("revision", json!("main")),
        ("runtime_config", json!({"ephemeral_gpu_offload": true})),
        ("task_type", json!("SEQ_2_SEQ_LM")),
        ("layer_replication", json!([])),
        ("use_bdlora", json!(false)),
        ("from_another_program", json!(1)), // PEFT warns and goes on
    ] {
        assert_eq!(read(&[(key, value)]), plain, "{key}");
    }
}

#[test]
fn what_decides_is_read() {
    let spec = read(&[
        ("use_rslora", json!(true)),
        ("lora_dropout", json!(0.25)),
        ("alpha_pattern", json!({"q_proj": 3})),
        ("exclude_modules", json!(["up_proj"])),
    ]);
    assert!(spec.rslora && spec.dropout == 0.25 && spec.exclude.is_some());
    assert!((spec.scale_of(Q) - 3.0 / 2f64.sqrt()).abs() < 1e-12);
    for value in [json!([1]), json!(1), json!("1")] {
        let spec = read(&[
            ("layers_to_transform", value),
            ("layers_pattern", json!("layers")),
        ]);
        assert_eq!(spec.targets, Targets::Names(vec![Q.into()]));
    }
    let spec = read(&[("layers_to_transform", json!([]))]);
    assert_eq!(spec.targets, Targets::Names(vec!["q_proj".into()]));
    // PEFT's own default
    let dir = with(&[]);
    let path = dir.path().join(peft::CONFIG);
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config.as_object_mut().unwrap().remove("lora_alpha");
    fs::write(&path, config.to_string()).unwrap();
    assert_eq!(peft::load(dir.path()).unwrap().0.alpha, 8.0);
    config.as_object_mut().unwrap().remove("r");
    fs::write(&path, config.to_string()).unwrap();
    let e = peft::load(dir.path()).unwrap_err().to_string();
    assert!(e.contains("rank 8"), "{e}");
}

/// A value of another type is what people mean by it, or an error with file and key: never as if it
/// were not there.
#[test]
fn values_of_other_types() {
    for yes in [
        json!(true),
        json!(1),
        json!("true"),
        json!("True"),
        json!(1.0),
    ] {
        assert!(read(&[("use_rslora", yes.clone())]).rslora, "{yes}");
    }
    for no in [
        json!(false),
        json!(0),
        json!("false"),
        json!("False"),
        Value::Null,
    ] {
        assert!(!read(&[("use_rslora", no.clone())]).rslora, "{no}");
        read(&[("lora_bias", no.clone()), ("use_qalora", no)]);
    }
    for key in [
        "use_rslora",
        "use_dora",
        "lora_bias",
        "use_qalora",
        "ensure_weight_tying",
    ] {
        for odd in [
            json!("yes, please"),
            json!(2),
            json!([true]),
            json!({"a": 1}),
        ] {
            refused(key, odd);
        }
    }
    assert_eq!(read(&[("r", json!(2.0))]).rank, 2);
    assert_eq!(read(&[("r", json!("2"))]).rank, 2);
    assert_eq!(read(&[("lora_alpha", json!("6"))]).alpha, 6.0);
    assert_eq!(
        read(&[("modules_to_save", json!([]))]).modules_to_save,
        Vec::<String>::new()
    );
    for (key, odd) in [
        ("r", json!(2.5)),
        ("r", json!("two")),
        ("r", json!([2])),
        ("lora_alpha", json!("big")),
        ("lora_alpha", json!(true)),
        ("lora_dropout", json!([0.1])),
        ("lora_dropout", json!("none")),
        ("rank_pattern", json!(["q_proj"])),
        ("alpha_pattern", json!(4)),
        ("target_modules", json!(4)),
        ("target_modules", json!([1])),
        ("exclude_modules", json!(true)),
        ("modules_to_save", json!({"lm_head": 1})),
        ("layers_to_transform", json!("all")),
    ] {
        refused(key, odd);
    }
    for key in ["rank_pattern", "alpha_pattern"] {
        let dir = with(&[(key, json!({"q_proj": "big"}))]);
        let e = peft::load(dir.path()).unwrap_err().to_string();
        assert!(
            e.contains(key) && e.contains("q_proj") && e.contains("big"),
            "{e}"
        );
    }
}

/// Updates of other kinds than a projection's are refused by the tensors too.
#[test]
fn tensors_of_other_kinds_are_refused_by_name() {
    for (name, why) in [
        ("embed_tokens.lora_embedding_A", "update of an embedding"),
        (
            "embed_tokens.token_adapter.trainable_tokens_delta",
            "rows of an embedding",
        ),
        ("layers.1.self_attn.q_proj.lora_B.bias", "lora_bias"),
        (
            "layers.1.self_attn.q_proj.lora_velora_embed",
            "does not fit",
        ),
    ] {
        let dir = with(&[]);
        let path = dir.path().join(peft::MODEL);
        let mut file = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
        let t = Tensor::zeros((2, 2), DType::F32, &Device::Cpu).unwrap();
        file.insert(format!("base_model.model.model.{name}"), t);
        candle_core::safetensors::save(&file, &path).unwrap();
        let e = peft::load(dir.path()).unwrap_err().to_string();
        assert!(e.contains(name) && e.contains(why), "{e}");
    }
}

/// The names that peft 0.21.2 writes by its defaults beside a resized vocabulary. In its files the
/// bare and the wrapped name agree; where they do not it loads the bare one, so do we.
#[test]
fn copies_of_resized_embeddings_are_taken_as_peft_loads_them() {
    let with_copies = |copies: &[(&str, f32)]| {
        let dir = with(&[("modules_to_save", json!(["lm_head"]))]);
        let path = dir.path().join(peft::MODEL);
        let mut file = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
        for (name, value) in copies {
            let t = Tensor::full(*value, (5, 4), &Device::Cpu).unwrap();
            file.insert(format!("base_model.model.{name}"), t);
        }
        candle_core::safetensors::save(&file, &path).unwrap();
        dir
    };
    let wrapped = ("lm_head.modules_to_save.weight", 1.0);
    let unused = ("lm_head.original_module.weight", 2.0);
    let bare = ("lm_head.weight", 3.0);
    let embedding = ("model.embed_tokens.weight", 4.0);
    for (copies, head) in [
        (vec![wrapped, unused, bare, embedding], 3.0),
        (vec![wrapped, unused, embedding], 1.0),
        (vec![unused, bare, embedding], 3.0),
    ] {
        let (_, params) = peft::load(with_copies(&copies).path()).unwrap();
        let value = |name: &str| {
            let flat = params[name].flatten_all().unwrap();
            flat.to_vec1::<f32>().unwrap()[0]
        };
        assert_eq!(value("lm_head.weight"), head, "{copies:?}");
        assert_eq!(value("model.embed_tokens.weight"), 4.0);
        assert!(!params.keys().any(|n| n.contains("original_module")));
    }
    for (copies, why) in [
        (
            vec![wrapped, ("lm_head.modules_to_save.default.weight", 1.0)],
            "two tensors for lm_head.weight",
        ),
        (
            vec![wrapped, bare, ("lm_head.base_layer.weight", 1.0)],
            "two tensors for lm_head.weight",
        ),
        (vec![unused], "has no tensor of lm_head"),
    ] {
        let e = peft::load(with_copies(&copies).path()).unwrap_err();
        assert!(e.to_string().contains(why), "{e}");
    }
}

/// What we write is found by PEFT's own rule (a name, or what follows a dot), and its order says
/// nothing.
#[test]
fn written_names_and_patterns_are_whole() {
    let names = [
        "model.layers.1.self_attn.q_proj",
        "model.layers.11.self_attn.q_proj",
    ];
    let spec = LoraSpec {
        rank: 4,
        alpha: 4.0,
        targets: Targets::Regex(r".*layers\.(1|11)\..*q_proj".into()),
        rank_pattern: vec![(r"layers\.1\..*".into(), 2), ("q_proj".into(), 3)],
        alpha_pattern: vec![("q_proj".into(), 9.0)],
        ..LoraSpec::default()
    };
    let mut params = BTreeMap::new();
    for name in names {
        let (a, b) = spec.init(&Projection::new(name, 4, 3), 1).unwrap();
        params.insert(format!("{name}.lora_A"), a);
        params.insert(format!("{name}.lora_B"), b);
    }
    let dir = tempfile::tempdir().unwrap();
    peft::save(dir.path(), &spec, &params, "b").unwrap();
    let bytes = fs::read(dir.path().join(peft::CONFIG)).unwrap();
    let config: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(config["target_modules"], json!(names));
    assert_eq!(
        config["rank_pattern"],
        json!({r"model\.layers\.1\.self_attn\.q_proj": 2, r"model\.layers\.11\.self_attn\.q_proj": 3})
    );
    let (read, _) = peft::load(dir.path()).unwrap();
    for name in names {
        assert_eq!(
            (read.rank_of(name), read.alpha_of(name)),
            (spec.rank_of(name), 9.0)
        );
    }
}
