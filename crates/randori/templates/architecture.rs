//! my_plugin: an architecture for Randori. It names its weights and the operations between them;
//! the host runs them forward and backward, with adapters, quantised weights, KV cache and packing.

use randori_sdk::{Arch, Attn, Config, Graph, Result, Rope, Tensor, plugin};

/// What is read from `config.json`.
pub struct MyPlugin {
    vocab: usize,
    width: usize,
    heads: usize,
    ffn: usize,
    layers: usize,
    eps: f64,
    rope: Rope,
}

impl Arch for MyPlugin {
    /// The `model_type` of `config.json`.
    const NAME: &'static str = "my_plugin";
    const DOC: &'static str = "RMS norms, rotary attention, a gated perceptron";

    fn new(c: &Config) -> Result<Self> {
        let (width, heads) = (c.usize("hidden_size")?, c.usize("num_attention_heads")?);
        if heads == 0 || width % heads != 0 {
            return Err(c.error("num_attention_heads", "must divide hidden_size"));
        }
        Ok(MyPlugin {
            vocab: c.usize("vocab_size")?,
            width,
            heads,
            ffn: c.usize("intermediate_size")?,
            layers: c.usize("num_hidden_layers")?,
            eps: c.f64_or("rms_norm_eps", 1e-6)?,
            rope: Rope::from(c, width / heads)?,
        })
    }

    fn layers(&self) -> usize {
        self.layers
    }

    /// (tokens) ids -> (tokens, width)
    fn embed<'g>(&self, g: &Graph<'g>, ids: Tensor<'g>) -> Tensor<'g> {
        g.embed("model.embed_tokens", ids, self.vocab, self.width)
    }

    /// (tokens, width) -> (tokens, width)
    fn block<'g>(&self, g: &Graph<'g>, layer: usize, x: Tensor<'g>) -> Tensor<'g> {
        let g = &g.scope(format_args!("model.layers.{layer}"));
        let h = g.rms_norm("input_layernorm", x, self.eps);
        let project = |name| g.linear(name, h, self.width).heads(self.heads);
        let q = project("self_attn.q_proj").rope(&self.rope); // (tokens, heads, head_dim)
        let k = project("self_attn.k_proj").rope(&self.rope);
        let v = project("self_attn.v_proj");
        let y = g.attention(q, k, v, Attn::default()).merge();
        let x = x + g.linear("self_attn.o_proj", y, self.width);
        let h = g.rms_norm("post_attention_layernorm", x, self.eps);
        let gate = g.linear("mlp.gate_proj", h, self.ffn).silu();
        let up = g.linear("mlp.up_proj", h, self.ffn);
        x + g.linear("mlp.down_proj", gate * up, self.width)
    }

    /// (rows, width) -> (rows, vocab)
    fn head<'g>(&self, g: &Graph<'g>, x: Tensor<'g>) -> Tensor<'g> {
        g.linear("lm_head", g.rms_norm("model.norm", x, self.eps), self.vocab)
    }
}

plugin!("The architecture my_plugin", arch MyPlugin);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_that_do_not_divide_the_width_are_refused() {
        let text = include_str!("../config.json");
        assert_eq!(MyPlugin::new(&Config::parse(text).unwrap()).unwrap().heads, 4);
        let other = text.replace("\"num_attention_heads\": 4", "\"num_attention_heads\": 5");
        assert!(MyPlugin::new(&Config::parse(&other).unwrap()).is_err());
    }
}
