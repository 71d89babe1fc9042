//! Files of one model that contradict each other: resolved as in transformers, or refused. The
//! table in docs/reference/models.md ("Where two files disagree") names these tests.
//!
//! Right values: transformers 5.24.0 with torch 2.15.0 in f32 on the same seeded weights,
//! `AutoModelForCausalLM`'s summed log-probs of the same token ids (without a cache; ends of
//! generation: `generate`).

use serde_json::{Value, json};

use super::seeded::{SEEDED, Seeded, Shape, refused, scored};
use crate::program::World;

/// transformers' log p of the pair's two responses for the plain Llama.
pub(super) const PLAIN: [f64; 2] = [-56.09142, -65.01010];
const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

pub(super) fn plain() -> Seeded {
    Seeded::llama(&SEEDED)
}

#[track_caller]
pub(super) fn near(what: &str, got: [f64; 2], right: [f64; 2]) {
    let off = |i: usize| (got[i] - right[i]).abs();
    assert!(
        off(0) < 1e-3 && off(1) < 1e-3,
        "{what}: {got:?}, right is {right:?}"
    );
}

/// Asserts that each model computes transformers' log-probs, without a note.
#[track_caller]
pub(super) fn computed(rows: Vec<(&str, Seeded, [f64; 2])>) {
    let w = World::new();
    for (what, model, right) in rows {
        model.write(&w, "model");
        let (got, said) = scored(&w, "model");
        near(what, got, right);
        assert!(!said.contains("note:"), "{what}: {said}");
    }
}

/// Asserts that each model computes transformers' log-probs, with one note that holds these words.
#[track_caller]
fn computed_with_a_note(rows: Vec<(&str, Seeded, [f64; 2])>) {
    let w = World::new();
    for (words, model, right) in rows {
        model.write(&w, "model");
        let (got, said) = scored(&w, "model");
        near(words, got, right);
        let notes: Vec<&str> = said.lines().filter(|l| l.starts_with("note: ")).collect();
        assert!(
            notes.len() == 1 && notes[0].contains(words),
            "{words}: {said}"
        );
    }
}

/// Asserts that each model is refused with these words.
#[track_caller]
fn all_refused(rows: Vec<(&str, Seeded)>) {
    let w = World::new();
    for (words, model) in rows {
        model.write(&w, "model");
        refused(&w, "model", words);
    }
}

#[test]
fn a_head_of_its_own_counts_though_the_configuration_says_tied() {
    let said = || plain().with(json!({"tie_word_embeddings": true}));
    computed_with_a_note(vec![("the file's own head is used", said(), PLAIN)]);
    let tied = [-55.65357, -68.11683];
    let mut equal = said();
    let embedding = equal.tensors[EMBEDDING].clone();
    equal.tensors.insert(HEAD.into(), embedding);
    computed(vec![
        ("equal heads", equal, tied),
        ("no head", said().lacking(HEAD), tied),
        (
            "a head only",
            said().lacking(EMBEDDING),
            [-58.88977, -62.06406],
        ),
        (
            "nothing said, a head there",
            plain().without("tie_word_embeddings"),
            PLAIN,
        ),
    ]);
    let half = said();
    let w = World::new();
    half.write(&w, "model");
    // stored in another format, the same numbers are the same head
    let mut tensors: std::collections::HashMap<String, candle_core::Tensor> =
        half.tensors.clone().into_iter().collect();
    let bf16 = tensors[EMBEDDING]
        .to_dtype(candle_core::DType::BF16)
        .unwrap();
    tensors.insert(HEAD.into(), bf16.to_dtype(candle_core::DType::F32).unwrap());
    tensors.insert(EMBEDDING.into(), bf16);
    candle_core::safetensors::save(&tensors, w.dir().join("model/model.safetensors")).unwrap();
    let (_, said) = scored(&w, "model");
    assert!(!said.contains("note:"), "{said}");
}

#[test]
fn an_export_of_an_untied_model_has_both_tensors_and_says_so() {
    let w = World::new();
    plain()
        .with(json!({"tie_word_embeddings": true}))
        .write(&w, "model");
    scored(&w, "model"); // writes m.toml
    for (to, out) in [("hf", "out"), ("gguf", "out.gguf")] {
        let dtype = match to {
            "hf" => ["--dtype", "f32"],
            _ => ["--quant", "f32"],
        };
        let start = ["export", "m.toml", "-q", "--to", to, "--out", out];
        w.accepted(&[&start[..], &dtype[..]].concat());
        let (got, said) = scored(&w, out);
        near(to, got, PLAIN);
        assert!(!said.contains("note:"), "{said}");
    }
}

