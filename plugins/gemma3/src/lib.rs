//! Gemma 3's language model (Gemma Team 2025, arXiv 2503.19786): Gemma 2's block without caps on
//! scores, with an RMS norm of every head of queries and keys, and two rotary embeddings.
//!
//! Every sixth layer (`sliding_window_pattern`, or as `layer_types` says) sees all earlier tokens
//! and turns with `rope_theta` (1,000,000), scaled as `rope_scaling` says; the others have the
//! window and turn with `rope_local_base_freq` (10,000), never scaled. A `layer_types` of a v5
//! folder goes with `rope_parameters` keyed by it. `attn_logit_softcapping` is not read, as in
//! transformers; `final_logit_softcapping` is. The text configuration of a multimodal folder leaves
//! out what its class has by default.

use randori_sdk::{
    Config, Dense, DenseFamily, Dialect, QkNorms, Result, RopeRules, Ropes, Windows,
    dialect::{Biases, Form, Gguf, Implied, Is, Key, Module},
    plugin,
};

/// Gemma 3's language model.
pub struct Gemma3;

/// Where v5's configuration has theta of layers with a window.
const WINDOWED_THETA: &str = "rope_parameters.sliding_attention.rope_theta";
/// The rotary embedding of layers that see everything.
const FULL: RopeRules = RopeRules {
    theta: 1e6,
    ..RopeRules::FULL
};
/// That of layers with a window.
const WINDOWED: RopeRules = RopeRules {
    theta_key: Some("rope_local_base_freq"),
    ..RopeRules::WINDOWED
};

impl DenseFamily for Gemma3 {
    const NAME: &'static str = "gemma3_text";
    const DOC: &'static str = "Gemma 3, the language model: norms around branches, of q and k too";
    const DIALECT: Dialect = Dialect {
        class: "Gemma3ForCausalLM",
        wholes: &["gemma3"],
        prefixes: Dialect::PREFIXES,
        ignored: Dialect::VISION,
        targets: &["q_proj", "v_proj"],
        defaults: r#"{"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
            "vocab_size": 262208, "max_position_embeddings": 131072, "tie_word_embeddings": true,
            "query_pre_attn_scalar": 256, "sliding_window": 4096, "sliding_window_pattern": 6,
            "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0}"#,
        gguf: Some(Gguf {
            architecture: "gemma3",
            modules: &[
                &[Module::EMBEDDING, Module::HEAD],
                Module::NORMS_PLUS,
                Module::ATTENTION,
                &[
                    Module::new("self_attn.q_norm", "attn_q_norm").plus_one(),
                    Module::new("self_attn.k_norm", "attn_k_norm").plus_one(),
                ],
                Module::MLP,
            ],
            biased: Gguf::QKV,
            biases: &[Biases::ATTENTION],
            keys: &[
                Key::whole("attention.sliding_window", &["sliding_window"]).required(),
                Key::whole("attention.sliding_window_pattern", &["layer_types"]).of(Form::Slides),
                Key::real(
                    "rope.freq_base_swa",
                    &[WINDOWED_THETA, "rope_local_base_freq"],
                ),
                Key::real("final_logit_softcapping", &["final_logit_softcapping"]),
            ],
            // llama.cpp knows the 27B, whose scale is another, by its layers
            implied: &[
                Implied::GELU,
                Implied::json("sliding_window_pattern", &["6"]).unsaid(),
                Implied::number("query_pre_attn_scalar", Is::WidthPerHead).with_layers(62),
                Implied::number("query_pre_attn_scalar", Is::HeadDim),
            ],
            ..Gguf::HALVES
        }),
        ..Dialect::NONE
    };

    fn read(c: &Config) -> Result<Dense> {
        let dense = Dense::gemma(c, 262_208)?;
        let pattern = c.usize_or("sliding_window_pattern", 6)?;
        if pattern == 0 {
            return Err(c.error("sliding_window_pattern", "must be at least 1, is 0"));
        }
        let windows = Windows::but_every(c, dense.layers, pattern)?;
        let [windowed, full] = [WINDOWED, FULL].map(|rules| rules.read(c, dense.head_dim));
        Ok(Dense {
            qk_norms: QkNorms::Heads,
            logit_softcap: c.f64_opt("final_logit_softcapping")?,
            ropes: Ropes::split(windows.layers().clone(), Some(windowed?), Some(full?)),
            windows,
            ..dense
        })
    }
}

