//! [`Dense`]: the decoder that Llama and its relatives share, for architectures that are it but for
//! a few keys of their configuration.

use crate::{Attn, Config, Graph, Result, Rope, Tensor, Windows, windows::layer_types};

/// A dense decoder under Llama's weight names: RMS norm before attention and perceptron, rotary
/// embeddings, grouped-query attention, SwiGLU; biases, windows and norms of heads where asked for.
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
    /// The projections to queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Attention's output projection has a bias.
    pub o_bias: bool,
    /// Projections of the perceptron have biases.
    pub mlp_bias: bool,
    /// Every head of queries and keys goes through an RMS norm of its features before it is
    /// rotated; one scale (`q_norm`, `k_norm`) serves all heads.
    pub head_norms: bool,
    /// Rotary embedding of queries and keys.
    pub rope: Rope,
    /// Sliding windows of attention.
    pub windows: Windows,
}

/// What absent keys mean to a family, where its relatives have other defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Absent {
    /// `num_key_value_heads`; `None`: as many as query heads, which `null` always means.
    pub kv_heads: Option<usize>,
    /// `head_dim`, null too; `None`: width / heads.
    pub head_dim: Option<usize>,
}

impl Dense {
    /// Reads transformers' keys, without biases, norms of heads and windows.
    ///
    /// # Errors
    /// A key that is missing, of another type or out of range; a `hidden_act` other than SiLU.
    pub fn new(c: &Config, absent: Absent) -> Result<Dense> {
        c.only("hidden_act", &["silu", "swish"])?; // two names of one function
        let (width, heads) = (c.usize("hidden_size")?, c.usize("num_attention_heads")?);
        if heads == 0 {
            return Err(c.error("num_attention_heads", "is 0"));
        }
        let kv_heads = match absent.kv_heads {
            Some(kv_heads) if !c.names("num_key_value_heads") => kv_heads,
            _ => c.usize_or("num_key_value_heads", heads)?,
        };
        if kv_heads == 0 || heads % kv_heads != 0 {
            let what =
                format!("is {kv_heads}, which does not divide num_attention_heads ({heads})");
            return Err(c.error("num_key_value_heads", &what));
        }
        let head_dim = c.usize_or("head_dim", absent.head_dim.unwrap_or(width / heads))?;
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
            qkv_bias: false,
            o_bias: false,
            mlp_bias: false,
            head_norms: false,
            rope: Rope::of_whole_heads(c, head_dim)?,
            windows: Windows::NONE,
        })
    }

    /// The configuration's `layer_types`, one a block, if it has any.
    ///
    /// # Errors
    /// Another number of them than there are blocks.
    pub fn layer_types<'c>(&self, c: &'c Config) -> Result<Option<Vec<&'c str>>> {
        layer_types(c, self.layers)
    }

    /// (tokens) ids -> (tokens, width).
    pub fn embed<'g>(&self, g: &Graph<'g>, ids: Tensor<'g>) -> Tensor<'g> {
        g.embed("model.embed_tokens", ids, self.vocab, self.width)
    }

    /// One block: (tokens, width) -> (tokens, width).
    pub fn block<'g>(&self, g: &Graph<'g>, layer: usize, x: Tensor<'g>) -> Tensor<'g> {
        let attn = Attn {
            window: self.windows.of(layer),
            ..Attn::default()
        };
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
    /// heads; q and k normed before rope where heads have norms.
    fn attention<'g>(&self, g: &Graph<'g>, x: Tensor<'g>, attn: Attn) -> Tensor<'g> {
        let g = &g.scope("self_attn");
        let project = |name, heads| {
            let y = g.linear_with(name, x, heads * self.head_dim, self.qkv_bias);
            y.heads(heads)
        };
        let turned = |norm: &str, y: Tensor<'g>| {
            let y = match self.head_norms {
                true => g.rms_norm(norm, y, self.eps),
                false => y,
            };
            y.rope(&self.rope)
        };
        let q = turned("q_norm", project("q_proj", self.heads)); // (tokens, heads, head_dim)
        let k = turned("k_norm", project("k_proj", self.kv_heads)); // (tokens, kv_heads, head_dim)
        let v = project("v_proj", self.kv_heads); // (tokens, kv_heads, head_dim)
        let y = g.attention(q, k, v, attn).merge(); // (tokens, heads·head_dim)
        g.linear_with("o_proj", y, self.width, self.o_bias)
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
