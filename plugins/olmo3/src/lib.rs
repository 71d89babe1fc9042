//! OLMo 3 (OLMo Team 2025): OLMo 2's block with a window in three of four layers, and two rotary
//! embeddings.
//!
//! Every fourth layer (or as `layer_types` says) sees all earlier tokens and is rotated as
//! `rope_theta` and `rope_scaling` say; the others have the window (4096) and turn with 500,000,
//! not scaled. As in transformers a `rope_theta` beside the sections reaches full layers only.

use randori_sdk::{
    Absent, Config, Dense, DenseFamily, Dialect, Norms, QkNorms, Result, RopeRules, Ropes, Windows,
    dialect::{Biases, Form, Gguf, Implied, Is, Key, Module},
    plugin,
};

/// The OLMo 3 family.
pub struct Olmo3;

/// transformers' default of the absent key.
const ABSENT: Absent = Absent {
    eps: Some(1e-5),
    ..Absent::LLAMA
};
/// Where the configuration has theta of layers with a window.
const WINDOWED_THETA: &str = "rope_parameters.sliding_attention.rope_theta";
/// The rotary embedding of layers that see everything.
const FULL: RopeRules = RopeRules {
    theta: 5e5,
    ..RopeRules::FULL
};
/// That of layers with a window.
const WINDOWED: RopeRules = RopeRules {
    theta: FULL.theta,
    ..RopeRules::WINDOWED
};

impl DenseFamily for Olmo3 {
    const NAME: &'static str = "olmo3";
    const DOC: &'static str = "OLMo 3: OLMo 2's block, windows in three of four layers";
    const DIALECT: Dialect = Dialect {
        class: "Olmo3ForCausalLM",
        defaults: r#"{"rms_norm_eps": 1e-5, "rope_theta": 500000.0, "sliding_window": 4096,
            "rope_parameters": {"sliding_attention": {"rope_theta": 500000.0}}}"#,
        // OLMo 2's architecture with windows
        gguf: Some(Gguf {
            architecture: "olmo2",
            told_by: "attention.sliding_window",
            modules: &[
                Module::OUTSIDE,
                Module::NORMS_AFTER,
                Module::ATTENTION,
                Module::QK_NORMS,
                Module::MLP,
            ],
            biased: Gguf::QKV,
            biases: &[Biases::ATTENTION],
            keys: &[
                Key::whole("attention.sliding_window", &["sliding_window"]).required(),
                Key::whole("attention.sliding_window_pattern", &["layer_types"]).of(Form::Slides),
                Key::real("rope.freq_base_swa", &[WINDOWED_THETA]),
            ],
            // whatever rope.freq_base_swa is: llama.cpp does not read it here
            implied: &[Implied::SILU, Implied::number(WINDOWED_THETA, Is::Theta)],
            ..Gguf::HALVES
        }),
        ..Dialect::NONE
    };

    fn read(c: &Config) -> Result<Dense> {
        c.only("hidden_act", &["silu", "swish"])?;
        let dense = Dense::sizes(c, ABSENT)?;
        let biases = c.bool_or("attention_bias", false)?;
        let windows = Windows::but_every(c, dense.layers, 4)?;
        let [windowed, full] = [WINDOWED, FULL].map(|rules| rules.read(c, dense.head_dim));
        Ok(Dense {
            qkv_bias: biases,
            o_bias: biases,
            norms: Norms::AFTER,
            qk_norms: QkNorms::Whole,
            ropes: Ropes::split(windows.layers().clone(), Some(windowed?), Some(full?)),
            windows,
            ..dense
        })
    }
}

plugin!("The OLMo 3 family", dense Olmo3);

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"{"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 24,
        "num_hidden_layers": 5, "vocab_size": 32, "max_position_embeddings": 64"#;

    fn new(more: &str) -> Result<Dense> {
        Olmo3::read(&Config::parse(&format!("{SMALL}{more}}}"))?)
    }

    /// theta of layers 0 and 3, whose second frequency is theta^-1/2.
    fn thetas(dense: &Dense) -> [f32; 2] {
        [0, 3].map(|i| dense.ropes.of(i).unwrap().inv_freq[1].powi(-2).round())
    }

    #[test]
    fn the_block_is_olmo_2_s_and_three_of_four_layers_have_the_window() {
        let dense = new("").unwrap();
        assert_eq!(
            (dense.norms, dense.qk_norms),
            (Norms::AFTER, QkNorms::Whole)
        );
        assert_eq!((dense.eps, dense.head_dim), (1e-5, 4));
        let windows = |more: &str| [0, 1, 2, 3, 4].map(|i| new(more).unwrap().windows.of(i));
        let wide = Some(4096);
        assert_eq!(windows(""), [wide, wide, wide, None, wide]);
        let kinds = r#", "sliding_window": 8, "layer_types": ["full_attention",
            "sliding_attention", "full_attention", "full_attention", "full_attention"]"#;
        assert_eq!(windows(kinds), [None, Some(8), None, None, None]);
        let biased = new(r#", "attention_bias": true"#).unwrap();
        assert!(biased.qkv_bias && biased.o_bias && !biased.mlp_bias);
    }

    #[test]
    fn theta_and_scaling_beside_the_sections_reach_full_layers_only() {
        assert_eq!(thetas(&new("").unwrap()), [5e5, 5e5]);
        assert_eq!(
            thetas(&new(r#", "rope_theta": 900"#).unwrap()),
            [5e5, 900.0]
        );
        let yarn = r#", "rope_scaling": {"rope_type": "yarn", "factor": 8,
            "original_max_position_embeddings": 8192, "attention_factor": 1.2079441541679836}"#;
        let dense = new(yarn).unwrap();
        let [windowed, full] = [0, 3].map(|i| dense.ropes.of(i).unwrap());
        assert_eq!((windowed.mscale, full.mscale), (1.0, 1.207_944_2));
        let v5 = r#", "rope_parameters": {"full_attention": {"rope_theta": 900},
            "sliding_attention": {"rope_theta": 400}}"#;
        assert_eq!(thetas(&new(v5).unwrap()), [400.0, 900.0]);
    }

    #[test]
    fn refuses_what_it_cannot_compute() {
        for (more, says) in [
            (
                r#", "hidden_act": "gelu""#,
                "`hidden_act` is \"gelu\"; supported: silu",
            ),
            (r#", "sliding_window": null"#, "`sliding_window` is null"),
        ] {
            let error = new(more).err().unwrap().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
