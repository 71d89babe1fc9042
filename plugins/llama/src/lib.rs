//! Llama 1 to 3.x (Touvron et al. 2023, arXiv 2302.13971; Grattafiori et al. 2024, arXiv
//! 2407.21783) and models of the same shape: SmolLM2, TinyLlama, Yi, DeepSeek-LLM.
//!
//! Read from the configuration: grouped-query attention, `head_dim`, tied embeddings,
//! `attention_bias`, `mlp_bias`, rotary frequencies as they are, divided (`linear`, `longrope`) or
//! with Llama 3.1's ramp (`llama3`). Absent keys have the defaults of transformers' class;
//! `partial_rotary_factor` is not read.

use randori_sdk::{Arch, Attn, Config, Graph, Result, Rope, Tensor, plugin};

/// The Llama family.
pub struct Llama {
    vocab: usize,
    width: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    ffn: usize,
    eps: f64,
    tied: bool,
    attention_bias: bool,
    mlp_bias: bool,
    rope: Rope,
}

impl Arch for Llama {
    const NAME: &'static str = "llama";
    const DOC: &'static str =
        "Llama 1 to 3.x, and models of the same shape (SmolLM2, TinyLlama, Yi)";

    fn new(c: &Config) -> Result<Self> {
        c.only("hidden_act", &["silu", "swish"])?; // two names of one function
        let (width, heads) = (c.usize("hidden_size")?, c.usize("num_attention_heads")?);
        if heads == 0 {
            return Err(c.error("num_attention_heads", "is 0"));
        }
        let kv_heads = c.usize_or("num_key_value_heads", heads)?;
        if kv_heads == 0 || heads % kv_heads != 0 {
            let what =
                format!("is {kv_heads}, which does not divide num_attention_heads ({heads})");
            return Err(c.error("num_key_value_heads", &what));
        }
        let head_dim = c.usize_or("head_dim", width / heads)?;
        let layers = c.usize("num_hidden_layers")?;
        no_windows(c, layers)?;
        Ok(Llama {
            vocab: c.usize("vocab_size")?,
            width,
            layers,
            heads,
            kv_heads,
            head_dim,
            ffn: c.usize("intermediate_size")?,
            eps: c.f64_or("rms_norm_eps", 1e-6)?,
            tied: c.bool_or("tie_word_embeddings", false)?,
            attention_bias: c.bool_or("attention_bias", false)?,
            mlp_bias: c.bool_or("mlp_bias", false)?,
            rope: Rope::of_whole_heads(c, head_dim)?,
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
        let x = x + self.attention(g, g.rms_norm("input_layernorm", x, self.eps));
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

impl Llama {
    /// o·softmax(rope(q)·rope(k)ᵀ / √d)·v, each key-value head serving heads / kv_heads query
    /// heads.
    fn attention<'g>(&self, g: &Graph<'g>, x: Tensor<'g>) -> Tensor<'g> {
        let g = &g.scope("self_attn");
        let project = |name, heads| {
            let y = g.linear_with(name, x, heads * self.head_dim, self.attention_bias);
            y.heads(heads)
        };
        let q = project("q_proj", self.heads).rope(&self.rope); // (tokens, heads, head_dim)
        let k = project("k_proj", self.kv_heads).rope(&self.rope); // (tokens, kv_heads, head_dim)
        let v = project("v_proj", self.kv_heads); // (tokens, kv_heads, head_dim)
        let y = g.attention(q, k, v, Attn::default()).merge(); // (tokens, heads·head_dim)
        g.linear_with("o_proj", y, self.width, self.attention_bias)
    }

    /// SwiGLU: down(silu(gate(x)) · up(x)).
    fn mlp<'g>(&self, g: &Graph<'g>, x: Tensor<'g>) -> Tensor<'g> {
        let g = &g.scope("mlp");
        let gate = g
            .linear_with("gate_proj", x, self.ffn, self.mlp_bias)
            .silu(); // (tokens, ffn)
        let up = g.linear_with("up_proj", x, self.ffn, self.mlp_bias); // (tokens, ffn)
        g.linear_with("down_proj", gate * up, self.width, self.mlp_bias)
    }
}

/// An error where a configuration asks for a sliding window: transformers' Llama computes a whole
/// text without it, and with it while it generates.
fn no_windows(c: &Config, layers: usize) -> Result<()> {
    let context = c.usize_or("max_position_embeddings", 2048)?;
    if let Some(window) = c.usize_opt("sliding_window")?.filter(|w| *w < context) {
        let what = format!("is {window}: this architecture has no sliding window");
        return Err(c.error("sliding_window", &what));
    }
    let Some(kinds) = c.strs("layer_types")? else {
        return Ok(());
    };
    if kinds.len() != layers {
        let what = format!("has {} entries for {layers} layers", kinds.len());
        return Err(c.error("layer_types", &what));
    }
    let other = |kind: &&&str| !["full_attention", "attention"].contains(kind);
    match kinds.iter().find(other) {
        Some(other) => {
            let what = format!("has \"{other}\"; supported: full_attention");
            Err(c.error("layer_types", &what))
        }
        None => Ok(()),
    }
}

plugin!("The Llama family", arch Llama);

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"{"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 24, "num_hidden_layers": 3, "vocab_size": 32, "rms_norm_eps": 1e-5"#;

    fn new(more: &str) -> Result<Llama> {
        Llama::new(&Config::parse(&format!("{SMALL}{more}}}"))?)
    }

    #[test]
    fn reads_its_configuration() {
        let llama = new("").unwrap();
        assert_eq!((llama.head_dim, llama.kv_heads, llama.layers()), (4, 2, 3));
        assert!(!llama.tied && !llama.attention_bias && !llama.mlp_bias);
        let more = r#", "head_dim": 8, "tie_word_embeddings": true, "rope_theta": 500000.0"#;
        let llama = new(more).unwrap();
        assert_eq!((llama.head_dim, llama.tied), (8, true));
        assert!((llama.rope.inv_freq[1] - 500_000f32.powf(-0.25)).abs() < 1e-7);
    }

    #[test]
    fn refuses_what_it_cannot_compute() {
        for (more, says) in [
            (
                r#", "hidden_act": "gelu""#,
                "`hidden_act` is \"gelu\"; supported: silu, swish",
            ),
            (
                r#", "num_key_value_heads": 3"#,
                "which does not divide num_attention_heads (4)",
            ),
            (r#", "sliding_window": 8"#, "`sliding_window` is 8: this"),
            (
                r#", "layer_types": ["full_attention"]"#,
                "`layer_types` has 1 entries for 3 layers",
            ),
            (r#", "vocab_size": null"#, "`vocab_size` is missing"),
            (
                r#", "head_dim": 5"#,
                "5 of 5 features per head cannot be turned",
            ),
            (
                r#", "rope_scaling": {"type": "yarn"}"#,
                "supported: default, linear, llama3",
            ),
        ] {
            let error = new(more).err().unwrap().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
