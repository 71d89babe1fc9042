//! Granite 3.x (IBM 2024), dense: Llama's block with four factors of the configuration.
//!
//! `embedding_multiplier` on the embedding's rows, `residual_multiplier` on what attention and
//! perceptron add, `attention_multiplier` on the scores in place of 1 / √head_dim (and 1 where it
//! is absent), and the logits divided by `logits_scaling`.

use randori_sdk::{
    Absent, Config, Dense, DenseFamily, Dialect, Result,
    dialect::{Gguf, Key},
    plugin,
};

/// The Granite family.
pub struct Granite;

impl DenseFamily for Granite {
    const NAME: &'static str = "granite";
    const DOC: &'static str =
        "Granite 3.x: Llama's block with factors on embedding, branches, scores";
    const DIALECT: Dialect = Dialect {
        class: "GraniteForCausalLM",
        defaults: r#"{"embedding_multiplier": 1, "residual_multiplier": 1,
            "attention_multiplier": 1, "logits_scaling": 1}"#,
        gguf: Some(Gguf {
            architecture: "granite",
            keys: &[
                Key::real("embedding_scale", &["embedding_multiplier"]),
                Key::real("residual_scale", &["residual_multiplier"]),
                Key::real("attention.scale", &["attention_multiplier"]),
                Key::real("logit_scale", &["logits_scaling"]).required(), // a divisor there too
            ],
            ..Gguf::LLAMA
        }),
        ..Dialect::NONE
    };

    fn read(c: &Config) -> Result<Dense> {
        let dense = Dense::new(c, Absent::LLAMA)?;
        let attention_bias = c.bool_or("attention_bias", false)?;
        let divisor = c.f64_or("logits_scaling", 1.0)?;
        if divisor == 0.0 {
            return Err(c.error("logits_scaling", "is 0, and logits are divided by it"));
        }
        Ok(Dense {
            qkv_bias: attention_bias,
            o_bias: attention_bias,
            mlp_bias: c.bool_or("mlp_bias", false)?,
            embed_scale: c.f64_or("embedding_multiplier", 1.0)?,
            branch_scale: c.f64_or("residual_multiplier", 1.0)?,
            attn_scale: Some(c.f64_or("attention_multiplier", 1.0)? as f32),
            logit_scale: 1.0 / divisor,
            ..dense
        })
    }
}

plugin!("The Granite family", dense Granite);

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"{"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 32"#;

    fn new(more: &str) -> Result<Dense> {
        Granite::read(&Config::parse(&format!("{SMALL}{more}}}"))?)
    }

    #[test]
    fn reads_its_factors() {
        let plain = new("").unwrap();
        let factors = |d: &Dense| (d.embed_scale, d.branch_scale, d.attn_scale, d.logit_scale);
        assert_eq!(factors(&plain), (1.0, 1.0, Some(1.0), 1.0)); // 1, not 1 / √head_dim
        assert!(!plain.tied && !plain.qkv_bias && !plain.o_bias && !plain.mlp_bias);
        let more = r#", "embedding_multiplier": 12, "residual_multiplier": 0.22,
            "attention_multiplier": 0.015625, "logits_scaling": 8.0, "attention_bias": true,
            "mlp_bias": true"#;
        let granite = new(more).unwrap();
        assert_eq!(factors(&granite), (12.0, 0.22, Some(0.015_625), 0.125));
        assert!(granite.qkv_bias && granite.o_bias && granite.mlp_bias);
        let error = new(r#", "logits_scaling": 0"#).err().unwrap().to_string();
        assert!(
            error.contains("`logits_scaling` is 0, and logits are divided"),
            "{error}"
        );
    }
}
