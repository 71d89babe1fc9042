//! The C ABI between host and plugins; `include/randori_plugin.h` is generated from this file.
//!
//! Rules, for as long as [`MAJOR`] stays 1:
//! - a struct starts with its size in bytes (an item's and an option's are in `Plugin`) and grows
//!   only at its end, by multiples of 8 bytes, without padding. Fields that a shorter one lacks are
//!   0, the behaviour before them; bytes of a longer one that its reader does not know must be 0.
//!   Else it is refused, as is one that is shorter than its first version;
//! - so a field that came later is 0 unless it is wanted: a plugin sets it to ask for something; a
//!   host sets one of a struct that it fills only if the plugin's table asked for it;
//! - a field that came later says so, and what 0 means, unless 0 in a field before it makes that
//!   unread;
//! - only [`struct@Ops`] may be longer and not 0: it grows by functions, each asked for by a
//!   call after a look at `size`. `Str`, `Sink` and `Value` have no size and never change;
//! - numbers of kinds and ops are never reused; a host skips items of unknown [`Item::kind`];
//! - text is UTF-8 with a length and lives as long as the call (in descriptors: for ever);
//! - no unwinding crosses: both sides catch their panics, report them to a [`Sink`] or
//!   [`Ops::fail`] and return `0` or `NULL`;
//! - a plugin's functions may be called from any thread, on one object also from several at once;
//!   only a sampler's state is used by one thread at a time.

use core::ffi::c_void;

/// Major version; it is part of the exported constant's name, `randori_plugin_v1_<crate name>`.
pub const MAJOR: u32 = 1;

/// UTF-8 text; not terminated.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Str {
    /// First byte; anything when `len` is 0.
    pub ptr: *const u8,
    /// Bytes.
    pub len: usize,
}

/// A value in the host, valid during one call; 0 after a failure: every op on 0 returns 0.
pub type Tensor = u32;

/// The host's side of one call; opaque.
pub type Graph = *mut c_void;

/// Where a failing call reports its error, once.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Sink {
    /// For `put`.
    pub ctx: *mut c_void,
    /// Takes one sentence and the plugin's source line (`file` empty: unknown).
    pub put: unsafe extern "C" fn(ctx: *mut c_void, message: Str, file: Str, line: u32),
}

/// Rotary embedding of the first 2·n features of every head.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Rope {
    /// Bytes of this struct.
    pub size: usize,
    /// 0: pairs are (i, i + n); 1: pairs are (2i, 2i + 1).
    pub interleaved: u32,
    /// Factor on cosine and sine.
    pub mscale: f32,
    /// Radians per position of each pair.
    pub inv_freq: *const f32,
    /// Number of pairs.
    pub n: usize,
    /// Tokens that a sequence may have before it is long; 0: lengths do not matter. Came later.
    pub long_after: usize,
    /// Radians per position of each pair, in long sequences at all positions; NULL where
    /// `long_after` is set: long sequences are refused. Came later.
    pub long_inv_freq: *const f32,
    /// Results are times 1 + growth·ln(1 + floor(position / growth_every)); 0: not. Came later.
    pub growth: f64,
    /// Positions from one step of it to the next; read where `growth` is not 0. Came later.
    pub growth_every: usize,
}

/// Causal attention's options.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Attn {
    /// Bytes of this struct.
    pub size: usize,
    /// Keys at positions `i - window < j <= i` are seen; 0: all before.
    pub window: usize,
    /// Factor on q·k; 0: 1/sqrt(head_dim).
    pub scale: f32,
    /// cap·tanh(score/cap); 0: none.
    pub softcap: f32,
    /// A parameter ([`Ops::param`]) of (heads): in the soft-max of every query its head has one
    /// logit more, of the value 0; 0: none. Came later.
    pub sinks: Tensor,
    /// Positions of a chunk, counted from 0 on: a query sees keys of its own chunk alone; 0: there
    /// are no chunks. Came later.
    pub chunk: u32,
}

