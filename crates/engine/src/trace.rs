//! A shapes-only run of an architecture: which weights it wants, what may carry LoRA, what a token
//! costs.

pub(crate) mod call;
mod carried;
mod found;
mod recurrent;
mod weights;

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap, HashSet},
};

use randori_kernels::{Error, Result};
use randori_sdk::seam::{
    Architecture, AttnSpec, Backend, Binary, Id, OpResult, RopeSpec, RouteSpec, Unary,
};

pub use found::{Trace, TracedCarried, TracedLinear, TracedWeight, Use};

use crate::tape::rules;

/// The largest models have some hundred; a damaged configuration may ask for billions.
const MOST_LAYERS: usize = 1024;

/// Runs `arch` on shapes only.
///
/// # Errors
/// One sentence that names the part of the model, the op, and the shapes that do not fit; a weight
/// asked for twice with different shapes.
pub fn trace(arch: &dyn Architecture) -> Result<Trace> {
    if arch.layers() > MOST_LAYERS {
        return Err(Error::rule(format!(
            "`{}` has {} blocks by its configuration; more than {MOST_LAYERS} are not supported",
            arch.name(),
            arch.layers()
        )));
    }
    let mut tracer = Tracer::default();
    let at = |call: Call, e: String| Error::rule(format!("`{}`, {call}: {e}", arch.name()));
    let run = |tracer: &mut Tracer, call, input| {
        let result = tracer.run(arch, call, input);
        let shape = result.and_then(|y| tracer.by_token("the caller", y));
        shape.map_err(|e| at(call, e))
    };
    let other = |call: Call, shape: &[usize], wanted: &str| {
        let what = format!("it answered the trailing shape {shape:?}{wanted}");
        at(call, what)
    };
    let hidden = run(&mut tracer, Call::Embed, Vec::new())?;
    let &[width] = hidden.as_slice() else {
        return Err(other(Call::Embed, &hidden, ", not (width)"));
    };
    tracer.trace.width = width;
    tracer.trace.activation_bytes_per_token += tracer.saved_bytes();
    for layer in 0..arch.layers() {
        let call = Call::Block(layer);
        let shape = run(&mut tracer, call, vec![width])?;
        if shape != [width] {
            return Err(other(call, &shape, &format!(" for ({width})")));
        }
        let bytes = tracer.saved_bytes();
        tracer.trace.activation_bytes_per_token += bytes;
        tracer.trace.block_bytes_per_token = tracer.trace.block_bytes_per_token.max(bytes);
    }
    let logits = run(&mut tracer, Call::Head, vec![width])?;
    let &[vocab] = logits.as_slice() else {
        return Err(other(Call::Head, &logits, ", not (vocab)"));
    };
    tracer.trace.vocab = vocab;
    Ok(tracer.trace)
}

/// One of the calls a pass is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Embed,
    Block(usize),
    Head,
}

/// Where an op is called, which decides what it may ask for.
#[derive(Clone, Copy, Default, PartialEq)]
enum Scope {
    #[default]
    Embedding,
    Block,
    Head,
    Expert,
}

/// A value: trailing axes, and which value's memory it shares.
#[derive(Clone)]
struct Shape {
    dims: Vec<usize>,
    memory: Id,
    /// Whether its one row is meant for all tokens.
    common: bool,
    /// Where the cache of a step keeps it.
    kept: found::Kept,
}

/// The shapes-only backend.
#[derive(Default)]
struct Tracer {
    trace: Trace,
    values: Vec<Shape>,
    /// Values that an op of this block would save, by memory.
    saved: BTreeSet<Id>,
    /// Bytes a token leaves that are no value's (log-sum-exps).
    extra_bytes: usize,
    layer: Option<usize>,
    scope: Scope,
    /// Share of the tokens that an op sees inside an expert; `None`: all.
    share: Option<f64>,
    /// (value, the result being made) for every use of a value.
    uses: RefCell<Vec<(Id, Id)>>,
    /// Whether there was a mixture of experts.
    mixes: bool,
    /// The latest silu.
    silu: Option<Id>,
    /// Where among the trace's weights each name stands.
    found: HashMap<String, usize>,
    /// Names of the trace's projections.
    projections: HashSet<String>,
    /// Values that this call has handed on, as the trace's list of them counts.
    carries: Vec<(usize, Id)>,
    /// Calls of attention that cache keys and values of their own.
    cached: usize,
}

