//! The tape: runs an architecture's ops on tensors and, when asked, records what their backward pass needs.
//!
//! One tape lives for one call of `embed`, `block` or `head`. Its arena holds the values by [`Id`] (index + 1) until the
//! call is over; afterwards only what the recorded ops saved is kept. An op is recorded only when something trainable
//! lies at or below it, so no gradient is computed that nobody wants. Nothing here is candle's autograd.
mod backward;
mod dora;
mod forward;
mod pass;
pub(crate) mod rules;
mod weights;

use std::{rc::Rc, sync::Arc};

use candle_core::{DType, Tensor};
use randori_sdk::seam::{Binary, Id, OpResult, Unary};

pub(crate) use dora::{Gain, Gains};
pub(crate) use pass::Pass;
use weights::{Matrix, Update, Vector};

use crate::{
    Error, Result,
    cache::BlockCache,
    kernels::{
        attention::{Attended, Heads},
        elementwise,
        norm::{Norm, Stats},
        rope::Table,
        route::{Routing, Share},
    },
};

/// Where a tape's call stands: which ops know about sequences.
pub(crate) enum Place<'a> {
    /// A block over the packed rows of the pass.
    Packed,
    /// A block over new rows of cached sequences.
    Cached(BlockCache<'a>),
    /// Embedding or head: rows without neighbours.
    Rows,
    /// The head over these rows of the pass.
    Picked(Rc<[u32]>),
}

/// A value of the arena.
struct Value {
    /// `None` after its last use, and of a silu that nobody has asked for yet.
    tensor: Option<Tensor>,
    /// What that is the silu of. On a GPU it waits: a product takes it from here, and nobody else may come.
    silu: Option<(Id, Tensor)>,
    /// Whether a gradient must reach it.
    needs: bool,
}

/// A recorded op: what it made, and what its backward pass needs.
struct Node {
    out: Id,
    op: Op,
}

enum Op {
    Embed {
        ids: Vec<u32>,
        name: String,
        shape: (usize, usize),
    },
    Linear(Box<Linear>),
    Norm {
        x: Id,
        x_value: Tensor,
        stats: Stats,
        scale: Vector,
        bias: Option<Vector>,
        norm: Norm,
    },
    Rope {
        x: Id,
        table: Rc<Table>,
    },
    Attention {
        ids: [Id; 3],
        values: [Tensor; 3],
        heads: Heads,
        result: Attended,
    },
    Gather {
        x: Id,
        rows: Vec<u32>,
        dims: Vec<usize>,
    },
    Moe {
        router: Id,
        routing: Routing,
        parts: Vec<(Id, Share, Option<Tensor>)>,
    },
    Unary {
        op: Unary,
        x: Id,
        saved: Tensor,
    },
    Binary {
        op: Binary,
        a: Id,
        b: Id,
        a_value: Option<Factor>,
        b_value: Option<Tensor>,
        b_dims: Vec<usize>,
    },
    /// silu(g)·u of values of one shape, in one go.
    SwiGlu {
        gate: Id,
        up: Id,
        g: Tensor,
        u: Tensor,
    },
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
}

/// What a product's backward pass needs of its first factor.
enum Factor {
    Kept(Tensor),
    /// silu of this, computed again: SwiGLU then keeps three wide values rather than four.
    Silu(Tensor),
}

/// A recorded projection.
struct Linear {
    name: String,
    x: Id,
    x_dims: Vec<usize>,
    matrix: Matrix,
    bias: Option<Vector>,
    update: Option<Update>,
    /// x, when the weight or the update is trained, and x·Aᵀ.
    x_value: Option<Tensor>,
    xa: Option<Tensor>,
    /// The pass's rows that x has; `None`: all.
    rows: Option<Rc<[u32]>>,
    /// With DoRA: the gain, and y, bias included.
    gain: Option<(Arc<Gain>, Tensor)>,
}

/// Runs ops; see the module.
pub(crate) struct Tape<'a, 'p> {
    pass: &'a Pass<'p>,
    place: Place<'a>,
    record: bool,
    values: Vec<Value>,
    nodes: Vec<Node>,
    /// Values that may go once a value has been made, by its id.
    last_uses: Option<Vec<Vec<Id>>>,
    /// The pass's rows that values have: of the head's chunk, of an expert; `None`: all.
    rows: Option<Rc<[u32]>>,
}

