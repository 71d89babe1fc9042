//! Arithmetic: what an op computes, forward and backward, for every kind of machine.
//!
//! The tape and the passes are written once, over [`Kernels`]. Of these there are three:
//! - [`Cpu`] works on slices in the machine's memory, with rayon and gemm;
//! - `Card` (feature `cuda`) starts kernels of `randori-cuda` on a GPU;
//! - [`shapes`] computes nothing. It declares what each kernel of the other two takes: bytes of
//!   its result and of its scratch, multiply-adds. A pass over it is what `fit` knows.
//!
//! Which one a pass runs on is chosen once, where a player's pass begins. This is the only place
//! that looks into a tensor's memory. It knows no model, no player, no pass; nothing here uses
//! candle's autograd.
mod cache;
#[cfg(feature = "cuda")]
mod card;
mod cpu;
mod error;
mod on_candle;
mod route;
pub mod shapes;
mod tensors;
mod weight;
pub mod work;

use randori_sdk::seam::{AttnSpec, Binary, RopeSpec, RouteSpec, Unary};

pub use cache::{Cache, Entry, PAGE};
#[cfg(feature = "cuda")]
pub use card::{Card, GpuMatrix, rounded};
pub use cpu::{Cpu, QUERIES, math};
pub use error::{Error, Result};
use tensors::beside;
pub use tensors::{OnCandle, Plan, Run, Sight, Wanted, host, rows};
pub use weight::Weight;

/// A value, as far as the tape looks at it.
pub trait Shaped: Clone {
    /// All axes; the first one is that of the tokens.
    fn dims(&self) -> &[usize];
    /// The same memory under other axes.
    fn in_shape(&self, dims: &[usize]) -> Result<Self>;
    /// The same values in memory of their own.
    fn duplicate(&self) -> Result<Self>;
    /// Whether these are numbers to compute with, not token ids.
    fn is_float(&self) -> bool;
}

/// Sizes and options of one call of attention.
#[derive(Clone, Copy)]
pub struct Heads {
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of keys and values, which divide those.
    pub kv_heads: usize,
    /// Features of a head.
    pub dim: usize,
    /// Factor on scores.
    pub scale: f32,
    /// How many keys a query sees, itself included.
    pub window: usize,
    /// Scores are brought into ±this, by tanh.
    pub softcap: Option<f32>,
}

impl Heads {
    /// Of values of these sizes.
    pub fn new(heads: usize, kv_heads: usize, dim: usize, spec: &AttnSpec) -> Self {
        Heads {
            heads,
            kv_heads,
            dim,
            scale: spec.scale.unwrap_or_else(|| (dim as f64).powf(-0.5) as f32),
            window: spec.window.unwrap_or(usize::MAX),
            softcap: spec.softcap,
        }
    }

    /// Values in a row of q, and in a row of k or v.
    pub fn widths(&self) -> (usize, usize) {
        (self.heads * self.dim, self.kv_heads * self.dim)
    }
}

/// Which norm.
#[derive(Clone, Copy, PartialEq)]
pub enum Norm {
    /// x / rms(x) · (plus + w)
    Rms {
        /// Added to the scale.
        plus: f32,
    },
    /// (x - mean) / std · w
    Layer,
}

impl Norm {
    /// What is added to the scale.
    pub fn plus(self) -> f32 {
        match self {
            Norm::Rms { plus } => plus,
            Norm::Layer => 0.0,
        }
    }
}

/// DoRA's factor of each output of a projection.
#[derive(Default)]
pub struct Gain {
    /// m / ‖row‖; 0 for a row of zeros.
    pub factors: Vec<f32>,
    /// m
    pub magnitude: Vec<f32>,
}

/// The tokens that go to one expert.
pub struct Share<K: Kernels> {
    /// Their rows, ascending.
    pub rows: K::Rows,
    /// The place of each in the (tokens, top_k) lists.
    pub places: K::Rows,
}

/// What an expert's backward pass starts from.
pub struct Mixed<'a, K: Kernels> {
    /// Its tokens.
    pub share: &'a Share<K>,
    /// Its output, where the router is trained.
    pub value: Option<K::Tensor>,
    /// Whether a gradient must reach that.
    pub needs: bool,
}

