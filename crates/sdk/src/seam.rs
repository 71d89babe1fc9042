//! The seam: the safe traits between the engine and the host of plugins.
//!
//! `randori-host` implements [`Architecture`], [`LossFn`] and [`SamplerFn`] for what it has loaded;
//! the engine implements [`Backend`] and calls them. Neither depends on the other, and nothing here
//! depends on the C ABI.

use crate::Dialect;

/// Id of a value in a backend's arena. `0` stands for a failed op's result and is never passed to a
/// [`Backend`].
pub type Id = u32;
/// Result of an op: the id of its value, or one sentence with the broken rule and the value that
/// broke it.
pub type OpResult = Result<Id, String>;

/// Rotary embedding of the first `2 * inv_freq.len()` features of every head; the rest pass
/// unchanged.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeSpec {
    /// `false`: pairs are (i, i + n) (Llama, NeoX); `true`: pairs are (2i, 2i + 1).
    pub interleaved: bool,
    /// Radians per position of each pair.
    pub inv_freq: Vec<f32>,
    /// Factor on cosine and sine (yarn, longrope); 1 otherwise.
    pub mscale: f32,
    /// What holds for long sequences instead; `None`: lengths do not matter.
    pub long: Option<LongRope>,
    /// Factor that grows with the position; `None`: 1 everywhere.
    pub growth: Option<Growth>,
}

impl Default for RopeSpec {
    /// No pair is rotated, nothing is scaled.
    fn default() -> Self {
        RopeSpec {
            interleaved: false,
            inv_freq: Vec::new(),
            mscale: 1.0,
            long: None,
            growth: None,
        }
    }
}

/// Frequencies of long sequences (longrope): a sequence's length, its whole response included,
/// decides for all of its positions.
#[derive(Debug, Clone, PartialEq)]
pub struct LongRope {
    /// A sequence is long when it has more tokens than this; at least 1.
    pub after: usize,
    /// Radians per position of each pair in long sequences; empty: those are refused.
    pub inv_freq: Vec<f32>,
}

/// A factor 1 + beta·ln(1 + floor(position / every)) on rotated heads (Ministral 3's queries). It
/// wants whole heads rotated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Growth {
    /// How fast it grows.
    pub beta: f64,
    /// Positions from one step to the next; at least 1.
    pub every: usize,
}

impl Growth {
    /// The factor at a position.
    pub fn at(self, position: u32) -> f64 {
        let steps = position as usize / self.every.max(1);
        1.0 + self.beta * (steps as f64).ln_1p()
    }
}

/// Causal attention's options.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct AttnSpec {
    /// Sliding window: a query at position i sees keys at positions `i - window < j <= i`.
    pub window: Option<usize>,
    /// Factor on q·k; `None`: 1/sqrt(head_dim).
    pub scale: Option<f32>,
    /// `cap * tanh(score / cap)` (Gemma 2).
    pub softcap: Option<f32>,
    /// A parameter of (heads): in the soft-max of every query its head has one logit more, which is
    /// neither scaled nor capped and whose value is 0 (gpt-oss).
    pub sinks: Option<Id>,
    /// Keys are seen within chunks of so many positions, from 0 on: a query at position i sees
    /// those at `i / chunk * chunk <= j <= i` (Llama 4).
    pub chunk: Option<usize>,
}

/// Routing options of a mixture of experts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RouteSpec {
    /// Experts per token.
    pub top_k: usize,
    /// Sigmoid scores instead of soft-max.
    pub sigmoid: bool,
    /// Whether the chosen weights are scaled to sum to one.
    pub normalise: bool,
    /// Factor on the chosen weights.
    pub scale: f32,
    /// Added to the scores where experts are chosen, not where they are weighted: a value of
    /// trailing shape (experts), without gradient (DeepSeek-V3's `e_score_correction_bias`).
    pub bias: Option<Id>,
    /// Experts are chosen from the best groups only.
    pub groups: Option<GroupSpec>,
}