/// What a call left behind.
pub(crate) struct Recorded {
    /// The call's result.
    pub(crate) output: Tensor,
    /// Whether a gradient must reach it.
    pub(crate) needs: bool,
    out: Id,
    needed: Vec<bool>,
    nodes: Vec<Node>,
}

impl Recorded {
    /// Whether a weight of the call's own is trained.
    pub(crate) fn trains(&self) -> bool {
        let own = |v: &Option<Vector>| v.as_ref().is_some_and(|v| v.own.is_some());
        self.nodes.iter().any(|node| match &node.op {
            Op::Linear(l) => {
                matches!(l.matrix, Matrix::Own(..)) || l.update.is_some() || own(&l.bias)
            }
            Op::Norm { scale, bias, .. } => scale.own.is_some() || own(bias),
            Op::Embed { .. } => true,
            _ => false,
        })
    }

    /// The result with memory of its own: no recorded op relies on it, so it may be changed in place.
    pub(crate) fn own_output(&self) -> Result<Tensor> {
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
            self.output.copy()?
        })
    }
}

impl<'a, 'p> Tape<'a, 'p> {
    /// Runs `call` on one input: id 1. `last_uses`, where known, says which values may go early.
    pub(crate) fn run(
        pass: &'a Pass<'p>,
        place: Place<'a>,
        record: bool,
        input: Tensor,
        needs: bool,
        last_uses: Option<Vec<Vec<Id>>>,
        call: impl FnOnce(&mut Self, Id) -> OpResult,
    ) -> Result<Recorded> {
        let values = vec![Value {
            tensor: Some(input),
            silu: None,
            needs,
        }];
        let rows = match &place {
            Place::Picked(rows) => Some(rows.clone()),
            _ => None,
        };
        let mut tape = Tape {
            rows,
            pass,
            place,
            record,
            values,
            nodes: Vec::new(),
            last_uses,
        };
        let out = call(&mut tape, 1).map_err(Error::rule)?;
        let (output, needs) = tape.value(out).map_err(Error::rule)?;
        Ok(Recorded {
            output,
            needs,
            out,
            needed: tape.values.iter().map(|v| v.needs).collect(),
            nodes: tape.nodes,
        })
    }

    /// A value and whether it needs a gradient.
    fn value(&mut self, id: Id) -> std::result::Result<(Tensor, bool), String> {
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
            value.tensor = Some(elementwise::unary(op, &argument).map_err(say)?);
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

    /// An f32 value and whether it needs a gradient.
    fn float(&mut self, id: Id) -> std::result::Result<(Tensor, bool), String> {
        let value = self.value(id)?;
        match value.0.dtype() {
            DType::F32 | DType::BF16 => Ok(value),
            _ => Err("token ids can only be embedded".into()),
        }
    }

    /// Adds a value; records `op` when it needs a gradient and the tape records.
    fn push(&mut self, tensor: Tensor, needs: bool, op: impl FnOnce() -> Op) -> OpResult {
        let out = self.keep(Value {
            tensor: Some(tensor),
            silu: None,
            needs,
        });
        if needs && self.record {
            self.nodes.push(Node { out, op: op() });
        }
        Ok(out)
    }

    /// Adds a value and lets go of those whose last use this was.
    fn keep(&mut self, value: Value) -> Id {
        self.values.push(value);
        let out = self.values.len() as Id;
        let over = self.last_uses.as_ref().and_then(|l| l.get(out as usize));
        for &id in over.into_iter().flatten() {
            let value = &mut self.values[id as usize - 1];
            (value.tensor, value.silu) = (None, None);
        }
        out
    }

    /// What `a` is the silu of, if a product with `b` can take it from there: the argument, its id, and whether it needs a
    /// gradient.
    fn waiting(&self, a: Id, b: Id) -> Option<(Id, Tensor, bool)> {
        let value = self.values.get((a as usize).checked_sub(1)?)?;
        let (x, argument) = value.silu.as_ref().filter(|_| a != b)?;
        Some((*x, argument.clone(), value.needs))
    }
}

fn say(error: impl std::fmt::Display) -> String {
    error.to_string()
}
