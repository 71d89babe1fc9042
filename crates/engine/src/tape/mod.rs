//! The tape: runs an architecture's ops and, when asked, records what their backward pass needs. It
//! is written once, over the kernels of any machine, those that only count shapes included.
//!
//! One tape lives for one call of `embed`, `block` or `head`. Its arena holds the values by [`Id`]
//! (index + 1) until the call is over; afterwards only what the recorded ops saved is kept. An op
//! is recorded only when something trainable lies at or below it, so no gradient is computed that
//! nobody wants. Nothing here is candle's autograd.
mod backward;
mod carried;
mod crossing;
mod forward;
mod model;
mod pass;
mod recurrent;
pub(crate) mod rules;

use std::{collections::BTreeMap, rc::Rc, sync::Arc};

use randori_kernels::{Error, ExpertTokens, Gain, Heads, Kernels, Norm, Result, Shaped};
use randori_sdk::seam::{Binary, Id, OpResult, Unary};

use carried::Kept;

pub(crate) use carried::{Carried, CarriedGrads, shapes};
pub(crate) use model::{Matrix, Model, Update, Vector};
pub(crate) use pass::Pass;

/// Gradients by the name of what is trained.
pub(crate) type Gradients<K> = BTreeMap<String, <K as Kernels>::Tensor>;

/// What the rows of a call may attend to, and so which ops it may use.
pub(crate) enum Context<'a, K: Kernels> {
    /// A block over the packed rows of the pass.
    Packed,
    /// A block over new rows of cached sequences.
    Cached {
        cache: &'a mut K::Cache,
        layer: usize,
        /// Calls of attention so far.
        call: usize,
        /// Calls of recurrent ops so far.
        recurrent: usize,
    },
    /// Embedding or head: rows that see nothing but themselves.
    Alone,
    /// The head over these rows of the pass, each alone.
    Picked(K::Indices),
}

/// A value of the arena.
struct Value<K: Kernels> {
    /// The tensor; `None` once its last use is over, and of a deferred SiLU.
    tensor: Option<K::Tensor>,
    /// Deferred SiLU `(id, x)`, where [`Kernels::fuses_silu`]: not computed yet, so that a
    /// following product can fuse with it into SwiGLU. Any other use materialises it.
    silu: Option<(Id, K::Tensor)>,
    /// Whether a gradient must reach it.
    needs: bool,
    /// Whether its one row is meant for all tokens: a parameter, or what was computed from
    /// parameters alone.
    common: bool,
    /// Where the cache of a step keeps it.
    kept: Kept,
}

/// A recorded op: the value it made, and what its backward pass needs.
struct Node<K: Kernels> {
    out: Id,
    op: Op<K>,
}

enum Op<K: Kernels> {
    Embed {
        ids: K::Indices,
        name: String,
        shape: (usize, usize),
    },
    Linear(Box<Linear<K>>),
    Norm(NormOp<K>),
    Rope {
        x: Id,
        table: Rc<K::RopeTable>,
    },
    Attention {
        ids: [Id; 3],
        values: [K::Tensor; 3],
        sinks: Option<(Id, K::Tensor)>,
        heads: Heads,
        out: K::Tensor,
        sums: K::SoftmaxStats,
    },
    Conv(Box<ConvOp<K>>),
    DeltaRule {
        ids: [Id; 5],
        values: [K::Tensor; 5],
    },
    Gather {
        x: Id,
        rows: K::Indices,
        dims: Vec<usize>,
    },
    Moe {
        router: Id,
        routing: K::Routing,
        parts: Vec<(Id, ExpertTokens<K>, Option<K::Tensor>)>,
    },
    Unary {
        op: Unary,
        x: Id,
        saved: K::Tensor,
    },
    Binary(BinaryOp<K>),
    SwiGlu(SwiGluOp<K>),
    Affine {
        x: Id,
        mul: f32,
    },
    Reshape {
        x: Id,
        dims: Vec<usize>,
    },
    Narrow {
        x: Id,
        start: usize,
        width: usize,
    },
    Concat {
        xs: Vec<(Id, usize)>,
    },
    Param {
        name: String,
        shape: Vec<usize>,
    },
}

/// A recorded norm.
struct NormOp<K: Kernels> {
    x: Id,
    x_value: K::Tensor,
    stats: K::NormStats,
    scale: Vector<K>,
    bias: Option<Vector<K>>,
    norm: Norm,
}

