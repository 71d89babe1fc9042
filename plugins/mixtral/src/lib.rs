//! Mixtral (Jiang et al. 2024, arXiv 2401.04088): Mistral's block with a mixture of experts in the
//! perceptron's place. A linear router chooses `num_experts_per_tok` of `num_local_experts` for
//! every token; their weights are its soft-max over all of them, scaled to sum to one.
//!
//! Windows are Mistral's, but none where `sliding_window` is absent. The rotary theta is 1e6 where
//! it is absent.

use randori_sdk::{
    Absent, Arch, Config, Dense, Dialect, Experts, Graph, Result, RopeRules, Ropes, Route, Tensor,
    Windows,
    dialect::{Gguf, Key, Module, Sliding},
    plugin,
};

/// The Mixtral family.
pub struct Mixtral {
    dense: Dense,
    experts: Experts,
}

/// transformers' defaults of absent keys.
const ABSENT: Absent = Absent {
    kv_heads: Some(8),
    eps: Some(1e-5),
    ..Absent::LLAMA
};
const ROPE: RopeRules = RopeRules {
    theta: 1e6,
    ..RopeRules::WHOLE
};
const EXPERTS: usize = 8;
const PER_TOKEN: usize = 2;

impl Arch for Mixtral {
    const NAME: &'static str = "mixtral";
    const DOC: &'static str = "Mixtral: Mistral's block with a mixture of experts";
    const DIALECT: Dialect = Dialect {
        class: "MixtralForCausalLM",
        targets: &["q_proj", "v_proj"],
        defaults: r#"{"num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 1e6,
            "num_local_experts": 8, "num_experts_per_tok": 2}"#,
        // Llama's architecture with experts; windows are lost
        gguf: Some(Gguf {
            told_by: "expert_count",
            modules: &[
                Module::OUTSIDE,
                Module::NORMS,
                Module::ATTENTION_TURNED,
                &[
                    Module::new("block_sparse_moe.gate", "ffn_gate_inp"),
                    Module::new("block_sparse_moe.experts.{}.w1", "ffn_gate_exps"),
                    Module::new("block_sparse_moe.experts.{}.w3", "ffn_up_exps"),
                    Module::new("block_sparse_moe.experts.{}.w2", "ffn_down_exps"),
                ],
            ],
            biases: &[],
            sliding: Sliding::Lost,
            keys: &[
                Key::whole("expert_count", &["num_local_experts", "num_experts"]).required(),
                Key::whole("expert_used_count", &["num_experts_per_tok"]).required(),
            ],
            ..Gguf::LLAMA
        }),
        ..Dialect::NONE
    };

    fn new(c: &Config) -> Result<Self> {
        c.only("hidden_act", &["silu", "swish"])?;
        let dense = Dense::sizes(c, ABSENT)?;
        let ropes = Ropes::all(ROPE.read(c, dense.head_dim)?);
        let window = c.usize_opt("sliding_window")?;
        let windows = Windows::everywhere(c, window)?;
        let count = Experts::number(c, EXPERTS)?;
        let experts = Experts {
            module: "block_sparse_moe",
            router: "gate",
            projections: ["w1", "w3", "w2"],
            count,
            width: dense.width,
            ffn: dense.ffn,
            route: Route::top(Experts::per_token(c, PER_TOKEN, count)?).normalised(),
        };
        let dense = Dense {
            ropes,
            windows,
            ..dense
        };
        Ok(Mixtral { dense, experts })
    }

    fn layers(&self) -> usize {
        self.dense.layers
    }

    fn embed<'g>(&self, g: &Graph<'g>, ids: Tensor<'g>) -> Tensor<'g> {
        self.dense.embed(g, ids)
    }

    fn block<'g>(&self, g: &Graph<'g>, layer: usize, x: Tensor<'g>) -> Tensor<'g> {
        let mixture = |g: &Graph<'g>, x| self.experts.apply(g, x);
        self.dense.block_with(g, layer, x, mixture)
    }

    fn head<'g>(&self, g: &Graph<'g>, x: Tensor<'g>) -> Tensor<'g> {
        self.dense.head(g, x)
    }
}

plugin!("The Mixtral family", arch Mixtral);

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"{"hidden_size": 16, "num_attention_heads": 8, "intermediate_size": 24,
        "num_hidden_layers": 2, "vocab_size": 32"#;

    fn new(more: &str) -> Mixtral {
        Mixtral::new(&Config::parse(&format!("{SMALL}{more}}}")).unwrap()).unwrap()
    }

    #[test]
    fn absent_keys_have_the_class_s_values() {
        let mixtral = new("");
        let Experts { count, route, .. } = mixtral.experts;
        assert_eq!((count, route), (8, Route::top(2).normalised()));
        assert_eq!((mixtral.dense.eps, mixtral.dense.kv_heads), (1e-5, 8));
        assert_eq!(mixtral.dense.windows.of(0), None);
        // theta^(-2i/d) of the second and last pair: theta is 1e6
        let pairs = &new(r#", "head_dim": 4"#).dense.ropes;
        assert_eq!(pairs.of(0).unwrap().inv_freq, [1.0, 1e-3]);
    }

    #[test]
    fn every_layer_has_the_window_and_the_chosen_number_of_experts() {
        let more = r#", "sliding_window": 8, "num_local_experts": 4, "num_experts_per_tok": 3"#;
        let mixtral = new(more);
        assert_eq!([0, 1].map(|i| mixtral.dense.windows.of(i)), [Some(8); 2]);
        assert_eq!((mixtral.experts.count, mixtral.experts.route.top_k), (4, 3));
        assert_eq!(mixtral.experts.ffn, 24);
    }
}
