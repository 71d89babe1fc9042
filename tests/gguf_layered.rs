//! GGUF of a family whose layers differ in size, and which has two matrices of an expert in one
//! tensor: what is written is what llama.cpp reads, and is read again as it was.

use std::{collections::BTreeMap, sync::Arc};

use candle_core::Tensor;
use randori_engine::{Player, weights::Source};
use randori_export::{GgufLoraOptions, GgufQuant, gguf_lora};
use randori_formats::gguf::{Value as Meta, model::keys};
use randori_lora::{LoraSpec, Targets};
use serde_json::{Value, json};

use crate::{
    gguf::{difference, export, hf_folder, load, logps, of_family},
    gguf_hybrids::{apart, base, stored},
    opened::family,
};

const NAME: &str = "gemma4_text";

/// What both models have: windows shorter than the texts, and heads of 16 and 32 features.
fn common(more: Value) -> Value {
    let mut config = json!({"num_hidden_layers": 4, "sliding_window": 4, "global_head_dim": 32,
        "vocab_size_per_layer_input": 96,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention",
            "full_attention"],
        "rope_parameters": {
            "full_attention": {"rope_type": "proportional", "rope_theta": 900.0,
                "partial_rotary_factor": 0.25},
            "sliding_attention": {"rope_type": "default", "rope_theta": 700.0}}});
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

/// Two layers take over keys and values, and have wider perceptrons.
fn dense() -> Value {
    common(
        json!({"num_kv_shared_layers": 2, "use_double_wide_mlp": true, "attention_k_eq_v": true,
        "num_global_key_value_heads": 1, "hidden_size_per_layer_input": 8,
        "final_logit_softcapping": 4.0}),
    )
}

/// A mixture, with more heads of keys in full layers.
fn mixture() -> Value {
    let full = json!({"head_dim": 32, "num_key_value_heads": 4});
    common(
        json!({"hidden_size_per_layer_input": 0, "enable_moe_block": true, "num_experts": 4,
        "top_k_experts": 2, "moe_intermediate_size": 24, "per_layer_config": {"1": full, "3": full}}),
    )
}

#[test]
fn sizes_by_layer_are_read_as_they_were_written() {
    let dir = tempfile::tempdir().unwrap();
    for (kind, more) in [("dense", dense()), ("mixture", mixture())] {
        let base = base(NAME, &more);
        let player = Player::bare(base.clone());
        let out = dir.path().join(format!("{kind}.gguf"));
        export(&player, None, &out, GgufQuant::F32);
        let again = load(Source::Gguf(out));
        assert_eq!(again.config["model_type"], NAME);
        for (key, value) in more.as_object().unwrap() {
            assert_eq!(&again.config[key], value, "{kind}: {key}");
        }
        let folder = dir.path().join(kind);
        hf_folder(&player, &folder);
        let from_folder = load(Source::Folder(folder));
        assert_eq!(again.weights.len(), base.weights.len());
        for (weight, ours) in &base.weights {
            let ours = ours.to_f32().unwrap();
            for (from, other) in [("GGUF", &again), ("folder", &from_folder)] {
                let found = other.weights[weight].to_f32().unwrap();
                assert_eq!(apart(&found, &ours), 0.0, "{kind}: {weight} of a {from}");
            }
        }
        let ours = logps(&player);
        for other in [again, from_folder] {
            let off = difference(&logps(&Player::bare(Arc::new(other))), &ours);
            assert!(off < 1e-5, "{kind}: {off}");
        }
    }
}

/// A file's keys of a configuration.
fn written(more: &Value) -> BTreeMap<String, Meta> {
    let all = keys(&of_family(NAME, more), family(NAME), 96).unwrap();
    all.into_iter().collect()
}