/// Which experts a token may choose: those of its best groups. Groups are equal runs of experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupSpec {
    /// Number of groups, which divides the experts.
    pub count: usize,
    /// Groups whose experts may be chosen.
    pub top: usize,
    /// A group's score is the sum of so many of its best experts' (2 in DeepSeek-V3 and GLM-4-MoE,
    /// 1 in DeepSeek-V2).
    pub best: usize,
}

/// Element-wise functions; `Softmax` is over the last axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Unary {
    /// x·sigmoid(x)
    Silu = 1,
    /// Exact (erf).
    Gelu = 2,
    /// The tanh approximation.
    GeluTanh = 3,
    /// tanh x
    Tanh = 4,
    /// 1/(1+exp(-x))
    Sigmoid = 5,
    /// max(0, x)
    Relu = 6,
    /// exp x
    Exp = 7,
    /// Soft-max over the last axis.
    Softmax = 8,
    /// ln(1 + exp x)
    Softplus = 9,
}

impl Unary {
    /// All functions.
    pub const ALL: [Unary; 9] = [
        Unary::Silu,
        Unary::Gelu,
        Unary::GeluTanh,
        Unary::Tanh,
        Unary::Sigmoid,
        Unary::Relu,
        Unary::Exp,
        Unary::Softmax,
        Unary::Softplus,
    ];

    /// The function of this number in the ABI.
    pub fn numbered(number: u32) -> Option<Unary> {
        Unary::ALL.into_iter().find(|op| *op as u32 == number)
    }

    /// The name in messages and in the names of a GPU's kernels.
    pub fn name(self) -> &'static str {
        match self {
            Unary::Silu => "silu",
            Unary::Gelu => "gelu",
            Unary::GeluTanh => "gelu_tanh",
            Unary::Tanh => "tanh",
            Unary::Sigmoid => "sigmoid",
            Unary::Relu => "relu",
            Unary::Exp => "exp",
            Unary::Softmax => "softmax",
            Unary::Softplus => "softplus",
        }
    }

    /// Whether its backward pass wants the function's result rather than its argument.
    pub fn saves_result(self) -> bool {
        use Unary::{Gelu, GeluTanh, Silu, Softplus};
        !matches!(self, Silu | Gelu | GeluTanh | Softplus)
    }
}

/// Binary functions; `b` may have fewer leading axes or axes of size 1 (broadcast).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Binary {
    /// a + b
    Add = 1,
    /// a - b
    Sub = 2,
    /// a * b
    Mul = 3,
    /// a / b
    Div = 4,
}

