//! SmolLM3 (Hugging Face 2025): Llama's block, of which some layers rotate nothing (NoPE).
//!
//! `no_rope_layers` has a number for each layer: 1 rotates, 0 does not, in spite of its name. Where
//! it is absent every `no_rope_layer_interval`-th (4th) does not. A sliding window, which counts
//! only with `use_sliding_window`, would be the layers' that rotate nothing, or as `layer_types`
//! says. Embedding and head are one unless the configuration says otherwise.

use randori_sdk::{
    Absent, Config, Dense, DenseFamily, Dialect, Layers, Result, RopeRules, Ropes, Windows,
    dialect::{Divisors, Gguf, Implied},
    plugin,
};

/// The SmolLM3 family.
pub struct SmolLm3;

/// transformers' defaults of absent keys.
const ABSENT: Absent = Absent {
    kv_heads: Some(4),
    tied: true,
    ..Absent::LLAMA
};

/// What its class makes of rotary keys.
const ROPE: RopeRules = RopeRules {
    theta: 2_000_000.0,
    ..RopeRules::WHOLE
};

impl DenseFamily for SmolLm3 {
    const NAME: &'static str = "smollm3";
    const DOC: &'static str = "SmolLM3: Llama's block, some layers without rotary embeddings";
    const DIALECT: Dialect = Dialect {
        class: "SmolLM3ForCausalLM",
        defaults: r#"{"num_key_value_heads": 4, "rope_theta": 2000000, "tie_word_embeddings": true}"#,
        gguf: Some(Gguf {
            architecture: "smollm3",
            biased: Some(&[]),
            biases: &[],
            divisors: Divisors::None,
            implied: &[
                Implied::SILU,
                Implied::cycle("no_rope_layers", &["1", "1", "1", "0"]),
                Implied::json("no_rope_layer_interval", &["4"]),
                Implied::json("use_sliding_window", &["false"]),
            ],
            ..Gguf::LLAMA
        }),
        ..Dialect::NONE
    };

    fn read(c: &Config) -> Result<Dense> {
        c.only("hidden_act", &["silu", "swish"])?;
        let dense = Dense::sizes(c, ABSENT)?;
        let (rotated, others) = rotated(c, dense.layers)?;
        let used = c.bool_or("use_sliding_window", false)?;
        let window = c.usize_opt("sliding_window")?.filter(|_| used);
        let attention_bias = c.bool_or("attention_bias", false)?;
        let rope = ROPE.read(c, dense.head_dim)?;
        Ok(Dense {
            qkv_bias: attention_bias,
            o_bias: attention_bias,
            mlp_bias: c.bool_or("mlp_bias", false)?,
            ropes: Ropes::split(rotated, Some(rope), None),
            windows: Windows::read(c, dense.layers, window, others)?,
            ..dense
        })
    }
}

/// The layers that rotate, and those that do not.
fn rotated(c: &Config, layers: usize) -> Result<(Layers, Layers)> {
    const LIST: &str = "no_rope_layers";
    let Some(list) = c.f64s(LIST)? else {
        let interval = c.usize_or("no_rope_layer_interval", 4)?;
        return Ok((Layers::ButEvery(interval), Layers::Every(interval)));
    };
    if list.len() < layers {
        let what = format!("has {} entries for {layers} layers", list.len());
        return Err(c.error(LIST, &what));
    }
    if let Some(other) = list.iter().find(|n| ![0.0, 1.0].contains(*n)) {
        let what = format!("has {other}: 1 rotates a layer, 0 does not");
        return Err(c.error(LIST, &what));
    }
    let of = |number: f64| Layers::Listed(list.iter().map(|n| *n == number).collect());
    Ok((of(1.0), of(0.0)))
}

plugin!("The SmolLM3 family", dense SmolLm3);

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"{"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 24,
        "num_hidden_layers": 4, "vocab_size": 32"#;

    fn new(more: &str) -> Result<Dense> {
        SmolLm3::read(&Config::parse(&format!("{SMALL}{more}}}"))?)
    }

    #[test]
    fn absent_keys_are_its_class_s() {
        let plain = new("").unwrap();
        assert!(plain.tied && !plain.qkv_bias && !plain.o_bias && !plain.mlp_bias);
        assert_eq!((plain.kv_heads, plain.head_dim, plain.eps), (4, 4, 1e-6));
        assert_eq!(new(r#", "num_key_value_heads": null"#).unwrap().kv_heads, 4);
        let rope = plain.ropes.of(0).unwrap();
        assert!((rope.inv_freq[1] - 2e6f32.powf(-0.5)).abs() < 1e-7);
        let biased = new(r#", "attention_bias": true, "mlp_bias": true"#).unwrap();
        assert!(biased.qkv_bias && biased.o_bias && biased.mlp_bias);
    }

    #[test]
    fn a_1_rotates_and_a_0_does_not() {
        let of = |more: &str| {
            let dense = new(more).unwrap();
            [0, 1, 2, 3].map(|i| (dense.ropes.of(i).is_some(), dense.windows.of(i)))
        };
        let (yes, no) = ((true, None), (false, None));
        assert_eq!(of(""), [yes, yes, yes, no]);
        assert_eq!(of(r#", "no_rope_layer_interval": 2"#), [yes, no, yes, no]);
        let listed = r#", "no_rope_layers": [0, 1, 1, 0, 1]"#;
        assert_eq!(of(listed), [no, yes, yes, no]);
        let window = r#", "sliding_window": 3, "no_rope_layers": [0, 1, 1, 0]"#;
        assert_eq!(of(window), [no, yes, yes, no]);
        let used = format!(r#"{window}, "use_sliding_window": true"#);
        let windowed = (false, Some(3));
        assert_eq!(of(&used), [windowed, yes, yes, windowed]);
        let named = r#", "layer_types": ["sliding_attention", "full_attention", "full_attention",
            "full_attention"]"#;
        assert_eq!(of(&format!("{used}{named}")), [windowed, yes, yes, no]);
        for (more, says) in [
            (
                r#", "no_rope_layers": [1, 1]"#,
                "`no_rope_layers` has 2 entries for 4 layers",
            ),
            (
                r#", "no_rope_layers": [1, 1, 2, 1]"#,
                "`no_rope_layers` has 2: 1 rotates",
            ),
        ] {
            let error = new(more).err().unwrap().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
