//! Gemma 4's language model (Google DeepMind 2026): Gemma 3's block with norms that scale by w, two
//! kinds of heads, shared keys and values, per-layer embeddings, and experts in some models.
//!
//! Every sixth layer (or as `layer_types` says) and the last see all earlier tokens, with heads of
//! `global_head_dim` (512) features, of which a quarter is rotated; with `attention_k_eq_v` their
//! keys' projection makes the values, too. Folders of transformers 5 have `per_layer_config` for
//! that. Values are normed without a weight, scores not scaled. The last `num_kv_shared_layers`
//! take over keys and values of the last layer of their kind that has its own, and may have a
//! perceptron twice as wide. A second embedding and a projection of the first make a share for
//! every layer, gated by what its block has made. A mixture's router reads the stream as it is.

mod gguf;

use std::f64::consts::FRAC_1_SQRT_2;

use randori_sdk::{
    Absent, Activation, Arch, Attn, Config, Dense, Dialect, Experts, Graph, Layers, Result, Rope,
    RopeRules, Route, Tensor, Windows, dialect::Stack, plugin,
};

/// Gemma 4's language model.
pub struct Gemma4 {
    /// Sizes, biases, embedding, perceptrons and head.
    dense: Dense,
    windows: Windows,
    /// Layers with a window.
    windowed: Kind,
    /// Layers that see everything.
    full: Kind,
    /// The first layer that takes over keys and values.
    own: usize,
    /// Features inside those layers' perceptrons.
    wide: usize,
    /// Features of a layer's share of the second embedding; 0: there is none.
    share: usize,
    share_vocab: usize,
    share_scale: f64,
    /// Experts beside the perceptron: how many, features inside each, how a token chooses.
    mixture: Option<(usize, usize, Route)>,
}

/// Layers of one kind.
struct Kind {
    head_dim: usize,
    kv_heads: usize,
    rope: Rope,
    keys_are_values: bool,
    /// The layer whose keys and values later ones take over.
    source: Option<usize>,
}