/// A recorded convolution.
struct ConvOp<K: Kernels> {
    x: Id,
    /// x, where the weight is trained.
    x_value: Option<K::Tensor>,
    weight: Vector<K>,
    bias: Option<Vector<K>>,
}

/// A recorded a ∘ b, with the values that its backward pass needs.
struct BinaryOp<K: Kernels> {
    op: Binary,
    a: Id,
    b: Id,
    a_value: Option<Factor<K>>,
    b_value: Option<K::Tensor>,
    b_dims: Vec<usize>,
}

/// A recorded silu(g)·u of values of one shape, which one kernel computed.
struct SwiGluOp<K: Kernels> {
    gate: Id,
    up: Id,
    g: K::Tensor,
    u: K::Tensor,
}

/// What a product's backward pass needs of its first factor.
enum Factor<K: Kernels> {
    Value(K::Tensor),
    /// silu of this, computed again: SwiGLU then keeps three wide values rather than four.
    Silu(K::Tensor),
}

/// A recorded projection.
struct Linear<K: Kernels> {
    name: String,
    x: Id,
    x_dims: Vec<usize>,
    matrix: Matrix<K>,
    bias: Option<Vector<K>>,
    update: Option<Update<K>>,
    /// x, when the weight or the update is trained, and x·Aᵀ.
    x_value: Option<K::Tensor>,
    xa: Option<K::Tensor>,
    /// The pass's rows that x has; `None`: all.
    rows: Option<K::Indices>,
    /// With DoRA: the gain, and y, bias included.
    gain: Option<(Arc<Gain>, K::Tensor)>,
}

/// The tape: runs the ops of one call, and records them.
pub(crate) struct Tape<'a, 'p, K: Kernels> {
    pass: &'a Pass<'p, K>,
    context: Context<'a, K>,
    record: bool,
    values: Vec<Value<K>>,
    nodes: Vec<Node<K>>,
    /// Values that may go once a value has been made, by its id.
    last_uses: Option<Arc<[Vec<Id>]>>,
    /// The pass's rows that values have: of the head's chunk, of an expert; `None`: all.
    rows: Option<K::Indices>,
    /// What crosses blocks, so far.
    carried: &'a mut Carried<K::Tensor>,
    /// Values that this call has handed on.
    carries: Vec<(String, Id)>,
    /// Carried values that this call has taken over, of those that want a gradient.
    taken: Vec<(String, Id)>,
}

/// The result of a call, with what its backward pass needs.
pub(crate) struct Recorded<K: Kernels> {
    /// The call's result.
    pub(crate) output: K::Tensor,
    /// Whether a gradient must reach it.
    pub(crate) needs: bool,
    out: Id,
    needed: Vec<bool>,
    nodes: Vec<Node<K>>,
    /// Values that it has handed on, by name.
    pub(crate) carries: Vec<(String, Id)>,
    taken: Vec<(String, Id)>,
}

impl<K: Kernels> Recorded<K> {
    /// Whether a gradient must reach its result or a value that it has handed on.
    pub(crate) fn has_backward(&self) -> bool {
        let needs = |(_, id): &(String, Id)| self.needed.get(*id as usize - 1) == Some(&true);
        self.needs || self.carries.iter().any(needs)
    }

    /// The result with memory of its own: no recorded op relies on it, so it may be changed in
    /// place.
    pub(crate) fn own_output(&self) -> Result<K::Tensor> {
        let fresh = self.nodes.last().is_some_and(|last| {
            let fresh = match &last.op {
                Op::Linear(linear) => linear.gain.is_none(),
                op => matches!(op, Op::Affine { .. }),
            };
            last.out == self.out && fresh
        });
        Ok(if fresh {
            self.output.clone()
        } else {
            self.output.duplicate()?
        })
    }
}