#[test]
fn tensors_and_keys_that_do_not_fit_are_refused_by_name() {
    let bias = |names| {
        Seeded::llama(&Shape {
            biases: names,
            ..SEEDED
        })
    };
    let layers = |layers, said: usize| {
        let shape = Shape { layers, ..SEEDED };
        Seeded::llama(&shape).with(json!({"num_hidden_layers": said}))
    };
    let tied = json!({"tie_word_embeddings": true});
    all_refused(vec![
        // transformers makes up random weights for the first four, leaves out the others, and fails
        // at the last
        (
            "lm_head.weight: config wants (337, 32)",
            plain().lacking(HEAD),
        ),
        (
            "lm_head.weight: config wants (337, 32)",
            plain().lacking(HEAD).without("tie_word_embeddings"),
        ),
        (
            "model.embed_tokens.weight: config wants (337, 32)",
            plain().with(tied).lacking(HEAD).lacking(EMBEDDING),
        ),
        (
            "model.layers.1.input_layernorm.weight: config wants",
            layers(1, 2),
        ),
        ("the file has model.layers.2.", layers(3, 2)),
        (
            "the file has model.layers.0.self_attn.k_proj.bias",
            bias(&["q_proj", "k_proj", "v_proj", "o_proj"]),
        ),
        (
            "model.layers.0.self_attn.o_proj.bias: config wants",
            bias(&["q_proj", "k_proj", "v_proj"]).with(json!({"attention_bias": true})),
        ),
        (
            "model.embed_tokens.weight: config wants (340, 32), the file has (337, 32)",
            plain().with(json!({"vocab_size": 340})),
        ),
    ]);
}

#[test]
fn of_rotary_keys_said_twice_transformers_choice_counts() {
    let linear = json!({"type": "linear", "factor": 4.0});
    let v5 = json!({"rope_type": "default", "rope_theta": 500.0});
    let (theta500, linear4) = ([-53.20892, -67.83407], [-53.72060, -63.78754]);
    computed_with_a_note(vec![
        (
            "rope_scaling counts",
            plain()
                .with(json!({"rope_scaling": linear, "rope_parameters": v5}))
                .without("rope_theta"),
            linear4,
        ),
        (
            "500 counts",
            plain().with(json!({"rope_theta": 900.0, "rope_parameters": v5})),
            theta500,
        ),
        (
            "70 counts",
            plain().with(json!({"rope_theta": 900.0, "rope_scaling":
                {"type": "linear", "factor": 4.0, "rope_theta": 70.0}})),
            [-56.73583, -67.25419],
        ),
        (
            "a factor but no rope_type",
            plain()
                .with(json!({"rope_parameters": {"factor": 4.0, "rope_theta": 500.0}}))
                .without("rope_theta"),
            theta500,
        ),
        (
            "a factor but no rope_type",
            plain().with(
                json!({"rope_scaling": {"type": "linear", "rope_type": "default", "factor": 4.0}}),
            ),
            PLAIN,
        ),
    ]);
    computed(vec![
        (
            "an empty rope_scaling",
            plain()
                .with(json!({"rope_scaling": {}, "rope_parameters": v5}))
                .without("rope_theta"),
            theta500,
        ),
        ("no theta", plain().without("rope_theta"), PLAIN),
    ]);
    let w = World::new();
    let all = json!({"rope_scaling": linear, "rope_parameters": v5, "rope_theta": 900.0});
    plain().with(all).write(&w, "model");
    let (got, said) = scored(&w, "model");
    near("with the theta beside them", got, [-54.00107, -65.00467]);
    assert!(said.contains("rope_scaling counts"), "{said}");
    // what is written afterwards says one thing, in both spellings
    w.accepted(&[
        "export", "m.toml", "-q", "--to", "hf", "--dtype", "f32", "--out", "out",
    ]);
    let (again, said) = scored(&w, "out");
    near("exported", again, got);
    assert!(!said.contains("note:"), "{said}");
}

