//! [`Kernels`], the operations that each kind of machine implements, and the types that they share.

use randori_sdk::seam::{AttnSpec, Binary, RopeSpec, RouteSpec, Unary};

use crate::{Norm, Result};

/// What the tape needs to know of a tensor, of whichever kind of kernels.
pub trait Shaped: Clone {
    /// All axes, the tokens' first.
    fn dims(&self) -> &[usize];
    /// The same memory with other axes.
    fn in_shape(&self, dims: &[usize]) -> Result<Self>;
    /// A copy in memory of its own.
    fn duplicate(&self) -> Result<Self>;
    /// Whether it holds floating-point numbers rather than token ids.
    fn is_float(&self) -> bool;
}

/// Sizes and options of a call of attention.
#[derive(Clone, Copy)]
pub struct Heads {
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of keys and values; it divides `heads` (grouped-query attention).
    pub kv_heads: usize,
    /// Features of a head of queries and keys.
    pub dim: usize,
    /// Features of a head of values, and of the result.
    pub value_dim: usize,
    /// Factor on the scores.
    pub scale: f32,
    /// Sliding window: the number of keys that a query sees, its own included.
    pub window: usize,
    /// Soft cap of the scores: s becomes cap · tanh(s / cap).
    pub softcap: Option<f32>,
    /// A query sees the keys of its own chunk of so many positions, counted from 0 on; `None`: of
    /// all positions before it.
    pub chunk: Option<usize>,
}

impl Heads {
    /// Heads of these sizes, values as wide as keys, with an architecture's options or their
    /// defaults.
    pub fn new(heads: usize, kv_heads: usize, dim: usize, spec: &AttnSpec) -> Self {
        Heads {
            heads,
            kv_heads,
            dim,
            value_dim: dim,
            scale: spec.scale.unwrap_or_else(|| (dim as f64).powf(-0.5) as f32),
            window: spec.window.unwrap_or(usize::MAX),
            softcap: spec.softcap,
            chunk: spec.chunk,
        }
    }

    /// Numbers in a row of q, and in a row of k.
    pub fn widths(&self) -> (usize, usize) {
        (self.heads * self.dim, self.kv_heads * self.dim)
    }

    /// Numbers in a row of the result, and in a row of v.
    pub fn value_widths(&self) -> (usize, usize) {
        (self.heads * self.value_dim, self.kv_heads * self.value_dim)
    }
}

/// DoRA's factors on the outputs of a projection, one an output.
#[derive(Default)]
pub struct Gain {
    /// m / ‖row‖; 0 for a row of zeros.
    pub factors: Vec<f32>,
    /// m
    pub magnitude: Vec<f32>,
}

/// The tokens that are routed to one expert.
pub struct ExpertTokens<K: Kernels> {
    /// Their rows, ascending.
    pub rows: K::Indices,
    /// The index of each in the lists of chosen experts and weights, (tokens, top_k).
    pub choices: K::Indices,
}

/// One expert's part of a mixture, as its backward pass needs it.
pub struct ExpertOutput<'a, K: Kernels> {
    /// The tokens that it computed.
    pub tokens: &'a ExpertTokens<K>,
    /// Its output, if the router is trained.
    pub value: Option<K::Tensor>,
    /// Whether the gradient to its output is needed.
    pub needs: bool,
}

/// The operations of one kind of machine.
///
/// Unless said otherwise values are (tokens, …), weights (out, in), x is (n, in) and y (n, out),
/// and a gradient to a weight is added to what its tensor holds. Errors are shapes and dtypes that
/// an operation does not take, and a lack of memory.
pub trait Kernels: Sized {
    /// An activation or a gradient.
    type Tensor: Shaped;
    /// A weight of two axes as it is stored, quantised or not.
    type Matrix: Clone;
    /// A low-rank update of a projection.
    type Update: Clone;
    /// Cosines and sines of rotary embedding.
    type RopeTable;
    /// Statistics of a norm's rows, saved for its backward pass.
    type NormStats;
    /// Statistics of attention's soft-max, saved for its backward pass.
    type SoftmaxStats;
    /// The experts of each token, with their weights.
    type Routing;
    /// Row indices in order; token ids too.
    type Indices: Clone;
    /// Target tokens of a chunk of rows.
    type ChunkTargets;
    /// The rows of a pass: token ids, positions, attention mask, dropout keys.
    type Plan;
    /// The KV cache of growing sequences.
    type Cache;
    /// A tensor that is offloaded to the host's memory.
    type Offloaded;