impl Tracer {
    /// Runs one call on an input of this shape.
    fn run(&mut self, arch: &dyn Architecture, call: Call, input: Vec<usize>) -> OpResult {
        (self.scope, self.layer) = match call {
            Call::Embed => (Scope::Embedding, None),
            Call::Block(layer) => (Scope::Block, Some(layer)),
            Call::Head => (Scope::Head, None),
        };
        let x = self.start(input);
        let y = match call {
            Call::Embed => arch.embed(self, x),
            Call::Block(layer) => arch.block(self, layer, x),
            Call::Head => arch.head(self, x),
        };
        self.note_kept();
        y
    }

    /// A new call with one input.
    fn start(&mut self, input: Vec<usize>) -> Id {
        self.values = vec![Shape {
            dims: input,
            memory: 1,
            common: false,
            kept: Default::default(),
        }];
        self.carries.clear();
        self.saved.clear();
        self.uses.get_mut().clear();
        self.silu = None;
        self.extra_bytes = 0;
        1
    }

    fn look(&self, id: Id) -> std::result::Result<&Shape, String> {
        (id as usize)
            .checked_sub(1)
            .and_then(|i| self.values.get(i))
            .ok_or_else(|| {
                format!(
                    "value {id} does not exist: this call has made {}",
                    self.values.len()
                )
            })
    }

    /// A value that an op uses.
    fn value(&self, id: Id) -> std::result::Result<&Shape, String> {
        let out = self.values.len() as Id + 1;
        self.uses.borrow_mut().push((id, out));
        self.look(id)
    }

    fn shape(&self, id: Id) -> std::result::Result<Vec<usize>, String> {
        Ok(self.value(id)?.dims.clone())
    }

    fn push(&mut self, dims: Vec<usize>) -> OpResult {
        let id = self.values.len() as Id + 1;
        self.values.push(Shape {
            dims,
            memory: id,
            common: false,
            kept: Default::default(),
        });
        Ok(id)
    }

    /// A value that has one row for all tokens if all of these have.
    fn push_like(&mut self, of: &[Id], dims: Vec<usize>) -> OpResult {
        let common = self.common(of);
        let id = self.push(dims)?;
        if let Some(value) = self.values.last_mut() {
            value.common = common;
        }
        Ok(id)
    }

    /// Whether all of these values have one row for all tokens.
    fn common(&self, ids: &[Id]) -> bool {
        let common = |id: &Id| self.look(*id).is_ok_and(|value| value.common);
        ids.iter().all(common)
    }

    /// The shape of a value that must have a row for every token.
    fn by_token(&self, op: &str, id: Id) -> std::result::Result<Vec<usize>, String> {
        rules::by_token(op, self.common(&[id]))?;
        self.shape(id)
    }

    /// A value that shares the memory of `x`.
    fn alias(&mut self, dims: Vec<usize>, x: Id) -> OpResult {
        let Shape { memory, common, .. } = *self.value(x)?;
        self.values.push(Shape {
            dims,
            memory,
            common,
            kept: Default::default(),
        });
        Ok(self.values.len() as Id)
    }

    fn save(&mut self, ids: &[Id]) {
        for &id in ids {
            if let Ok(value) = self.look(id) {
                self.saved.insert(value.memory);
            }
        }
    }

    fn saved_bytes(&self) -> usize {
        let values = self
            .saved
            .iter()
            .filter_map(|id| self.values.get((*id as usize).checked_sub(1)?)); // 0: carried
        // what is there once is no token's
        values
            .filter(|v| !v.common)
            .map(|v| 4 * v.dims.iter().product::<usize>())
            .sum::<usize>()
            + self.extra_bytes
    }

    fn spend(&mut self, flops: f64) {
        let flops = flops * self.share.unwrap_or(1.0);
        match self.scope {
            Scope::Head => self.trace.flops_per_head_row += flops,
            _ => self.trace.flops_per_token += flops,
        }
    }