/// The rotary embedding of layers that see everything.
const FULL: RopeRules = RopeRules {
    theta: 1e6,
    absent: Some(r#"{"rope_type": "proportional", "partial_rotary_factor": 0.25}"#),
    ..RopeRules::FULL
};
/// What no layer reads: other parts of the model, and projections to keys and values, which
/// checkpoints have also for layers that take them over.
const IGNORED: &[&str] = &[
    "model.*_tower.*",
    "model.embed_vision.*",
    "model.embed_audio.*",
    "*.self_attn.k_*",
    "*.self_attn.v_*",
];

impl Arch for Gemma4 {
    const NAME: &'static str = "gemma4_text";
    const DOC: &'static str = "Gemma 4, the language model: shared keys, per-layer embeddings";
    const DIALECT: Dialect = Dialect {
        class: "Gemma4ForCausalLM",
        wholes: &["gemma4"],
        prefixes: Dialect::PREFIXES,
        ignored: IGNORED,
        defaults: r#"{"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
            "vocab_size": 262144, "max_position_embeddings": 131072, "tie_word_embeddings": true,
            "global_head_dim": 512, "hidden_size_per_layer_input": 256, "sliding_window": 512,
            "rope_parameters": {"full_attention": {"rope_type": "proportional",
                "partial_rotary_factor": 0.25, "rope_theta": 1000000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}}"#,
        gguf: Some(gguf::GGUF),
        stacks: Stack::EXPERTS,
        ..Dialect::NONE
    };

    fn new(c: &Config) -> Result<Self> {
        c.only("hidden_activation", &["gelu_pytorch_tanh"])?;
        // of tokens that stand for pictures, which are none here
        c.only("use_bidirectional_attention", &["vision"])?;
        let absent = Absent {
            vocab: Some(262_144),
            ..Absent::GEMMA
        };
        let dense = Dense::sizes(c, absent)?;
        let biases = c.bool_or("attention_bias", false)?;
        let layers = dense.layers;
        let window = Some(c.usize_or("sliding_window", 512)?);
        let windows = Windows::read(c, layers, window, Layers::ButEvery(6))?;
        let shared = c.usize_or("num_kv_shared_layers", 0)?;
        let own = layers.saturating_sub(shared);
        let kind = |full: bool| -> Result<Kind> {
            let keys_are_values = full && c.bool_or("attention_k_eq_v", false)?;
            let (rules, (head_dim, kv_heads)) = match full {
                true => (FULL, full_heads(c, &dense, keys_are_values)?),
                false => (RopeRules::WINDOWED, (dense.head_dim, dense.kv_heads)),
            };
            let alike =
                |layer: &usize| full == (layer + 1 == layers || windows.of(*layer).is_none());
            let source = (0..own).rev().find(alike);
            if source.is_none() && (own..layers).any(|layer| alike(&layer)) {
                let what = format!("is {shared}: no layer before has keys for all kinds of them");
                return Err(c.error("num_kv_shared_layers", &what));
            }
            Ok(Kind {
                head_dim,
                kv_heads,
                rope: rules.read(c, head_dim)?,
                keys_are_values,
                source: source.filter(|_| shared > 0),
            })
        };
        let double = c.bool_or("use_double_wide_mlp", false)?;
        let share = c.usize_unless_null("hidden_size_per_layer_input", 256)?;
        Ok(Gemma4 {
            windowed: kind(false)?,
            full: kind(true)?,
            own,
            wide: dense.ffn * if double { 2 } else { 1 },
            share: share.unwrap_or(0),
            share_vocab: c.usize_or("vocab_size_per_layer_input", 262_144)?,
            share_scale: c.held((share.unwrap_or(0) as f64).sqrt()),
            mixture: mixture(c)?,
            dense: Dense {
                qkv_bias: biases,
                o_bias: biases,
                activation: Activation::GeluTanh,
                embed_scale: c.held((dense.width as f64).sqrt()),
                logit_softcap: c.f64_opt("final_logit_softcapping")?,
                ..dense
            },
            windows,
        })
    }

    fn layers(&self) -> usize {
        self.dense.layers
    }

    fn embed<'g>(&self, g: &Graph<'g>, ids: Tensor<'g>) -> Tensor<'g> {
        let x = self.dense.embed(g, ids);
        if self.share > 0 {
            let (layers, g) = (self.dense.layers, g.scope("model"));
            let all = layers * self.share;
            let own = g.embed("embed_tokens_per_layer", ids, self.share_vocab, all);
            let from_x = g.linear("per_layer_model_projection", x, all);
            let from_x = (from_x / (self.dense.width as f64).sqrt()).heads(layers);
            let from_x = g.rms_norm("per_layer_projection_norm", from_x, self.dense.eps);
            let both = from_x.merge() + own * self.share_scale;
            g.carry("shares", both * FRAC_1_SQRT_2);
        }
        x
    }

    fn block<'g>(&self, g: &Graph<'g>, layer: usize, x: Tensor<'g>) -> Tensor<'g> {
        let g = &g.scope(format_args!("model.layers.{layer}"));
        let norm = |name: &str, x| g.rms_norm(name, x, self.dense.eps);
        let y = self.attention(&g.scope("self_attn"), layer, norm("input_layernorm", x));
        let x = x + norm("post_attention_layernorm", y);
        let ffn = if layer < self.own {
            self.dense.ffn
        } else {
            self.wide
        };
        let y = self
            .dense
            .gated(&g.scope("mlp"), norm("pre_feedforward_layernorm", x), ffn);
        let y = match self.mixture {
            None => y,
            Some(mixture) => {
                let experts = norm("post_feedforward_layernorm_2", self.experts(g, mixture, x));
                norm("post_feedforward_layernorm_1", y) + experts
            }
        };
        let mut x = x + norm("post_feedforward_layernorm", y);
        if self.share > 0 {
            let own = g.carried("shares").narrow(layer * self.share, self.share);
            let gate = g.linear("per_layer_input_gate", x, self.share).gelu_tanh();
            let y = g.linear("per_layer_projection", gate * own, self.dense.width);
            x = x + norm("post_per_layer_input_norm", y);
        }
        x * g.param("layer_scalar", &[1])
    }

    fn head<'g>(&self, g: &Graph<'g>, x: Tensor<'g>) -> Tensor<'g> {
        self.dense.head(g, x)
    }
}

impl Gemma4 {
    /// A layer's window, and its kind.
    fn kind(&self, layer: usize) -> (Option<usize>, &Kind) {
        match self.windows.of(layer) {
            Some(window) if layer + 1 < self.dense.layers => (Some(window), &self.windowed),
            _ => (None, &self.full),
        }
    }

    /// (tokens, width) -> (tokens, width).
    fn attention<'g>(&self, g: &Graph<'g>, layer: usize, x: Tensor<'g>) -> Tensor<'g> {
        let (window, kind) = self.kind(layer);
        let (dim, eps) = (kind.head_dim, self.dense.eps);
        let biased = self.dense.qkv_bias;
        let project = |name: &str, n: usize| g.linear_with(name, x, n * dim, biased).heads(n);
        let turned = |norm: &str, y: Tensor<'g>| g.rms_norm(norm, y, eps).rope(&kind.rope);
        let q = turned("q_norm", project("q_proj", self.dense.heads));
        let [keys, values] = match window {
            None => ["full.keys", "full.values"],
            Some(_) => ["windowed.keys", "windowed.values"],
        };
        let (k, v) = match layer < self.own {
            false => (g.carried(keys), g.carried(values)),
            true => {
                let k = project("k_proj", kind.kv_heads);
                let v = match kind.keys_are_values {
                    true => k,
                    false => project("v_proj", kind.kv_heads),
                };
                let (k, v) = (turned("k_norm", k), v.rms_norm(eps));
                match kind.source == Some(layer) {
                    true => (g.carry(keys, k), g.carry(values, v)),
                    false => (k, v),
                }
            }
        };
        let attn = Attn {
            window,
            scale: Some(1.0),
            ..Attn::default()
        };
        let y = g.attention(q, k, v, attn).merge();
        g.linear_with("o_proj", y, self.dense.width, self.dense.o_bias)
    }

    /// The mixture, of experts of so many features: (tokens, width) -> (tokens, width).
    fn experts<'g>(
        &self,
        g: &Graph<'g>,
        (count, ffn, route): (usize, usize, Route),
        x: Tensor<'g>,
    ) -> Tensor<'g> {
        let (width, eps, router) = (self.dense.width, self.dense.eps, g.scope("router"));
        let seen = x.rms_norm(eps) * router.param("scale", &[width]) / (width as f64).sqrt();
        let logits = router.linear("proj", seen, count); // (tokens, experts)
        let scales = router.param("per_expert_scale", &[count]);
        let rows = g.rms_norm("pre_feedforward_layernorm_2", x, eps);
        g.moe(logits, rows, route, |e, rows| {
            let y = self
                .dense
                .gated(&g.scope(format_args!("experts.{e}")), rows, ffn);
            y * scales.narrow(e, 1)
        })
    }
}

