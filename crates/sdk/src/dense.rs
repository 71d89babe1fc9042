//! [`Dense`]: the decoder that Llama and its relatives share, for architectures that are it but for
//! a few keys of their configuration.

use crate::{Attn, Config, Graph, Result, Rope, Tensor};

/// A dense decoder under Llama's weight names: RMS norm before attention and perceptron, rotary
/// embeddings, grouped-query attention, SwiGLU, no biases unless asked for.
///
/// An architecture reads it with [`Dense::new`], changes what differs, and hands its methods on.
pub struct Dense {
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Features of the residual stream.
    pub width: usize,
    /// Blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads; each serves `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Features per head.
    pub head_dim: usize,
    /// Features inside the perceptron.
    pub ffn: usize,
    /// Added to the mean square in norms.
    pub eps: f64,
    /// The head's matrix is the embedding's.
    pub tied: bool,
    /// Projections of attention have biases.
    pub attention_bias: bool,
    /// Projections of the perceptron have biases.
    pub mlp_bias: bool,
    /// Rotary embedding of queries and keys.
    pub rope: Rope,
}

impl Dense {
    /// Reads transformers' keys, without biases. A configuration that does not write
    /// `num_key_value_heads` has `kv_heads` of them; `None`: as many as query heads, which `null`
    /// always means.
    ///
    /// # Errors
    /// A key that is missing, of another type or out of range; a `hidden_act` other than SiLU.
    pub fn new(c: &Config, kv_heads: Option<usize>) -> Result<Dense> {
        c.only("hidden_act", &["silu", "swish"])?; // two names of one function
        let (width, heads) = (c.usize("hidden_size")?, c.usize("num_attention_heads")?);
        if heads == 0 {
            return Err(c.error("num_attention_heads", "is 0"));
        }
        let kv_heads = match kv_heads {
            Some(absent) if !c.names("num_key_value_heads") => absent,
            _ => c.usize_or("num_key_value_heads", heads)?,
        };
        if kv_heads == 0 || heads % kv_heads != 0 {
            let what =
                format!("is {kv_heads}, which does not divide num_attention_heads ({heads})");
            return Err(c.error("num_key_value_heads", &what));
        }
        let head_dim = c.usize_or("head_dim", width / heads)?;
        Ok(Dense {
            vocab: c.usize("vocab_size")?,
            width,
            layers: c.usize("num_hidden_layers")?,
            heads,
            kv_heads,
            head_dim,
            ffn: c.usize("intermediate_size")?,
            eps: c.f64_or("rms_norm_eps", 1e-6)?,
            tied: c.bool_or("tie_word_embeddings", false)?,
            attention_bias: false,
            mlp_bias: false,
            rope: Rope::of_whole_heads(c, head_dim)?,
        })
    }

    /// The configuration's `layer_types`, one a block, if it has any.
    ///
    /// # Errors
    /// Another number of them than there are blocks.
    pub fn layer_types<'c>(&self, c: &'c Config) -> Result<Option<Vec<&'c str>>> {
        let kinds = c.strs("layer_types")?;
        match &kinds {
            Some(kinds) if kinds.len() != self.layers => {
                let what = format!("has {} entries for {} layers", kinds.len(), self.layers);
                Err(c.error("layer_types", &what))
            }
            _ => Ok(kinds),
        }
    }

    /// (tokens) ids -> (tokens, width).
    pub fn embed<'g>(&self, g: &Graph<'g>, ids: Tensor<'g>) -> Tensor<'g> {
        g.embed("model.embed_tokens", ids, self.vocab, self.width)
    }

    /// One block with this kind of attention: (tokens, width) -> (tokens, width).
    pub fn block<'g>(&self, g: &Graph<'g>, layer: usize, x: Tensor<'g>, attn: Attn) -> Tensor<'g> {
        let g = &g.scope(format_args!("model.layers.{layer}"));
        let x = x + self.attention(g, g.rms_norm("input_layernorm", x, self.eps), attn);
        x + self.mlp(g, g.rms_norm("post_attention_layernorm", x, self.eps))
    }

    /// Final norm and projection: (rows, width) -> (rows, vocab).
    pub fn head<'g>(&self, g: &Graph<'g>, x: Tensor<'g>) -> Tensor<'g> {
        let x = g.rms_norm("model.norm", x, self.eps);
        let name = if self.tied {
            "model.embed_tokens"
        } else {
            "lm_head"
        };
        g.linear(name, x, self.vocab)
    }

    /// o·softmax(rope(q)·rope(k)ᵀ / √d)·v, each key-value head serving heads / kv_heads query
    /// heads.
    fn attention<'g>(&self, g: &Graph<'g>, x: Tensor<'g>, attn: Attn) -> Tensor<'g> {
        let g = &g.scope("self_attn");
        let project = |name, heads| {
            let y = g.linear_with(name, x, heads * self.head_dim, self.attention_bias);
            y.heads(heads)
        };
        let q = project("q_proj", self.heads).rope(&self.rope); // (tokens, heads, head_dim)
        let k = project("k_proj", self.kv_heads).rope(&self.rope); // (tokens, kv_heads, head_dim)
        let v = project("v_proj", self.kv_heads); // (tokens, kv_heads, head_dim)
        let y = g.attention(q, k, v, attn).merge(); // (tokens, heads·head_dim)
        g.linear_with("o_proj", y, self.width, self.attention_bias)
    }

    /// SwiGLU: down(silu(gate(x)) · up(x)).
    fn mlp<'g>(&self, g: &Graph<'g>, x: Tensor<'g>) -> Tensor<'g> {
        let g = &g.scope("mlp");
        let project = |name| g.linear_with(name, x, self.ffn, self.mlp_bias); // (tokens, ffn)
        let gate = project("gate_proj").silu();
        let up = project("up_proj");
        g.linear_with("down_proj", gate * up, self.width, self.mlp_bias)
    }
}
