//! Mistral 7B and its successors (Jiang et al. 2023, arXiv 2310.06825): Llama's block with a
//! sliding window.
//!
//! A query at position i sees keys at i - window < j <= i; information still travels layers ·
//! window tokens far. With `sliding_window` null (v0.2 on) all earlier keys are seen; without the
//! key the window is 4096, as in transformers' class. `layer_types` says which layers have the
//! window (Ministral). `head_dim` may differ from hidden_size / num_attention_heads (Nemo, Small).

use randori_sdk::{
    Absent, Config, Dense, DenseFamily, Dialect, Layers, Result, Windows,
    dialect::{Gguf, Sliding},
    plugin,
};

/// The Mistral family.
pub struct Mistral;

/// transformers' defaults of absent keys.
const WINDOW: usize = 4096;
const ABSENT: Absent = Absent {
    kv_heads: Some(8),
    ..Absent::LLAMA
};

impl DenseFamily for Mistral {
    const NAME: &'static str = "mistral";
    const DOC: &'static str = "Mistral 7B, Nemo and Small: Llama's block with a sliding window";
    const DIALECT: Dialect = Dialect {
        class: "MistralForCausalLM",
        wholes: &["mistral3"],
        prefixes: Dialect::PREFIXES,
        ignored: Dialect::VISION,
        defaults: r#"{"num_key_value_heads": 8, "sliding_window": 4096}"#,
        // files of this architecture are read as Llama's, and what is written lacks the windows
        gguf: Some(Gguf {
            read: false,
            sliding: Sliding::Lost,
            ..Gguf::LLAMA
        }),
        ..Dialect::NONE
    };

    fn read(c: &Config) -> Result<Dense> {
        let dense = Dense::new(c, ABSENT)?;
        let window = c.usize_unless_null("sliding_window", WINDOW)?;
        let windows = Windows::read(c, dense.layers, window, Layers::ALL)?;
        Ok(Dense { windows, ..dense })
    }
}

plugin!("The Mistral family", dense Mistral);

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"{"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 32, "rms_norm_eps": 1e-5"#;

    fn new(more: &str) -> Result<Dense> {
        Mistral::read(&Config::parse(&format!("{SMALL}{more}}}"))?)
    }

    #[test]
    fn the_window_is_read_and_null_means_none() {
        let windows = |more: &str| [0, 1].map(|layer| new(more).unwrap().windows.of(layer));
        assert_eq!(windows(r#", "sliding_window": 8"#), [Some(8); 2]);
        assert_eq!(windows(r#", "sliding_window": null"#), [None; 2]);
        assert_eq!(windows(""), [Some(4096); 2]);
        let kinds =
            r#", "sliding_window": 8, "layer_types": ["full_attention", "sliding_attention"]"#;
        assert_eq!(windows(kinds), [None, Some(8)]);
        let none = r#", "sliding_window": 8, "layer_types": null"#;
        assert_eq!(windows(none), [Some(8); 2]);
    }

    #[test]
    fn absent_keys_have_the_class_s_values() {
        assert_eq!(new(r#", "head_dim": 6"#).unwrap().head_dim, 6);
        let heads = r#"{"hidden_size": 64, "num_attention_heads": 16, "intermediate_size": 24,
            "num_hidden_layers": 2, "vocab_size": 32"#;
        let kv = |more: &str| Mistral::read(&Config::parse(&format!("{heads}{more}}}")).unwrap());
        assert_eq!(kv("").unwrap().kv_heads, 8);
        assert_eq!(kv("").unwrap().eps, 1e-6);
        assert_eq!(kv(r#", "num_key_value_heads": null"#).unwrap().kv_heads, 16);
    }

    #[test]
    fn refuses_what_it_cannot_compute() {
        for (more, says) in [
            (r#", "sliding_window": 0"#, "`sliding_window` is 0"),
            (
                r#", "layer_types": ["full_attention"]"#,
                "`layer_types` has 1 entries for 2 layers",
            ),
            (
                r#", "layer_types": ["full_attention", "chunked_attention"]"#,
                "`layer_types` has \"chunked_attention\"",
            ),
            (
                r#", "sliding_window": null, "layer_types": ["full_attention", "sliding_attention"]"#,
                "but sliding_window is null",
            ),
            (
                r#", "hidden_act": "relu""#,
                "`hidden_act` is \"relu\"; supported: silu, swish",
            ),
            (
                r#", "num_key_value_heads": 0"#,
                "`num_key_value_heads` is 0, which does not divide",
            ),
        ] {
            let error = new(more).err().unwrap().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
