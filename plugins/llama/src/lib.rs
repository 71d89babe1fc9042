//! Llama 1 to 3.x (Touvron et al. 2023, arXiv 2302.13971; Grattafiori et al. 2024, arXiv
//! 2407.21783) and models of the same shape: SmolLM2, TinyLlama, Yi, DeepSeek-LLM.
//!
//! Read from the configuration: grouped-query attention, `head_dim`, tied embeddings,
//! `attention_bias`, `mlp_bias`, rotary frequencies of every kind. Absent keys have the defaults of
//! transformers' class; `partial_rotary_factor` is not read.

use randori_sdk::{Absent, Config, Dense, DenseFamily, Dialect, Result, dialect::Gguf, plugin};

/// The Llama family.
pub struct Llama;

impl DenseFamily for Llama {
    const NAME: &'static str = "llama";
    const DOC: &'static str =
        "Llama 1 to 3.x, and models of the same shape (SmolLM2, TinyLlama, Yi)";
    const DIALECT: Dialect = Dialect {
        class: "LlamaForCausalLM",
        gguf: Some(Gguf::LLAMA),
        ..Dialect::NONE
    };

    fn read(c: &Config) -> Result<Dense> {
        let dense = Dense::new(c, Absent::LLAMA)?;
        no_windows(c, &dense)?;
        let attention_bias = c.bool_or("attention_bias", false)?;
        Ok(Dense {
            qkv_bias: attention_bias,
            o_bias: attention_bias,
            mlp_bias: c.bool_or("mlp_bias", false)?,
            ..dense
        })
    }
}

/// An error where a configuration asks for a sliding window: transformers' Llama computes a whole
/// text without it, and with it while it generates.
fn no_windows(c: &Config, dense: &Dense) -> Result<()> {
    let context = c.usize_or("max_position_embeddings", 2048)?;
    if let Some(window) = c.usize_opt("sliding_window")?.filter(|w| *w < context) {
        let what = format!("is {window}: this architecture has no sliding window");
        return Err(c.error("sliding_window", &what));
    }
    let kinds = dense.layer_types(c)?.unwrap_or_default();
    let other = |kind: &&&str| !["full_attention", "attention"].contains(kind);
    match kinds.iter().find(other) {
        Some(other) => {
            let what = format!("has \"{other}\"; supported: full_attention");
            Err(c.error("layer_types", &what))
        }
        None => Ok(()),
    }
}

plugin!("The Llama family", dense Llama);

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"{"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 24, "num_hidden_layers": 3, "vocab_size": 32, "rms_norm_eps": 1e-5"#;

    fn new(more: &str) -> Result<Dense> {
        Llama::read(&Config::parse(&format!("{SMALL}{more}}}"))?)
    }

    #[test]
    fn reads_its_configuration() {
        let llama = new("").unwrap();
        assert_eq!((llama.head_dim, llama.kv_heads, llama.layers), (4, 2, 3));
        assert!(!llama.tied && !llama.qkv_bias && !llama.o_bias && !llama.mlp_bias);
        let more = r#", "head_dim": 8, "tie_word_embeddings": true, "rope_theta": 500000.0"#;
        let llama = new(more).unwrap();
        assert_eq!((llama.head_dim, llama.tied), (8, true));
        assert!((llama.ropes.of(0).unwrap().inv_freq[1] - 500_000f32.powf(-0.25)).abs() < 1e-7);
    }

    #[test]
    fn refuses_what_it_cannot_compute() {
        for (more, says) in [
            (
                r#", "hidden_act": "gelu""#,
                "`hidden_act` is \"gelu\"; supported: silu, swish",
            ),
            (
                r#", "num_key_value_heads": 3"#,
                "which does not divide num_attention_heads (4)",
            ),
            (r#", "sliding_window": 8"#, "`sliding_window` is 8: this"),
            (
                r#", "layer_types": ["full_attention"]"#,
                "`layer_types` has 1 entries for 3 layers",
            ),
            (r#", "vocab_size": null"#, "`vocab_size` is missing"),
            (
                r#", "head_dim": 5"#,
                "5 of 5 features per head cannot be turned",
            ),
            (
                r#", "rope_scaling": {"type": "ntk"}"#,
                "is \"ntk\"; supported: default, linear, llama3, yarn",
            ),
        ] {
            let error = new(more).err().unwrap().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