plugin!("The Gemma 3 family", dense Gemma3);

#[cfg(test)]
mod tests {
    use super::*;
    use randori_sdk::Norms;

    const SMALL: &str = r#"{"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 7,
        "head_dim": 4"#;

    fn new(more: &str) -> Result<Dense> {
        Gemma3::read(&Config::parse(&format!("{SMALL}{more}}}"))?)
    }

    /// theta of a layer, whose second frequency is theta^-1/2.
    fn theta(dense: &Dense, layer: usize) -> f32 {
        dense.ropes.of(layer).unwrap().inv_freq[1].powi(-2).round()
    }

    #[test]
    fn a_sparse_text_configuration_has_the_class_s_values() {
        let sparse = r#"{"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
            "model_type": "gemma3_text", "sliding_window": 1024,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}"#;
        let dense = Gemma3::read(&Config::parse(sparse).unwrap()).unwrap();
        let heads = (dense.heads, dense.kv_heads, dense.head_dim);
        assert_eq!((heads, dense.vocab), ((8, 4, 256), 262_208));
        assert_eq!((dense.tied, dense.attn_scale), (true, Some(0.0625)));
        let [local, full] = [4, 5].map(|layer| dense.ropes.of(layer).unwrap());
        assert_eq!((local.inv_freq[0], full.inv_freq[0]), (1.0, 0.125));
        let windows = [4, 5, 11, 33].map(|layer| dense.windows.of(layer));
        assert_eq!(windows, [Some(1024), None, None, Some(1024)]);
    }

    #[test]
    fn heads_are_normed_and_only_logits_capped() {
        let more = r#", "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
            "query_pre_attn_scalar": 16"#;
        let dense = new(more).unwrap();
        assert_eq!(
            (dense.qk_norms, dense.norms),
            (QkNorms::Heads, Norms::AROUND)
        );
        assert_eq!(
            (dense.attn_softcap, dense.logit_softcap),
            (None, Some(30.0))
        );
        assert_eq!((dense.norm_plus, dense.attn_scale), (1.0, Some(0.25)));
        assert_eq!(new("").unwrap().logit_softcap, None);
    }

    #[test]
    fn full_layers_turn_slowly_and_have_no_window() {
        let dense = new("").unwrap();
        assert_eq!([0, 4, 5, 6].map(|i| theta(&dense, i)), [1e4, 1e4, 1e6, 1e4]);
        assert_eq!([4, 5].map(|i| dense.windows.of(i)), [Some(4096), None]);
        let v4 = r#", "sliding_window_pattern": 2, "rope_theta": 900, "rope_local_base_freq": 400"#;
        let dense = new(v4).unwrap();
        assert_eq!(
            [0, 1, 2, 3].map(|i| theta(&dense, i)),
            [400.0, 900.0, 400.0, 900.0]
        );
        assert_eq!(dense.windows.of(3), None);
        let v5 = r#", "layer_types": ["full_attention", "sliding_attention", "full_attention",
            "full_attention", "full_attention", "full_attention", "full_attention"],
            "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 900},
            "sliding_attention": {"rope_type": "default", "rope_theta": 400}}"#;
        let dense = new(v5).unwrap();
        assert_eq!([0, 1, 2].map(|i| theta(&dense, i)), [900.0, 400.0, 900.0]);
        assert_eq!([0, 1].map(|i| dense.windows.of(i)), [None, Some(4096)]);
    }

    #[test]
    fn refuses_what_it_cannot_compute() {
        for (more, says) in [
            (
                r#", "use_bidirectional_attention": true"#,
                "`use_bidirectional_attention` is true",
            ),
            (
                r#", "sliding_window_pattern": 0"#,
                "must be at least 1, is 0",
            ),
            (r#", "sliding_window": null"#, "`sliding_window` is null"),
            (
                r#", "layer_types": ["full_attention"]"#,
                "`layer_types` has 1 entries for 7 layers",
            ),
        ] {
            let error = new(more).err().unwrap().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