impl<'a, 'p, K: Kernels> Tape<'a, 'p, K> {
    /// Runs `call` on one input, id 1, of which it is told whether a gradient must reach it.
    /// `carried` is what crosses blocks. `last_uses`, where known, says which values may go early.
    pub(crate) fn run(
        pass: &'a Pass<'p, K>,
        context: Context<'a, K>,
        record: bool,
        (input, needs): (K::Tensor, bool),
        carried: &'a mut Carried<K::Tensor>,
        last_uses: Option<Arc<[Vec<Id>]>>,
        call: impl FnOnce(&mut Self, Id) -> OpResult,
    ) -> Result<Recorded<K>> {
        let values = vec![Value {
            tensor: Some(input),
            silu: None,
            needs,
            common: false,
            kept: Kept::default(),
        }];
        let rows = match &context {
            Context::Picked(rows) => Some(rows.clone()),
            _ => None,
        };
        let mut tape = Tape {
            rows,
            pass,
            context,
            record,
            values,
            nodes: Vec::new(),
            last_uses,
            carried,
            carries: Vec::new(),
            taken: Vec::new(),
        };
        let out = call(&mut tape, 1).map_err(Error::rule)?;
        let (output, needs) = tape.value(out).map_err(Error::rule)?;
        tape.note_kept();
        Ok(Recorded {
            output,
            needs,
            out,
            needed: tape.values.iter().map(|v| v.needs).collect(),
            nodes: tape.nodes,
            carries: tape.carries,
            taken: tape.taken,
        })
    }

    /// A value and whether it needs a gradient.
    fn value(&mut self, id: Id) -> Result<(K::Tensor, bool), String> {
        let made = self.values.len();
        let Some(value) = (id as usize)
            .checked_sub(1)
            .and_then(|i| self.values.get_mut(i))
        else {
            return Err(format!(
                "value {id} does not exist: this call has made {made}"
            ));
        };
        if let Some((x, argument)) = value.silu.take() {
            let op = Unary::Silu;
            value.tensor = Some(self.pass.kernels.unary(op, &argument).map_err(say)?);
            if value.needs && self.record {
                let saved = argument;
                let op = Op::Unary { op, x, saved };
                self.nodes.push(Node { out: id, op });
            }
        }
        match &value.tensor {
            Some(tensor) => Ok((tensor.clone(), value.needs)),
            None => Err(format!(
                "value {id} is gone: this call uses it later than when it was traced"
            )),
        }
    }

    /// A value that is no token ids, and whether it needs a gradient.
    fn float(&mut self, id: Id) -> Result<(K::Tensor, bool), String> {
        let value = self.value(id)?;
        match value.0.is_float() {
            true => Ok(value),
            false => Err("token ids can only be embedded".into()),
        }
    }

    /// A value with a row for every token that is no token ids, and whether it needs a gradient.
    fn by_token(&mut self, op: &str, id: Id) -> Result<(K::Tensor, bool), String> {
        rules::by_token(op, self.common(&[id]))?;
        self.float(id)
    }

    /// Whether all of these values have one row for all tokens.
    fn common(&self, ids: &[Id]) -> bool {
        let common = |id: &Id| {
            let at = (*id as usize).checked_sub(1);
            at.and_then(|i| self.values.get(i))
                .is_some_and(|v| v.common)
        };
        ids.iter().all(common)
    }

    /// Adds a value with a row for every token; records `op` when it needs a gradient and the tape
    /// records.
    fn push(&mut self, tensor: K::Tensor, needs: bool, op: impl FnOnce() -> Op<K>) -> OpResult {
        self.push_as(false, tensor, needs, op)
    }

    /// The same with one row for all tokens, where `common` is set.
    fn push_as(
        &mut self,
        common: bool,
        tensor: K::Tensor,
        needs: bool,
        op: impl FnOnce() -> Op<K>,
    ) -> OpResult {
        let out = self.keep(Value {
            tensor: Some(tensor),
            silu: None,
            needs,
            common,
            kept: Kept::default(),
        });
        if needs && self.record {
            self.nodes.push(Node { out, op: op() });
        }
        Ok(out)
    }

    /// Adds a value and lets go of those whose last use this was.
    fn keep(&mut self, value: Value<K>) -> Id {
        self.values.push(value);
        let out = self.values.len() as Id;
        let over = self.last_uses.as_ref().and_then(|l| l.get(out as usize));
        for &id in over.into_iter().flatten() {
            let value = &mut self.values[id as usize - 1];
            (value.tensor, value.silu) = (None, None);
        }
        out
    }

    /// The deferred SiLU `a`, if a product with `b` can fuse with it: its argument's id, the
    /// argument, and whether it needs a gradient.
    fn deferred_silu(&self, a: Id, b: Id) -> Option<(Id, K::Tensor, bool)> {
        let value = self.values.get((a as usize).checked_sub(1)?)?;
        let (x, argument) = value.silu.as_ref().filter(|_| a != b)?;
        Some((*x, argument.clone(), value.needs))
    }
}

fn say(error: impl std::fmt::Display) -> String {
    error.to_string()
}
