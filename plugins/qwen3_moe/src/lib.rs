//! Qwen3's mixtures of experts (Yang et al. 2025, arXiv 2505.09388): Qwen3's attention, and in the
//! perceptron's place experts of `moe_intermediate_size` features, `num_experts_per_tok` of
//! `num_experts` (`num_local_experts` in files of transformers 5.24) for every token.
//!
//! A layer is a mixture if (layer + 1) is a multiple of `decoder_sparse_step` and `mlp_only_layers`
//! does not name it; all others have a perceptron of `intermediate_size`. The router's weights are
//! its soft-max over all experts, and sum to one only with `norm_topk_prob`, which is false where
//! it is absent. Windows, where `use_sliding_window` has them, are in all layers.

use randori_sdk::{
    Absent, Arch, Config, Dense, Dialect, Experts, Graph, QkNorms, Result, Route, Tensor, Windows,
    dialect::{Biases, Gguf, Implied, Key, Module, Sliding},
    plugin,
};

/// The Qwen3-MoE family.
pub struct Qwen3Moe {
    dense: Dense,
    experts: Experts,
    /// The layers that are mixtures.
    sparse: Sparse,
}

/// Which layers are mixtures.
struct Sparse {
    /// Every so many layers; 0: none.
    step: usize,
    /// But not these.
    dense: Vec<f64>,
}

/// transformers' defaults of absent keys.
const ABSENT: Absent = Absent {
    kv_heads: Some(4),
    ..Absent::LLAMA
};
const WINDOW: usize = 4096;
const EXPERTS: usize = 128;
const PER_TOKEN: usize = 8;
const EXPERT_FFN: usize = 768;

impl Arch for Qwen3Moe {
    const NAME: &'static str = "qwen3_moe";
    const DOC: &'static str = "Qwen3's mixtures of experts: Qwen3's attention, experts, a router";
    const DIALECT: Dialect = Dialect {
        class: "Qwen3MoeForCausalLM",
        defaults: r#"{"num_key_value_heads": 4, "num_local_experts": 128, "num_experts_per_tok": 8,
            "moe_intermediate_size": 768, "norm_topk_prob": false, "sliding_window": 4096}"#,
        gguf: Some(Gguf {
            architecture: "qwen3moe",
            modules: &[
                Module::OUTSIDE,
                Module::NORMS,
                Module::ATTENTION,
                Module::QK_NORMS,
                &[
                    Module::new("mlp.gate", "ffn_gate_inp"),
                    Module::new("mlp.experts.{}.gate_proj", "ffn_gate_exps"),
                    Module::new("mlp.experts.{}.up_proj", "ffn_up_exps"),
                    Module::new("mlp.experts.{}.down_proj", "ffn_down_exps"),
                ],
            ],
            biased: Gguf::QKV,
            biases: &[Biases::ATTENTION],
            sliding: Sliding::LostInUse,
            keys: &[
                Key::whole("expert_count", &["num_local_experts", "num_experts"]).required(),
                Key::whole("expert_used_count", &["num_experts_per_tok"]).required(),
                Key::whole("expert_feed_forward_length", &["moe_intermediate_size"]).required(),
            ],
            // llama.cpp has experts in every layer, and their weights always sum to one
            implied: &[
                Implied::SILU,
                Implied::json("norm_topk_prob", &["true"]),
                Implied::json("decoder_sparse_step", &["1"]).unsaid(),
                Implied::json("mlp_only_layers", &["[]"]).unsaid(),
            ],
            ..Gguf::HALVES
        }),
        ..Dialect::NONE
    };

    fn new(c: &Config) -> Result<Self> {
        let dense = Dense::new(c, ABSENT)?;
        let attention_bias = c.bool_or("attention_bias", false)?;
        let count = Experts::number(c, EXPERTS)?;
        let route = Route::top(Experts::per_token(c, PER_TOKEN, count)?);
        let experts = Experts {
            module: "mlp",
            router: "gate",
            projections: ["gate_proj", "up_proj", "down_proj"],
            count,
            width: dense.width,
            ffn: c.usize_or("moe_intermediate_size", EXPERT_FFN)?,
            route: match c.bool_or("norm_topk_prob", false)? {
                true => route.normalised(),
                false => route,
            },
        };
        let sparse = Sparse {
            step: c.usize_or("decoder_sparse_step", 1)?,
            dense: c.f64s("mlp_only_layers")?.unwrap_or_default(),
        };
        if sparse.step == 0 {
            return Err(c.error("decoder_sparse_step", "is 0: every how many layers?"));
        }
        let used = c.bool_or("use_sliding_window", false)?;
        let window = c.usize_unless_null("sliding_window", WINDOW)?;
        let window = window.filter(|_| used);
        let dense = Dense {
            qkv_bias: attention_bias,
            o_bias: attention_bias,
            qk_norms: QkNorms::Heads,
            windows: Windows::everywhere(c, window)?,
            ..dense
        };
        Ok(Qwen3Moe {
            dense,
            experts,
            sparse,
        })
    }

    fn layers(&self) -> usize {
        self.dense.layers
    }

    fn embed<'g>(&self, g: &Graph<'g>, ids: Tensor<'g>) -> Tensor<'g> {
        self.dense.embed(g, ids)
    }

    fn block<'g>(&self, g: &Graph<'g>, layer: usize, x: Tensor<'g>) -> Tensor<'g> {
        match self.sparse.has(layer) {
            true => {
                let mixture = |g: &Graph<'g>, x| self.experts.apply(g, x);
                self.dense.block_with(g, layer, x, mixture)
            }
            false => self.dense.block(g, layer, x),
        }
    }

    fn head<'g>(&self, g: &Graph<'g>, x: Tensor<'g>) -> Tensor<'g> {
        self.dense.head(g, x)
    }
}