/// As llama.cpp's converter writes and llama.cpp reads them.
#[test]
fn sizes_by_layer_are_written_under_llama_cpp_s_keys() {
    let common: &[(&str, Meta)] = &[
        ("attention.key_length", Meta::Int(32)),
        ("attention.value_length", Meta::Int(32)),
        ("attention.key_length_swa", Meta::Int(16)),
        ("attention.value_length_swa", Meta::Int(16)),
        ("rope.dimension_count", Meta::Int(32)),
        ("rope.dimension_count_swa", Meta::Int(16)),
        ("rope.freq_base", Meta::Float(900.0)),
        ("rope.freq_base_swa", Meta::Float(700.0)),
        ("attention.sliding_window", Meta::Int(4)),
        (
            "attention.sliding_window_pattern",
            Meta::Bools(vec![true, false, true, false]),
        ),
    ];
    let of_dense: &[(&str, Meta)] = &[
        ("attention.head_count_kv", Meta::Ints(vec![2, 1, 2, 1])),
        ("feed_forward_length", Meta::Ints(vec![128, 128, 256, 256])),
        ("attention.shared_kv_layers", Meta::Int(2)),
        ("embedding_length_per_layer_input", Meta::Int(8)),
        ("final_logit_softcapping", Meta::Float(4.0)),
    ];
    let of_mixture: &[(&str, Meta)] = &[
        ("attention.head_count_kv", Meta::Ints(vec![2, 4, 2, 4])),
        ("feed_forward_length", Meta::Int(128)),
        ("attention.shared_kv_layers", Meta::Int(0)),
        ("embedding_length_per_layer_input", Meta::Int(0)),
        ("final_logit_softcapping", Meta::Float(0.0)),
        ("expert_count", Meta::Int(4)),
        ("expert_used_count", Meta::Int(2)),
        ("expert_feed_forward_length", Meta::Int(24)),
    ];
    for (more, own) in [(dense(), of_dense), (mixture(), of_mixture)] {
        let there = written(&more);
        for (key, value) in common.iter().chain(own) {
            assert_eq!(there.get(&format!("gemma4.{key}")), Some(value), "{key}");
        }
        let experts = there.keys().any(|key| key.contains("expert"));
        assert_eq!(experts, more["enable_moe_block"] == true, "{there:?}");
    }
}

#[test]
fn two_matrices_of_an_expert_lie_in_one_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let base = base(NAME, &mixture());
    let out = dir.path().join("x.gguf");
    export(&Player::bare(base.clone()), None, &out, GgufQuant::F32);
    let own = |part: &str| {
        let weight = &base.weights[&format!("model.layers.1.{part}")];
        weight.to_f32().unwrap()
    };
    let experts: Vec<Tensor> = (0..4)
        .flat_map(|e| ["gate", "up"].map(|m| own(&format!("experts.{e}.{m}_proj.weight"))))
        .collect();
    let both = Tensor::cat(&experts, 0).unwrap();
    for (part, wanted) in [
        (
            "ffn_gate_up_exps.weight",
            both.reshape((4, 48, 64)).unwrap(),
        ),
        ("ffn_down_exps.scale", own("router.per_expert_scale")),
        ("ffn_gate_inp.scale", own("router.scale")),
        ("layer_output_scale.weight", own("layer_scalar")),
        ("attn_q_norm.weight", own("self_attn.q_norm.weight")),
        ("ffn_norm.weight", own("pre_feedforward_layernorm.weight")),
    ] {
        let off = apart(&stored(&out, &format!("blk.1.{part}")), &wanted);
        assert_eq!(off, 0.0, "{part}");
    }
    // a quarter of 16 pairs turns
    let divisors: Vec<f32> = stored(&out, "rope_freqs.weight").to_vec1().unwrap();
    let wanted: Vec<f32> = (0..16).map(|i| if i < 4 { 1.0 } else { 1e30 }).collect();
    assert_eq!(divisors, wanted);
}

#[test]
fn what_llama_cpp_cannot_say_of_layers_is_refused() {
    let full = "full_attention";
    let turns = |kind: &str| {
        let mut all = common(json!({}))["rope_parameters"].clone();
        all[full]["rope_type"] = json!(kind);
        all
    };
    for (key, value, says) in [
        ("layer_types", json!([full, full, full, full]), "in none"),
        ("layer_types", json!([full]), "has 1 entries for 4 layers"),
        (
            "num_kv_shared_layers",
            json!(3),
            "has layer 1 take over keys and values of layer 0",
        ),
        ("rope_parameters", turns("yarn"), "\"yarn\""),
        ("num_global_key_value_heads", json!(3), "3 key-value heads"),
    ] {
        let mut more = dense();
        more[key] = value;
        let e = keys(&of_family(NAME, &more), family(NAME), 96).unwrap_err();
        assert!(e.to_string().contains(says), "{key}: {e}");
    }
}