/// The kernels of one kind of machine. Values are (tokens, …), weights (out, in), x (n, in) and
/// y (n, out) where nothing else is said. What is called a gradient to a weight is added to.
pub trait Kernels: Sized {
    /// A value.
    type Tensor: Shaped;
    /// A weight of two axes as it is stored, maybe quantised.
    type Matrix: Clone;
    /// A low-rank update of a projection.
    type Update: Clone;
    /// A rotary table.
    type Table;
    /// What a norm's backward pass needs of its rows.
    type Stats;
    /// What attention's backward pass needs of its scores.
    type Sums;
    /// Which experts each token goes to.
    type Routing;
    /// Numbers of rows, in order; token ids too.
    type Rows: Clone;
    /// Target tokens of a chunk of rows.
    type Wanted;
    /// The rows of a pass: their tokens, positions, who sees whom.
    type Plan;
    /// Keys and values of sequences that grow.
    type Cache;
    /// A value that waits elsewhere.
    type Away;

    // Rows.

    /// How many rows a pass has.
    fn height(&self, plan: &Self::Plan) -> usize;
    /// The token ids of a pass.
    fn tokens(&self, plan: &Self::Plan) -> Result<Self::Tensor>;
    /// How many rows these are.
    fn count(&self, rows: &Self::Rows) -> usize;
    /// The rows of the pass that these are, where values have `outer`'s.
    fn among(&self, outer: Option<&Self::Rows>, rows: &Self::Rows) -> Self::Rows;
    /// Rows of x, one behind the other.
    fn gather(&self, x: &Self::Tensor, rows: &Self::Rows) -> Result<Self::Tensor>;
    /// The same; x itself may stand for all its rows.
    fn pick(&self, x: &Self::Tensor, rows: &Self::Rows) -> Result<Self::Tensor>;
    /// onto[row] += x's row, in order.
    fn scatter(&self, x: &Self::Tensor, rows: &Self::Rows, onto: &Self::Tensor) -> Result<()>;

    // Room.

    /// Zeros in the numbers of `like` and where that lies: to add onto.
    fn zeros(&self, dims: &[usize], like: &Self::Tensor) -> Result<Self::Tensor>;
    /// Zeros in f32 where `like` lies, for the gradient to something that is trained.
    fn gradient(&self, dims: &[usize], like: &Self::Tensor) -> Result<Self::Tensor>;
    /// a += b; a is held by nobody else.
    fn add_onto(&self, a: &Self::Tensor, b: &Self::Tensor) -> Result<()>;

    // Embedding and projections.

    /// The ids that `embed` looks up.
    ///
    /// # Errors
    /// A value that is no ids, an id outside the vocabulary.
    fn ids(&self, embed: &str, x: &Self::Tensor, vocab: usize) -> Result<Self::Rows, String>;
    /// Rows of a table (vocab, width).
    fn lookup(&self, table: &Self::Matrix, ids: &Self::Rows) -> Result<Self::Tensor>;
    /// dtable[id] += dy's row, in order.
    fn lookup_gradient(
        &self,
        ids: &Self::Rows,
        dy: &Self::Tensor,
        dtable: &Self::Tensor,
    ) -> Result<()>;
    /// x Wᵀ.
    fn product(&self, x: &Self::Tensor, w: &Self::Matrix) -> Result<Self::Tensor>;
    /// dx = dy W.
    fn product_backward(&self, dy: &Self::Tensor, w: &Self::Matrix) -> Result<Self::Tensor>;
    /// dW += dyᵀ x.
    fn weight_gradient(&self, x: &Self::Tensor, dy: &Self::Tensor, dw: &Self::Tensor)
    -> Result<()>;
    /// y += b on every row; y is held by nobody else.
    fn add_bias(&self, y: &Self::Tensor, bias: &Self::Tensor) -> Result<()>;
    /// db += the sum of dy's rows.
    fn bias_gradient(&self, dy: &Self::Tensor, db: &Self::Tensor) -> Result<()>;

    // Low-rank updates.

