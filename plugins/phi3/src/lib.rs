//! Phi-3 and Phi-4 (Abdin et al. 2024, arXiv 2404.14219 and 2412.08905), Phi-4-mini: Llama's block
//! with queries, keys and values in one projection, `qkv_proj`, and the perceptron's gate and other
//! input in another, `gate_up_proj`.
//!
//! The share `partial_rotary_factor` of a head is rotated. With `longrope` (in older folders `su`
//! or `yarn`) a sequence of more tokens than `original_max_position_embeddings` is rotated by
//! `long_factor`, at all of its positions, any other by `short_factor`; the length is the key's
//! beside the section, or else 4096, whatever the section says.

use randori_sdk::{
    Absent, Config, Dense, DenseFamily, Dialect, Layers, Result, RopeKind, RopeRules, Ropes,
    Windows,
    dialect::{Divisors, Gguf, Key, Module, Size, Sliding},
    plugin,
};

/// The Phi-3 family.
pub struct Phi3;

/// transformers' default of the absent key.
const ABSENT: Absent = Absent {
    eps: Some(1e-5),
    ..Absent::LLAMA
};

/// What its class makes of rotary keys.
const ROPE: RopeRules = RopeRules {
    original: Some(4096),
    kinds: &[
        ("default", RopeKind::Default),
        ("longrope", RopeKind::LongRope),
        ("su", RopeKind::LongRope),
        ("yarn", RopeKind::LongRope),
    ],
    ..RopeRules::PART
};

/// llama.cpp's names of a layer's projections, whose rows are in the same order.
const STORED: &[Module] = &[
    Module::new("self_attn.qkv_proj", "attn_qkv").sized(Size::Free, Size::Width),
    Module::new("self_attn.o_proj", "attn_output").sized(Size::Width, Size::Query),
    Module::new("mlp.gate_up_proj", "ffn_up").sized(Size::Free, Size::Width),
    Module::new("mlp.down_proj", "ffn_down").sized(Size::Width, Size::Ffn),
];

impl DenseFamily for Phi3 {
    const NAME: &'static str = "phi3";
    const DOC: &'static str = "Phi-3 and Phi-4: Llama's block with fused projections, longrope";
    const DIALECT: Dialect = Dialect {
        class: "Phi3ForCausalLM",
        defaults: r#"{"rms_norm_eps": 1e-5}"#,
        gguf: Some(Gguf {
            architecture: "phi3",
            modules: &[Module::OUTSIDE, Module::NORMS, STORED],
            biased: Some(&[]),
            any_head_dim: false,
            partial_rotary: true,
            divisors: Divisors::LongShort,
            sliding: Sliding::Lost, // llama.cpp reads the key and uses no window
            keys: &[Key::whole("attention.sliding_window", &["sliding_window"])],
            ..Gguf::HALVES
        }),
        ..Dialect::NONE
    };

    fn read(c: &Config) -> Result<Dense> {
        c.only("hidden_act", &["silu", "swish"])?;
        let dense = Dense::sizes(c, ABSENT)?;
        let window = c.usize_opt("sliding_window")?;
        Ok(Dense {
            fused_qkv: true,
            fused_gate_up: true,
            ropes: Ropes::all(ROPE.read(c, dense.head_dim)?),
            windows: Windows::read(c, dense.layers, window, Layers::ALL)?,
            ..dense
        })
    }
}

plugin!("The Phi-3 family", dense Phi3);

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"{"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24,
        "num_hidden_layers": 2, "vocab_size": 32, "max_position_embeddings": 256"#;

    fn new(more: &str) -> Result<Dense> {
        Phi3::read(&Config::parse(&format!("{SMALL}{more}}}"))?)
    }

    #[test]
    fn absent_keys_are_its_class_s() {
        let plain = new("").unwrap();
        assert!(plain.fused_qkv && plain.fused_gate_up && !plain.tied && !plain.qkv_bias);
        assert_eq!((plain.kv_heads, plain.head_dim, plain.eps), (2, 8, 1e-5));
        assert_eq!([0, 1].map(|i| plain.windows.of(i)), [None; 2]);
        let windowed = new(r#", "sliding_window": 5"#).unwrap();
        assert_eq!([0, 1].map(|i| windowed.windows.of(i)), [Some(5); 2]);
        assert_eq!(new(r#", "head_dim": 6"#).unwrap().head_dim, 6);
    }

    #[test]
    fn the_length_beside_the_section_or_4096_divides_short_from_long() {
        let rope = |kind: &str, beside: &str, lists: &str| {
            let section = format!(
                r#", "partial_rotary_factor": 0.5, "rope_scaling": {{"type": "{kind}", {lists},
                "original_max_position_embeddings": 8}}{beside}"#
            );
            new(&section).map(|dense| dense.ropes.of(1).unwrap().clone())
        };
        let lists = r#""short_factor": [1, 2], "long_factor": [4, 8]"#;
        for kind in ["longrope", "su", "yarn"] {
            let beside = r#", "original_max_position_embeddings": 64"#;
            let rope = rope(kind, beside, lists).unwrap();
            let long = rope.long.unwrap();
            assert_eq!((rope.inv_freq, long.after), (vec![1.0, 0.005], 64));
            assert_eq!(long.inv_freq, [0.25, 0.00125]);
            // sqrt(1 + ln(256 / 64) / ln 64), at every length
            assert!((rope.mscale - 1.154_700_5).abs() < 1e-6);
        }
        let own = rope("longrope", "", lists).unwrap();
        assert_eq!((own.long.unwrap().after, own.mscale), (4096, 1.0));
        let short = r#""short_factor": [1], "long_factor": [4, 8]"#;
        for (kind, lists, says) in [
            (
                "linear",
                lists,
                "is \"linear\"; supported: default, longrope, su, yarn",
            ),
            (
                "su",
                short,
                "`rope_scaling.short_factor` has 1 entries for 2 pairs",
            ),
        ] {
            let error = rope(kind, "", lists).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
