//! OLMo 2 (OLMo Team 2024, arXiv 2501.00656): Llama's block without norms of its inputs; what
//! attention and perceptron give is normed instead, and so are queries and keys.
//!
//! The norms of queries and keys are of the whole projection, all heads together, before heads are
//! split and rotated. `attention_bias` gives biases to all four projections of attention.

use randori_sdk::{
    Absent, Config, Dense, DenseFamily, Dialect, Norms, QkNorms, Result,
    dialect::{Biases, Gguf, Module},
    plugin,
};

/// The OLMo 2 family.
pub struct Olmo2;

/// transformers' default of the absent key.
const ABSENT: Absent = Absent {
    eps: Some(1e-5),
    ..Absent::LLAMA
};

impl DenseFamily for Olmo2 {
    const NAME: &'static str = "olmo2";
    const DOC: &'static str = "OLMo 2: norms after both branches, and of whole queries and keys";
    const DIALECT: Dialect = Dialect {
        class: "Olmo2ForCausalLM",
        defaults: r#"{"rms_norm_eps": 1e-5}"#,
        gguf: Some(Gguf {
            architecture: "olmo2",
            modules: &[
                Module::OUTSIDE,
                Module::NORMS_AFTER,
                Module::ATTENTION,
                Module::QK_NORMS,
                Module::MLP,
            ],
            biased: Gguf::QKV,
            biases: &[Biases::ATTENTION],
            ..Gguf::HALVES
        }),
        ..Dialect::NONE
    };

    fn read(c: &Config) -> Result<Dense> {
        let biases = c.bool_or("attention_bias", false)?;
        Ok(Dense {
            qkv_bias: biases,
            o_bias: biases,
            norms: Norms::AFTER,
            qk_norms: QkNorms::Whole,
            ..Dense::new(c, ABSENT)?
        })
    }
}

plugin!("The OLMo 2 family", dense Olmo2);

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"{"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 24,
        "num_hidden_layers": 2, "vocab_size": 32"#;

    fn new(more: &str) -> Result<Dense> {
        Olmo2::read(&Config::parse(&format!("{SMALL}{more}}}"))?)
    }

    #[test]
    fn norms_stand_after_the_branches_and_over_whole_projections() {
        let dense = new("").unwrap();
        assert_eq!(
            (dense.norms, dense.qk_norms),
            (Norms::AFTER, QkNorms::Whole)
        );
        assert_eq!((dense.kv_heads, dense.head_dim), (4, 4));
        assert_eq!((dense.eps, dense.tied, dense.norm_plus), (1e-5, false, 0.0));
        assert!(!dense.qkv_bias && !dense.o_bias);
        let biased = new(r#", "attention_bias": true"#).unwrap();
        assert!(biased.qkv_bias && biased.o_bias && !biased.mlp_bias);
    }

    #[test]
    fn refuses_what_it_cannot_compute() {
        let error = new(r#", "hidden_act": "gelu""#).err().unwrap().to_string();
        assert!(
            error.contains("`hidden_act` is \"gelu\"; supported: silu"),
            "{error}"
        );
    }
}