    /// Adds the update to y, and answers x Aᵀ (n, rank).
    fn update(
        &self,
        x: &Self::Tensor,
        update: &Self::Update,
        y: &Self::Tensor,
    ) -> Result<Self::Tensor>;
    /// Adds to dA and dB, and answers u = s dy B (n, rank), whose product with A goes to x.
    fn update_backward(
        &self,
        x: &Self::Tensor,
        xa: &Self::Tensor,
        update: &Self::Update,
        dy: &Self::Tensor,
        gradients: [&Self::Tensor; 2],
    ) -> Result<Self::Tensor>;
    /// dx += u A.
    fn update_through(
        &self,
        u: &Self::Tensor,
        update: &Self::Update,
        dx: &Self::Tensor,
    ) -> Result<()>;
    /// Whether this pass drops inputs of updates.
    fn drops(&self, plan: &Self::Plan) -> bool;
    /// x (n, in), of the pass's `rows` (`None`: all), with the mask of a projection on it, which
    /// `salt` stands for; also the gradient to x from the gradient to that.
    fn drop_out(
        &self,
        plan: &Self::Plan,
        x: &Self::Tensor,
        p: f32,
        rows: Option<&Self::Rows>,
        salt: u64,
    ) -> Result<Self::Tensor>;
    /// y's columns times their factors; y is held by nobody else.
    fn scale_columns(&self, y: &Self::Tensor, gain: &Gain) -> Result<()>;
    /// dm += Σ dy · (y - bias) / m over the rows, since y - bias = m · (W + s·B·A)·x / ‖row‖.
    fn magnitude_gradient(
        &self,
        y: &Self::Tensor,
        bias: Option<&Self::Tensor>,
        dy: &Self::Tensor,
        gain: &Gain,
        dm: &Self::Tensor,
    ) -> Result<()>;

    // Norms.

    /// y, and what the backward pass needs of its rows.
    fn norm(
        &self,
        x: &Self::Tensor,
        w: &Self::Tensor,
        bias: Option<&Self::Tensor>,
        norm: Norm,
        eps: f64,
    ) -> Result<(Self::Tensor, Self::Stats)>;
    /// dx.
    fn norm_backward(
        &self,
        x: &Self::Tensor,
        w: &Self::Tensor,
        norm: Norm,
        stats: &Self::Stats,
        dy: &Self::Tensor,
    ) -> Result<Self::Tensor>;
    /// dw += Σ dy · x̂ over rows.
    fn scale_gradient(
        &self,
        x: &Self::Tensor,
        stats: &Self::Stats,
        dy: &Self::Tensor,
        dw: &Self::Tensor,
    ) -> Result<()>;

    // Positions and attention.

    /// The rotary table of all rows.
    fn table(&self, plan: &Self::Plan, spec: &RopeSpec) -> Result<Self::Table>;
    /// x (tokens, heads, d), turned; with `back`, dx from dy.
    fn turn(&self, x: &Self::Tensor, table: &Self::Table, back: bool) -> Result<Self::Tensor>;
    /// q against k and v over the packed rows: (tokens, heads, d).
    fn attention(
        &self,
        plan: &Self::Plan,
        qkv: [&Self::Tensor; 3],
        heads: &Heads,
    ) -> Result<(Self::Tensor, Self::Sums)>;
    /// Appends k and v to what the sequences hold in a block, at its n-th call of attention
    /// (`place`: block, call), and lets q attend to all of that.
    fn cached_attention(
        &self,
        cache: &mut Self::Cache,
        place: (usize, usize),
        qkv: [&Self::Tensor; 3],
        heads: &Heads,
    ) -> Result<(Self::Tensor, Self::Sums)>;
    /// dq, dk and dv of attention over packed rows, whose result was `out`.
    fn attention_backward(
        &self,
        plan: &Self::Plan,
        qkv: [&Self::Tensor; 3],
        heads: &Heads,
        done: (&Self::Tensor, &Self::Sums),
        dout: &Self::Tensor,
    ) -> Result<[Self::Tensor; 3]>;

    // Experts.

