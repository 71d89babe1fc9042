//! Qwen3's dense models (Yang et al. 2025, arXiv 2505.09388): Llama's block with an RMS norm of
//! every head of queries and keys before it is rotated, one scale for all heads of a layer.
//!
//! Heads have `head_dim` features, 128 where the key is absent, whatever hidden_size /
//! num_attention_heads is. No projection has a bias unless `attention_bias` gives one to all four
//! of attention. Windows are as in Qwen2: `use_sliding_window`, from `max_window_layers` on, or by
//! `layer_types`.

use randori_sdk::{
    Absent, Config, Dense, DenseFamily, Dialect, QkNorms, Result, Windows,
    dialect::{Biases, Gguf, Module, Sliding},
    plugin,
};

/// The Qwen3 family.
pub struct Qwen3;

/// transformers' defaults of absent keys.
const ABSENT: Absent = Absent {
    kv_heads: Some(32),
    head_dim: Some(128),
    ..Absent::LLAMA
};

impl DenseFamily for Qwen3 {
    const NAME: &'static str = "qwen3";
    const DOC: &'static str = "Qwen3 (dense): Llama's block with norms of q's and k's heads";
    const DIALECT: Dialect = Dialect {
        class: "Qwen3ForCausalLM",
        targets: &["q_proj", "v_proj"],
        defaults: r#"{"num_key_value_heads": 32, "head_dim": 128, "sliding_window": 4096,
            "max_window_layers": 28}"#,
        gguf: Some(Gguf {
            architecture: "qwen3",
            modules: &[
                Module::OUTSIDE,
                Module::NORMS,
                Module::ATTENTION,
                Module::QK_NORMS,
                Module::MLP,
            ],
            biased: Gguf::QKV,
            biases: &[Biases::ATTENTION],
            sliding: Sliding::LostInUse,
            ..Gguf::HALVES
        }),
        ..Dialect::NONE
    };

    fn read(c: &Config) -> Result<Dense> {
        let dense = Dense::new(c, ABSENT)?;
        let attention_bias = c.bool_or("attention_bias", false)?;
        Ok(Dense {
            qkv_bias: attention_bias,
            o_bias: attention_bias,
            qk_norms: QkNorms::Heads,
            windows: Windows::in_use(c, dense.layers)?,
            ..dense
        })
    }
}

plugin!("The Qwen3 family", dense Qwen3);

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"{"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 32"#;

    fn new(more: &str) -> Dense {
        let config = Config::parse(&format!("{SMALL}{more}}}")).unwrap();
        Qwen3::read(&config).unwrap()
    }

    #[test]
    fn heads_have_norms_and_a_size_of_their_own() {
        let plain = new("");
        assert_eq!((plain.head_dim, plain.qk_norms), (128, QkNorms::Heads));
        assert_eq!(plain.ropes.of(0).unwrap().inv_freq.len(), 64);
        assert!(!plain.qkv_bias && !plain.o_bias && !plain.mlp_bias);
        assert_eq!(new(r#", "head_dim": 6"#).head_dim, 6);
        assert_eq!(new(r#", "head_dim": null"#).head_dim, 128);
        let biased = new(r#", "attention_bias": true"#);
        assert!(biased.qkv_bias && biased.o_bias && !biased.mlp_bias);
    }

    #[test]
    fn windows_and_absent_keys_are_qwen2_s() {
        let windows = |more: &str| [0, 1].map(|i| new(more).windows.of(i));
        assert_eq!(windows(r#", "sliding_window": 8"#), [None; 2]);
        let used = r#", "use_sliding_window": true, "sliding_window": 8, "max_window_layers": 1"#;
        assert_eq!(windows(used), [None, Some(8)]);
        let heads = r#"{"hidden_size": 128, "num_attention_heads": 64, "intermediate_size": 24,
            "num_hidden_layers": 2, "vocab_size": 32}"#;
        let absent = Qwen3::read(&Config::parse(heads).unwrap()).unwrap();
        assert_eq!((absent.kv_heads, absent.eps), (32, 1e-6));
    }
}