#[test]
fn the_original_length_beside_the_section_goes_before_the_one_inside() {
    let model = |inside: Option<u64>, beside: Option<u64>| {
        let mut section = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "rope_theta": 500.0});
        let mut model = plain().without("rope_theta");
        let key = "original_max_position_embeddings";
        if let Some(length) = inside {
            section[key] = length.into();
        }
        if let Some(length) = beside {
            model.config[key] = length.into();
        }
        model.with(json!({"rope_parameters": section}))
    };
    let of32 = [-54.88088, -63.96351];
    computed(vec![
        ("inside", model(Some(16), None), [-52.75035, -63.08094]),
        ("beside", model(None, Some(32)), of32),
        (
            "neither: the window",
            model(None, None),
            [-53.76785, -65.11024],
        ),
    ]);
    computed_with_a_note(vec![("32 counts", model(Some(16), Some(32)), of32)]);
}

#[test]
fn frequencies_with_a_divisor_each_are_computed() {
    let model = |more: Value| {
        let list = [1.0, 1.5, 2.0, 4.0];
        let mut section = json!({"rope_type": "longrope", "rope_theta": 500.0, "short_factor": list, "long_factor": list});
        for (key, value) in more.as_object().unwrap() {
            section[key] = value.clone();
        }
        plain()
            .without("rope_theta")
            .with(json!({"rope_parameters": section}))
    };
    let said =
        json!({"factor": 1.0, "attention_factor": 1.25, "original_max_position_embeddings": 256});
    computed(vec![
        ("factor said", model(said), [-56.24202, -65.33322]),
        (
            "factor from the lengths",
            model(json!({"original_max_position_embeddings": 64})),
            [-55.70363, -65.09785],
        ),
    ]);
    // another list for long sequences: the two have 50 and 52 tokens
    let two = |original: u32| {
        let longer = [1.0, 1.5, 2.0, 8.0];
        model(json!({"long_factor": longer, "original_max_position_embeddings": original}))
    };
    computed(vec![
        ("both are short", two(64), [-55.70363, -65.09785]),
        ("one of each", two(51), [-55.92231, -65.22300]),
        ("both are long", two(48), [-55.91381, -65.25034]),
    ]);
}

#[test]
fn keys_that_the_class_does_not_read_change_nothing() {
    let mistral = |keys: Value| {
        let kind = json!({"model_type": "mistral", "sliding_window": null});
        plain().with(kind).with(keys)
    };
    computed(vec![
        (
            "Llama, partial",
            plain().with(json!({"partial_rotary_factor": 0.5})),
            PLAIN,
        ),
        (
            "Llama, partial inside",
            plain().without("rope_theta").with(json!({"rope_parameters":
                {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}})),
            [-53.20892, -67.83407],
        ),
        (
            "Mistral, partial",
            mistral(json!({"partial_rotary_factor": 0.5})),
            PLAIN,
        ),
        (
            "Mistral, biases",
            mistral(json!({"attention_bias": true})),
            PLAIN,
        ),
        (
            "dtypes",
            plain().with(json!({"torch_dtype": "float16", "dtype": "bfloat16"})),
            PLAIN,
        ),
        (
            "swish is silu",
            plain().with(json!({"hidden_act": "swish"})),
            PLAIN,
        ),
        (
            "all layers full",
            plain().with(json!({"layer_types": ["full_attention", "full_attention"]})),
            PLAIN,
        ),
    ]);
}

#[test]
fn absent_keys_have_the_class_s_values() {
    let heads = |heads, kv_heads, head_dim| {
        Seeded::llama(&Shape {
            heads,
            kv_heads,
            head_dim,
            ..SEEDED
        })
    };
    let as_many = [-55.09298, -69.05487];
    let mistral = json!({"model_type": "mistral", "sliding_window": null});
    computed(vec![
        (
            "Llama's key-value heads",
            heads(4, 4, 8).without("num_key_value_heads"),
            as_many,
        ),
        (
            "null",
            heads(4, 4, 8).with(json!({"num_key_value_heads": null})),
            as_many,
        ),
        (
            "Mistral's 8 key-value heads",
            heads(16, 8, 4).with(mistral).without("num_key_value_heads"),
            [-62.29937, -66.77822],
        ),
        (
            "rms_norm_eps 1e-6",
            plain().without("rms_norm_eps"),
            [-56.09306, -65.00995],
        ),
        ("head_dim", plain().with(json!({"head_dim": null})), PLAIN),
        ("silu", plain().without("hidden_act"), PLAIN),
    ]);
}

