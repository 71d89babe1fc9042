//! Ministral 3 (Mistral AI 2025), its text part: Llama's block with yarn and with queries that grow
//! with their position, q·(1 + beta·ln(1 + floor(position / original length))) once rotated.
//!
//! beta is `llama_4_scaling_beta` of the rotary section, which must be there unless the whole
//! section is absent; up to `original_max_position_embeddings` tokens the factor is 1.

use randori_sdk::{
    Absent, Config, Dense, DenseFamily, Dialect, Layers, Result, RopeRules, Ropes, Windows,
    dialect::{Gguf, Key, Sliding},
    plugin,
};

/// The Ministral 3 family.
pub struct Ministral3;

/// transformers' defaults of absent keys.
const ABSENT: Absent = Absent {
    kv_heads: Some(8),
    eps: Some(1e-5),
    ..Absent::LLAMA
};
/// `head_dim` where it is absent; null means width / heads.
const HEAD_DIM: usize = 128;

/// What its class makes of rotary keys.
const ROPE: RopeRules = RopeRules {
    absent: Some(
        r#"{"rope_type": "yarn", "rope_theta": 1000000.0, "factor": 16.0,
            "original_max_position_embeddings": 16384, "beta_fast": 32.0, "beta_slow": 1.0,
            "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1}"#,
    ),
    ..RopeRules::WHOLE
};

impl DenseFamily for Ministral3 {
    const NAME: &'static str = "ministral3";
    const DOC: &'static str =
        "Ministral 3: Llama's block with yarn and queries that grow with position";
    const DIALECT: Dialect = Dialect {
        class: "Ministral3ForCausalLM",
        wholes: &["mistral3"],
        prefixes: Dialect::PREFIXES,
        ignored: Dialect::VISION,
        defaults: r#"{"num_key_value_heads": 8, "head_dim": 128, "rms_norm_eps": 1e-5}"#,
        gguf: Some(Gguf {
            architecture: "mistral3",
            sliding: Sliding::Lost,
            yarn_log: true,
            keys: &[
                Key::real(
                    "attention.temperature_scale",
                    &[
                        "rope_parameters.llama_4_scaling_beta",
                        "rope_scaling.llama_4_scaling_beta",
                    ],
                )
                .required(),
                Key::real(
                    "rope.scaling.yarn_beta_fast",
                    &["rope_parameters.beta_fast", "rope_scaling.beta_fast"],
                ),
                Key::real(
                    "rope.scaling.yarn_beta_slow",
                    &["rope_parameters.beta_slow", "rope_scaling.beta_slow"],
                ),
            ],
            ..Gguf::LLAMA
        }),
        ..Dialect::NONE
    };

    fn read(c: &Config) -> Result<Dense> {
        c.only("hidden_act", &["silu", "swish"])?;
        let absent = Absent {
            head_dim: (!c.names("head_dim")).then_some(HEAD_DIM),
            ..ABSENT
        };
        let dense = Dense::sizes(c, absent)?;
        let growth = ROPE.growth(c)?;
        if growth.is_none() {
            let what = "has no llama_4_scaling_beta, which this architecture's queries grow by";
            return Err(c.error("rope_parameters", what));
        }
        let window = c.usize_opt("sliding_window")?;
        Ok(Dense {
            ropes: Ropes::all(ROPE.read(c, dense.head_dim)?),
            query_growth: growth,
            windows: Windows::read(c, dense.layers, window, Layers::ALL)?,
            ..dense
        })
    }
}

plugin!("The Ministral 3 family", dense Ministral3);

#[cfg(test)]
mod tests {
    use super::*;
    use randori_sdk::Growth;

    const SMALL: &str = r#"{"hidden_size": 64, "num_attention_heads": 8, "intermediate_size": 24,
        "num_hidden_layers": 2, "vocab_size": 32, "max_position_embeddings": 256"#;

    fn new(more: &str) -> Result<Dense> {
        Ministral3::read(&Config::parse(&format!("{SMALL}{more}}}"))?)
    }

    #[test]
    fn absent_keys_are_its_class_s() {
        let plain = new("").unwrap();
        assert_eq!((plain.kv_heads, plain.head_dim, plain.eps), (8, 128, 1e-5));
        assert_eq!(new(r#", "head_dim": null"#).unwrap().head_dim, 8);
        assert!(!plain.tied && !plain.qkv_bias && !plain.o_bias && !plain.mlp_bias);
        let rope = plain.ropes.of(1).unwrap();
        assert_eq!((rope.mscale, rope.inv_freq[0]), (1.0, 1.0)); // mscale = mscale_all_dim
        assert_eq!(
            plain.query_growth,
            Some(Growth {
                beta: 0.1,
                every: 16384
            })
        );
        assert_eq!([0, 1].map(|i| plain.windows.of(i)), [None; 2]);
        let windowed = new(r#", "sliding_window": 5"#).unwrap();
        assert_eq!([0, 1].map(|i| windowed.windows.of(i)), [Some(5); 2]);
    }

    #[test]
    fn queries_grow_by_the_section_s_keys() {
        let section = |more: &str| {
            let yarn =
                r#""rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 64"#;
            new(&format!(r#", "rope_parameters": {{{yarn}{more}}}"#))
        };
        let dense = section(r#", "llama_4_scaling_beta": 0.25"#).unwrap();
        let growth = dense.query_growth.unwrap();
        assert_eq!((growth.beta, growth.every), (0.25, 64));
        assert_eq!(
            (growth.at(63), growth.at(64)),
            (1.0, 1.0 + 0.25 * 2f64.ln())
        );
        // without mscale and mscale_all_dim: 0.1·ln 4 + 1
        assert!((dense.ropes.of(0).unwrap().mscale - 1.138_629_4).abs() < 1e-6);
        let error = section("").err().unwrap().to_string();
        assert!(
            error.contains("`rope_parameters` has no llama_4_scaling_beta"),
            "{error}"
        );
    }
}
