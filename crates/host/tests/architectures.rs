//! The stock architectures, loaded from their libraries, ask for exactly the weights of their
//! checkpoints.

use std::collections::BTreeMap;

use crate::recorder::{Recorder, forward, stock};

const SMALL: &str = r#""hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 32, "rms_norm_eps": 1e-05"#;

/// The weights that `name` asks for when it runs over `SMALL` and `more`.
fn weights(name: &str, more: &str) -> (Recorder, BTreeMap<String, Vec<usize>>) {
    let config = format!("{{{SMALL}{more}}}");
    let arch = stock().architecture(name, &config).unwrap();
    let mut recorder = Recorder::new(5);
    assert_eq!(forward(&*arch, &mut recorder), Ok(vec![5, 32]));
    let weights = recorder.weights.clone();
    (recorder, weights)
}

/// As a checkpoint by transformers has them.
fn expected(head_dim: usize, tied: bool, biases: &[&str]) -> BTreeMap<String, Vec<usize>> {
    let mut all = BTreeMap::new();
    for layer in 0..2 {
        let linear = [
            ("self_attn.q_proj", 4 * head_dim, 16),
            ("self_attn.k_proj", 2 * head_dim, 16),
            ("self_attn.v_proj", 2 * head_dim, 16),
            ("self_attn.o_proj", 16, 4 * head_dim),
            ("mlp.gate_proj", 24, 16),
            ("mlp.up_proj", 24, 16),
            ("mlp.down_proj", 16, 24),
        ];
        for (name, out, inputs) in linear {
            let full = format!("model.layers.{layer}.{name}");
            if biases.iter().any(|part| name.starts_with(part)) {
                all.insert(format!("{full}.bias"), vec![out]);
            }
            all.insert(format!("{full}.weight"), vec![out, inputs]);
        }
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            all.insert(format!("model.layers.{layer}.{norm}.weight"), vec![16]);
        }
    }
    all.insert("model.norm.weight".into(), vec![16]);
    all.insert("model.embed_tokens.weight".into(), vec![32, 16]);
    if !tied {
        all.insert("lm_head.weight".into(), vec![32, 16]);
    }
    all
}

#[test]
fn llama_asks_for_its_checkpoints_weights() {
    assert_eq!(weights("llama", "").1, expected(4, false, &[]));
    let tied = r#", "tie_word_embeddings": true, "head_dim": 8"#;
    assert_eq!(weights("llama", tied).1, expected(8, true, &[]));
    let biased = r#", "attention_bias": true, "mlp_bias": true"#;
    assert_eq!(
        weights("llama", biased).1,
        expected(4, false, &["self_attn", "mlp"])
    );
}

