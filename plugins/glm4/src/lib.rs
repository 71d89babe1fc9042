//! GLM-4-0414 (Z.ai 2025): norms of both branches' inputs and outputs as in Gemma 2, under
//! other names; gate and up in one projection; half of every head rotated, in neighbouring pairs.
//!
//! `post_attention_layernorm` norms the perceptron's input, as Llama's, and
//! `post_self_attn_layernorm` what attention gives. `attention_bias`, true where it is absent,
//! gives biases to queries, keys and values, never to attention's output. `partial_rotary_factor`
//! is 0.5 where it is absent.

use randori_sdk::{
    Absent, Config, Dense, DenseFamily, Dialect, Norms, Result, Rope, RopeRules, Ropes, Share,
    dialect::{Biases, Gguf, Module, Size},
    plugin,
};

/// The GLM-4 family.
pub struct Glm4;

/// transformers' defaults of absent keys.
const ABSENT: Absent = Absent {
    kv_heads: Some(2),
    head_dim: Some(128),
    eps: Some(1.5625e-7),
    ..Absent::LLAMA
};
const ROPE: RopeRules = RopeRules {
    share: Share::Part(0.5),
    ..RopeRules::PART
};

impl DenseFamily for Glm4 {
    const NAME: &'static str = "glm4";
    const DOC: &'static str = "GLM-4-0414: norms around both branches, half of each head rotated";
    const DIALECT: Dialect = Dialect {
        class: "Glm4ForCausalLM",
        defaults: r#"{"num_key_value_heads": 2, "head_dim": 128, "rms_norm_eps": 1.5625e-7,
            "attention_bias": true, "partial_rotary_factor": 0.5}"#,
        gguf: Some(Gguf {
            architecture: "glm4",
            modules: &[
                Module::OUTSIDE,
                Module::ATTENTION,
                &[
                    Module::new("input_layernorm", "attn_norm"),
                    Module::new("post_self_attn_layernorm", "post_attention_norm"),
                    Module::new("post_attention_layernorm", "ffn_norm"),
                    Module::new("post_mlp_layernorm", "post_ffw_norm"),
                    Module::new("mlp.gate_up_proj", "ffn_up").sized(Size::Free, Size::Width),
                    Module::new("mlp.down_proj", "ffn_down").sized(Size::Width, Size::Ffn),
                ],
            ],
            biased: Gguf::QKV,
            biases: &[Biases {
                key: Some("attention_bias"),
                ..Biases::QKV
            }],
            partial_rotary: true,
            ..Gguf::HALVES
        }),
        ..Dialect::NONE
    };

    fn read(c: &Config) -> Result<Dense> {
        c.only("hidden_act", &["silu", "swish"])?;
        let dense = Dense::sizes(c, ABSENT)?;
        let rope = Rope {
            interleaved: true,
            ..ROPE.read(c, dense.head_dim)?
        };
        Ok(Dense {
            qkv_bias: c.bool_or("attention_bias", true)?,
            fused_gate_up: true,
            norms: Norms {
                attention: Some("input_layernorm"),
                after_attention: Some("post_self_attn_layernorm"),
                mlp: Some("post_attention_layernorm"),
                after_mlp: Some("post_mlp_layernorm"),
            },
            ropes: Ropes::all(rope),
            ..dense
        })
    }
}

plugin!("The GLM-4 family", dense Glm4);

#[cfg(test)]
mod tests {
    use super::*;
    use randori_sdk::QkNorms;

    const SMALL: &str = r#"{"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 24,
        "num_hidden_layers": 2, "vocab_size": 32"#;

    fn new(more: &str) -> Result<Dense> {
        Glm4::read(&Config::parse(&format!("{SMALL}{more}}}"))?)
    }

    #[test]
    fn absent_keys_have_the_class_s_values() {
        let dense = new("").unwrap();
        assert_eq!((dense.kv_heads, dense.head_dim), (2, 128));
        assert_eq!((dense.eps, dense.tied), (1.5625e-7, false));
        assert!(dense.qkv_bias && !dense.o_bias && !dense.mlp_bias && dense.fused_gate_up);
        assert_eq!((dense.norm_plus, dense.qk_norms), (0.0, QkNorms::Off));
        let unbiased = new(r#", "attention_bias": false"#).unwrap();
        assert!(!unbiased.qkv_bias && !unbiased.o_bias);
    }

    #[test]
    fn half_of_a_head_is_rotated_in_neighbouring_pairs() {
        let rope = |more: &str| new(more).unwrap().ropes.of(1).unwrap().clone();
        let half = rope("");
        assert_eq!((half.interleaved, half.inv_freq.len()), (true, 32));
        // the exponent runs over the rotated features
        assert!((half.inv_freq[1] - 1e4f32.powf(-2.0 / 64.0)).abs() < 1e-7);
        assert_eq!(
            rope(r#", "partial_rotary_factor": 0.25"#).inv_freq.len(),
            16
        );
        let v5 = r#", "rope_parameters": {"rope_type": "default", "rope_theta": 900,
            "partial_rotary_factor": 1.0}, "head_dim": 4"#;
        assert_eq!(rope(v5).inv_freq.len(), 2);
        assert!((rope(v5).inv_freq[1] - 1.0 / 30.0).abs() < 1e-7);
    }

    #[test]
    fn the_names_of_the_norms_are_moved() {
        let norms = new("").unwrap().norms;
        assert_eq!(norms.mlp, Some("post_attention_layernorm"));
        assert_eq!(norms.after_attention, Some("post_self_attn_layernorm"));
        assert_eq!(norms.after_mlp, Some("post_mlp_layernorm"));
    }

    #[test]
    fn refuses_what_it_cannot_compute() {
        let error = new(r#", "hidden_act": "gelu""#).err().unwrap().to_string();
        assert!(
            error.contains("`hidden_act` is \"gelu\"; supported: silu"),
            "{error}"
        );
        let error = new(r#", "head_dim": 2"#).err().unwrap().to_string();
        assert!(
            error.contains("1 of 2 features per head cannot be turned"),
            "{error}"
        );
    }
}