impl Sparse {
    fn has(&self, layer: usize) -> bool {
        (layer + 1).is_multiple_of(self.step) && !self.dense.contains(&(layer as f64))
    }
}

plugin!("The Qwen3-MoE family", arch Qwen3Moe);

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"{"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 24, "num_hidden_layers": 4, "vocab_size": 32"#;

    fn new(more: &str) -> Result<Qwen3Moe> {
        Qwen3Moe::new(&Config::parse(&format!("{SMALL}{more}}}"))?)
    }

    #[test]
    fn absent_keys_have_the_class_s_values() {
        let all = new("").unwrap();
        let experts = &all.experts;
        assert_eq!((experts.count, experts.ffn), (128, 768));
        assert_eq!(experts.route, Route::top(8)); // weights are left as they are
        assert_eq!(
            (all.dense.head_dim, all.dense.qk_norms),
            (4, QkNorms::Heads)
        );
        assert!(!all.dense.qkv_bias && !all.dense.o_bias);
        assert!((0..4).all(|layer| all.sparse.has(layer)));
        let normalised = new(r#", "norm_topk_prob": true, "attention_bias": true"#).unwrap();
        assert_eq!(normalised.experts.route, Route::top(8).normalised());
        assert!(normalised.dense.qkv_bias && normalised.dense.o_bias);
    }

    #[test]
    fn layers_are_mixtures_by_step_but_for_those_that_are_named() {
        let sparse = |more: &str| [0, 1, 2, 3].map(|layer| new(more).unwrap().sparse.has(layer));
        let (yes, no) = (true, false);
        assert_eq!(sparse(r#", "decoder_sparse_step": 2"#), [no, yes, no, yes]);
        assert_eq!(sparse(r#", "mlp_only_layers": [0, 3]"#), [no, yes, yes, no]);
        let both = r#", "decoder_sparse_step": 2, "mlp_only_layers": [3]"#;
        assert_eq!(sparse(both), [no, yes, no, no]);
        assert_eq!(sparse(r#", "mlp_only_layers": null"#), [yes; 4]);
        let error = new(r#", "decoder_sparse_step": 0"#).err().unwrap();
        assert!(error.to_string().contains("`decoder_sparse_step` is 0"));
    }

    #[test]
    fn windows_are_in_all_layers_where_they_are_in_use() {
        let windows = |more: &str| [0, 3].map(|layer| new(more).unwrap().dense.windows.of(layer));
        assert_eq!(windows(r#", "sliding_window": 8"#), [None; 2]);
        let used = r#", "use_sliding_window": true"#;
        assert_eq!(windows(used), [Some(4096); 2]);
        let of_eight = format!(r#"{used}, "sliding_window": 8, "max_window_layers": 3"#);
        assert_eq!(windows(&of_eight), [Some(8); 2]);
        // GGUF's side goes by this: a class without a default of the key does not read it
        assert!(!Qwen3Moe::DIALECT.defaults.contains("max_window_layers"));
    }
}
