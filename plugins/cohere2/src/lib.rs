//! Command R7B and Command A (Cohere 2024 and 2025): attention and perceptron beside each other,
//! x + attention(y) + perceptron(y), both on the same layer norm y of x.
//!
//! Layers with a sliding window rotate neighbouring features (2i, 2i + 1); the others (every 4th,
//! or as `layer_types` says) see all earlier tokens and rotate nothing. Where `sliding_window` is
//! null no layer has a window, and none rotates. Logits times `logit_scale`; the embedding is the
//! head unless the configuration says otherwise.

use randori_sdk::{
    Absent, Arch, Config, Dense, Dialect, Graph, Layers, Result, Rope, Ropes, Tensor, Windows,
    dialect::{Gguf, Implied, Key, Module, Renamed},
    plugin,
};

/// The Cohere 2 family.
pub struct Cohere2(Dense);

/// transformers' default of the absent key.
const ABSENT: Absent = Absent {
    tied: true,
    ..Absent::LLAMA
};

impl Arch for Cohere2 {
    const NAME: &'static str = "cohere2";
    const DOC: &'static str =
        "Command R7B and Command A: attention and perceptron beside each other";
    const DIALECT: Dialect = Dialect {
        class: "Cohere2ForCausalLM",
        defaults: r#"{"layer_norm_eps": 1e-5, "rms_norm_eps": 1e-5, "sliding_window": 4096,
            "logit_scale": 0.0625, "tie_word_embeddings": true}"#,
        gguf: Some(Gguf {
            architecture: "cohere2",
            modules: &[
                Module::OUTSIDE,
                &[Module::new("input_layernorm", "attn_norm")],
                Module::ATTENTION,
                Module::MLP,
            ],
            biased: Some(&[]),
            epsilon: "attention.layer_norm_epsilon",
            any_head_dim: false,
            renamed: &[Renamed::new("rms_norm_eps", "layer_norm_eps")],
            keys: &[
                Key::whole("attention.sliding_window", &["sliding_window"]).required(),
                Key::real("logit_scale", &["logit_scale"]).required(),
            ],
            implied: &[
                Implied::SILU,
                Implied::cycle(
                    "layer_types",
                    &[
                        "sliding_attention",
                        "sliding_attention",
                        "sliding_attention",
                        "full_attention",
                    ],
                ),
                Implied::json("sliding_window_pattern", &["4"]).unsaid(),
                Implied::json("tie_word_embeddings", &["true"]),
            ],
            ..Gguf::HALVES
        }),
        ..Dialect::NONE
    };

    fn new(c: &Config) -> Result<Self> {
        c.only("hidden_act", &["silu", "swish"])?;
        let dense = Dense::sizes(c, ABSENT)?;
        let head_dim = dense.width / dense.heads; // the class has no `head_dim`
        let window = c.usize_unless_null("sliding_window", 4096)?;
        let windows = match window {
            None => Windows::NONE,
            _ => Windows::read(c, dense.layers, window, sliding(c)?)?,
        };
        let rope = Rope {
            interleaved: true,
            ..Rope::of_whole_heads(c, head_dim)?
        };
        let rotated = match (window, dense.layer_types(c)?) {
            (None, _) => Layers::Listed(Vec::new()),
            (_, None) => sliding(c)?,
            (_, Some(kinds)) => {
                Layers::Listed(kinds.iter().map(|k| *k == "sliding_attention").collect())
            }
        };
        let attention_bias = c.bool_or("attention_bias", false)?;
        Ok(Cohere2(Dense {
            head_dim,
            eps: c.f64_or("layer_norm_eps", 1e-5)?,
            qkv_bias: attention_bias,
            o_bias: attention_bias,
            logit_scale: c.f64_or("logit_scale", 0.0625)?,
            ropes: Ropes::split(rotated, Some(rope), None),
            windows,
            ..dense
        }))
    }

    fn layers(&self) -> usize {
        self.0.layers
    }

    fn embed<'g>(&self, g: &Graph<'g>, ids: Tensor<'g>) -> Tensor<'g> {
        self.0.embed(g, ids)
    }

    fn block<'g>(&self, g: &Graph<'g>, layer: usize, x: Tensor<'g>) -> Tensor<'g> {
        let g = &g.scope(format_args!("model.layers.{layer}"));
        let y = g.layer_norm("input_layernorm", x, self.0.eps, false);
        x + self.0.attention(g, layer, y) + self.0.mlp(g, y)
    }

    fn head<'g>(&self, g: &Graph<'g>, x: Tensor<'g>) -> Tensor<'g> {
        let x = g.layer_norm("model.norm", x, self.0.eps, false);
        self.0.logits(g, x)
    }
}

/// The layers with a window where no list says them.
fn sliding(c: &Config) -> Result<Layers> {
    Ok(Layers::ButEvery(c.usize_or("sliding_window_pattern", 4)?))
}

plugin!("The Cohere 2 family", arch Cohere2);

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"{"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 24,
        "num_hidden_layers": 4, "vocab_size": 32"#;

    fn new(more: &str) -> Result<Dense> {
        Ok(Cohere2::new(&Config::parse(&format!("{SMALL}{more}}}"))?)?.0)
    }

    #[test]
    fn absent_keys_are_its_class_s() {
        let plain = new(r#", "head_dim": 6"#).unwrap();
        assert_eq!((plain.kv_heads, plain.head_dim, plain.eps), (4, 4, 1e-5));
        assert_eq!((plain.tied, plain.logit_scale), (true, 0.0625));
        assert!(!plain.qkv_bias && !plain.o_bias && !plain.mlp_bias);
        let more = r#", "attention_bias": true, "logit_scale": 0.25, "layer_norm_eps": 1e-3"#;
        let other = new(more).unwrap();
        assert!(other.qkv_bias && other.o_bias && !other.mlp_bias);
        assert_eq!((other.logit_scale, other.eps), (0.25, 1e-3));
    }

    #[test]
    fn only_layers_with_a_window_rotate() {
        let of = |more: &str| {
            let dense = new(more).unwrap();
            [0, 1, 2, 3].map(|i| {
                let rope = dense.ropes.of(i);
                assert!(rope.is_none_or(|rope| rope.interleaved));
                (rope.is_some(), dense.windows.of(i))
            })
        };
        let (windowed, full) = ((true, Some(4096)), (false, None));
        assert_eq!(of(""), [windowed, windowed, windowed, full]);
        let pattern = r#", "sliding_window": 5, "sliding_window_pattern": 2"#;
        let five = (true, Some(5));
        assert_eq!(of(pattern), [five, full, five, full]);
        let types = r#", "layer_types": ["full_attention", "sliding_attention", "full_attention",
            "full_attention"]"#;
        assert_eq!(of(types), [full, windowed, full, full]);
        assert_eq!(of(r#", "sliding_window": null"#), [full; 4]);
        assert_eq!(
            of(&format!(r#", "sliding_window": null{types}"#)),
            [full; 4]
        );
    }
}