    // Rows.

    /// The number of rows of a pass.
    fn row_count(&self, plan: &Self::Plan) -> usize;
    /// The token ids of a pass, as a value.
    fn tokens(&self, plan: &Self::Plan) -> Result<Self::Tensor>;
    /// The number of indices.
    fn count(&self, indices: &Self::Indices) -> usize;
    /// Composes indices: `outer[i]` for each i of `inner`; `inner` where there are no outer ones.
    fn compose(&self, outer: Option<&Self::Indices>, inner: &Self::Indices) -> Self::Indices;
    /// Gathers rows of x.
    fn gather(&self, x: &Self::Tensor, rows: &Self::Indices) -> Result<Self::Tensor>;
    /// Gathers some of x's rows, ascending; if they are all, the result may be x itself.
    fn pick(&self, x: &Self::Tensor, rows: &Self::Indices) -> Result<Self::Tensor>;
    /// onto\[rows\[i\]\] += x\[i\], in order.
    fn scatter(&self, x: &Self::Tensor, rows: &Self::Indices, onto: &Self::Tensor) -> Result<()>;

    // Accumulators.

    /// Zeros of the dtype and on the device of `like`, to accumulate into.
    fn zeros(&self, dims: &[usize], like: &Self::Tensor) -> Result<Self::Tensor>;
    /// Zeros in f32 on the device of `like`: an empty gradient to a parameter.
    fn zero_gradient(&self, dims: &[usize], like: &Self::Tensor) -> Result<Self::Tensor>;
    /// a += b; nobody else may hold a.
    fn add_onto(&self, a: &Self::Tensor, b: &Self::Tensor) -> Result<()>;

    // Embedding and projections.

    /// Reads the token ids that the embedding named `embed` is to look up.
    ///
    /// # Errors
    /// A value that holds no ids, an id outside the vocabulary.
    fn token_ids(
        &self,
        embed: &str,
        x: &Self::Tensor,
        vocab: usize,
    ) -> Result<Self::Indices, String>;
    /// Looks up rows of a table (vocab, width).
    fn lookup(&self, table: &Self::Matrix, ids: &Self::Indices) -> Result<Self::Tensor>;
    /// dtable\[ids\[i\]\] += dy\[i\], in order.
    fn lookup_gradient(
        &self,
        ids: &Self::Indices,
        dy: &Self::Tensor,
        dtable: &Self::Tensor,
    ) -> Result<()>;
    /// y = x Wᵀ.
    fn product(&self, x: &Self::Tensor, w: &Self::Matrix) -> Result<Self::Tensor>;
    /// dx = dy W.
    fn product_backward(&self, dy: &Self::Tensor, w: &Self::Matrix) -> Result<Self::Tensor>;
    /// dW += dyᵀ x.
    fn weight_gradient(&self, x: &Self::Tensor, dy: &Self::Tensor, dw: &Self::Tensor)
    -> Result<()>;
    /// y += b on every row; nobody else may hold y.
    fn add_bias(&self, y: &Self::Tensor, bias: &Self::Tensor) -> Result<()>;
    /// db += the sum of dy's rows.
    fn bias_gradient(&self, dy: &Self::Tensor, db: &Self::Tensor) -> Result<()>;

    // Low-rank updates.