/// Routing options of a mixture of experts.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Route {
    /// Bytes of this struct.
    pub size: usize,
    /// Experts per token.
    pub top_k: usize,
    /// 1: sigmoid scores; 0: soft-max.
    pub sigmoid: u32,
    /// 1: chosen weights are scaled to sum to one.
    pub normalise: u32,
    /// Factor on the chosen weights.
    pub scale: f32,
    /// Not read: older plugins have anything here.
    pub unused: u32,
    /// Of trailing shape (experts): added to the scores where experts are chosen, not where they
    /// are weighted, without gradient; 0: none. Came later.
    pub bias: Tensor,
    /// Groups, equal runs of experts, of which the best ones' experts alone may be chosen; 0: no
    /// groups. Came later.
    pub groups: u32,
    /// Groups that may be chosen from. Came later.
    pub top_groups: u32,
    /// A group's score is the sum of so many of its best experts'. Came later.
    pub group_best: u32,
}

/// Takes one text.
pub type Put = unsafe extern "C" fn(ctx: *mut c_void, text: Str);

/// Runs one expert on its rows: (rows, width) -> (rows, width).
pub type Expert =
    unsafe extern "C" fn(user: *mut c_void, g: Graph, expert: usize, x: Tensor) -> Tensor;

/// [`Ops::unary`]: x·sigmoid(x).
pub const SILU: u32 = 1;
/// [`Ops::unary`]: exact (erf) GELU.
pub const GELU: u32 = 2;
/// [`Ops::unary`]: GELU's tanh approximation.
pub const GELU_TANH: u32 = 3;
/// [`Ops::unary`]: tanh x.
pub const TANH: u32 = 4;
/// [`Ops::unary`]: 1/(1 + exp(-x)).
pub const SIGMOID: u32 = 5;
/// [`Ops::unary`]: max(0, x).
pub const RELU: u32 = 6;
/// [`Ops::unary`]: exp x.
pub const EXP: u32 = 7;
/// [`Ops::unary`]: soft-max over the last axis.
pub const SOFTMAX: u32 = 8;
/// [`Ops::unary`]: ln(1 + exp x).
pub const SOFTPLUS: u32 = 9;
/// [`Ops::binary`]: a + b.
pub const ADD: u32 = 1;
/// [`Ops::binary`]: a - b.
pub const SUB: u32 = 2;
/// [`Ops::binary`]: a·b.
pub const MUL: u32 = 3;
/// [`Ops::binary`]: a/b.
pub const DIV: u32 = 4;

