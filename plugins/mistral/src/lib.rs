//! Mistral 7B and its successors (Jiang et al. 2023, arXiv 2310.06825): Llama's block with a
//! sliding window.
//!
//! A query at position i sees keys at i - window < j <= i; information still travels layers ·
//! window tokens far. With `sliding_window` null (v0.2 on) all earlier keys are seen; without the
//! key the window is 4096, as in transformers' class. `layer_types` says which layers have the
//! window (Ministral). `head_dim` may differ from hidden_size / num_attention_heads (Nemo, Small).

use randori_sdk::{Arch, Attn, Config, Graph, Result, Rope, Tensor, plugin};

/// The Mistral family.
pub struct Mistral {
    vocab: usize,
    width: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    ffn: usize,
    eps: f64,
    tied: bool,
    rope: Rope,
    windows: Windows,
}

/// The sliding window of each layer in tokens; `None`: all tokens are seen.
enum Windows {
    /// The same for all layers, stored once, so that a configuration of absurdly many layers is
    /// refused for its tensors and takes no memory here.
    Every(Option<usize>),
    /// As `layer_types` says, layer by layer.
    Each(Vec<Option<usize>>),
}

impl Windows {
    fn of(&self, layer: usize) -> Option<usize> {
        match self {
            Windows::Every(window) => *window,
            Windows::Each(windows) => windows.get(layer).copied().flatten(),
        }
    }
}

/// transformers' defaults of absent keys.
const WINDOW: usize = 4096;
const KV_HEADS: usize = 8;

impl Arch for Mistral {
    const NAME: &'static str = "mistral";
    const DOC: &'static str = "Mistral 7B, Nemo and Small: Llama's block with a sliding window";

    fn new(c: &Config) -> Result<Self> {
        c.only("hidden_act", &["silu", "swish"])?; // two names of one function
        let (width, heads) = (c.usize("hidden_size")?, c.usize("num_attention_heads")?);
        if heads == 0 {
            return Err(c.error("num_attention_heads", "is 0"));
        }
        let kv_heads = match c.names("num_key_value_heads") {
            true => c.usize_or("num_key_value_heads", heads)?,
            false => KV_HEADS,
        };
        if kv_heads == 0 || heads % kv_heads != 0 {
            let what =
                format!("is {kv_heads}, which does not divide num_attention_heads ({heads})");
            return Err(c.error("num_key_value_heads", &what));
        }
        let head_dim = c.usize_or("head_dim", width / heads)?;
        let layers = c.usize("num_hidden_layers")?;
        Ok(Mistral {
            vocab: c.usize("vocab_size")?,
            width,
            layers,
            heads,
            kv_heads,
            head_dim,
            ffn: c.usize("intermediate_size")?,
            eps: c.f64_or("rms_norm_eps", 1e-6)?,
            tied: c.bool_or("tie_word_embeddings", false)?,
            rope: Rope::of_whole_heads(c, head_dim)?,
            windows: windows(c, layers)?,
        })
    }

    fn layers(&self) -> usize {
        self.layers
    }

    fn embed<'g>(&self, g: &Graph<'g>, ids: Tensor<'g>) -> Tensor<'g> {
        g.embed("model.embed_tokens", ids, self.vocab, self.width) // (tokens, width)
    }

    fn block<'g>(&self, g: &Graph<'g>, layer: usize, x: Tensor<'g>) -> Tensor<'g> {
        let g = &g.scope(format_args!("model.layers.{layer}"));
        let x = x + self.attention(g, layer, g.rms_norm("input_layernorm", x, self.eps));
        x + self.mlp(g, g.rms_norm("post_attention_layernorm", x, self.eps))
    }

    fn head<'g>(&self, g: &Graph<'g>, x: Tensor<'g>) -> Tensor<'g> {
        let x = g.rms_norm("model.norm", x, self.eps);
        let name = if self.tied {
            "model.embed_tokens"
        } else {
            "lm_head"
        };
        g.linear(name, x, self.vocab) // (rows, vocab)
    }
}

impl Mistral {
    /// o·softmax(rope(q)·rope(k)ᵀ / √d over the window)·v, each key-value head serving heads /
    /// kv_heads query heads.
    fn attention<'g>(&self, g: &Graph<'g>, layer: usize, x: Tensor<'g>) -> Tensor<'g> {
        let g = &g.scope("self_attn");
        let project = |name, heads| g.linear(name, x, heads * self.head_dim).heads(heads);
        let q = project("q_proj", self.heads).rope(&self.rope); // (tokens, heads, head_dim)
        let k = project("k_proj", self.kv_heads).rope(&self.rope); // (tokens, kv_heads, head_dim)
        let v = project("v_proj", self.kv_heads); // (tokens, kv_heads, head_dim)
        let attn = Attn {
            window: self.windows.of(layer),
            ..Attn::default()
        };
        let y = g.attention(q, k, v, attn).merge(); // (tokens, heads·head_dim)
        g.linear("o_proj", y, self.width)
    }

    /// SwiGLU: down(silu(gate(x)) · up(x)).
    fn mlp<'g>(&self, g: &Graph<'g>, x: Tensor<'g>) -> Tensor<'g> {
        let g = &g.scope("mlp");
        let gate = g.linear("gate_proj", x, self.ffn).silu(); // (tokens, ffn)
        let up = g.linear("up_proj", x, self.ffn); // (tokens, ffn)
        g.linear("down_proj", gate * up, self.width)
    }
}

/// Each layer's window: `sliding_window` in every layer, or in those that `layer_types` names.
fn windows(c: &Config, layers: usize) -> Result<Windows> {
    let window = match c.names("sliding_window") {
        true => c.usize_opt("sliding_window")?,
        false => Some(WINDOW),
    };
    if window == Some(0) {
        return Err(c.error("sliding_window", "is 0: no token would see itself"));
    }
    let Some(kinds) = c.strs("layer_types")? else {
        return Ok(Windows::Every(window));
    };
    if kinds.len() != layers {
        let what = format!("has {} entries for {layers} layers", kinds.len());
        return Err(c.error("layer_types", &what));
    }
    let one = |kind: &&str| match (*kind, window) {
        ("full_attention" | "attention", _) => Ok(None),
        ("sliding_attention", Some(_)) => Ok(window),
        ("sliding_attention", None) => {
            let what = "asks for sliding_attention, but sliding_window is null";
            Err(c.error("layer_types", what))
        }
        (other, _) => {
            let what = format!("has \"{other}\"; supported: full_attention, sliding_attention");
            Err(c.error("layer_types", &what))
        }
    };
    Ok(Windows::Each(kinds.iter().map(one).collect::<Result<_>>()?))
}

plugin!("The Mistral family", arch Mistral);

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"{"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 32, "rms_norm_eps": 1e-5"#;

    fn new(more: &str) -> Result<Mistral> {
        Mistral::new(&Config::parse(&format!("{SMALL}{more}}}"))?)
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
        let kv = |more: &str| Mistral::new(&Config::parse(&format!("{heads}{more}}}")).unwrap());
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