    /// y += s · x Aᵀ Bᵀ. Returns x Aᵀ (n, rank), which the backward pass needs.
    fn add_update(
        &self,
        x: &Self::Tensor,
        update: &Self::Update,
        y: &Self::Tensor,
    ) -> Result<Self::Tensor>;
    /// Adds the gradients to dA and dB. Returns u = s · dy B (n, rank); u A is the gradient to x.
    fn update_backward(
        &self,
        x: &Self::Tensor,
        xa: &Self::Tensor,
        update: &Self::Update,
        dy: &Self::Tensor,
        gradients: [&Self::Tensor; 2],
    ) -> Result<Self::Tensor>;
    /// dx += u A, with u of [`Kernels::update_backward`].
    fn update_input_gradient(
        &self,
        u: &Self::Tensor,
        update: &Self::Update,
        dx: &Self::Tensor,
    ) -> Result<()>;
    /// Whether this pass has dropout on the inputs of updates.
    fn has_dropout(&self, plan: &Self::Plan) -> bool;
    /// Applies dropout of probability `p` to x, the input of a projection that `salt` stands for:
    /// (n, in), of the pass's `rows` (`None`: all). The same call on a gradient is its backward
    /// pass.
    fn apply_dropout(
        &self,
        plan: &Self::Plan,
        x: &Self::Tensor,
        p: f32,
        rows: Option<&Self::Indices>,
        salt: u64,
    ) -> Result<Self::Tensor>;
    /// Multiplies y's columns by DoRA's factors; nobody else may hold y.
    fn scale_columns(&self, y: &Self::Tensor, gain: &Gain) -> Result<()>;
    /// The gradient to DoRA's magnitudes: dm += Σ dy · (y - bias) / m over the rows, since y - bias
    /// = m · (W + s·B·A)·x / ‖row‖; nothing where m is 0.
    fn magnitude_gradient(
        &self,
        y: &Self::Tensor,
        bias: Option<&Self::Tensor>,
        dy: &Self::Tensor,
        gain: &Gain,
        dm: &Self::Tensor,
    ) -> Result<()>;

    // Norms.

    /// Normalises the rows of x; `bias` is added if there is one. Also returns the rows'
    /// statistics.
    fn norm(
        &self,
        x: &Self::Tensor,
        w: &Self::Tensor,
        bias: Option<&Self::Tensor>,
        norm: Norm,
        eps: f64,
    ) -> Result<(Self::Tensor, Self::NormStats)>;
    /// The gradient to x.
    fn norm_backward(
        &self,
        x: &Self::Tensor,
        w: &Self::Tensor,
        norm: Norm,
        stats: &Self::NormStats,
        dy: &Self::Tensor,
    ) -> Result<Self::Tensor>;
    /// dw += Σ dy · x̂ over the rows, where x̂ is x normalised.
    fn scale_gradient(
        &self,
        x: &Self::Tensor,
        stats: &Self::NormStats,
        dy: &Self::Tensor,
        dw: &Self::Tensor,
    ) -> Result<()>;

    // Positions and attention.

    /// Cosines and sines of all rows' positions.
    ///
    /// # Errors
    /// Rows of a long sequence that `spec` does not cover, or that another sequence shares.
    fn rope_table(&self, plan: &Self::Plan, spec: &RopeSpec) -> Result<Self::RopeTable>;
    /// Rotates x (tokens, heads, d) by its rows' positions, times what the table scales by; with
    /// `back` by the negated angles, which turns the gradient to the result into that to x.
    fn rotate(&self, x: &Self::Tensor, table: &Self::RopeTable, back: bool)
    -> Result<Self::Tensor>;
    /// Attention of q over k and v, (tokens, heads, d) each, under the mask of the packed rows. Of
    /// `sinks`, a number for each head, the soft-max of every query has its head's as one logit
    /// more, whose value is 0. Also returns the soft-max's statistics, that logit included.
    fn attention(
        &self,
        plan: &Self::Plan,
        qkv: [&Self::Tensor; 3],
        sinks: Option<&Self::Tensor>,
        heads: &Heads,
    ) -> Result<(Self::Tensor, Self::SoftmaxStats)>;
    /// Appends k and v to the cache, then computes attention of q over all that the sequences hold.
    /// `at` is the block and the number of the call of attention inside it. Without `kv` it is that
    /// of a call that has appended this step's already, and q attends over its keys and values.
    fn cached_attention(
        &self,
        cache: &mut Self::Cache,
        at: (usize, usize),
        q: &Self::Tensor,
        kv: Option<[&Self::Tensor; 2]>,
        sinks: Option<&Self::Tensor>,
        heads: &Heads,
    ) -> Result<(Self::Tensor, Self::SoftmaxStats)>;
    /// The gradients to q, k and v of [`Kernels::attention`], from its results and the gradient to
    /// the first of them; its statistics are all it needs to know of sinks.
    fn attention_backward(
        &self,
        plan: &Self::Plan,
        qkv: [&Self::Tensor; 3],
        heads: &Heads,
        results: (&Self::Tensor, &Self::SoftmaxStats),
        dout: &Self::Tensor,
    ) -> Result<[Self::Tensor; 3]>;
    /// The gradient to the sinks, in their shape.
    fn sinks_gradient(
        &self,
        sinks: &Self::Tensor,
        heads: &Heads,
        results: (&Self::Tensor, &Self::SoftmaxStats),
        dout: &Self::Tensor,
    ) -> Result<Self::Tensor>;