/// An adapter of some projections, with no zeros, as a GGUF LoRA without those of one name.
fn lora(
    targets: &[&str],
    without: &str,
    more: &Value,
) -> (BTreeMap<String, Tensor>, Result<tempfile::TempDir, String>) {
    let base = base(NAME, more);
    let spec = LoraSpec {
        rank: 2,
        alpha: 4.0,
        targets: Targets::Names(targets.iter().map(ToString::to_string).collect()),
        ..LoraSpec::default()
    };
    let player = Player::with_lora(base.clone(), spec.clone(), 1).unwrap();
    let moved: BTreeMap<String, Tensor> = (player.params.iter())
        .filter(|(name, _)| !name.contains(without))
        .map(|(name, t)| {
            let values: Vec<f32> = randori_lora::splitmix(2, name, t.elem_count())
                .map(|u| u as f32 - 0.5)
                .collect();
            let t = Tensor::from_vec(values, t.shape(), t.device()).unwrap();
            (name.clone(), t)
        })
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let options = GgufLoraOptions {
        replace: true,
        name: "lora".into(),
    };
    let scale = |projection: &str| spec.scale_of(projection);
    let out = dir.path().join("lora.gguf");
    let done = gguf_lora(&moved, &base.config, family(NAME), &scale, &out, &options);
    (moved, done.map(|_| dir).map_err(|e| e.to_string()))
}

/// llama.cpp divides by the rank of the whole update, 4, what ours divide by 2.
#[test]
fn updates_of_two_matrices_in_one_tensor_are_one_update() {
    let (moved, dir) = lora(&["gate_proj", "up_proj", "q_proj"], "none", &mixture());
    let out = dir.as_ref().unwrap().path().join("lora.gguf");
    let a = stored(&out, "blk.1.ffn_gate_up_exps.weight.lora_a");
    let b = stored(&out, "blk.1.ffn_gate_up_exps.weight.lora_b");
    assert_eq!((a.dims(), b.dims()), (&[4, 4, 64][..], &[4, 48, 4][..]));
    let one = |name: &str| {
        let a = stored(&out, &format!("{name}.lora_a"));
        stored(&out, &format!("{name}.lora_b")).matmul(&a).unwrap()
    };
    let ours = |name: &str| {
        let half = |half: &str| &moved[&format!("model.layers.1.{name}.{half}")];
        half("lora_B").matmul(half("lora_A")).unwrap()
    };
    let off = apart(&one("blk.1.attn_q.weight"), &ours("self_attn.q_proj"));
    assert!(off < 1e-6, "{off}"); // the scale of the whole file is its
    for expert in 0..4 {
        let update = b.get(expert).unwrap().matmul(&a.get(expert).unwrap());
        let wanted: Vec<Tensor> = ["gate", "up"]
            .map(|m| ours(&format!("experts.{expert}.{m}_proj")))
            .into();
        let wanted = (Tensor::cat(&wanted, 0).unwrap() * 2.0).unwrap();
        let off = apart(&update.unwrap(), &wanted);
        assert!(off < 1e-6, "expert {expert}: {off}");
    }
}

#[test]
fn updates_that_llama_cpp_does_not_apply_are_refused() {
    for (targets, without, more, says) in [
        (
            &["gate_proj", "up_proj"][..],
            "up_proj",
            mixture(),
            "has no update of the same rank",
        ),
        (
            &["down_proj"],
            "mlp.down_proj",
            mixture(),
            "experts.0.down_proj of GGUF's gemma4",
        ),
        (
            &["per_layer_model_projection"],
            "none",
            dense(),
            "llama.cpp does not apply updates to model.per_layer_model_projection",
        ),
    ] {
        let e = lora(targets, without, &more).1.unwrap_err();
        assert!(e.contains(says), "{e}");
    }
}