/// The host's ops for architectures. Shapes are (tokens, trailing axes...); names are checkpoint
/// names without `.weight`. A failing op returns 0; the host records the first error.
#[repr(C)]
pub struct Ops {
    /// Bytes of this table in the host: an op at or beyond it does not exist there.
    pub size: usize,
    /// Reports the plugin's error or, with an empty message, the source line of the op that has
    /// just returned 0. Only the first of each counts.
    pub fail: unsafe extern "C" fn(g: Graph, message: Str, file: Str, line: u32),
    /// Rows of `name.weight` (vocab, width) -> (tokens, width).
    pub embed: unsafe extern "C" fn(
        g: Graph,
        name: Str,
        ids: Tensor,
        vocab: usize,
        width: usize,
    ) -> Tensor,
    /// x·Wᵀ, with `bias` 1 also + `name.bias`: (tokens, in) -> (tokens, out).
    pub linear:
        unsafe extern "C" fn(g: Graph, name: Str, x: Tensor, out: usize, bias: u32) -> Tensor,
    /// x / rms(x) · (plus + w) over the last axis; with an empty name x / rms(x), without a weight.
    pub rms_norm:
        unsafe extern "C" fn(g: Graph, name: Str, x: Tensor, eps: f64, plus: f32) -> Tensor,
    /// (x - mean) / std · w, with `bias` 1 also + `name.bias`, over the last axis.
    pub layer_norm:
        unsafe extern "C" fn(g: Graph, name: Str, x: Tensor, eps: f64, bias: u32) -> Tensor,
    /// Rotary embedding of (tokens, heads, head_dim) by each token's position.
    pub rope: unsafe extern "C" fn(g: Graph, x: Tensor, rope: *const Rope) -> Tensor,
    /// q (tokens, heads, d), k (..., kv_heads, d), v (..., kv_heads, e) -> (tokens, heads, e).
    pub attention:
        unsafe extern "C" fn(g: Graph, q: Tensor, k: Tensor, v: Tensor, of: *const Attn) -> Tensor,
    /// Calls `expert` with the rows of `x` of each expert that `router` (tokens, experts) chooses.
    pub moe: unsafe extern "C" fn(
        g: Graph,
        router: Tensor,
        x: Tensor,
        route: *const Route,
        expert: Expert,
        user: *mut c_void,
    ) -> Tensor,
    /// Element-wise; `op` is one of `SILU`...
    pub unary: unsafe extern "C" fn(g: Graph, op: u32, x: Tensor) -> Tensor,
    /// Element-wise, `b` broadcast; `op` is one of `ADD`...
    pub binary: unsafe extern "C" fn(g: Graph, op: u32, a: Tensor, b: Tensor) -> Tensor,
    /// x·mul + add.
    pub affine: unsafe extern "C" fn(g: Graph, x: Tensor, mul: f64, add: f64) -> Tensor,
    /// (..., n·d) -> (..., n, d).
    pub unflatten: unsafe extern "C" fn(g: Graph, x: Tensor, n: usize) -> Tensor,
    /// (..., n, d) -> (..., n·d).
    pub flatten: unsafe extern "C" fn(g: Graph, x: Tensor) -> Tensor,
    /// start..start+len of the last axis.
    pub narrow: unsafe extern "C" fn(g: Graph, x: Tensor, start: usize, len: usize) -> Tensor,
    /// Concatenation along the last axis.
    pub concat: unsafe extern "C" fn(g: Graph, xs: *const Tensor, n: usize) -> Tensor,
    /// Causal depthwise convolution with `name.weight` (channels, 1, n); `bias` as in `linear`.
    pub conv: unsafe extern "C" fn(g: Graph, name: Str, x: Tensor, n: usize, bias: u32) -> Tensor,
    /// Gated delta rule of five: q and k (tokens, key heads, dk), v (tokens, heads, dv), write
    /// strengths and log-decays (tokens, heads) -> (tokens, heads, dv).
    pub delta_rule: unsafe extern "C" fn(g: Graph, inputs: *const Tensor) -> Tensor,
    /// The parameter of this full name and shape, without a token axis: for `b` of `binary`, the
    /// functions of one value, and options that ask for a parameter.
    pub param: unsafe extern "C" fn(g: Graph, name: Str, shape: *const usize, n: usize) -> Tensor,
    /// x itself, which later blocks find by `name`; the embedding or one block carries a name.
    pub carry: unsafe extern "C" fn(g: Graph, name: Str, x: Tensor) -> Tensor,
    /// What the embedding or an earlier block carries by `name`.
    pub carried: unsafe extern "C" fn(g: Graph, name: Str) -> Tensor,
}

