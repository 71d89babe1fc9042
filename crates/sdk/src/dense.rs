//! [`Dense`]: the decoder that Llama and its relatives share, for architectures that are it but for
//! a few keys of their configuration; [`DenseFamily`]: such an architecture.

use std::marker::PhantomData;

use crate::{
    Arch, Attn, Config, Dialect, Graph, Growth, Layers, Result, Rope, Tensor, Windows,
    windows::layer_types,
};

/// An architecture that is a [`Dense`] and nothing besides: `plugin!("…", dense Mine)`.
pub trait DenseFamily: Send + Sync + 'static {
    /// As [`Arch::NAME`].
    const NAME: &'static str;
    /// As [`Arch::DOC`].
    const DOC: &'static str = "";
    /// As [`Arch::DIALECT`].
    const DIALECT: Dialect = Dialect::NONE;
    /// Reads the decoder from a configuration.
    ///
    /// # Errors
    /// What the configuration has wrong, or asks for and this architecture does not compute.
    fn read(config: &Config) -> Result<Dense>;
}

/// The [`Arch`] that a [`DenseFamily`] describes.
pub struct DecoderOf<F>(Dense, PhantomData<F>);

impl<F: DenseFamily> Arch for DecoderOf<F> {
    const NAME: &'static str = F::NAME;
    const DOC: &'static str = F::DOC;
    const DIALECT: Dialect = F::DIALECT;

    fn new(c: &Config) -> Result<Self> {
        Ok(DecoderOf(F::read(c)?, PhantomData))
    }

    fn layers(&self) -> usize {
        self.0.layers
    }

    fn embed<'g>(&self, g: &Graph<'g>, ids: Tensor<'g>) -> Tensor<'g> {
        self.0.embed(g, ids)
    }

    fn block<'g>(&self, g: &Graph<'g>, layer: usize, x: Tensor<'g>) -> Tensor<'g> {
        self.0.block(g, layer, x)
    }

    fn head<'g>(&self, g: &Graph<'g>, x: Tensor<'g>) -> Tensor<'g> {
        self.0.head(g, x)
    }
}

/// A dense decoder under Llama's weight names: RMS norms around attention and perceptron, rotary
/// embeddings, grouped-query attention, a gated perceptron; what else its relatives have is off
/// until a field turns it on.
///
/// [`Dense::new`] reads Llama's, [`Dense::sizes`] the numbers alone; the architecture changes what
/// differs. One that is more than a `Dense` holds it and calls its passes.
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
    /// Queries, keys and values are one projection, `qkv_proj`, whose rows are theirs in this
    /// order.
    pub fused_qkv: bool,
    /// The perceptron's gate and its other input are one projection, `gate_up_proj`, whose rows
    /// are theirs in this order.
    pub fused_gate_up: bool,
    /// Where a block has norms, and their names.
    pub norms: Norms,
    /// Added to the weight of every norm before it scales (Gemma: 1).
    pub norm_plus: f32,
    /// Norms of queries and keys, before they are rotated.
    pub qk_norms: QkNorms,
    /// The perceptron's gate.
    pub activation: Activation,
    /// Factor on the embedding's rows.
    pub embed_scale: f64,
    /// Factor on what attention and perceptron add to the residual stream.
    pub branch_scale: f64,
    /// Factor on q·k; `None`: 1 / √head_dim.
    pub attn_scale: Option<f32>,
    /// Attention's scores become cap·tanh(score / cap), before the mask.
    pub attn_softcap: Option<f32>,
    /// Every query's soft-max has one logit more for each head, `sinks`, whose value is 0.
    pub attn_sinks: bool,
    /// Factor on the logits.
    pub logit_scale: f64,
    /// The logits, scaled, become cap·tanh(logit / cap).
    pub logit_softcap: Option<f64>,
    /// Rotary embedding of queries and keys.
    pub ropes: Ropes,
    /// A factor on rotated queries that grows with the position.
    pub query_growth: Option<Growth>,
    /// Sliding windows of attention.
    pub windows: Windows,
}