#[test]
fn mistral_obeys_layer_types_and_llama_refuses_windows() {
    let mistral = |window: Value, kinds: Option<Value>| {
        let model = plain().with(json!({"model_type": "mistral", "sliding_window": window}));
        match kinds {
            Some(kinds) => model.with(json!({"layer_types": kinds})),
            None => model,
        }
    };
    let (full, sliding) = ("full_attention", "sliding_attention");
    let everywhere = [-54.94316, -67.18058];
    computed(vec![
        ("no window", mistral(Value::Null, None), PLAIN),
        ("a window", mistral(json!(4), None), everywhere),
        ("null", mistral(json!(4), Some(Value::Null)), everywhere),
        (
            "none slides",
            mistral(json!(4), Some(json!([full, full]))),
            PLAIN,
        ),
        (
            "one slides",
            mistral(json!(4), Some(json!([full, sliding]))),
            [-57.97678, -64.89749],
        ),
    ]);
    all_refused(vec![
        (
            "but sliding_window is null",
            mistral(Value::Null, Some(json!([full, sliding]))),
        ),
        (
            "has 1 entries for 2 layers",
            mistral(json!(4), Some(json!([full]))),
        ),
        // transformers' Llama computes a text at once without these windows, and with them while it
        // generates
        (
            "`layer_types` has \"sliding_attention\"",
            plain().with(json!({"layer_types": [full, sliding]})),
        ),
        (
            "`sliding_window` is 4",
            plain().with(json!({"sliding_window": 4})),
        ),
        (
            "has 1 entries for 2 layers",
            plain().with(json!({"layer_types": [full]})),
        ),
    ]);
}

#[test]
fn rotary_keys_that_mean_no_one_thing_are_refused() {
    let section = json!({"rope_type": "default", "rope_theta": 500.0});
    all_refused(vec![
        // transformers takes theta 10,000 here, in silence
        (
            "`rope_parameters.full_attention` is keyed by layer type",
            plain().without("rope_theta").with(json!({"rope_parameters": {"full_attention": section}})),
        ),
        (
            "`rope_parameters.full_attention` is keyed by layer type",
            plain().with(json!({"model_type": "mistral", "sliding_window": 4,
                "layer_types": ["full_attention", "sliding_attention"],
                "rope_parameters": {"full_attention": section, "sliding_attention": section}})),
        ),
        (
            "`partial_rotary_factor` is 0.5 beside rope_type \"linear\"",
            plain().with(json!({"partial_rotary_factor": 0.5, "rope_scaling": {"type": "linear", "factor": 4.0}})),
        ),
        ("`hidden_act` is \"gelu\"", plain().with(json!({"hidden_act": "gelu"}))),
    ]);
}

/// Tokens generated greedily after the pair's prompt.
#[track_caller]
fn generated(w: &World) -> Vec<u64> {
    let recipe = "name = \"g\"\n[model]\nsource = \"model\"\n[data]\ntrain = \"p.jsonl\"\n[generate]\n\
                  max_new_tokens = 6\nsampling = [{name = \"greedy\"}]\n";
    w.file("g.toml", recipe);
    w.accepted(&["generate", "g.toml", "-o", "answers.jsonl", "-q"]);
    let text = std::fs::read_to_string(w.dir().join("answers.jsonl")).unwrap();
    let row: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    row["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t.as_u64().unwrap())
        .collect()
}

#[test]
fn ends_of_text_are_those_of_the_generation_settings_or_else_of_the_configuration() {
    let w = World::new();
    let all = [13, 232, 24, 108, 79, 64];
    for (config, settings, right) in [
        (json!([0, 24]), None, &all[..3]),
        (json!(24), None, &all[..3]),
        (json!([0, 24]), Some(json!({"eos_token_id": 0})), &all[..]),
        (json!(0), Some(json!({"eos_token_id": [0, 24]})), &all[..3]),
        (json!([0, 24]), Some(json!({})), &all[..]),
    ] {
        let dir = plain()
            .with(json!({"eos_token_id": config}))
            .write(&w, "model");
        let file = dir.join("generation_config.json");
        match &settings {
            Some(settings) => std::fs::write(&file, settings.to_string()).unwrap(),
            None => assert!(!file.exists() || std::fs::remove_file(&file).is_ok()),
        }
        scored(&w, "model"); // writes p.jsonl
        assert_eq!(generated(&w), right, "{config} {settings:?}");
    }
}
