//! What a shapes-only run finds: weights, projections, costs.

/// What a weight is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// A projection (out, in). A tied head counts as the embedding it shares.
    Linear,
    /// Rows looked up by token (vocab, width).
    Embed,
    /// The scale of a norm (width).
    Norm,
    /// The same where a constant is added to it (Gemma: 1), so that 0 scales nothing.
    NormPlus,
    /// Added to a projection or norm (out).
    Bias,
    /// A parameter of any shape, by its own full name.
    Param,
    /// The taps of a convolution (channels, 1, taps).
    Conv,
}

/// One weight the architecture asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracedWeight {
    /// Full tensor name: `model.layers.0.self_attn.q_proj.weight`, `….bias`; a parameter's as it
    /// is, `model.layers.0.self_attn.sinks`.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// What it is for.
    pub used_as: Use,
}

/// One projection, by the name LoRA targets go by (no `.weight`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracedLinear {
    /// `model.layers.0.self_attn.q_proj`
    pub name: String,
    /// Features in.
    pub inputs: usize,
    /// Features out.
    pub outputs: usize,
    /// Which block it belongs to, the first for one of the embedding's; `None`: the head.
    pub layer: Option<usize>,
}

/// A value that crosses blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracedCarried {
    /// The name that it is carried by.
    pub name: String,
    /// Its trailing axes.
    pub shape: Vec<usize>,
    /// The block that hands it on; `None`: the embedding.
    pub layer: Option<usize>,
    pub(super) kept: Kept,
}

/// The call of attention, numbered over all blocks, whose keys in the cache a value is, and the one
/// whose values.
pub(super) type Kept = [Option<usize>; 2];

impl TracedCarried {
    /// One of this shape, from before the call that is looked at.
    pub(crate) fn outside(name: &str, shape: &[usize]) -> Self {
        TracedCarried {
            name: name.into(),
            shape: shape.to_vec(),
            layer: None,
            kept: Kept::default(),
        }
    }
}

/// What a shapes-only run found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Trace {
    /// Every weight once, in the order asked for.
    pub weights: Vec<TracedWeight>,
    /// Every projection once, in the order asked for, head included.
    pub linears: Vec<TracedLinear>,
    /// Every value that crosses blocks, in the order carried.
    pub carried: Vec<TracedCarried>,
    /// Width of the hidden state.
    pub width: usize,
    /// Size of the vocabulary (the head's last axis).
    pub vocab: usize,
    /// Multiply-adds times two of one token's forward pass through embedding and blocks, without
    /// attention scores.
    pub flops_per_token: f64,
    /// The same for one row of the head.
    pub flops_per_head_row: f64,
    /// Multiply-adds times two of attention per (query, key) pair, over all blocks.
    pub flops_per_token_pair: f64,
    /// Bytes one token leaves on the tape over all blocks in LoRA training without checkpointing.
    pub activation_bytes_per_token: usize,
    /// The largest block's share of that (what checkpointing recomputes at a time).
    pub block_bytes_per_token: usize,
    /// Bytes one token adds to the KV cache.
    pub cache_bytes_per_token: usize,
    /// Bytes of the states that recurrent ops keep of a cached sequence, however long.
    pub state_bytes: usize,
    /// Tokens that a sequence may have before all of its positions are rotated by other frequencies
    /// (longrope); `None`: lengths do not matter.
    pub border: Option<usize>,
}

impl Trace {
    /// The embedding, where it is the head too (a tied model): the one answer to whether a model is
    /// tied, for every architecture. A configuration that says so and a file with a head of its own
    /// were settled when the file was opened.
    pub fn tied_head(&self) -> Option<&TracedWeight> {
        let is_head = |w: &&TracedWeight| {
            let module = w.name.strip_suffix(".weight");
            let heads = self.linears.iter().filter(|l| l.layer.is_none());
            w.used_as == Use::Embed && heads.into_iter().any(|l| Some(l.name.as_str()) == module)
        };
        self.weights.iter().find(is_head)
    }
}
