//! Tests: what is written is read again, and nothing unknown is.

use super::*;

/// One with every field that has another value than its default somewhere.
const WHOLE: Dialect = Dialect {
    class: "TinyForCausalLM",
    wholes: &["tiny_whole"],
    text: "llm",
    prefixes: Dialect::PREFIXES,
    ignored: &["model.\"vision\"_tower.*"],
    targets: &["q_proj"],
    defaults: r#"{"head_dim": 128}"#,
    stacks: &[Stack::new(
        "mlp.experts.gate_up_proj",
        &[
            "mlp.experts.{}.gate_proj.weight",
            "mlp.experts.{}.up_proj.weight",
        ],
        Layout::Interleaved,
    )],
    gguf: Some(Gguf {
        architecture: "tiny",
        also: &["tiny\n2"],
        read: false,
        told_by: "expert_count",
        biased: Gguf::QKV,
        biases: &[Biases::QKV, Biases::MLP],
        epsilon: "attention.layer_norm_epsilon",
        any_head_dim: false,
        partial_rotary: true,
        divisors: Divisors::LongShort,
        yarn_log: true,
        yarn_truncates: false,
        sliding: Sliding::LostInUse,
        modules: &[
            Module::OUTSIDE,
            Module::ATTENTION_TURNED,
            &[
                Module::new("mlp.experts.{}.gate_proj", "ffn_gate_up_exps")
                    .with("mlp.experts.{}.up_proj")
                    .optional(),
                Module::new("second", "second")
                    .sized(Size::Vocabulary, Size::Free)
                    .not_adapted(),
                Module::raw("self_attn.sinks", "attn_sinks.weight").plus_one(),
                Module::new("mixer.conv1d", "ssm_conv1d")
                    .squeezed()
                    .ordered(Order::GroupedLast),
                Module::raw("mixer.rate", "ssm_a")
                    .minus_exp()
                    .ordered(Order::Grouped),
                Module::new("mixer.out", "ssm_out").ordered(Order::GroupedColumns),
            ],
        ],
        renamed: &[
            Renamed::new("rms_norm_eps", "norm_eps"),
            Renamed::new("tie_word_embeddings", "tie_embedding").older(),
        ],
        keys: &[
            Key::whole("expert_count", &["num_experts", "num_local_experts"]).required(),
            Key {
                factor: 0.5,
                reciprocal: true,
                ..Key::real("logit_scale", &["logits_scaling"])
            },
            Key::whole("attention.sliding_window_pattern", &["layer_types"]).of(Form::Slides),
            Key::whole("mixer.layers", &["layer_types"]).between(&["a", "b"]),
            Key::whole("mixer.size", &["features"]).times("heads"),
            Key::whole("rope.dimension_sections", &["sections"]).of(Form::Four),
            Key::real("cap", &["cap"]).of(Form::Cap),
            Key::whole("shared", &["num_shared"])
                .of(Form::Count)
                .only_with("shares"),
        ],
        implied: &[
            Implied::number("scalar", Is::WidthPerHead).with_layers(46),
            Implied::number("scalar", Is::HeadDim),
            Implied::cycle("layer_types", &["sliding_attention", "full_attention"]).unsaid(),
            Implied::same_as("features", &["others"]).told_by_tensors(),
        ],
        headless: Some(Headless {
            kind: "conv",
            others: "full_attn_idxs",
        }),
        kinds: Some(Kinds {
            every: 6,
            features: "global_head_dim",
            key_heads: "num_global_key_value_heads",
            keys_are_values: "attention_k_eq_v",
            each: "per_layer_config",
            shared: "num_kv_shared_layers",
            doubled: "use_double_wide_mlp",
        }),
        grouped: Some(Grouped {
            keys: "k",
            values: "v",
            features: "d",
        }),
        ffn: "mlp.up_proj",
        hybrid: true,
        nextn: true,
    }),
};

#[test]
fn what_is_written_is_read_again() {
    for dialect in [Dialect::NONE, WHOLE] {
        let text = dialect.json();
        assert_eq!(Dialect::parse(&text), Ok(dialect), "{text}");
    }
    assert_eq!(Dialect::NONE.json(), "{}");
}

#[test]
fn what_is_not_known_is_refused_by_its_place() {
    for (text, says) in [
        (r#"{"klass": "A"}"#, "`klass` is not known"),
        (
            r#"{"gguf": {"modules": [[{"turn": 1}]]}}"#,
            "gguf: modules: `turn` is not known",
        ),
        (
            r#"{"gguf": {"modules": [[{"order": "v_heads"}]]}}"#,
            "gguf: modules: order: `v_heads` is not known",
        ),
        (r#"{"class": 3}"#, "class: must be text, not a number"),
        (
            r#"{"gguf": {"implied": [{"layers": -1}]}}"#,
            "layers: must be a whole number, not -1",
        ),
        (
            r#"{"gguf": {"implied": [{"values": ["silu"]}]}}"#,
            "`silu` is not JSON",
        ),
        (r#"{"defaults": "{,"}"#, "`{,` is not JSON"),
        ("[]", "must be an object, not a list"),
        ("{", "it is not JSON"),
    ] {
        let error = Dialect::parse(text).unwrap_err();
        assert!(error.contains(says), "{text}: {error}");
    }
}

#[test]
fn patterns_and_prefixes() {
    let dialect = Dialect {
        ignored: &[
            "model.vision_tower.*",
            "mtp.*",
            "model.layers.*.self_attn.v",
        ],
        prefixes: Dialect::PREFIXES,
        ..Dialect::NONE
    };
    for (name, ignored) in [
        ("model.vision_tower.a.b", true),
        ("mtp.fc.weight", true),
        ("model.layers.11.self_attn.v", true),
        ("model.layers.11.self_attn.v2", false),
        ("model.mtp.fc.weight", false),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", true),
    ] {
        assert_eq!(dialect.ignores(name), ignored, "{name}");
    }
    for (stored, name) in [
        ("model.language_model.norm.weight", "model.norm.weight"),
        ("language_model.model.norm.weight", "model.norm.weight"),
        ("language_model.lm_head.weight", "lm_head.weight"),
        ("lm_head.weight", "lm_head.weight"),
    ] {
        assert_eq!(dialect.plain(stored), name);
    }
}

#[test]
fn stored_values_stand_for_the_parameter_s() {
    for (values, own, stored) in [
        (Values::Same, 0.25f32, 0.25f32),
        (Values::PlusOne, 0.25, 1.25),
        (Values::MinusExp, 0.0, -1.0),
        (Values::MinusExp, f32::NEG_INFINITY, 0.0),
    ] {
        assert_eq!(values.stored(own), stored);
        assert_eq!(values.own(stored), Some(own));
    }
    let e = Values::MinusExp.stored(1.0);
    assert!((e + std::f32::consts::E).abs() < 1e-6);
    // a rate that would let a state grow, and none
    assert_eq!(Values::MinusExp.own(0.5), None);
    assert_eq!(Values::MinusExp.own(f32::NAN), None);
}