/// The op set of architectures. Values have the shape (tokens, trailing axes…); `name`s are
/// checkpoint names without `.weight` (`model.layers.0.self_attn.q_proj`). Ops touch trailing axes
/// only. A parameter, and what is computed from parameters alone, has one row for all tokens: such
/// a value may be the argument of functions of one value, join its like, and be the right side of
/// a binary op.
pub trait Backend {
    /// Rows of `name.weight` (vocab, width) -> (tokens, width).
    fn embed(&mut self, name: &str, ids: Id, vocab: usize, width: usize) -> OpResult;
    /// x·Wᵀ (+ `name.bias`): (tokens, in) -> (tokens, out).
    fn linear(&mut self, name: &str, x: Id, out: usize, bias: bool) -> OpResult;
    /// x / rms(x) * (plus + w) over the last axis; with an empty name x / rms(x), without a weight.
    fn rms_norm(&mut self, name: &str, x: Id, eps: f64, plus: f32) -> OpResult;
    /// (x - mean) / std * w (+ `name.bias`) over the last axis.
    fn layer_norm(&mut self, name: &str, x: Id, eps: f64, bias: bool) -> OpResult;
    /// Rotary position embedding of (tokens, heads, head_dim) by each token's position.
    fn rope(&mut self, x: Id, rope: &RopeSpec) -> OpResult;
    /// q (tokens, heads, d), k (tokens, kv_heads, d), v (tokens, kv_heads, e) -> (tokens, heads,
    /// e).
    fn attention(&mut self, q: Id, k: Id, v: Id, attn: &AttnSpec) -> OpResult;
    /// Causal depthwise convolution along each sequence, with `name.weight` (channels, 1, taps) (+
    /// `name.bias`): (tokens, channels) -> (tokens, channels). The last tap is the token's own.
    fn conv(&mut self, name: &str, x: Id, taps: usize, bias: bool) -> OpResult;
    /// The gated delta rule along each sequence: q and k (tokens, key heads, dk), v (tokens, heads,
    /// dv), `strength` and `decay` (tokens, heads) -> (tokens, heads, dv). A token turns a head's
    /// state, (dk, dv) and 0 before the first, into S = e^decay·S, then S + k ⊗ strength·(v - Sᵀk),
    /// and reads Sᵀq. Consecutive heads share a key head.
    fn delta_rule(&mut self, q: Id, k: Id, v: Id, strength: Id, decay: Id) -> OpResult;
    /// Mixture of experts: `router` (tokens, experts) are the router's logits; `expert` is called
    /// with each chosen expert's rows of `x` and returns its output, or 0 on failure.
    fn moe(
        &mut self,
        router: Id,
        x: Id,
        route: &RouteSpec,
        expert: &mut dyn FnMut(&mut dyn Backend, usize, Id) -> Id,
    ) -> OpResult;
    /// Element-wise.
    fn unary(&mut self, op: Unary, x: Id) -> OpResult;
    /// Element-wise with broadcasting of `b`.
    fn binary(&mut self, op: Binary, a: Id, b: Id) -> OpResult;
    /// x * mul + add.
    fn affine(&mut self, x: Id, mul: f64, add: f64) -> OpResult;
    /// (…, n·d) -> (…, n, d).
    fn unflatten(&mut self, x: Id, n: usize) -> OpResult;
    /// (…, n, d) -> (…, n·d).
    fn flatten(&mut self, x: Id) -> OpResult;
    /// `start..start+len` of the last axis.
    fn narrow(&mut self, x: Id, start: usize, len: usize) -> OpResult;
    /// Concatenation along the last axis.
    fn concat(&mut self, xs: &[Id]) -> OpResult;
    /// The parameter of this name, as a checkpoint has it (`model.layers.0.self_attn.sinks`), and
    /// shape: one row for all tokens.
    fn param(&mut self, name: &str, shape: &[usize]) -> OpResult;
    /// Hands x, which has a row for every token, on to later blocks under a name, and answers x
    /// itself. The embedding or one block carries a name, once.
    fn carry(&mut self, name: &str, x: Id) -> OpResult;
    /// The value that the embedding or an earlier block carries under this name. Attention over
    /// keys and values that another call of attention has cached caches nothing again.
    fn carried(&mut self, name: &str) -> OpResult;
}

/// A family of models that a plugin knows.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// `model_type` of its configurations.
    pub name: String,
    /// What it is called elsewhere.
    pub dialect: Dialect,
}

impl Family {
    /// The family of this name and dialect.
    pub fn new(name: &str, dialect: Dialect) -> Self {
        Family {
            name: name.to_owned(),
            dialect,
        }
    }
}

/// A model architecture, ready for one configuration.
pub trait Architecture: Send + Sync {
    /// Name as in `model_type`.
    fn name(&self) -> &str;
    /// What the family is called elsewhere.
    fn dialect(&self) -> Dialect {
        Dialect::NONE
    }
    /// Its name and dialect.
    fn family(&self) -> Family {
        Family::new(self.name(), self.dialect())
    }
    /// Number of blocks.
    fn layers(&self) -> usize;
    /// Token ids -> (tokens, width).
    fn embed(&self, ops: &mut dyn Backend, ids: Id) -> OpResult;
    /// One block: (tokens, width) -> (tokens, width).
    fn block(&self, ops: &mut dyn Backend, layer: usize, x: Id) -> OpResult;
    /// Final norm and projection: (rows, width) -> (rows, vocab). Called on row chunks.
    fn head(&self, ops: &mut dyn Backend, x: Id) -> OpResult;
}