#[test]
fn mistral_asks_for_its_checkpoints_weights_and_its_window() {
    let (recorder, weights) = weights("mistral", r#", "sliding_window": 3, "head_dim": 6"#);
    assert_eq!(weights, expected(6, false, &[]));
    let attention = "attention window Some(3) scale None softcap None";
    assert_eq!(recorder.ops.iter().filter(|op| *op == attention).count(), 2);
}

#[test]
fn qwen2_asks_for_biases_of_q_k_and_v_only() {
    let biased = ["self_attn.q", "self_attn.k", "self_attn.v"];
    assert_eq!(weights("qwen2", "").1, expected(4, false, &biased));
    let tied = r#", "tie_word_embeddings": true, "attention_bias": false"#;
    assert_eq!(weights("qwen2", tied).1, expected(4, true, &biased));
    let used = r#", "use_sliding_window": true, "sliding_window": 3, "max_window_layers": 1"#;
    let (recorder, _) = weights("qwen2", used);
    let seen = |window: &str| {
        let op = format!("attention window {window} scale None softcap None");
        recorder.ops.iter().position(|found| *found == op)
    };
    assert!(seen("None") < seen("Some(3)") && seen("None").is_some());
}

#[test]
fn qwen3_norms_the_heads_of_q_and_k_before_rope() {
    let mut wanted = expected(6, false, &[]);
    for layer in 0..2 {
        for norm in ["q_norm", "k_norm"] {
            let name = format!("model.layers.{layer}.self_attn.{norm}.weight");
            wanted.insert(name, vec![6]);
        }
    }
    let (recorder, asked) = weights("qwen3", r#", "head_dim": 6"#);
    assert_eq!(asked, wanted);
    let ops = &recorder.ops[2..10];
    let of = |name: &str| format!("linear model.layers.0.self_attn.{name}_proj");
    let norm = |name: &str| format!("rms_norm model.layers.0.self_attn.{name}_norm 0.00001 0");
    assert_eq!(ops[..3], [of("q"), "unflatten 4".into(), norm("q")]);
    assert_eq!(ops[4..7], [of("k"), "unflatten 2".into(), norm("k")]);
    assert!(ops[3].starts_with("rope ") && ops[7].starts_with("rope "));
}

/// The weights of a layer, and those of all layers: `(name, shape)`.
fn layers(wanted: &mut BTreeMap<String, Vec<usize>>, parts: &[(&str, &[usize])]) {
    for layer in 0..2 {
        for (part, shape) in parts {
            let name = format!("model.layers.{layer}.{part}.weight");
            wanted.insert(name, shape.to_vec());
        }
    }
}

#[test]
fn gemmas_norm_both_sides_of_both_branches_and_scale_the_embedding() {
    for (name, heads) in [("gemma2", None), ("gemma3_text", Some([6usize]))] {
        let mut wanted = expected(6, true, &[]);
        for norm in ["pre_feedforward_layernorm", "post_feedforward_layernorm"] {
            layers(&mut wanted, &[(norm, &[16])]);
        }
        if let Some(heads) = &heads {
            layers(
                &mut wanted,
                &[("self_attn.q_norm", heads), ("self_attn.k_norm", heads)],
            );
        }
        let (recorder, asked) = weights(name, r#", "head_dim": 6, "sliding_window": 3"#);
        assert_eq!(asked, wanted, "{name}");
        assert_eq!(recorder.ops[1], "affine 4 0", "{name}");
        let norms = recorder.ops.iter().filter(|op| op.starts_with("rms_norm"));
        let plus = norms.filter(|op| op.ends_with(" 0.00001 1")).count();
        assert_eq!(plus, wanted.len() - 7 * 2 - 1, "{name}");
        let cap = heads.map_or("Some(50.0)", |_| "None");
        let attention =
            |window: &str| format!("attention window {window} scale Some(0.0625) softcap {cap}");
        assert!(recorder.ops.contains(&attention("Some(3)")), "{name}");
        let last = |op: &str| recorder.ops.iter().rposition(|found| found == op);
        let capped = last("unary Tanh") > last("linear model.embed_tokens");
        assert_eq!(capped, heads.is_none(), "{name}: the logits");
    }
}

#[test]
fn olmos_norm_what_branches_give_and_whole_queries() {
    for name in ["olmo2", "olmo3"] {
        let mut wanted = expected(4, false, &[]);
        wanted.retain(|name, _| !name.contains("input_layernorm"));
        layers(&mut wanted, &[("post_feedforward_layernorm", &[16])]);
        layers(
            &mut wanted,
            &[("self_attn.q_norm", &[16]), ("self_attn.k_norm", &[8])],
        );
        let (recorder, asked) = weights(name, "");
        assert_eq!(asked, wanted, "{name}");
        let layer = "model.layers.0";
        let ops = [
            format!("linear {layer}.self_attn.q_proj"),
            format!("rms_norm {layer}.self_attn.q_norm 0.00001 0"),
            "unflatten 4".into(),
        ];
        assert_eq!(recorder.ops[1..4], ops, "{name}");
        let after = format!("rms_norm {layer}.post_attention_layernorm 0.00001 0");
        let at = recorder.ops.iter().position(|op| *op == after).unwrap();
        assert_eq!(recorder.ops[at + 1], "binary Add", "{name}");
    }
}

#[test]
fn glm4_has_one_projection_for_gate_and_up_and_moved_norms() {
    let biased = ["self_attn.q", "self_attn.k", "self_attn.v"];
    let mut wanted = expected(4, false, &biased);
    wanted.retain(|name, _| !name.contains("gate_proj") && !name.contains("up_proj"));
    layers(&mut wanted, &[("mlp.gate_up_proj", &[48, 16])]);
    for norm in ["post_self_attn_layernorm", "post_mlp_layernorm"] {
        layers(&mut wanted, &[(norm, &[16])]);
    }
    let (recorder, asked) = weights("glm4", r#", "head_dim": 4"#);
    assert_eq!(asked, wanted);
    let mlp = "model.layers.0.mlp";
    let gate = format!("linear {mlp}.gate_up_proj");
    let at = recorder.ops.iter().position(|op| *op == gate).unwrap();
    let ops = ["narrow 0 24", "unary Silu", "narrow 24 24", "binary Mul"];
    assert_eq!(recorder.ops[at + 1..at + 5], ops);
    let moved = "rms_norm model.layers.0.post_attention_layernorm 0.00001 0";
    assert_eq!(recorder.ops[at - 1], moved);
    assert!(recorder.ops.contains(&"rope [1.0] true".into()));
}

#[test]
fn mixtures_ask_for_a_router_and_for_every_experts_weights() {
    let experts = r#", "num_local_experts": 3, "moe_intermediate_size": 10, "norm_topk_prob": true,
        "head_dim": 6, "mlp_only_layers": [0], "num_experts_per_tok": 2"#;
    for (name, module, parts, ffn) in [
        ("mixtral", "block_sparse_moe", ["w1", "w3", "w2"], 24),
        (
            "qwen3_moe",
            "mlp",
            ["gate_proj", "up_proj", "down_proj"],
            10,
        ),
    ] {
        let mut wanted = expected(6, false, &[]);
        if name == "qwen3_moe" {
            let norms: [(&str, &[usize]); 2] =
                [("self_attn.q_norm", &[6]), ("self_attn.k_norm", &[6])];
            layers(&mut wanted, &norms);
        }
        // Mixtral reads no `mlp_only_layers`
        let mixtures = if name == "mixtral" {
            vec![0, 1]
        } else {
            vec![1]
        };
        for layer in &mixtures {
            let place = format!("model.layers.{layer}");
            wanted.retain(|name, _| !name.starts_with(&format!("{place}.mlp.")));
            wanted.insert(format!("{place}.{module}.gate.weight"), vec![3, 16]);
            for e in 0..3 {
                let expert = format!("{place}.{module}.experts.{e}");
                for (part, shape) in parts.into_iter().zip([[ffn, 16], [ffn, 16], [16, ffn]]) {
                    wanted.insert(format!("{expert}.{part}.weight"), shape.to_vec());
                }
            }
        }
        let (recorder, asked) = weights(name, experts);
        assert_eq!(asked, wanted, "{name}");
        let moe: Vec<&String> = recorder
            .ops
            .iter()
            .filter(|op| op.starts_with("moe "))
            .collect();
        assert_eq!(moe.len(), mixtures.len(), "{name}");
        let route =
            "top_k: 2, sigmoid: false, normalise: true, scale: 1.0, bias: None, groups: None";
        assert!(moe[0].contains(route), "{name}: {}", moe[0]);
    }
}

#[test]
fn gpt_oss_asks_for_sinks_and_for_biases_of_router_and_experts() {
    let keys = r#", "num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 4,
        "max_position_embeddings": 131072"#;
    let biased = ["self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o"];
    let mut wanted = expected(4, false, &biased);
    wanted.retain(|name, _| !name.contains(".mlp."));
    for layer in 0..2 {
        let place = format!("model.layers.{layer}");
        wanted.insert(format!("{place}.self_attn.sinks"), vec![4]);
        let mut biased = |part: &str, shape: [usize; 2]| {
            wanted.insert(format!("{place}.mlp.{part}.weight"), shape.to_vec());
            wanted.insert(format!("{place}.mlp.{part}.bias"), vec![shape[0]]);
        };
        biased("router", [2, 16]);
        for e in 0..2 {
            biased(&format!("experts.{e}.gate_proj"), [24, 16]);
            biased(&format!("experts.{e}.up_proj"), [24, 16]);
            biased(&format!("experts.{e}.down_proj"), [16, 24]);
        }
    }
    let (recorder, asked) = weights("gpt_oss", keys);
    assert_eq!(asked, wanted);
    let attention = recorder.ops.iter().filter(|op| op.starts_with("attention"));
    let said = |window| format!("attention window {window} scale None softcap None sinks [1, 4]");
    let said = [said("Some(128)"), said("None")];
    assert!(attention.eq(said.iter()), "{:?}", recorder.ops);
}

#[test]
fn a_llama_block_is_these_ops() {
    let (recorder, _) = weights("llama", "");
    let rope = "rope [1.0, 0.01] false"; // 10000^(-2i/4)
    let layer = "model.layers.0";
    let ops = [
        format!("rms_norm {layer}.input_layernorm 0.00001 0"),
        format!("linear {layer}.self_attn.q_proj"),
        "unflatten 4".into(),
        rope.into(),
        format!("linear {layer}.self_attn.k_proj"),
        "unflatten 2".into(),
        rope.into(),
        format!("linear {layer}.self_attn.v_proj"),
        "unflatten 2".into(),
        "attention window None scale None softcap None".into(),
        "flatten".into(),
        format!("linear {layer}.self_attn.o_proj"),
        "binary Add".into(),
        format!("rms_norm {layer}.post_attention_layernorm 0.00001 0"),
        format!("linear {layer}.mlp.gate_proj"),
        "unary Silu".into(),
        format!("linear {layer}.mlp.up_proj"),
        "binary Mul".into(),
        format!("linear {layer}.mlp.down_proj"),
        "binary Add".into(),
    ];
    assert_eq!(recorder.ops[1..21], ops);
    assert_eq!(recorder.ops.len(), 1 + 2 * 20 + 2);
}

#[test]
fn a_configuration_that_does_not_fit_is_named() {
    let host = stock();
    for (config, says) in [
        (
            "{}",
            "architecture llama: configuration: `hidden_size` is missing",
        ),
        (
            "[",
            "architecture llama: line 1 of the configuration is not JSON: it ends in the middle",
        ),
    ] {
        let error = host
            .architecture("llama", config)
            .err()
            .unwrap()
            .to_string();
        assert_eq!(error, says);
    }
    let error = host.architecture("lama", "{}").err().unwrap().to_string();
    assert_eq!(
        error,
        "there is no architecture `lama`; did you mean `llama`? there are: cohere2, gemma2, gemma3_text, gemma4_text, glm4, gpt_oss, granite, lfm2, llama, ministral3, mistral, mixtral, olmo2, olmo3, phi3, qwen2, qwen3, qwen3_5_text, qwen3_moe, smollm3"
    );
}
