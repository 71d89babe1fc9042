//! Metadata and tensors of GGUF files, interpreted as llama.cpp does.
//!
//! Right values: llama.cpp b11549 (xllamacpp 2026.10.11549, in f32, a token at a time) on the same
//! seeded weights with q and k permuted, written by gguf-py 0.19.

use candle_core::{Device, Tensor};
use randori_formats::gguf::Value;

use super::seeded::{HIDDEN, SEEDED, Seeded, Shape, refused, scored, tensor};
use crate::program::World;

/// llama.cpp's log p of the pair's two responses for the plain Llama.
const PLAIN: [f64; 2] = [-56.0914, -65.0101];
const LINEAR4: [f64; 2] = [-53.7206, -63.7875];
const FACTORS: &str = "rope_freqs.weight";

fn plain() -> Seeded {
    Seeded::llama(&SEEDED)
}

fn biased(names: &'static [&'static str]) -> Seeded {
    Seeded::llama(&Shape {
        biases: names,
        ..SEEDED
    })
}

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

fn list(numbers: &[i64]) -> Value {
    Value::Ints(numbers.to_vec())
}

fn divisors(values: &[f32]) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap()
}

type Row<'a> = (
    &'a str,
    Seeded,
    Vec<(&'a str, Value)>,
    Vec<(&'a str, Tensor)>,
);

/// Asserts that each file computes llama.cpp's log-probs; `fuse`: with q, k and v in one tensor.
#[track_caller]
fn computed(fuse: bool, rows: Vec<(Row, [f64; 2])>) {
    let w = World::new();
    for ((what, model, keys, more), right) in rows {
        model.gguf(&w.dir().join("m.gguf"), &keys, &more, fuse);
        let (got, said) = scored(&w, "m.gguf");
        let off = |i: usize| (got[i] - right[i]).abs();
        assert!(
            off(0) < 1e-3 && off(1) < 1e-3,
            "{what}: {got:?}, right is {right:?}"
        );
        assert!(!said.contains("note:"), "{what}: {said}");
    }
}

#[test]
fn a_factor_is_linear_whatever_key_it_has() {
    let row = |what, keys| (what, plain(), keys, vec![]);
    let factor = |v| ("llama.rope.scaling.factor", Value::Float(v));
    let old = ("llama.rope.scale_linear", Value::Float(4.0));
    let kind = |k| ("llama.rope.scaling.type", text(k));
    computed(
        false,
        vec![
            (row("no type", vec![factor(4.0)]), LINEAR4),
            (row("linear", vec![factor(4.0), kind("linear")]), LINEAR4),
            (row("scale_linear", vec![old.clone()]), LINEAR4),
            (
                row("factor before scale_linear", vec![old.clone(), factor(2.0)]),
                [-52.6350, -63.1528],
            ),
            (row("a factor of 0", vec![old, factor(0.0)]), PLAIN),
            (row("none", vec![factor(4.0), kind("none")]), PLAIN),
            (row("linear without factor", vec![kind("linear")]), PLAIN),
        ],
    );
}

#[test]
fn attn_factor_and_divisors_count_alone_and_together() {
    let attention = ("llama.rope.scaling.attn_factor", Value::Float(1.25));
    let factor = |v| ("llama.rope.scaling.factor", Value::Float(v));
    let freqs = || vec![(FACTORS, divisors(&[1.0, 1.5, 2.0, 4.0]))];
    computed(
        false,
        vec![
            (
                ("attn", plain(), vec![attention.clone()], vec![]),
                [-58.2800, -65.7935],
            ),
            (
                (
                    "attn, none",
                    plain(),
                    vec![
                        attention.clone(),
                        factor(4.0),
                        ("llama.rope.scaling.type", text("none")),
                    ],
                    vec![],
                ),
                [-58.2800, -65.7935],
            ),
            (
                (
                    "attn, linear",
                    plain(),
                    vec![attention.clone(), factor(4.0)],
                    vec![],
                ),
                [-53.9835, -63.7927],
            ),
            (("divisors", plain(), vec![], freqs()), [-55.6591, -64.1256]),
            (
                ("divisors, linear", plain(), vec![factor(2.0)], freqs()),
                [-52.1600, -62.8524],
            ),
            (
                ("divisors, attn", plain(), vec![attention], freqs()),
                [-55.0803, -64.6037],
            ),
            (
                (
                    "divisors of 1",
                    plain(),
                    vec![],
                    vec![(FACTORS, divisors(&[1.0; 4]))],
                ),
                PLAIN,
            ),
        ],
    );
}

#[test]
fn numbers_may_be_lists_of_one_a_layer() {
    let keys = vec![
        ("llama.attention.head_count", list(&[4, 4])),
        ("llama.attention.head_count_kv", list(&[2, 2])),
        ("llama.feed_forward_length", list(&[48, 48])),
    ];
    computed(false, vec![(("lists", plain(), keys, vec![]), PLAIN)]);
}

#[test]
fn any_biases_are_added_and_one_tensor_of_q_k_and_v_is_taken_apart() {
    let row = |what, model| (what, model, vec![], vec![]);
    let qkv = [-54.0423, -70.3382];
    let mut one = biased(&["q_proj"]);
    one.tensors.remove("model.layers.0.self_attn.q_proj.bias");
    computed(
        false,
        vec![
            (row("q, k, v", biased(&["q_proj", "k_proj", "v_proj"])), qkv),
            (row("o", biased(&["o_proj"])), [-57.7009, -66.7822]),
            (row("q of one layer", one), [-55.7151, -64.8991]),
            (row("down", biased(&["down_proj"])), [-57.5367, -66.7681]),
            (row("gate", biased(&["gate_proj"])), [-56.9011, -67.5959]),
            (
                row(
                    "all",
                    biased(&[
                        "q_proj",
                        "k_proj",
                        "v_proj",
                        "o_proj",
                        "gate_proj",
                        "up_proj",
                        "down_proj",
                    ]),
                ),
                [-60.3337, -74.2022],
            ),
        ],
    );
    computed(
        true,
        vec![
            (row("fused", plain()), PLAIN),
            (
                row("fused with biases", biased(&["q_proj", "k_proj", "v_proj"])),
                qkv,
            ),
        ],
    );
}

#[test]
fn a_missing_head_is_the_embedding_and_rows_count_not_the_key() {
    let tied = plain().lacking("lm_head.weight");
    // of a file without tokens llama.cpp wants the key to be right, of others it does not read it
    let key = vec![("llama.vocab_size", Value::Int(300))];
    computed(
        false,
        vec![
            (
                ("no output.weight", tied, vec![], vec![]),
                [-55.6536, -68.1168],
            ),
            (("vocab_size", plain(), key, vec![]), PLAIN),
        ],
    );
}

#[test]
fn keys_of_other_architectures_are_not_read() {
    let row = |key, value| ((key, plain(), vec![(key, value)], vec![]), PLAIN);
    computed(
        false,
        vec![
            row("llama.attention.scale", Value::Float(0.5)),
            row("llama.attention.sliding_window", Value::Int(4)),
            row("llama.logit_scale", Value::Float(2.0)),
            row("llama.embedding_scale", Value::Float(2.0)),
            row("llama.residual_scale", Value::Float(2.0)),
            row("llama.attn_logit_softcapping", Value::Float(1.0)),
            row("llama.final_logit_softcapping", Value::Float(1.0)),
        ],
    );
}

#[test]
fn what_llama_cpp_refuses_is_refused_by_name() {
    let w = World::new();
    let bad = |keys: &[(&str, Value)], more: &[(&str, Tensor)], why: &str| {
        plain().gguf(&w.dir().join("m.gguf"), keys, more, false);
        refused(&w, "m.gguf", why);
    };
    let key = |key: &'static str, value, why: &str| bad(&[(key, value)], &[], why);
    key(
        "llama.attention.head_count",
        list(&[4]),
        "llama.attention.head_count has 1 entries for 2 layers",
    );
    key(
        "llama.rope.dimension_count",
        Value::Int(4),
        "of which 4 are rotated",
    );
    key(
        "llama.attention.value_length",
        Value::Int(4),
        "whose values have 4",
    );
    key(
        "llama.expert_used_count",
        Value::Int(2),
        "llama.expert_used_count is 2",
    );
    key(
        "llama.expert_group_count",
        Value::Int(1),
        "llama.expert_group_count is 1, but there are no experts",
    );
    key(
        "llama.nextn_predict_layers",
        Value::Int(1),
        "llama.nextn_predict_layers is 1",
    );
    // llama.cpp computes the first two; we do not
    key(
        "llama.attention.head_count_kv",
        list(&[2, 4]),
        "differs between layers (2 and 4)",
    );
    key(
        "llama.feed_forward_length",
        list(&[48, 40]),
        "differs between layers (48 and 40)",
    );
    key(
        "llama.rope.scaling.type",
        text("dynamic"),
        "\"dynamic\" is not supported; none, linear and yarn are",
    );
    key(
        "llama.attention.causal",
        Value::Bool(false),
        "llama.attention.causal is false",
    );
    key(
        "llama.rope.scaling.factor",
        Value::Float(-2.0),
        "must be above 0, got -2",
    );
    bad(
        &[],
        &[(FACTORS, divisors(&[1.0, 1.5]))],
        "has the shape [2], but heads have 4 pairs",
    );
    bad(
        &[],
        &[(FACTORS, divisors(&[1.0, 1.5, 0.0, 2.0]))],
        "rope_freqs.weight holds 0",
    );
    let norm = tensor("norm", &[HIDDEN]);
    bad(
        &[],
        &[("blk.0.attn_norm.bias", norm.clone())],
        "the file has model.layers.0.input_layernorm.bias",
    );
    bad(
        &[],
        &[("blk.0.stray.weight", norm.clone())],
        "the file has blk.0.stray.weight",
    );
    bad(
        &[],
        &[("blk.2.attn_norm.weight", norm)],
        "the file has model.layers.2.input_layernorm.weight",
    );
}

#[test]
fn one_tensor_of_other_rows_than_q_k_and_v_is_refused() {
    let w = World::new();
    let mut odd = biased(&["q_proj", "k_proj", "v_proj"]);
    odd.config["num_key_value_heads"] = 1.into();
    for name in ["weight", "bias"] {
        for layer in 0..2 {
            let name = format!("model.layers.{layer}.self_attn.k_proj.{name}");
            let half = odd.tensors[&name].narrow(0, 0, 8).unwrap();
            odd.tensors.insert(name, half.contiguous().unwrap());
        }
    }
    odd.gguf(&w.dir().join("m.gguf"), &[], &[], true);
    refused(
        &w,
        "m.gguf",
        "blk.0.attn_qkv.bias has 56 rows; 4 query and twice 1 key-value heads of 8 features have 48",
    );
}

/// llama.cpp: "wrong number of tensors" for one bias beside three weights; beside one weight it
/// leaves out, in silence, biases that are not all three.
#[test]
fn biases_that_lie_otherwise_than_their_weights_are_refused() {
    let w = World::new();
    let bad = |fuse: bool, name: &str, rows: usize, why: &str| {
        let bias = tensor("bias", &[rows]);
        plain().gguf(&w.dir().join("m.gguf"), &[], &[(name, bias)], fuse);
        refused(&w, "m.gguf", why);
    };
    let one = "m.gguf: it has blk.1.attn_qkv.bias, but no blk.1.attn_qkv.weight";
    bad(false, "blk.1.attn_qkv.bias", 64, one);
    let q = "it has blk.0.attn_q.bias beside blk.0.attn_qkv.weight, but no blk.0.attn_k.bias";
    bad(true, "blk.0.attn_q.bias", 32, q);
    let v = "it has blk.1.attn_v.bias beside blk.1.attn_qkv.weight, but no blk.1.attn_q.bias";
    bad(true, "blk.1.attn_v.bias", 16, v);
}

/// Every rotary scaling of a configuration survives writing to GGUF and reading back.
#[test]
fn a_gguf_that_we_wrote_is_read_back() {
    let list = [1.0, 1.5, 2.0, 4.0];
    let w = World::new();
    for section in [
        serde_json::json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192}),
        serde_json::json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 2.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 1024}),
        serde_json::json!({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64}),
        serde_json::json!({"rope_type": "linear", "factor": 4.0}),
        serde_json::json!({"rope_type": "longrope", "short_factor": list, "long_factor": list, "factor": 1.0,
            "attention_factor": 1.25, "original_max_position_embeddings": 256}),
        serde_json::json!({"rope_type": "default", "partial_rotary_factor": 0.5}),
    ] {
        let keys = serde_json::json!({"rope_parameters": section, "rope_theta": 500.0});
        plain().with(keys).write(&w, "model");
        let (want, _) = scored(&w, "model");
        let export = |to: &str, kind: [&str; 2], out: &str| {
            w.accepted(
                &[
                    &["export", "m.toml", "-q", "--to", to, "--out", out][..],
                    &kind,
                ]
                .concat(),
            );
        };
        export("gguf", ["--quant", "f32"], "out.gguf");
        let (got, _) = scored(&w, "out.gguf");
        let near =
            |a: [f64; 2], b: [f64; 2]| (a[0] - b[0]).abs() < 1e-3 && (a[1] - b[1]).abs() < 1e-3;
        assert!(near(got, want), "{section}: {got:?} {want:?}");
        // m.toml names the GGUF now: a folder made of it says the same again
        export("hf", ["--dtype", "f32"], "out");
        let (again, _) = scored(&w, "out");
        assert!(near(again, want), "{section}: {again:?} {want:?}");
    }
}