    /// Chooses experts for every token from the router's logits (tokens, experts).
    fn route(&self, router: &Self::Tensor, route: &RouteSpec) -> Result<Self::Routing>;
    /// Which tokens an expert gets; `None`: none.
    fn share(&self, routing: &Self::Routing, expert: usize) -> Option<Share<Self>>;
    /// out[row] += weight · the expert's row.
    fn add_weighted(
        &self,
        routing: &Self::Routing,
        share: &Share<Self>,
        y: &Self::Tensor,
        out: &Self::Tensor,
    ) -> Result<()>;
    /// The gradients to the experts' outputs, where they need one, and to the router's logits if
    /// that is trained.
    fn mix_backward(
        &self,
        routing: &Self::Routing,
        parts: &[Mixed<Self>],
        router: bool,
        dout: &Self::Tensor,
    ) -> Result<(Vec<Option<Self::Tensor>>, Option<Self::Tensor>)>;

    // Functions of elements.

    /// f(x); soft-max goes over the last axis.
    fn unary(&self, op: Unary, x: &Self::Tensor) -> Result<Self::Tensor>;
    /// dx from dy and the argument or the result, whichever [`Unary::saves_result`] says.
    fn unary_backward(
        &self,
        op: Unary,
        saved: &Self::Tensor,
        dy: &Self::Tensor,
    ) -> Result<Self::Tensor>;
    /// a ∘ b, where b may have missing axes or axes of size 1.
    fn binary(&self, op: Binary, a: &Self::Tensor, b: &Self::Tensor) -> Result<Self::Tensor>;
    /// The gradient to b, summed over what was broadcast. Products and quotients want a and b.
    fn binary_backward_b(
        &self,
        op: Binary,
        a: Option<&Self::Tensor>,
        b: Option<&Self::Tensor>,
        b_dims: &[usize],
        dy: &Self::Tensor,
    ) -> Result<Self::Tensor>;
    /// Whether a silu waits for the product that it is a factor of, to be computed with it.
    fn fuses_silu(&self) -> bool;
    /// silu(g)·u, of one shape.
    fn swiglu(&self, g: &Self::Tensor, u: &Self::Tensor) -> Result<Self::Tensor>;
    /// Its gradients to g and u.
    fn swiglu_backward(
        &self,
        g: &Self::Tensor,
        u: &Self::Tensor,
        dy: &Self::Tensor,
    ) -> Result<(Self::Tensor, Self::Tensor)>;
    /// x · mul + add.
    fn affine(&self, x: &Self::Tensor, mul: f32, add: f32) -> Result<Self::Tensor>;
    /// `start..start+len` of the last axis.
    fn narrow(&self, x: &Self::Tensor, start: usize, len: usize) -> Result<Self::Tensor>;
    /// The gradient of [`Kernels::narrow`]: dy between zeros, `width` in all.
    fn widen(&self, dy: &Self::Tensor, start: usize, width: usize) -> Result<Self::Tensor>;
    /// Joined along the last axis.
    fn concat(&self, xs: &[Self::Tensor]) -> Result<Self::Tensor>;

    // Log-probs.

    /// log Σ e^z of every row of logits.
    fn log_sum_exp(&self, logits: &Self::Tensor) -> Result<Vec<f64>>;
    /// Writes the log-prob of every wanted token to its target's place.
    fn log_probs(
        &self,
        logits: &Self::Tensor,
        sums: &[f64],
        wanted: &Self::Wanted,
        out: &mut [f64],
    ) -> Result<()>;
    /// Turns logits, in place, into the gradient to them. `slope` answers d loss / d log p by
    /// target.
    fn logits_gradient(
        &self,
        logits: &Self::Tensor,
        sums: &[f64],
        wanted: &Self::Wanted,
        slope: &(dyn Fn(usize) -> f64 + Sync),
    ) -> Result<()>;
    /// onto[row] += the slope of each wanted token times its row of d.
    fn scatter_slopes(
        &self,
        d: &Self::Tensor,
        rows: &Self::Rows,
        wanted: &Self::Wanted,
        slopes: &[f64],
        onto: &Self::Tensor,
    ) -> Result<()>;

    // Values that wait in the host's memory.

    /// Begins to move a value there, which must not be written to any more.
    fn leave(&self, x: &Self::Tensor) -> Result<Self::Away>;
    /// Holds its memory here no longer than the copy takes.
    fn let_go(&self, away: &mut Self::Away);
    /// Lets it begin to come back.
    fn fetch(&self, away: &mut Self::Away) -> Result<()>;
    /// The value, here.
    fn take(&self, away: Self::Away) -> Result<Self::Tensor>;
}