/// An architecture's functions; `object` is what [`Item::create`] made.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Arch {
    /// Bytes of this table.
    pub size: usize,
    /// Number of blocks; 0 after a failure.
    pub layers: Option<unsafe extern "C" fn(object: *const c_void, sink: Sink) -> usize>,
    /// Token ids -> (tokens, width).
    pub embed: Option<
        unsafe extern "C" fn(
            object: *const c_void,
            ops: *const Ops,
            g: Graph,
            ids: Tensor,
        ) -> Tensor,
    >,
    /// One block: (tokens, width) -> (tokens, width).
    pub block: Option<
        unsafe extern "C" fn(
            object: *const c_void,
            ops: *const Ops,
            g: Graph,
            layer: usize,
            x: Tensor,
        ) -> Tensor,
    >,
    /// Final norm and projection: (rows, width) -> (rows, vocab).
    pub head: Option<
        unsafe extern "C" fn(object: *const c_void, ops: *const Ops, g: Graph, x: Tensor) -> Tensor,
    >,
    /// Gives, as JSON, what the family is called elsewhere (the SDK's `Dialect`). Came later.
    pub dialect: Option<unsafe extern "C" fn(ctx: *mut c_void, put: Put)>,
}

/// [`Rows::role`]: the human response.
pub const REAL: u32 = 0;
/// [`Rows::role`]: the opponent's response.
pub const GENERATED: u32 = 1;

/// The log-probs of a batch of groups (pairs). Arrays have `n` entries.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Rows {
    /// Bytes of this struct.
    pub size: usize,
    /// Number of rows (responses).
    pub n: usize,
    /// Number of groups.
    pub groups: usize,
    /// Group of each row.
    pub group: *const u32,
    /// `REAL` or `GENERATED`.
    pub role: *const u32,
    /// Summed response log-prob under the policy.
    pub logp: *const f64,
    /// Summed response log-prob under the opponent.
    pub ref_logp: *const f64,
    /// Number of response tokens.
    pub len: *const u32,
    /// External rewards; NULL unless every pair of the training has them.
    pub reward: *const f64,
    /// Fraction of the training's steps that are done, 0..1.
    pub progress: f64,
}

/// A loss's outputs.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Grads {
    /// Bytes of this struct.
    pub size: usize,
    /// One value per group.
    pub loss: *mut f64,
    /// One slope per row, of the groups' summed loss to the row's `logp`.
    pub d_logp: *mut f64,
    /// Takes a named value to report (the batch's mean).
    pub metric: unsafe extern "C" fn(ctx: *mut c_void, name: Str, value: f64),
    /// For `metric`.
    pub ctx: *mut c_void,
}

/// A loss's functions.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Loss {
    /// Bytes of this table.
    pub size: usize,
    /// 1: reads `ref_logp`.
    pub needs_ref: u32,
    /// Writes values and slopes of a batch; 1, or 0 after an error to the sink.
    pub eval: Option<
        unsafe extern "C" fn(
            object: *const c_void,
            rows: *const Rows,
            out: *const Grads,
            sink: Sink,
        ) -> u32,
    >,
    /// 1: a pair's loss depends on the step's others, which `eval` then gets at once. Came later.
    pub coupled: u32,
    /// 1: reads `reward`, which then is never NULL. Came later.
    pub needs_reward: u32,
}

/// One row of logits to be reshaped in place; -inf removes a token.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Candidates {
    /// Bytes of this struct.
    pub size: usize,
    /// How many.
    pub n: usize,
    /// Their token ids; NULL: 0..n.
    pub ids: *const u32,
    /// Their logits.
    pub logits: *mut f32,
}

/// One step of a sequence, as a sampler sees it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Step {
    /// Bytes of this struct.
    pub size: usize,
    /// Prompt and everything generated so far.
    pub tokens: *const u32,
    /// Number of tokens.
    pub n: usize,
    /// Number of the prompt's tokens.
    pub prompt: usize,
    /// The next uniform number in [0, 1) of this sequence and position.
    pub uniform: unsafe extern "C" fn(ctx: *mut c_void) -> f64,
    /// For `uniform`.
    pub ctx: *mut c_void,
}