/// Role of a row in [`Rows`]: the human response.
pub const REAL: u32 = 0;
/// Role of a row in [`Rows`]: the opponent's response.
pub const GENERATED: u32 = 1;

/// A batch of responses' log-probs, one row a response: some pairs of a step, or for a coupled loss
/// all of them. Every slice has one entry a row.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// Number of groups (pairs).
    pub groups: usize,
    /// Group of each row.
    pub group: &'a [u32],
    /// [`REAL`] or [`GENERATED`].
    pub role: &'a [u32],
    /// Summed response log-prob under the policy.
    pub logp: &'a [f64],
    /// Summed response log-prob under the opponent.
    pub ref_logp: &'a [f64],
    /// Number of response tokens.
    pub len: &'a [u32],
    /// External rewards, if every pair of the training has them.
    pub reward: Option<&'a [f64]>,
    /// Fraction of the training's steps that are done, 0..1.
    pub progress: f64,
}

/// A loss's values and slopes for a batch.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LossOut {
    /// One value per group.
    pub loss: Vec<f64>,
    /// Slope (derivative) of the groups' summed loss to each row's `logp`.
    pub d_logp: Vec<f64>,
    /// Named values to report (batch means).
    pub metrics: Vec<(String, f64)>,
}

/// A loss over pairs.
pub trait LossFn: Send + Sync {
    /// Name in recipes.
    fn name(&self) -> &str;
    /// Whether it reads `ref_logp`.
    fn needs_ref(&self) -> bool;
    /// Options with their values, defaults included (`beta=0.1, form="hinge"`), by which two losses
    /// of one name differ. Empty if it has none.
    fn options(&self) -> String {
        String::new()
    }
    /// Whether it needs `reward`.
    fn needs_reward(&self) -> bool {
        false
    }
    /// Whether a pair's loss depends on the other pairs, so that it needs all pairs of a step at
    /// once.
    fn coupled(&self) -> bool {
        false
    }
    /// Whether a pair of two equal responses has no gradient, since its two slopes always cancel.
    fn equal_pairs_cancel(&self) -> bool {
        true
    }
    /// Computes values and slopes.
    fn eval(&self, rows: &Rows) -> Result<LossOut, String>;
}

/// One step of a sequence, as a sampler sees it.
pub struct Step<'a> {
    /// Token ids of the prompt and of everything generated so far.
    pub tokens: &'a [u32],
    /// Number of the prompt's tokens.
    pub prompt: usize,
    /// Counter-based uniform random numbers in [0, 1) of this sequence and position.
    pub uniform: &'a mut dyn FnMut() -> f64,
}

/// A sampler with its options set.
pub trait SamplerFn: Send + Sync {
    /// Name in recipes.
    fn name(&self) -> &str;
    /// A new sequence's state.
    fn begin(&self) -> Box<dyn SamplerState>;
}

/// One sequence's sampler state.
pub trait SamplerState: Send {
    /// Reshapes one row of logits in place; `-inf` removes a token. At least one finite logit must
    /// remain.
    fn apply(&mut self, step: &mut Step, logits: &mut [f32]) -> Result<(), String>;
    /// Called with the token that the host drew, and its log-prob under the reshaped distribution.
    fn accept(&mut self, token: u32, logp: f32);
}

/// A value of an option.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A real number.
    Float(f64),
    /// A whole number.
    Int(i64),
    /// True or false.
    Bool(bool),
    /// Text.
    Str(String),
}

/// A declared option.
#[derive(Debug, Clone, PartialEq)]
pub struct OptionSpec {
    /// Key in the recipe.
    pub name: String,
    /// One sentence.
    pub doc: String,
    /// Its default, which also fixes its type.
    pub default: Value,
    /// Smallest value (numbers).
    pub min: Option<f64>,
    /// Largest value (numbers).
    pub max: Option<f64>,
    /// Allowed texts (strings), empty: any.
    pub choices: Vec<String>,
}
