//! The API of an architecture's forward code: [`Graph`] has the ops that name a weight, [`Tensor`]
//! methods and operators.
//!
//! A tensor is a handle to a value in the host, without memory, shape or values on this side. A
//! failed op returns the handle 0, as does every op on 0, and the host records the first error with
//! the line of the author's source: forward code needs no `?`.

use std::{
    cell::Cell,
    ffi::c_void,
    fmt::Display,
    mem::{offset_of, size_of},
    ops::{Add, Div, Mul, Neg, Sub},
    panic::Location,
    ptr::null,
};

use crate::{
    abi,
    guard::{Caught, guard},
    seam::{AttnSpec, Binary, GroupSpec, RopeSpec, RouteSpec, Unary},
};

mod joined;
mod options;

use joined::Joined;

/// One call of the host into an architecture.
pub(crate) struct Session {
    ops: *const abi::Ops,
    graph: abi::Graph,
    /// Buffer in which a scope and a name are joined.
    joined: Cell<String>,
}

/// Ops that need a weight or several tensors, inside a name scope.
pub struct Graph<'g> {
    session: &'g Session,
    scope: String,
}

/// A value in the host: (tokens, trailing axes…). Copies are free.
#[derive(Clone, Copy)]
pub struct Tensor<'g> {
    id: abi::Tensor,
    session: &'g Session,
}

/// Calls an op, which an older host may lack; evaluates to its tensor, and reports the author's
/// line if it failed.
macro_rules! call {
    ($session:expr, $op:ident($($argument:expr),*)) => {{
        let session: &Session = $session;
        let id = if session.has(offset_of!(abi::Ops, $op)) {
            // SAFETY: `ops` is the host's table, alive during the call, and long enough to hold
            // this op; pointers among the arguments are to values that outlive this statement.
            let id = unsafe { ((*session.ops).$op)(session.graph, $($argument),*) };
            if id == 0 {
                session.place();
            }
            id
        } else {
            session.fail(concat!("this host is too old to have `", stringify!($op), "`"))
        };
        session.tensor(id)
    }};
}

mod carried;
mod recurrent;

impl Session {
    /// A session on the `ops` and `graph` that the host passed.
    ///
    /// # Safety
    /// `ops` points to a table of `ops.size` bytes whose functions take `graph`; both live as long
    /// as the session.
    pub(crate) unsafe fn new(ops: *const abi::Ops, graph: abi::Graph) -> Self {
        Session {
            ops,
            graph,
            joined: Cell::default(),
        }
    }

    pub(crate) fn root(&self) -> Graph<'_> {
        Graph {
            session: self,
            scope: String::new(),
        }
    }

    pub(crate) fn tensor(&self, id: abi::Tensor) -> Tensor<'_> {
        Tensor { id, session: self }
    }

    /// Runs the author's code; a panic in it becomes the graph's failure.
    pub(crate) fn run<'g>(&'g self, code: impl FnOnce() -> Tensor<'g>) -> abi::Tensor {
        match guard(code) {
            Ok(tensor) => tensor.id,
            Err(Caught {
                message,
                file,
                line,
            }) => self.report(&format!("the plugin panicked: {message}"), &file, line),
        }
    }

    fn has(&self, offset: usize) -> bool {
        // SAFETY: `size` is the first field of every version of the table.
        let size = unsafe { (*self.ops).size };
        offset + size_of::<usize>() <= size
    }

    #[cold]
    fn report(&self, message: &str, file: &str, line: u32) -> abi::Tensor {
        let (message, file) = (abi::Str::new(message), abi::Str::new(file));
        // a host without it hears of the failure by the tensor 0 alone
        if self.has(offset_of!(abi::Ops, fail)) {
            // SAFETY: the table is long enough to hold it; the texts live until it returns.
            unsafe { ((*self.ops).fail)(self.graph, message, file, line) };
        }
        0
    }

    #[cold]
    #[track_caller]
    fn fail(&self, message: &str) -> abi::Tensor {
        let at = Location::caller();
        self.report(message, at.file(), at.line())
    }

    /// Reports the source line of the op that has just failed.
    #[cold]
    #[track_caller]
    fn place(&self) {
        self.fail("");
    }
}

