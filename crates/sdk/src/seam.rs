//! The seam: safe traits at which the two sides of the plugin boundary meet.
//!
//! `randori-host` implements [`Architecture`], [`LossFn`] and [`SamplerFn`] for what it has loaded;
//! the engine implements [`Backend`] (eager and traced) and calls them. Neither knows the other,
//! and nothing here knows the C ABI.

/// Id of a value in a backend's arena. `0` is poison; a [`Backend`] never sees it.
pub type Id = u32;
/// What an op answers: the id of its result, or one sentence saying which rule was broken by which
/// value.
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
}

/// How a mixture of experts chooses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RouteSpec {
    /// Experts per token.
    pub top_k: usize,
    /// Sigmoid scores rather than soft-max.
    pub sigmoid: bool,
    /// Scale the chosen weights to sum to one.
    pub normalise: bool,
    /// Factor on the chosen weights.
    pub scale: f32,
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

/// Runs ops. Values have the shape (tokens, trailing axes…); `name`s are checkpoint names without
/// `.weight` (`model.layers.0.self_attn.q_proj`). Ops touch trailing axes only.
pub trait Backend {
    /// Rows of `name.weight` (vocab, width) -> (tokens, width).
    fn embed(&mut self, name: &str, ids: Id, vocab: usize, width: usize) -> OpResult;
    /// x·Wᵀ (+ `name.bias`): (tokens, in) -> (tokens, out).
    fn linear(&mut self, name: &str, x: Id, out: usize, bias: bool) -> OpResult;
    /// x / rms(x) * (plus + w) over the last axis.
    fn rms_norm(&mut self, name: &str, x: Id, eps: f64, plus: f32) -> OpResult;
    /// (x - mean) / std * w (+ `name.bias`) over the last axis.
    fn layer_norm(&mut self, name: &str, x: Id, eps: f64, bias: bool) -> OpResult;
    /// (tokens, heads, head_dim) turned by each token's position.
    fn rope(&mut self, x: Id, rope: &RopeSpec) -> OpResult;
    /// q (tokens, heads, d), k and v (tokens, kv_heads, d) -> (tokens, heads, d).
    fn attention(&mut self, q: Id, k: Id, v: Id, attn: &AttnSpec) -> OpResult;
    /// `router` (tokens, experts); `expert` is called with each expert's rows and answers its
    /// output, or 0 on failure.
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
    /// Joined along the last axis.
    fn concat(&mut self, xs: &[Id]) -> OpResult;
}

/// A model architecture, ready for one configuration.
pub trait Architecture: Send + Sync {
    /// Name as in `model_type`.
    fn name(&self) -> &str;
    /// How many blocks.
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

/// The log-probs of a batch of pairs: some of a step's, or all for a loss that is coupled. All
/// slices but `reward` have one entry a row.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// How many groups (pairs).
    pub groups: usize,
    /// Which group each row belongs to.
    pub group: &'a [u32],
    /// [`REAL`] or [`GENERATED`].
    pub role: &'a [u32],
    /// Summed response log-prob under the policy.
    pub logp: &'a [f64],
    /// The same under the opponent.
    pub ref_logp: &'a [f64],
    /// Response tokens.
    pub len: &'a [u32],
    /// External rewards, where every pair of the training has them.
    pub reward: Option<&'a [f64]>,
    /// Share of the training that is over, 0..1.
    pub progress: f64,
}

/// What a loss says of a batch.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LossOut {
    /// One value per group.
    pub loss: Vec<f64>,
    /// Slope of the groups' summed loss to each row's `logp`.
    pub d_logp: Vec<f64>,
    /// Extra named values (batch means).
    pub metrics: Vec<(String, f64)>,
}

/// A loss over pairs.
pub trait LossFn: Send + Sync {
    /// Its item name.
    fn name(&self) -> &str;
    /// Whether it reads `ref_logp`.
    fn needs_ref(&self) -> bool;
    /// Its options with their values, defaults included (`beta=0.1, form="hinge"`): what two losses
    /// of one name differ in. Empty where it has none.
    fn options(&self) -> String {
        String::new()
    }
    /// Whether it needs `reward`.
    fn needs_reward(&self) -> bool {
        false
    }
    /// Whether a pair's loss depends on the other pairs, so that it wants a step's pairs all at
    /// once.
    fn coupled(&self) -> bool {
        false
    }
    /// Whether a pair of two equal responses has no gradient: its two slopes always cancel.
    fn equal_pairs_cancel(&self) -> bool {
        true
    }
    /// Values and slopes.
    fn eval(&self, rows: &Rows) -> Result<LossOut, String>;
}

/// What a sampler may look at.
pub struct Step<'a> {
    /// Prompt and everything generated so far.
    pub tokens: &'a [u32],
    /// How many of them are the prompt.
    pub prompt: usize,
    /// Counter-based uniform draws in [0, 1) belonging to this sequence and position.
    pub uniform: &'a mut dyn FnMut() -> f64,
}

/// A sampler with its options set.
pub trait SamplerFn: Send + Sync {
    /// Its item name.
    fn name(&self) -> &str;
    /// State for one new sequence.
    fn begin(&self) -> Box<dyn SamplerState>;
}

/// One sequence's sampler state.
pub trait SamplerState: Send {
    /// Reshapes one row of logits in place; `-inf` removes a token. At least one finite logit must
    /// remain.
    fn apply(&mut self, step: &mut Step, logits: &mut [f32]) -> Result<(), String>;
    /// Told which token the host drew, and its log-prob under the reshaped distribution.
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
    /// Its default; also says its type.
    pub default: Value,
    /// Smallest value (numbers).
    pub min: Option<f64>,
    /// Largest value (numbers).
    pub max: Option<f64>,
    /// Allowed texts (strings), empty: any.
    pub choices: Vec<String>,
}