/// Where a block has RMS norms, by the names of their weights; `None`: nothing is normed there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Norms {
    /// Of attention's input.
    pub attention: Option<&'static str>,
    /// Of what attention gives, before it is added.
    pub after_attention: Option<&'static str>,
    /// Of the perceptron's input.
    pub mlp: Option<&'static str>,
    /// Of what the perceptron gives, before it is added.
    pub after_mlp: Option<&'static str>,
}

impl Norms {
    /// Llama's: of both inputs.
    pub const BEFORE: Norms = Norms {
        attention: Some("input_layernorm"),
        after_attention: None,
        mlp: Some("post_attention_layernorm"),
        after_mlp: None,
    };
    /// OLMo 2's: of both outputs.
    pub const AFTER: Norms = Norms {
        attention: None,
        after_attention: Some("post_attention_layernorm"),
        mlp: None,
        after_mlp: Some("post_feedforward_layernorm"),
    };
    /// Gemma 2's: of inputs and outputs.
    pub const AROUND: Norms = Norms {
        attention: Some("input_layernorm"),
        after_attention: Some("post_attention_layernorm"),
        mlp: Some("pre_feedforward_layernorm"),
        after_mlp: Some("post_feedforward_layernorm"),
    };
}

/// RMS norms of queries and keys (`q_norm`, `k_norm`), before they are rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorms {
    /// None.
    Off,
    /// Each head by itself; one scale of head_dim features serves all heads.
    Heads,
    /// The whole projection, all heads together, with a scale for every feature.
    Whole,
}

/// The function of a perceptron's gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x·sigmoid(x)
    Silu,
    /// GELU's tanh approximation.
    GeluTanh,
}

/// The rotary embedding of each layer's queries and keys.
pub struct Ropes {
    layers: Layers,
    inside: Option<Rope>,
    outside: Option<Rope>,
}

impl Ropes {
    /// The same in all layers.
    pub fn all(rope: Rope) -> Ropes {
        Ropes::split(Layers::ALL, Some(rope), None)
    }

    /// `inside` in these layers, `outside` in all others; `None`: nothing is rotated there.
    pub fn split(layers: Layers, inside: Option<Rope>, outside: Option<Rope>) -> Ropes {
        Ropes {
            layers,
            inside,
            outside,
        }
    }

    /// That of a layer.
    pub fn of(&self, layer: usize) -> Option<&Rope> {
        match self.layers.has(layer) {
            true => self.inside.as_ref(),
            false => self.outside.as_ref(),
        }
    }
}

/// What absent keys mean to a family, where its relatives have other defaults.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Absent {
    /// `num_attention_heads`; `None`: it must be there.
    pub heads: Option<usize>,
    /// `num_key_value_heads`; `None`: as many as query heads, which `null` always means.
    pub kv_heads: Option<usize>,
    /// `head_dim`, null too; `None`: width / heads.
    pub head_dim: Option<usize>,
    /// `vocab_size`; `None`: it must be there.
    pub vocab: Option<usize>,
    /// `rms_norm_eps`; `None`: 1e-6.
    pub eps: Option<f64>,
    /// `tie_word_embeddings`.
    pub tied: bool,
}

impl Absent {
    /// As in Llama: sizes must be there, and all else follows from them.
    pub const LLAMA: Absent = Absent {
        heads: None,
        kv_heads: None,
        head_dim: None,
        vocab: None,
        eps: None,
        tied: false,
    };
}

impl Dense {
    /// Reads transformers' keys as Llama's: whole heads are rotated in all layers; without biases,
    /// norms of queries and keys, and windows.
    ///
    /// # Errors
    /// A key that is missing, of another type or out of range; a `hidden_act` other than SiLU.
    pub fn new(c: &Config, absent: Absent) -> Result<Dense> {
        c.only("hidden_act", &["silu", "swish"])?; // two names of one function
        let dense = Dense::sizes(c, absent)?;
        let ropes = Ropes::all(Rope::of_whole_heads(c, dense.head_dim)?);
        Ok(Dense { ropes, ..dense })
    }