/// A sampler's functions.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Sampler {
    /// Bytes of this table.
    pub size: usize,
    /// A new sequence's state; NULL after an error to the sink.
    pub begin: Option<unsafe extern "C" fn(object: *const c_void, sink: Sink) -> *mut c_void>,
    /// Reshapes one row; 1, or 0 after an error to the sink.
    pub apply: Option<
        unsafe extern "C" fn(
            object: *const c_void,
            state: *mut c_void,
            step: *const Step,
            candidates: *const Candidates,
            sink: Sink,
        ) -> u32,
    >,
    /// Takes the drawn token and its reshaped log-prob; 1, or 0 after an error to the sink.
    pub accept: Option<
        unsafe extern "C" fn(
            object: *const c_void,
            state: *mut c_void,
            token: u32,
            logp: f32,
            sink: Sink,
        ) -> u32,
    >,
    /// Frees a state.
    pub end: Option<unsafe extern "C" fn(state: *mut c_void)>,
}

/// [`Value::kind`]: a real number, in `float_`.
pub const FLOAT: u32 = 1;
/// [`Value::kind`]: a whole number, in `int_`.
pub const INT: u32 = 2;
/// [`Value::kind`]: 0 or 1, in `int_`.
pub const BOOL: u32 = 3;
/// [`Value::kind`]: text, in `text`.
pub const TEXT: u32 = 4;

/// A value of an option. Its layout never changes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Value {
    /// `FLOAT`, `INT`, `BOOL` or `TEXT`: which field is used.
    pub kind: u32,
    /// Whole numbers, and 0 or 1.
    pub int_: i64,
    /// Real numbers.
    pub float_: f64,
    /// Text.
    pub text: Str,
}

/// A declared option.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Opt {
    /// Key in the recipe.
    pub name: Str,
    /// One sentence.
    pub doc: Str,
    /// Its default, which also fixes its type.
    pub default_: Value,
    /// Smallest number allowed; -INFINITY: any.
    pub min: f64,
    /// Largest number allowed; INFINITY: any.
    pub max: f64,
    /// Allowed texts.
    pub choices: *const Str,
    /// How many; 0: any text.
    pub n_choices: usize,
}

/// [`Item::kind`]: the vtable is an [`struct@Arch`].
pub const ARCH: u32 = 1;
/// [`Item::kind`]: the vtable is a [`struct@Loss`].
pub const LOSS: u32 = 2;
/// [`Item::kind`]: the vtable is a [`struct@Sampler`].
pub const SAMPLER: u32 = 3;

/// An item of a plugin.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Item {
    /// `ARCH`, `LOSS`, `SAMPLER`; a host skips unknown kinds.
    pub kind: u32,
    /// Its name in recipes; for an architecture the configuration's `model_type`.
    pub name: Str,
    /// One sentence.
    pub doc: Str,
    /// Its options.
    pub opts: *const Opt,
    /// How many.
    pub n_opts: usize,
    /// Makes an object from one checked value per option, in order, and an architecture's
    /// configuration as JSON; NULL after an error to the sink.
    pub create: Option<
        unsafe extern "C" fn(
            args: *const Value,
            n_args: usize,
            config: Str,
            sink: Sink,
        ) -> *mut c_void,
    >,
    /// Frees an object.
    pub destroy: Option<unsafe extern "C" fn(object: *mut c_void)>,
    /// Its functions.
    pub vtable: *const c_void,
}

/// A plugin's descriptor, its one exported constant; reading it runs no code.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Plugin {
    /// Bytes of this struct.
    pub size: usize,
    /// Bytes from one item to the next.
    pub item_size: usize,
    /// Bytes from one option to the next.
    pub opt_size: usize,
    /// Package name without `randori-plugin-`.
    pub name: Str,
    /// Its version.
    pub version: Str,
    /// One sentence.
    pub doc: Str,
    /// Its items.
    pub items: *const Item,
    /// How many.
    pub n_items: usize,
    /// Version of the SDK (or of this header) that it was built with, for messages. Came later.
    pub sdk: Str,
}

pub mod reading;
