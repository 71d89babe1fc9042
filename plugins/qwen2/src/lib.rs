//! Qwen2 and Qwen2.5 (Yang et al. 2024, arXiv 2407.10671 and 2412.15115): Llama's block with biases
//! on the projections to queries, keys and values, always, and on no other.
//!
//! `sliding_window` counts only with `use_sliding_window`, and then in the layers from
//! `max_window_layers` on, or in those that `layer_types` names: the released folders write a
//! window that no layer has. Absent keys have the defaults of transformers' class.

use randori_sdk::{
    Absent, Config, Dense, DenseFamily, Dialect, Result, Windows,
    dialect::{Biases, Gguf, Sliding},
    plugin,
};

/// The Qwen2 family.
pub struct Qwen2;

/// transformers' default of the absent key.
const ABSENT: Absent = Absent {
    kv_heads: Some(32),
    ..Absent::LLAMA
};

impl DenseFamily for Qwen2 {
    const NAME: &'static str = "qwen2";
    const DOC: &'static str = "Qwen2 and Qwen2.5: Llama's block with biases on q, k and v";
    const DIALECT: Dialect = Dialect {
        class: "Qwen2ForCausalLM",
        targets: &["q_proj", "v_proj"],
        defaults: r#"{"num_key_value_heads": 32, "sliding_window": 4096, "max_window_layers": 28}"#,
        gguf: Some(Gguf {
            architecture: "qwen2",
            biased: Gguf::QKV,
            biases: &[Biases::QKV],
            any_head_dim: false,
            sliding: Sliding::LostInUse,
            ..Gguf::HALVES
        }),
        ..Dialect::NONE
    };

    fn read(c: &Config) -> Result<Dense> {
        let dense = Dense::new(c, ABSENT)?;
        Ok(Dense {
            qkv_bias: true,
            windows: Windows::in_use(c, dense.layers)?,
            ..dense
        })
    }
}

plugin!("The Qwen2 family", dense Qwen2);

#[cfg(test)]
mod tests {
    use super::*;
    use randori_sdk::QkNorms;

    const SMALL: &str = r#"{"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 24, "num_hidden_layers": 3, "vocab_size": 32"#;

    fn new(more: &str) -> Result<Dense> {
        Qwen2::read(&Config::parse(&format!("{SMALL}{more}}}"))?)
    }

    #[test]
    fn only_q_k_and_v_have_biases() {
        let dense = new(r#", "attention_bias": true, "mlp_bias": true"#).unwrap();
        assert!(dense.qkv_bias && !dense.o_bias && !dense.mlp_bias);
        assert_eq!(dense.qk_norms, QkNorms::Off);
        assert_eq!((dense.head_dim, dense.eps, dense.tied), (4, 1e-6, false));
        assert_eq!(new(r#", "head_dim": 6"#).unwrap().head_dim, 6);
    }

    #[test]
    fn a_window_counts_where_it_is_in_use() {
        let windows = |more: &str| [0, 1, 2].map(|i| new(more).unwrap().windows.of(i));
        let used = r#", "use_sliding_window": true"#;
        assert_eq!(windows(r#", "sliding_window": 8"#), [None; 3]);
        assert_eq!(
            windows(&format!(r#"{used}, "sliding_window": 8"#)),
            [None; 3]
        );
        let from = |first: usize| format!(r#"{used}, "max_window_layers": {first}"#);
        assert_eq!(windows(&from(1)), [None, Some(4096), Some(4096)]);
        let eight = |first| format!(r#"{}, "sliding_window": 8"#, from(first));
        assert_eq!(windows(&eight(0)), [Some(8); 3]);
        assert_eq!(windows(&eight(2)), [None, None, Some(8)]);
        assert_eq!(
            windows(&format!(r#"{}, "sliding_window": null"#, from(0))),
            [None; 3]
        );
        // each layer's own word goes before max_window_layers
        let kinds = r#", "layer_types": ["sliding_attention", "full_attention", "full_attention"]"#;
        assert_eq!(
            windows(&format!("{}{kinds}", eight(3))),
            [Some(8), None, None]
        );
        let error = new(kinds).err().unwrap().to_string();
        assert!(
            error.contains("sliding_window is null or not in use"),
            "{error}"
        );
    }

    #[test]
    fn absent_keys_have_the_class_s_values() {
        let heads = r#"{"hidden_size": 128, "num_attention_heads": 64, "intermediate_size": 24,
            "num_hidden_layers": 2, "vocab_size": 32"#;
        let kv = |more: &str| {
            let config = Config::parse(&format!("{heads}{more}}}")).unwrap();
            Qwen2::read(&config).unwrap().kv_heads
        };
        assert_eq!(kv(""), 32);
        assert_eq!(kv(r#", "num_key_value_heads": null"#), 64);
    }
}