    /// Reads the numbers that every family has; the gate is SiLU whatever the configuration says,
    /// and nothing is rotated.
    ///
    /// # Errors
    /// A key that is missing, of another type or out of range.
    pub fn sizes(c: &Config, absent: Absent) -> Result<Dense> {
        let or = |key: &str, default: Option<usize>| match default {
            Some(default) => c.usize_or(key, default),
            None => c.usize(key),
        };
        let (width, heads) = (
            c.usize("hidden_size")?,
            or("num_attention_heads", absent.heads)?,
        );
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
            vocab: or("vocab_size", absent.vocab)?,
            width,
            layers: c.usize("num_hidden_layers")?,
            heads,
            kv_heads,
            head_dim,
            ffn: c.usize("intermediate_size")?,
            eps: c.f64_or("rms_norm_eps", absent.eps.unwrap_or(1e-6))?,
            tied: c.bool_or("tie_word_embeddings", absent.tied)?,
            qkv_bias: false,
            o_bias: false,
            mlp_bias: false,
            fused_qkv: false,
            fused_gate_up: false,
            norms: Norms::BEFORE,
            norm_plus: 0.0,
            qk_norms: QkNorms::Off,
            activation: Activation::Silu,
            embed_scale: 1.0,
            branch_scale: 1.0,
            attn_scale: None,
            attn_softcap: None,
            attn_sinks: false,
            logit_scale: 1.0,
            logit_softcap: None,
            ropes: Ropes::split(Layers::ALL, None, None),
            query_growth: None,
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
        let x = g.embed("model.embed_tokens", ids, self.vocab, self.width);
        scaled(x, self.embed_scale)
    }

    /// One block: (tokens, width) -> (tokens, width).
    pub fn block<'g>(&self, g: &Graph<'g>, layer: usize, x: Tensor<'g>) -> Tensor<'g> {
        self.block_with(g, layer, x, |g, x| self.mlp(g, x))
    }