/// Features of a head, and heads of keys, in layers that see everything, as the last always does.
fn full_heads(c: &Config, dense: &Dense, keys_are_values: bool) -> Result<(usize, usize)> {
    let usual = (dense.head_dim, dense.kv_heads);
    if let Some(layers) = c.section("per_layer_config")? {
        let last = layers.section(&dense.layers.saturating_sub(1).to_string())?;
        return last.map_or(Ok(usual), |last| {
            let kv_heads = last.usize_or("num_key_value_heads", usual.1)?;
            Ok((last.usize_or("head_dim", usual.0)?, kv_heads))
        });
    }
    let kv_heads = match keys_are_values {
        true => c.usize_or("num_global_key_value_heads", usual.1)?,
        false => usual.1,
    };
    Ok((c.usize_or("global_head_dim", 512)?, kv_heads))
}

/// Experts, features inside each, and how a token chooses.
fn mixture(c: &Config) -> Result<Option<(usize, usize, Route)>> {
    let there = c.bool_or("enable_moe_block", false)?;
    let read = || -> Result<_> {
        let count = Experts::number(c, 0)?;
        let route = Route::top(Experts::per_token_of(c, "top_k_experts", count)?).normalised();
        Ok((count, c.usize("moe_intermediate_size")?, route))
    };
    there.then(read).transpose()
}