    fn sequences(&self, op: &str) -> std::result::Result<(), String> {
        match self.scope {
            Scope::Block => Ok(()),
            Scope::Expert => Err(format!(
                "{op} cannot run inside an expert, which sees some of the tokens only"
            )),
            _ => Err(format!(
                "{op} belongs into a block: the embedding and the head see single rows"
            )),
        }
    }
}

impl Backend for Tracer {
    fn embed(&mut self, name: &str, ids: Id, vocab: usize, width: usize) -> OpResult {
        if self.scope != Scope::Embedding || ids != 1 {
            return Err(format!(
                "embed `{name}` wants token ids, which only the embedding gets"
            ));
        }
        if vocab == 0 || width == 0 {
            return Err(format!(
                "embed `{name}` wants a table of at least one value, not ({vocab}, {width})"
            ));
        }
        self.weight(format!("{name}.weight"), vec![vocab, width], Use::Embed)?;
        self.push(vec![width])
    }

    fn linear(&mut self, name: &str, x: Id, out: usize, bias: bool) -> OpResult {
        let dims = self.by_token("linear", x)?;
        let (inputs, shape) = rules::linear(name, &dims, out)?;
        self.weight(format!("{name}.weight"), vec![out, inputs], Use::Linear)?;
        if bias {
            self.weight(format!("{name}.bias"), vec![out], Use::Bias)?;
        }
        if self.projections.insert(name.to_string()) {
            let embeds = (self.scope == Scope::Embedding).then_some(0);
            let (name, layer) = (name.to_string(), self.layer.or(embeds));
            self.trace.linears.push(TracedLinear {
                name,
                inputs,
                outputs: out,
                layer,
            });
        }
        self.spend(2.0 * (dims.iter().product::<usize>() * out) as f64);
        self.save(&[x]);
        self.push(shape)
    }

    fn rms_norm(&mut self, name: &str, x: Id, eps: f64, plus: f32) -> OpResult {
        if name.is_empty() {
            let dims = self.by_token("a norm", x)?;
            rules::norm(name, &dims, eps)?;
            self.save(&[x]);
            return self.push(dims);
        }
        let used_as = match plus == 0.0 {
            true => Use::Norm,
            false => Use::NormPlus,
        };
        self.norm(name, x, eps, false, used_as)
    }

    fn layer_norm(&mut self, name: &str, x: Id, eps: f64, bias: bool) -> OpResult {
        self.norm(name, x, eps, bias, Use::Norm)
    }

    fn rope(&mut self, x: Id, spec: &RopeSpec) -> OpResult {
        let shape = rules::rope(&self.by_token("rope", x)?, spec)?;
        self.sequences("rope")?;
        let border = spec.long.as_ref().map(|long| long.after);
        match (self.trace.border, border) {
            (Some(known), Some(other)) if known != other => {
                return Err(format!(
                    "rope's frequencies change beyond {known} tokens and beyond {other}: one length \
                     is supported"
                ));
            }
            (known, border) => self.trace.border = known.or(border),
        }
        self.push(shape)
    }

    fn attention(&mut self, q: Id, k: Id, v: Id, spec: &AttnSpec) -> OpResult {
        let op = "attention";
        let qs = self.by_token(op, q)?;
        let ks = self.by_token(op, k)?;
        let vs = self.by_token(op, v)?;
        if let Some(sinks) = spec.sinks {
            rules::sinks(&qs, &self.shape(sinks)?, self.common(&[sinks]))?;
        }
        let shape = rules::attention(&qs, &ks, &vs, spec)?;
        self.sequences(op)?;
        self.trace.flops_per_token_pair += 2.0 * (qs[0] * (qs[1] + vs[1])) as f64;
        if self.caches(k, v) {
            self.trace.cache_bytes_per_token += 4 * ks[0] * (ks[1] + vs[1]);
        }
        self.extra_bytes += 4 * qs[0];
        let out = self.push(shape)?;
        self.save(&[q, k, v, out]);
        Ok(out)
    }

    fn conv(&mut self, name: &str, x: Id, taps: usize, bias: bool) -> OpResult {
        self.convolve(name, x, taps, bias)
    }