    /// One block with another function in the perceptron's place, (tokens, width) -> (tokens,
    /// width), which gets the block's name scope (`model.layers.N`).
    pub fn block_with<'g>(
        &self,
        g: &Graph<'g>,
        layer: usize,
        x: Tensor<'g>,
        mlp: impl FnOnce(&Graph<'g>, Tensor<'g>) -> Tensor<'g>,
    ) -> Tensor<'g> {
        let g = &g.scope(format_args!("model.layers.{layer}"));
        let norm = |name: Option<&str>, x| match name {
            Some(name) => self.norm(g, name, x),
            None => x,
        };
        let y = self.attention(g, layer, norm(self.norms.attention, x));
        let x = x + scaled(norm(self.norms.after_attention, y), self.branch_scale);
        let y = mlp(g, norm(self.norms.mlp, x));
        x + scaled(norm(self.norms.after_mlp, y), self.branch_scale)
    }

    /// Final norm and projection: (rows, width) -> (rows, vocab).
    pub fn head<'g>(&self, g: &Graph<'g>, x: Tensor<'g>) -> Tensor<'g> {
        self.logits(g, self.norm(g, "model.norm", x))
    }

    /// The projection of what the final norm gave: (rows, width) -> (rows, vocab).
    pub fn logits<'g>(&self, g: &Graph<'g>, x: Tensor<'g>) -> Tensor<'g> {
        let name = if self.tied {
            "model.embed_tokens"
        } else {
            "lm_head"
        };
        let logits = scaled(g.linear(name, x, self.vocab), self.logit_scale);
        match self.logit_softcap {
            Some(cap) => logits.softcap(cap),
            None => logits,
        }
    }

    /// o·softmax(rope(q)·rope(k)ᵀ / √d)·v, each key-value head serving heads / kv_heads query
    /// heads; q and k normed before rope where they have norms: (tokens, width) -> (tokens, width).
    /// `g` has the block's name scope (`model.layers.N`).
    pub fn attention<'g>(&self, g: &Graph<'g>, layer: usize, x: Tensor<'g>) -> Tensor<'g> {
        let g = &g.scope("self_attn");
        let (queries, keys) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let linear = |name: &str, out| g.linear_with(name, x, out, self.qkv_bias);
        let fused = self
            .fused_qkv
            .then(|| linear("qkv_proj", queries + 2 * keys));
        let project = |name: &str, start, out| match fused {
            Some(all) => all.narrow(start, out),
            None => linear(name, out),
        };
        let rope = self.ropes.of(layer);
        let growing = rope.filter(|_| self.query_growth.is_some());
        let growing = growing.map(|rope| Rope {
            growth: self.query_growth,
            ..rope.clone()
        });
        let turned = |norm: &str, y: Tensor<'g>, heads, rope: Option<&Rope>| {
            let y = match self.qk_norms {
                QkNorms::Off => y.heads(heads),
                QkNorms::Heads => self.norm(g, norm, y.heads(heads)),
                QkNorms::Whole => self.norm(g, norm, y).heads(heads),
            };
            match rope {
                Some(rope) => y.rope(rope),
                None => y,
            } // (tokens, heads, head_dim)
        };
        let q = project("q_proj", 0, queries);
        let q = turned("q_norm", q, self.heads, growing.as_ref().or(rope));
        let k = project("k_proj", queries, keys);
        let k = turned("k_norm", k, self.kv_heads, rope);
        let v = project("v_proj", queries + keys, keys).heads(self.kv_heads);
        let attn = Attn {
            window: self.windows.of(layer),
            scale: self.attn_scale,
            softcap: self.attn_softcap,
            ..Attn::default()
        };
        let attn = match self.attn_sinks {
            true => attn.with_sinks(g.param("sinks", &[self.heads])),
            false => attn,
        };
        let y = g.attention(q, k, v, attn).merge(); // (tokens, heads·head_dim)
        g.linear_with("o_proj", y, self.width, self.o_bias)
    }

    /// The gated perceptron: down(activation(gate(x)) · up(x)).
    pub fn mlp<'g>(&self, g: &Graph<'g>, x: Tensor<'g>) -> Tensor<'g> {
        self.gated(&g.scope("mlp"), x, self.ffn)
    }

    /// A gated perceptron of `ffn` features inside, its weights in `g`'s scope: (tokens, width) ->
    /// (tokens, width).
    pub fn gated<'g>(&self, g: &Graph<'g>, x: Tensor<'g>, ffn: usize) -> Tensor<'g> {
        let linear = |name: &str, out| g.linear_with(name, x, out, self.mlp_bias);
        let fused = self.fused_gate_up.then(|| linear("gate_up_proj", 2 * ffn));
        let project = |name: &str, start| match fused {
            Some(both) => both.narrow(start, ffn),
            None => linear(name, ffn),
        };
        let gate = project("gate_proj", 0); // (tokens, ffn)
        let gate = match self.activation {
            Activation::Silu => gate.silu(),
            Activation::GeluTanh => gate.gelu_tanh(),
        };
        let up = project("up_proj", ffn);
        g.linear_with("down_proj", gate * up, self.width, self.mlp_bias)
    }

    fn norm<'g>(&self, g: &Graph<'g>, name: &str, x: Tensor<'g>) -> Tensor<'g> {
        g.rms_norm_plus(name, x, self.eps, self.norm_plus)
    }
}

/// x·factor; a factor of 1 is no operation.
fn scaled(x: Tensor<'_>, factor: f64) -> Tensor<'_> {
    match factor == 1.0 {
        true => x,
        false => x * factor,
    }
}
