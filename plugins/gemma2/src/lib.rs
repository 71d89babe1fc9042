//! Gemma 2 (Gemma Team 2024, arXiv 2408.00118): RMS norms of both branches' inputs and outputs with
//! 1 + w as scale, tanh GELU, capped scores and logits, windows in every other layer.
//!
//! Of the keys: `hidden_activation` counts and `hidden_act` does not; `query_pre_attn_scalar` (144
//! in the 27B) takes the place of the head's size in the scores' scale; a cap that is absent is 50
//! (scores) or 30 (logits), `null` is none; the layers 0, 2, … have the window unless `layer_types`
//! says otherwise. The factor on the embedding: [`Dense::gemma`].

use randori_sdk::{
    Config, Dense, DenseFamily, Dialect, Result, Rope, Ropes, Windows,
    dialect::{Biases, Form, Gguf, Implied, Is, Key, Module},
    plugin,
};

/// The Gemma 2 family.
pub struct Gemma2;

impl DenseFamily for Gemma2 {
    const NAME: &'static str = "gemma2";
    const DOC: &'static str = "Gemma 2: norms around both branches, capped scores and logits";
    const DIALECT: Dialect = Dialect {
        class: "Gemma2ForCausalLM",
        targets: &["q_proj", "v_proj"],
        defaults: r#"{"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
            "tie_word_embeddings": true, "query_pre_attn_scalar": 256, "sliding_window": 4096,
            "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}"#,
        gguf: Some(Gguf {
            architecture: "gemma2",
            modules: &[
                &[Module::EMBEDDING], // which is the head too
                Module::NORMS_PLUS,
                Module::ATTENTION,
                Module::MLP,
            ],
            biased: Gguf::QKV,
            biases: &[Biases::ATTENTION],
            keys: &[
                Key::whole("attention.sliding_window", &["sliding_window"]).required(),
                Key::whole("attention.sliding_window_pattern", &["layer_types"]).of(Form::Slides),
                Key::real("attn_logit_softcapping", &["attn_logit_softcapping"]).required(),
                Key::real("final_logit_softcapping", &["final_logit_softcapping"]).required(),
            ],
            // llama.cpp knows the 27B, whose scale is another, by its layers
            implied: &[
                Implied::GELU,
                Implied::number("query_pre_attn_scalar", Is::WidthPerHead).with_layers(46),
                Implied::number("query_pre_attn_scalar", Is::HeadDim),
            ],
            ..Gguf::HALVES
        }),
        ..Dialect::NONE
    };

    fn read(c: &Config) -> Result<Dense> {
        let dense = Dense::gemma(c, 256_000)?;
        let cap = c.f64_unless_null("attn_logit_softcapping", 50.0)?;
        Ok(Dense {
            attn_softcap: cap.map(|cap| cap as f32),
            logit_softcap: c.f64_unless_null("final_logit_softcapping", 30.0)?,
            ropes: Ropes::all(Rope::of_whole_heads(c, dense.head_dim)?),
            windows: Windows::but_every(c, dense.layers, 2)?,
            ..dense
        })
    }
}

plugin!("The Gemma 2 family", dense Gemma2);

#[cfg(test)]
mod tests {
    use super::*;
    use randori_sdk::{Activation, Norms, QkNorms};

    const SMALL: &str = r#"{"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4"#;

    fn new(more: &str) -> Result<Dense> {
        Gemma2::read(&Config::parse(&format!("{SMALL}{more}}}"))?)
    }

    #[test]
    fn absent_keys_have_the_class_s_values() {
        let dense = new("").unwrap();
        let heads = (dense.heads, dense.kv_heads, dense.head_dim);
        assert_eq!((heads, dense.vocab), ((8, 4, 256), 256_000));
        assert_eq!((dense.eps, dense.tied, dense.norm_plus), (1e-6, true, 1.0));
        assert_eq!((dense.attn_scale, dense.embed_scale), (Some(0.0625), 4.0));
        assert_eq!(
            (dense.attn_softcap, dense.logit_softcap),
            (Some(50.0), Some(30.0))
        );
        assert_eq!((dense.norms, dense.qk_norms), (Norms::AROUND, QkNorms::Off));
        assert!(!dense.qkv_bias && !dense.o_bias && !dense.mlp_bias);
        let rope = dense.ropes.of(0).unwrap();
        assert!((rope.inv_freq[1] - 1e4f32.powf(-2.0 / 256.0)).abs() < 1e-7);
    }

    #[test]
    fn the_scalar_scales_scores_and_null_lifts_a_cap() {
        let more = r#", "query_pre_attn_scalar": 144, "attn_logit_softcapping": null,
            "final_logit_softcapping": null, "attention_bias": true, "head_dim": 8"#;
        let dense = new(more).unwrap();
        assert_eq!(dense.attn_scale, Some(1.0 / 12.0));
        assert_eq!((dense.attn_softcap, dense.logit_softcap), (None, None));
        assert!(dense.qkv_bias && dense.o_bias && !dense.mlp_bias);
        assert_eq!(dense.head_dim, 8);
    }

    #[test]
    fn the_old_key_of_the_activation_is_not_read() {
        let dense = new(r#", "hidden_act": "gelu""#).unwrap();
        assert_eq!(dense.activation, Activation::GeluTanh);
    }

    #[test]
    fn every_other_layer_from_the_first_has_the_window() {
        let windows = |more: &str| [0, 1, 2, 3].map(|i| new(more).unwrap().windows.of(i));
        let (wide, eight) = (Some(4096), Some(8));
        assert_eq!(windows(""), [wide, None, wide, None]);
        assert_eq!(
            windows(r#", "sliding_window": 8"#),
            [eight, None, eight, None]
        );
        let kinds = r#", "sliding_window": 8, "layer_types":
            ["full_attention", "full_attention", "sliding_attention", "full_attention"]"#;
        assert_eq!(windows(kinds), [None, None, eight, None]);
    }

    #[test]
    fn refuses_what_it_cannot_compute() {
        for (more, says) in [
            (
                r#", "hidden_activation": "gelu""#,
                "`hidden_activation` is \"gelu\"; supported: gelu_pytorch_tanh",
            ),
            (
                r#", "use_bidirectional_attention": true"#,
                "`use_bidirectional_attention` is true",
            ),
            (r#", "query_pre_attn_scalar": 0"#, "must be > 0, is 0"),
            (
                r#", "sliding_window": null"#,
                "`sliding_window` is null, and this architecture has windows",
            ),
            (r#", "sliding_window": 0"#, "`sliding_window` is 0"),
            (r#", "num_key_value_heads": 3"#, "which does not divide"),
        ] {
            let error = new(more).err().unwrap().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