plugin!("The Gemma 4 family", arch Gemma4);

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"{"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 7,
        "head_dim": 8"#;

    fn new(more: &str) -> Result<Gemma4> {
        Gemma4::new(&Config::parse(&format!("{SMALL}{more}}}"))?)
    }

    #[test]
    fn absent_keys_are_its_class_s() {
        let plain = new("").unwrap();
        let heads = (plain.dense.heads, plain.dense.kv_heads);
        assert_eq!((heads, plain.dense.vocab), ((8, 4), 262_144));
        assert_eq!((plain.full.head_dim, plain.full.kv_heads), (512, 4));
        let shares = (plain.share, plain.share_vocab, plain.share_scale);
        assert_eq!(shares, (256, 262_144, 16.0));
        assert_eq!((plain.own, plain.windowed.source), (7, None));
        let windows = [4, 5, 6].map(|layer| plain.kind(layer).0);
        assert_eq!(windows, [Some(512), None, None], "the last sees everything");
        // a quarter of the pairs, as a head of 512 turns them
        let turned = plain.full.rope.inv_freq.iter().filter(|f| **f > 0.0);
        assert_eq!((turned.count(), plain.full.rope.inv_freq.len()), (64, 256));
        assert!((plain.windowed.rope.inv_freq[1] - 0.1).abs() < 1e-7);
        let none = new(r#", "hidden_size_per_layer_input": null"#).unwrap();
        assert_eq!(none.share, 0);
    }

    #[test]
    fn both_ways_to_say_other_heads_are_read() {
        let v4 = r#", "global_head_dim": 32, "num_global_key_value_heads": 1"#;
        let heads = |more: &str| {
            let full = new(more).unwrap().full;
            (full.head_dim, full.kv_heads, full.keys_are_values)
        };
        assert_eq!(heads(v4), (32, 4, false), "only keys that are values");
        let equal = r#", "attention_k_eq_v": true"#;
        assert_eq!(heads(&format!("{v4}{equal}")), (32, 1, true));
        let v5 = r#", "per_layer_config": {"5": {"head_dim": 32, "num_key_value_heads": 2},
            "6": {"head_dim": 32, "num_key_value_heads": 2}}"#;
        assert_eq!(heads(v5), (32, 2, false));
    }

    #[test]
    fn later_layers_take_over_from_the_last_of_their_kind() {
        let more = r#", "num_kv_shared_layers": 2, "layer_types": ["full_attention",
            "sliding_attention", "full_attention", "sliding_attention", "sliding_attention",
            "sliding_attention", "full_attention"]"#;
        let shared = new(more).unwrap();
        let sources = (shared.windowed.source, shared.full.source);
        assert_eq!((shared.own, sources), (5, (Some(4), Some(2))));
    }

    #[test]
    fn refuses_what_it_cannot_compute() {
        for (more, says) in [
            (r#", "use_bidirectional_attention": "all""#, "is \"all\""),
            (r#", "num_kv_shared_layers": 7"#, "is 7: no layer before"),
            (r#", "num_kv_shared_layers": 2"#, "for all kinds of them"),
            (
                r#", "enable_moe_block": true, "top_k_experts": 2"#,
                "`num_local_experts` is 0",
            ),
            (
                r#", "enable_moe_block": true, "num_experts": 4, "top_k_experts": 5"#,
                "`top_k_experts` is 5 of 4 experts",
            ),
        ] {
            let error = new(more).err().unwrap().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