    // Recurrence along a sequence.

    /// Convolves x (tokens, channels) with w (channels, 1, taps) along each sequence of the packed
    /// rows, channel by channel; the last tap is a token's own.
    fn convolve(
        &self,
        plan: &Self::Plan,
        x: &Self::Tensor,
        w: &Self::Tensor,
    ) -> Result<Self::Tensor>;
    /// The same of a cache's new rows; `at` is block and number of the recurrent op's call in it.
    fn cached_convolve(
        &self,
        cache: &mut Self::Cache,
        at: (usize, usize),
        x: &Self::Tensor,
        w: &Self::Tensor,
    ) -> Result<Self::Tensor>;
    /// The gradient to x of [`Kernels::convolve`].
    fn convolve_backward(
        &self,
        plan: &Self::Plan,
        w: &Self::Tensor,
        dy: &Self::Tensor,
    ) -> Result<Self::Tensor>;
    /// Adds the gradient to w of [`Kernels::convolve`].
    fn taps_gradient(
        &self,
        plan: &Self::Plan,
        x: &Self::Tensor,
        dy: &Self::Tensor,
        dw: &Self::Tensor,
    ) -> Result<()>;
    /// The gated delta rule along each sequence of the packed rows: q and k (tokens, key heads,
    /// dk), v (tokens, heads, dv), strengths and log-decays (tokens, heads) to v's axes.
    fn delta_rule(&self, plan: &Self::Plan, inputs: [&Self::Tensor; 5]) -> Result<Self::Tensor>;
    /// The same of a cache's new rows; `at` is as in [`Kernels::cached_convolve`].
    fn cached_delta_rule(
        &self,
        cache: &mut Self::Cache,
        at: (usize, usize),
        inputs: [&Self::Tensor; 5],
    ) -> Result<Self::Tensor>;
    /// The gradients to the inputs of [`Kernels::delta_rule`].
    fn delta_rule_backward(
        &self,
        plan: &Self::Plan,
        inputs: [&Self::Tensor; 5],
        dout: &Self::Tensor,
    ) -> Result<[Self::Tensor; 5]>;

    // Mixture of experts.

    /// Chooses experts for every token from the router's logits (tokens, experts); `bias`,
    /// (experts) or a row for each token, is added to the scores where experts are chosen.
    fn route(
        &self,
        router: &Self::Tensor,
        bias: Option<&Self::Tensor>,
        route: &RouteSpec,
    ) -> Result<Self::Routing>;
    /// The tokens of one expert; `None` if it has none.
    fn tokens_of(&self, routing: &Self::Routing, expert: usize) -> Option<ExpertTokens<Self>>;
    /// Adds an expert's output y to the rows of its tokens in `out`, times their weights.
    fn add_weighted(
        &self,
        routing: &Self::Routing,
        tokens: &ExpertTokens<Self>,
        y: &Self::Tensor,
        out: &Self::Tensor,
    ) -> Result<()>;
    /// The gradients to the experts' outputs where they are needed, and to the router's logits if
    /// `router` is set.
    fn mix_backward(
        &self,
        routing: &Self::Routing,
        experts: &[ExpertOutput<Self>],
        router: bool,
        dout: &Self::Tensor,
    ) -> Result<(Vec<Option<Self::Tensor>>, Option<Self::Tensor>)>;

