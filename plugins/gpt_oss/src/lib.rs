//! gpt-oss (OpenAI 2025): attention with sinks and biases, windows in every other layer, and in the
//! perceptron's place experts with biases, of which every token chooses `num_experts_per_tok`.
//!
//! An expert is down((up + 1)·gate·sigmoid(1.702·gate)), gate at most 7 and up within ±7
//! (`swiglu_alpha`, `swiglu_limit`); its weight is the soft-max over the chosen experts' logits
//! alone. Checkpoints stack the experts of a layer, (experts, in, out), gate's columns and up's
//! taking turns. Yarn's ramp is not rounded to whole pairs (`truncate`).

use randori_sdk::{
    Absent, Arch, Config, Dense, Dialect, Experts, Graph, Layers, Result, RopeRules, Ropes, Route,
    Tensor, Windows,
    dialect::{Layout, Stack},
    plugin,
};

/// The gpt-oss family.
pub struct GptOss {
    dense: Dense,
    /// Number of experts.
    count: usize,
    /// How a token's experts are chosen and weighted.
    route: Route,
    /// Factor on the gate inside its sigmoid.
    alpha: f64,
    /// Bound of an expert's gate and of its other input.
    limit: f64,
}

/// transformers' defaults of absent keys.
const ABSENT: Absent = Absent {
    heads: Some(64),
    kv_heads: Some(8),
    vocab: Some(201_088),
    eps: Some(1e-5),
    ..Absent::LLAMA
};
/// `head_dim` where it is absent; null means width / heads.
const HEAD_DIM: usize = 64;
const WINDOW: usize = 128;
const EXPERTS: usize = 128;
const PER_TOKEN: usize = 4;

/// What its class makes of rotary keys.
const ROPE: RopeRules = RopeRules {
    theta: 150_000.0,
    absent: Some(
        r#"{"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
            "truncate": false, "original_max_position_embeddings": 4096}"#,
    ),
    ..RopeRules::WHOLE
};

impl Arch for GptOss {
    const NAME: &'static str = "gpt_oss";
    const DOC: &'static str = "gpt-oss: attention with sinks, experts with biases";
    const DIALECT: Dialect = Dialect {
        class: "GptOssForCausalLM",
        defaults: r#"{"num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64,
            "rms_norm_eps": 1e-5, "rope_theta": 150000.0, "sliding_window": 128,
            "num_local_experts": 128, "num_experts_per_tok": 4}"#,
        stacks: &[
            Stack::new(
                "mlp.experts.gate_up_proj",
                &[
                    "mlp.experts.{}.gate_proj.weight",
                    "mlp.experts.{}.up_proj.weight",
                ],
                Layout::Interleaved,
            ),
            Stack::new(
                "mlp.experts.gate_up_proj_bias",
                &[
                    "mlp.experts.{}.gate_proj.bias",
                    "mlp.experts.{}.up_proj.bias",
                ],
                Layout::Interleaved,
            ),
            Stack::new(
                "mlp.experts.down_proj",
                &["mlp.experts.{}.down_proj.weight"],
                Layout::Columns,
            ),
            Stack::new(
                "mlp.experts.down_proj_bias",
                &["mlp.experts.{}.down_proj.bias"],
                Layout::Columns,
            ),
        ],
        ..Dialect::NONE
    };

    fn new(c: &Config) -> Result<Self> {
        let absent = Absent {
            head_dim: (!c.names("head_dim")).then_some(HEAD_DIM),
            ..ABSENT
        };
        let dense = Dense::sizes(c, absent)?;
        let window = c.usize_unless_null("sliding_window", WINDOW)?;
        if window.is_none() && !c.has("layer_types") {
            let what = "is null, and this architecture has windows";
            return Err(c.error("sliding_window", what));
        }
        let windows = Windows::read(c, dense.layers, window, Layers::ButEvery(2))?;
        let bias = c.bool_or("attention_bias", true)?;
        let count = Experts::number(c, EXPERTS)?;
        let chosen = Experts::per_token(c, PER_TOKEN, count)?;
        let limit = c.f64_or("swiglu_limit", 7.0)?;
        if limit.is_nan() || limit < 0.0 {
            return Err(c.error("swiglu_limit", &format!("is {limit}, which bounds nothing")));
        }
        let ropes = Ropes::all(ROPE.read(c, dense.head_dim)?);
        Ok(GptOss {
            dense: Dense {
                qkv_bias: bias,
                o_bias: bias,
                attn_sinks: true,
                ropes,
                windows,
                ..dense
            },
            count,
            route: Route::top(chosen).normalised(),
            alpha: c.f64_or("swiglu_alpha", 1.702)?,
            limit,
        })
    }

    fn layers(&self) -> usize {
        self.dense.layers
    }

    fn embed<'g>(&self, g: &Graph<'g>, ids: Tensor<'g>) -> Tensor<'g> {
        self.dense.embed(g, ids)
    }

    fn block<'g>(&self, g: &Graph<'g>, layer: usize, x: Tensor<'g>) -> Tensor<'g> {
        let mixture = |g: &Graph<'g>, x| self.experts(g, x);
        self.dense.block_with(g, layer, x, mixture)
    }

    fn head<'g>(&self, g: &Graph<'g>, x: Tensor<'g>) -> Tensor<'g> {
        self.dense.head(g, x)
    }
}