    fn delta_rule(&mut self, q: Id, k: Id, v: Id, strength: Id, decay: Id) -> OpResult {
        self.scan([q, k, v, strength, decay])
    }

    fn moe(
        &mut self,
        router: Id,
        x: Id,
        route: &RouteSpec,
        expert: &mut dyn FnMut(&mut dyn Backend, usize, Id) -> Id,
    ) -> OpResult {
        let bias = route.bias.map(|bias| self.shape(bias)).transpose()?;
        let experts = rules::moe(&self.by_token("moe", router)?, bias.as_deref(), route)?;
        let dims = self.by_token("moe", x)?;
        let (scope, share) = (self.scope, self.share);
        self.mixes = true;
        self.scope = Scope::Expert;
        self.share = Some(share.unwrap_or(1.0) * route.top_k as f64 / experts as f64);
        let mut result: Option<Vec<usize>> = None;
        for e in 0..experts {
            let id = self.push(dims.clone())?;
            let y = match expert(self, e, id) {
                0 => return Err(format!("expert {e} failed")),
                y => self.by_token("moe", y)?,
            };
            match &result {
                Some(first) if *first != y => {
                    return Err(format!(
                        "expert {e} answered the trailing shape {y:?}, the first expert {first:?}"
                    ));
                }
                _ => result = Some(y),
            }
        }
        (self.scope, self.share) = (scope, share);
        self.push(result.ok_or("moe has no expert")?)
    }

    fn unary(&mut self, op: Unary, x: Id) -> OpResult {
        let dims = self.shape(x)?;
        if op == Unary::Softmax {
            rules::soft_max(&dims)?;
        }
        let y = self.push_like(&[x], dims)?;
        self.save(&[if op.saves_result() { y } else { x }]);
        self.silu = (op == Unary::Silu).then_some(y);
        Ok(y)
    }

    fn binary(&mut self, op: Binary, a: Id, b: Id) -> OpResult {
        let common = [self.common(&[a]), self.common(&[b])];
        let shape = rules::binary(&self.shape(a)?, &self.shape(b)?, common)?;
        match op {
            // the tape computes silu again instead of keeping it
            Binary::Mul if self.silu == Some(a) => self.save(&[b]),
            Binary::Mul | Binary::Div => self.save(&[a, b]),
            _ => {}
        }
        self.push_like(&[a], shape)
    }

    fn affine(&mut self, x: Id, mul: f64, add: f64) -> OpResult {
        rules::affine(mul, add)?;
        let dims = self.shape(x)?;
        self.push_like(&[x], dims)
    }

    fn unflatten(&mut self, x: Id, n: usize) -> OpResult {
        let shape = rules::unflatten(&self.shape(x)?, n)?;
        self.alias(shape, x)
    }

    fn flatten(&mut self, x: Id) -> OpResult {
        let shape = rules::flatten(&self.shape(x)?)?;
        self.alias(shape, x)
    }

    fn narrow(&mut self, x: Id, start: usize, len: usize) -> OpResult {
        let shape = rules::narrow(&self.shape(x)?, start, len)?;
        self.push_like(&[x], shape)
    }

    fn concat(&mut self, xs: &[Id]) -> OpResult {
        let shapes = xs
            .iter()
            .map(|x| self.shape(*x))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        let shapes: Vec<&[usize]> = shapes.iter().map(Vec::as_slice).collect();
        let common: Vec<bool> = xs.iter().map(|x| self.common(&[*x])).collect();
        let shape = rules::concat(&shapes, &common)?;
        self.push_like(xs, shape)
    }

    fn param(&mut self, name: &str, shape: &[usize]) -> OpResult {
        rules::param(name, shape)?;
        self.weight(name.to_string(), shape.to_vec(), Use::Param)?;
        let id = self.push(shape.to_vec())?;
        if let Some(value) = self.values.last_mut() {
            value.common = true;
        }
        Ok(id)
    }

    fn carry(&mut self, name: &str, x: Id) -> OpResult {
        self.hand_on(name, x)
    }

    fn carried(&mut self, name: &str) -> OpResult {
        self.take_over(name)
    }
}