    // Element-wise functions.

    /// f(x); soft-max is over the last axis.
    fn unary(&self, op: Unary, x: &Self::Tensor) -> Result<Self::Tensor>;
    /// The gradient to x; `saved` is f's argument or its result, as [`Unary::saves_result`] says.
    fn unary_backward(
        &self,
        op: Unary,
        saved: &Self::Tensor,
        dy: &Self::Tensor,
    ) -> Result<Self::Tensor>;
    /// op(a, b) in a's shape, with b broadcast: it may have fewer axes or axes of size 1.
    fn binary(&self, op: Binary, a: &Self::Tensor, b: &Self::Tensor) -> Result<Self::Tensor>;
    /// The gradient to b, summed over the broadcast axes. Products need a, quotients a and b.
    fn binary_backward_b(
        &self,
        op: Binary,
        a: Option<&Self::Tensor>,
        b: Option<&Self::Tensor>,
        b_dims: &[usize],
        dy: &Self::Tensor,
    ) -> Result<Self::Tensor>;
    /// Whether the tape defers SiLU, so that a following multiplication can fuse into SwiGLU.
    fn fuses_silu(&self) -> bool;
    /// silu(g) · u, of one shape.
    fn swiglu(&self, g: &Self::Tensor, u: &Self::Tensor) -> Result<Self::Tensor>;
    /// The gradients to g and u.
    fn swiglu_backward(
        &self,
        g: &Self::Tensor,
        u: &Self::Tensor,
        dy: &Self::Tensor,
    ) -> Result<(Self::Tensor, Self::Tensor)>;
    /// x · mul + add.
    fn affine(&self, x: &Self::Tensor, mul: f32, add: f32) -> Result<Self::Tensor>;
    /// Columns `start..start + len` of the last axis.
    fn narrow(&self, x: &Self::Tensor, start: usize, len: usize) -> Result<Self::Tensor>;
    /// The gradient of [`Kernels::narrow`]: dy padded with zeros to `width` columns.
    fn widen(&self, dy: &Self::Tensor, start: usize, width: usize) -> Result<Self::Tensor>;
    /// Concatenates along the last axis.
    fn concat(&self, xs: &[Self::Tensor]) -> Result<Self::Tensor>;

    // Log-probs.

    /// log Σ e^z of every row of logits.
    fn log_sum_exp(&self, logits: &Self::Tensor) -> Result<Vec<f64>>;
    /// Writes the targets' log-probs to `out`, each at its target's index. `sums` are the rows' log
    /// Σ e^z.
    fn log_probs(
        &self,
        logits: &Self::Tensor,
        sums: &[f64],
        targets: &Self::ChunkTargets,
        out: &mut [f64],
    ) -> Result<()>;
    /// Overwrites logits with the gradient to them. `slope` is d loss / d log p by target.
    fn logits_gradient(
        &self,
        logits: &Self::Tensor,
        sums: &[f64],
        targets: &Self::ChunkTargets,
        slope: &(dyn Fn(usize) -> f64 + Sync),
    ) -> Result<()>;
    /// onto\[rows\[i\]\] += the i-th target's slope · d\[i\].
    fn scatter_slopes(
        &self,
        d: &Self::Tensor,
        rows: &Self::Indices,
        targets: &Self::ChunkTargets,
        slopes: &[f64],
        onto: &Self::Tensor,
    ) -> Result<()>;

    // Offloading to the host's memory.

    /// Starts to copy a tensor to the host, while later kernels run. Nobody may write to it any
    /// more.
    fn offload(&self, x: &Self::Tensor) -> Result<Self::Offloaded>;
    /// Frees the tensor's memory on the device once the copy is done.
    fn release(&self, offloaded: &mut Self::Offloaded);
    /// Starts to copy it back.
    fn fetch(&self, offloaded: &mut Self::Offloaded) -> Result<()>;
    /// The tensor, back on the device.
    fn take(&self, offloaded: Self::Offloaded) -> Result<Self::Tensor>;
}