impl<'g> Graph<'g> {
    /// The same graph with `name.` before every weight's name.
    pub fn scope(&self, name: impl Display) -> Graph<'g> {
        let scope = if self.scope.is_empty() {
            name.to_string()
        } else {
            format!("{}.{name}", self.scope)
        };
        Graph {
            session: self.session,
            scope,
        }
    }

    /// Rows of `name.weight` (vocab, width): (tokens) -> (tokens, width).
    #[track_caller]
    pub fn embed(&self, name: &str, ids: Tensor<'g>, vocab: usize, width: usize) -> Tensor<'g> {
        let name = self.join(name);
        call!(self.session, embed(name.text(), ids.id, vocab, width))
    }

    /// x·Wᵀ with `name.weight` (out, in): (tokens, in) -> (tokens, out).
    #[track_caller]
    pub fn linear(&self, name: &str, x: Tensor<'g>, out: usize) -> Tensor<'g> {
        self.linear_with(name, x, out, false)
    }

    /// x·Wᵀ, with `bias` also + `name.bias` (out).
    #[track_caller]
    pub fn linear_with(&self, name: &str, x: Tensor<'g>, out: usize, bias: bool) -> Tensor<'g> {
        let name = self.join(name);
        call!(
            self.session,
            linear(name.text(), x.id, out, u32::from(bias))
        )
    }

    /// x / √(mean(x²) + eps) · w over the last axis.
    #[track_caller]
    pub fn rms_norm(&self, name: &str, x: Tensor<'g>, eps: f64) -> Tensor<'g> {
        self.rms_norm_plus(name, x, eps, 0.0)
    }

    /// x / √(mean(x²) + eps) · (plus + w) over the last axis (Gemma: plus = 1).
    #[track_caller]
    pub fn rms_norm_plus(&self, name: &str, x: Tensor<'g>, eps: f64, plus: f32) -> Tensor<'g> {
        let name = self.join(name);
        call!(self.session, rms_norm(name.text(), x.id, eps, plus))
    }

    /// The parameter `name`, as the checkpoint has it (no `.weight` is added): one row of this
    /// shape for all tokens. It may be the right side of an operator, the argument of functions of
    /// one value, and an option that asks for a parameter.
    #[track_caller]
    pub fn param(&self, name: &str, shape: &[usize]) -> Tensor<'g> {
        let name = self.join(name);
        call!(
            self.session,
            param(name.text(), shape.as_ptr(), shape.len())
        )
    }

    /// (x - mean) / √(variance + eps) · w, with `bias` also + `name.bias`, over the last axis.
    #[track_caller]
    pub fn layer_norm(&self, name: &str, x: Tensor<'g>, eps: f64, bias: bool) -> Tensor<'g> {
        let name = self.join(name);
        call!(
            self.session,
            layer_norm(name.text(), x.id, eps, u32::from(bias))
        )
    }

    /// Causal attention: q (tokens, heads, d), k (tokens, kv_heads, d), v (tokens, kv_heads, e) ->
    /// (tokens, heads, e).
    #[track_caller]
    pub fn attention(
        &self,
        q: Tensor<'g>,
        k: Tensor<'g>,
        v: Tensor<'g>,
        attn: AttnSpec,
    ) -> Tensor<'g> {
        let attn = abi::Attn {
            size: size_of::<abi::Attn>(),
            window: attn.window.unwrap_or(0),
            scale: attn.scale.unwrap_or(0.0),
            softcap: attn.softcap.unwrap_or(0.0),
            sinks: attn.sinks.unwrap_or(0),
            // a chunk beyond u32 has no border that a sequence could reach
            chunk: attn.chunk.map_or(0, |n| u32::try_from(n).unwrap_or(0)),
        };
        call!(self.session, attention(q.id, k.id, v.id, &raw const attn))
    }

    /// A mixture of experts: `router` (tokens, experts) chooses; `expert` runs on the rows of `x`
    /// that chose it, (rows, width) -> (rows, width); the host sums the outputs by their weights.
    #[track_caller]
    pub fn moe<F>(
        &self,
        router: Tensor<'g>,
        x: Tensor<'g>,
        route: RouteSpec,
        expert: F,
    ) -> Tensor<'g>
    where
        F: FnMut(usize, Tensor<'g>) -> Tensor<'g>,
    {
        // a number beyond u32 is no number of groups either
        let groups = |of: fn(GroupSpec) -> usize| {
            let n = route.groups.map_or(0, of);
            u32::try_from(n).unwrap_or(u32::MAX)
        };
        let route = abi::Route {
            size: size_of::<abi::Route>(),
            top_k: route.top_k,
            sigmoid: u32::from(route.sigmoid),
            normalise: u32::from(route.normalise),
            scale: route.scale,
            unused: 0,
            bias: route.bias.unwrap_or(0),
            groups: groups(|g| g.count),
            top_groups: groups(|g| g.top),
            group_best: groups(|g| g.best),
        };
        let mut call = ExpertCall {
            session: self.session,
            expert,
        };
        let user = (&raw mut call).cast::<c_void>();
        call!(
            self.session,
            moe(router.id, x.id, &raw const route, run_expert::<F>, user)
        )
    }

    /// Concatenation along the last axis.
    #[track_caller]
    pub fn concat(&self, tensors: &[Tensor<'g>]) -> Tensor<'g> {
        let ids: Vec<abi::Tensor> = tensors.iter().map(|t| t.id).collect();
        call!(self.session, concat(ids.as_ptr(), ids.len()))
    }

    /// Fails with a message, for errors that only the forward code can find.
    #[track_caller]
    pub fn fail(&self, reason: &str) -> Tensor<'g> {
        let id = self.session.fail(reason);
        self.session.tensor(id)
    }

    /// Joins `scope.name` in the session's buffer.
    fn join<'a>(&'a self, name: &'a str) -> Joined<'a> {
        if self.scope.is_empty() {
            return Joined::Plain(name);
        }
        let mut buffer = self.session.joined.take();
        buffer.clear();
        buffer.push_str(&self.scope);
        buffer.push('.');
        buffer.push_str(name);
        Joined::Scoped(buffer, &self.session.joined)
    }
}

struct ExpertCall<'g, F> {
    session: &'g Session,
    expert: F,
}

unsafe extern "C" fn run_expert<'g, F>(
    user: *mut c_void,
    _graph: abi::Graph,
    expert: usize,
    x: abi::Tensor,
) -> abi::Tensor
where
    F: FnMut(usize, Tensor<'g>) -> Tensor<'g>,
{
    // SAFETY: the host hands back the `user` of `Graph::moe`, during that call and from its thread
    // only.
    let call = unsafe { &mut *user.cast::<ExpertCall<'g, F>>() };
    let session = call.session;
    session.run(|| (call.expert)(expert, session.tensor(x)))
}

/// Defines a method for each function of [`Unary`].
macro_rules! functions {
    ($($(#[$doc:meta])* $name:ident $op:ident,)*) => {
        $($(#[$doc])*
        #[track_caller]
        pub fn $name(self) -> Self {
            self.unary(Unary::$op)
        })*
    };
}

impl<'g> Tensor<'g> {
    /// Element-wise function.
    #[track_caller]
    fn unary(self, op: Unary) -> Self {
        call!(self.session, unary(op as u32, self.id))
    }

    #[track_caller]
    fn binary(self, op: Binary, other: Self) -> Self {
        call!(self.session, binary(op as u32, self.id, other.id))
    }

    /// x·mul + add
    #[track_caller]
    pub fn affine(self, mul: f64, add: f64) -> Self {
        call!(self.session, affine(self.id, mul, add))
    }

    functions! {
        /// x·sigmoid(x)
        silu Silu,
        /// The exact (erf) GELU.
        gelu Gelu,
        /// GELU's tanh approximation.
        gelu_tanh GeluTanh,
        /// tanh x
        tanh Tanh,
        /// 1 / (1 + e^-x)
        sigmoid Sigmoid,
        /// max(0, x)
        relu Relu,
        /// e^x
        exp Exp,
        /// Soft-max over the last axis.
        softmax Softmax,
        /// ln(1 + e^x)
        softplus Softplus,
    }

    /// The smaller of x and `most`: x itself where it is below, x - (x - most) else.
    #[track_caller]
    pub fn at_most(self, most: f64) -> Self {
        self - (self - most).relu()
    }

    /// The larger of x and `least`: x itself where it is above, x + (least - x) else.
    #[track_caller]
    pub fn at_least(self, least: f64) -> Self {
        self + self.affine(-1.0, least).relu()
    }

    /// x / √(mean(x²) + eps) over the last axis, without a weight. x / √(sum(x²) + eps) over d
    /// features is `x.rms_norm(eps / d) / √d`.
    #[track_caller]
    pub fn rms_norm(self, eps: f64) -> Self {
        call!(self.session, rms_norm(abi::Str::new(""), self.id, eps, 0.0))
    }

    /// cap·tanh(x / cap) (Gemma 2).
    #[track_caller]
    pub fn softcap(self, cap: f64) -> Self {
        self.affine(1.0 / cap, 0.0).tanh().affine(cap, 0.0)
    }

    /// (tokens, n·d) -> (tokens, n, d)
    #[track_caller]
    pub fn heads(self, n: usize) -> Self {
        call!(self.session, unflatten(self.id, n))
    }

    /// (tokens, n, d) -> (tokens, n·d)
    #[track_caller]
    pub fn merge(self) -> Self {
        call!(self.session, flatten(self.id))
    }

    /// Rotary position embedding of (tokens, heads, head_dim) by each token's position.
    #[track_caller]
    pub fn rope(self, rope: &RopeSpec) -> Self {
        let (short, long) = (&rope.inv_freq, rope.long.as_ref());
        let odd = long.filter(|l| !l.inv_freq.is_empty() && l.inv_freq.len() != short.len());
        if let Some(odd) = odd {
            let (there, wanted) = (odd.inv_freq.len(), short.len());
            let what = format!("rope: {there} frequencies of long sequences for {wanted} pairs");
            return self.session.tensor(self.session.fail(&what));
        }
        let spec = abi::Rope {
            size: size_of::<abi::Rope>(),
            interleaved: u32::from(rope.interleaved),
            mscale: rope.mscale,
            inv_freq: short.as_ptr(),
            n: short.len(),
            long_after: long.map_or(0, |long| long.after),
            long_inv_freq: match long {
                Some(long) if !long.inv_freq.is_empty() => long.inv_freq.as_ptr(),
                _ => null(),
            },
            growth: rope.growth.map_or(0.0, |growth| growth.beta),
            growth_every: rope.growth.map_or(0, |growth| growth.every),
        };
        call!(self.session, rope(self.id, &raw const spec))
    }

    /// `start..start + len` of the last axis.
    #[track_caller]
    pub fn narrow(self, start: usize, len: usize) -> Self {
        call!(self.session, narrow(self.id, start, len))
    }
}

/// An operator between tensors; the right side may have fewer leading axes or axes of size 1.
macro_rules! operator {
    ($trait:ident, $method:ident) => {
        impl<'g> $trait for Tensor<'g> {
            type Output = Tensor<'g>;
            #[track_caller]
            fn $method(self, other: Self) -> Self {
                self.binary(Binary::$trait, other)
            }
        }
    };
}

/// An operator between a tensor and a number: x·mul + add.
macro_rules! scalar {
    ($trait:ident, $method:ident, $number:ident, $mul:expr, $add:expr) => {
        impl<'g> $trait<f64> for Tensor<'g> {
            type Output = Tensor<'g>;
            #[track_caller]
            fn $method(self, $number: f64) -> Self {
                self.affine($mul, $add)
            }
        }
    };
}

operator!(Add, add);
operator!(Sub, sub);
operator!(Mul, mul);
operator!(Div, div);
scalar!(Add, add, number, 1.0, number);
scalar!(Sub, sub, number, 1.0, -number);
scalar!(Mul, mul, number, number, 0.0);
scalar!(Div, div, number, 1.0 / number, 0.0);

impl<'g> Neg for Tensor<'g> {
    type Output = Tensor<'g>;
    #[track_caller]
    fn neg(self) -> Self {
        self.affine(-1.0, 0.0)
    }
}