impl GptOss {
    /// The mixture, within a block's scope: (tokens, width) -> (tokens, width).
    fn experts<'g>(&self, g: &Graph<'g>, x: Tensor<'g>) -> Tensor<'g> {
        let g = &g.scope("mlp");
        let router = g.linear_with("router", x, self.count, true); // (tokens, experts)
        let (width, ffn, limit) = (self.dense.width, self.dense.ffn, self.limit);
        g.moe(router, x, self.route, |e, rows| {
            let g = g.scope(format_args!("experts.{e}"));
            let gate = g.linear_with("gate_proj", rows, ffn, true).at_most(limit);
            let up = g.linear_with("up_proj", rows, ffn, true);
            let up = up.at_most(limit).at_least(-limit);
            let gate = gate * (gate * self.alpha).sigmoid();
            g.linear_with("down_proj", (up + 1.0) * gate, width, true)
        })
    }
}

plugin!("The gpt-oss family", arch GptOss);

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"{"hidden_size": 64, "num_attention_heads": 8, "intermediate_size": 24,
        "num_hidden_layers": 4, "vocab_size": 32, "max_position_embeddings": 131072"#;

    fn new(more: &str) -> Result<GptOss> {
        GptOss::new(&Config::parse(&format!("{SMALL}{more}}}"))?)
    }

    #[test]
    fn absent_keys_have_the_class_s_values() {
        let all = new("").unwrap();
        let dense = &all.dense;
        assert_eq!((dense.kv_heads, dense.head_dim, dense.eps), (8, 64, 1e-5));
        assert!(dense.qkv_bias && dense.o_bias && dense.attn_sinks && !dense.tied);
        assert_eq!(new(r#", "head_dim": null"#).unwrap().dense.head_dim, 8);
        assert_eq!((all.count, all.route), (128, Route::top(4).normalised()));
        assert_eq!((all.alpha, all.limit), (1.702, 7.0));
        let windows = [0, 1, 2, 3].map(|layer| dense.windows.of(layer));
        assert_eq!(windows, [Some(128), None, Some(128), None]);
        // 0.1·ln 32 + 1
        let rope = dense.ropes.of(1).unwrap();
        assert!((rope.mscale - 1.346_573_6).abs() < 1e-6 && rope.inv_freq[0] == 1.0);
        let bare = new(r#", "attention_bias": false"#).unwrap().dense;
        assert!(!bare.qkv_bias && !bare.o_bias);
    }

    #[test]
    fn what_it_cannot_be_is_named() {
        for (more, says) in [
            (r#", "sliding_window": null"#, "`sliding_window` is null"),
            (r#", "swiglu_limit": -1"#, "`swiglu_limit` is -1"),
            (
                r#", "num_local_experts": 3, "num_experts_per_tok": 4"#,
                "is 4 of 3 experts",
            ),
        ] {
            let error = new(more).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.contains(says), "{error}");
        }
    }
}
