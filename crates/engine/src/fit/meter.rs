//! The tape without numbers: runs an architecture's ops on shapes and holds, and lets go of, exactly what
//! [`crate::tape`] would. Each op here stands beside one of `tape/forward.rs`; a change there belongs here too
//! (tests/fit.rs measures whether it was made).

use randori_sdk::seam::{AttnSpec, Backend, Binary, Id, OpResult, RopeSpec, RouteSpec, Unary};

use super::{ledger::Held, pass::Pass, undo::Undo};
use crate::{kernels::elementwise::saves_result, tape::rules};

/// A value of the arena.
#[derive(Clone)]
struct Value {
    held: Option<Held>,
    /// A silu that nobody has asked for yet, on a GPU: what it is of.
    silu: Option<(Id, Held)>,
    rows: usize,
    dims: Vec<usize>,
    needs: bool,
}

impl Value {
    /// Numbers in all.
    fn count(&self) -> usize {
        self.rows * self.dims.iter().product::<usize>()
    }
}

/// A recorded op.
pub(super) struct Node {
    pub(super) out: Id,
    pub(super) undo: Undo,
    /// What it saved.
    pub(super) kept: Vec<Held>,
}

/// What a call left behind.
pub(super) struct Recorded {
    pub(super) output: Held,
    pub(super) needs: bool,
    pub(super) out: Id,
    pub(super) needed: Vec<bool>,
    pub(super) nodes: Vec<Node>,
}

/// Runs ops; see the module.
pub(super) struct Meter<'a, 'p> {
    pass: &'a Pass<'p>,
    record: bool,
    values: Vec<Value>,
    nodes: Vec<Node>,
    last_uses: Option<&'a [Vec<Id>]>,
    /// The latest silu, if the op just recorded was one: its result and its argument.
    silu: Option<(Id, Held)>,
}

/// A call's input.
pub(super) struct Input {
    pub(super) held: Held,
    pub(super) rows: usize,
    /// Trailing axes.
    pub(super) dims: Vec<usize>,
    pub(super) needs: bool,
}

impl<'a, 'p> Meter<'a, 'p> {
    pub(super) fn run(
        pass: &'a Pass<'p>,
        record: bool,
        input: Input,
        last_uses: Option<&'a [Vec<Id>]>,
        call: impl FnOnce(&mut Self, Id) -> OpResult,
    ) -> Result<Recorded, String> {
        let values = vec![Value {
            held: Some(input.held),
            silu: None,
            rows: input.rows,
            dims: input.dims,
            needs: input.needs,
        }];
        let mut meter = Meter {
            pass,
            record,
            values,
            nodes: Vec::new(),
            last_uses,
            silu: None,
        };
        let out = call(&mut meter, 1)?;
        let last = meter.value(out)?;
        Ok(Recorded {
            output: last.held.ok_or("the result is gone")?,
            needs: last.needs,
            out,
            needed: meter.values.iter().map(|v| v.needs).collect(),
            nodes: meter.nodes,
        })
    }

    fn value(&mut self, id: Id) -> Result<Value, String> {
        let (made, pass) = (self.values.len(), self.pass);
        let value = (id as usize)
            .checked_sub(1)
            .and_then(|i| self.values.get_mut(i));
        let value =
            value.ok_or_else(|| format!("value {id} does not exist: this call has made {made}"))?;
        if let Some((x, argument)) = value.silu.take() {
            value.held = Some(pass.values(value.count()));
            if value.needs && self.record {
                self.nodes.push(Node {
                    out: id,
                    undo: Undo::Each(vec![(x, value.count())]),
                    kept: vec![argument],
                });
            }
        }
        Ok(value.clone())
    }

    fn hold(&self, count: usize) -> Held {
        self.pass.values(count)
    }

    /// Adds a value; records the op when it needs a gradient and the tape records.
    fn push(&mut self, value: Value, undo: Undo, kept: Vec<Option<Held>>) -> OpResult {
        let needs = value.needs;
        let out = self.keep(value);
        if needs && self.record {
            let kept = kept.into_iter().flatten().collect();
            self.nodes.push(Node { out, undo, kept });
        }
        Ok(out)
    }

    /// Adds a value and lets go of those whose last use this was.
    fn keep(&mut self, value: Value) -> Id {
        self.values.push(value);
        let out = self.values.len() as Id;
        for &id in self
            .last_uses
            .and_then(|l| l.get(out as usize))
            .into_iter()
            .flatten()
        {
            let value = &mut self.values[id as usize - 1];
            (value.held, value.silu) = (None, None);
        }
        self.silu = None;
        out
    }

    /// What `a` is the silu of, if a product with `b` can take it from there, and a value like it.
    fn waiting(&self, a: Id, b: Id) -> Option<(Id, Held, Value)> {
        let value = self.values.get((a as usize).checked_sub(1)?)?;
        let (x, argument) = value.silu.clone().filter(|_| a != b)?;
        Some((x, argument, value.clone()))
    }

    /// A new value of `x`'s rows.
    fn make(&self, x: &Value, dims: Vec<usize>, needs: bool) -> Value {
        let mut value = Value {
            held: None,
            silu: None,
            rows: x.rows,
            dims,
            needs,
        };
        value.held = Some(self.hold(value.count()));
        value
    }

    fn alias(&mut self, x: Id, dims: Vec<usize>) -> OpResult {
        let mut value = self.value(x)?;
        value.dims = dims;
        self.push(value, Undo::Alias(x), Vec::new())
    }

    /// Layer norm, with or without a bias, or (`None`) RMS norm.
    fn norm(&mut self, name: &str, x: Id, eps: f64, layer: Option<bool>) -> OpResult {
        let value = self.value(x)?;
        let width = rules::norm(name, &value.dims, eps)?;
        let names = [Some("weight"), layer.unwrap_or(false).then_some("bias")];
        let own: Vec<(String, usize)> = names
            .into_iter()
            .flatten()
            .map(|part| (format!("{name}.{part}"), width))
            .filter(|(name, _)| self.pass.learnt.full.contains(name))
            .collect();
        let y = self.make(&value, value.dims.clone(), value.needs || !own.is_empty());
        let stats = self
            .pass
            .row_stats(value.count() / width.max(1), layer.is_none());
        let count = value.count();
        let undo = Undo::Norm { x, count, own };
        self.push(y, undo, vec![value.held, Some(stats)])
    }
}

impl Backend for Meter<'_, '_> {
    fn embed(&mut self, name: &str, ids: Id, vocab: usize, width: usize) -> OpResult {
        let name = format!("{name}.weight");
        let own = self.pass.learnt.full.contains(&name);
        let ids = self.value(ids)?;
        let y = self.make(&ids, vec![width], own);
        let undo = Undo::Embed {
            own: (name, vocab * width),
            count: y.count(),
        };
        self.push(y, undo, Vec::new())
    }

    fn linear(&mut self, name: &str, x: Id, out: usize, bias: bool) -> OpResult {
        let value = self.value(x)?;
        let (inputs, shape) = rules::linear(name, &value.dims, out)?;
        let learnt = self.pass.learnt;
        let weight = format!("{name}.weight");
        let own = learnt.full.contains(&weight);
        let bias = bias && learnt.full.contains(&format!("{name}.bias"));
        let rank = learnt.ranks.get(name).copied();
        let n = value.count() / inputs.max(1);
        let y = self.make(&value, shape, value.needs || own || bias || rank.is_some());
        self.pass
            .ledger
            .touch(self.pass.widening(&weight, n, (out, inputs)));
        self.pass.goes_over(&weight, n, inputs * out);
        let update = rank.map_or(0, |rank| n * rank * (inputs + out));
        self.pass.multiplies(update as u64);
        let masked = (learnt.dropout && rank.is_some()).then(|| self.hold(value.count()));
        let xa = rank.map(|rank| self.hold(n * rank));
        drop(masked);
        if let Some(rank) = rank.filter(|_| learnt.dora) {
            self.pass.gain(&weight, rank, (out, inputs));
        }
        let gained = (rank.is_some() && learnt.dora)
            .then(|| y.held.clone())
            .flatten();
        let saved = (own || rank.is_some())
            .then(|| value.held.clone())
            .flatten();
        let undo = Undo::Linear {
            name: name.into(),
            x,
            size: (value.count(), n, inputs, out),
            own,
            bias,
        };
        self.push(y, undo, vec![saved, xa, gained])
    }

    fn rms_norm(&mut self, name: &str, x: Id, eps: f64, _plus: f32) -> OpResult {
        self.norm(name, x, eps, None)
    }

    fn layer_norm(&mut self, name: &str, x: Id, eps: f64, bias: bool) -> OpResult {
        self.norm(name, x, eps, Some(bias))
    }

    fn rope(&mut self, x: Id, spec: &RopeSpec) -> OpResult {
        let value = self.value(x)?;
        let mut tables = self.pass.tables.borrow_mut();
        if !tables.iter().any(|(s, _)| s == spec) {
            let table = self.pass.single(2 * value.rows * spec.inv_freq.len());
            tables.push((spec.clone(), table));
        }
        drop(tables);
        let y = self.make(&value, rules::rope(&value.dims, spec)?, value.needs);
        let undo = Undo::Each(vec![(x, value.count())]);
        self.push(y, undo, Vec::new())
    }

    fn attention(&mut self, q: Id, k: Id, v: Id, spec: &AttnSpec) -> OpResult {
        let ids = [q, k, v];
        let [q, k, v] = [self.value(q)?, self.value(k)?, self.value(v)?];
        let shape = rules::attention(&q.dims, &k.dims, &v.dims, spec)?;
        let counts = [q.count(), k.count(), v.count()];
        let width = q.dims.iter().product::<usize>();
        let y = self.make(&q, shape, q.needs || k.needs || v.needs);
        let sums = self.pass.row_sums(q.rows, q.dims[0], width);
        self.pass.ledger.touch(self.pass.scores(1));
        // scores, then their sum over v
        self.pass.multiplies(2 * width as u64 * self.pass.attended);
        let heads = q.dims[0];
        let kept = vec![q.held, k.held, v.held, y.held.clone(), Some(sums)];
        self.push(
            y,
            Undo::Attention {
                ids,
                counts,
                width,
                heads,
            },
            kept,
        )
    }

    fn moe(
        &mut self,
        router: Id,
        x: Id,
        route: &RouteSpec,
        expert: &mut dyn FnMut(&mut dyn Backend, usize, Id) -> Id,
    ) -> OpResult {
        let (route_value, value) = (self.value(router)?, self.value(x)?);
        let experts = rules::moe(&route_value.dims, route)?;
        let mut picked = value.clone();
        // tokens spread evenly: what any one expert sees cannot be known
        picked.rows = (value.rows * route.top_k).div_ceil(experts);
        let (mut outs, mut sum) = (Vec::new(), None);
        for e in 0..experts {
            let part = self.make(&picked, value.dims.clone(), value.needs);
            let id = self.push(part, Undo::Each(vec![(x, value.count())]), Vec::new())?;
            match expert(self, e, id) {
                0 => return Err(format!("expert {e} failed")),
                y => outs.push(y),
            }
            let dims = self.value(outs[0])?.dims;
            sum.get_or_insert_with(|| self.make(&value, dims, false));
        }
        let parts = outs
            .iter()
            .map(|y| self.value(*y))
            .collect::<Result<Vec<_>, _>>()?;
        let mut out = sum.ok_or("moe has no expert")?;
        out.needs = route_value.needs || parts.iter().any(|p| p.needs);
        let mut to: Vec<(Id, usize)> = outs
            .iter()
            .copied()
            .zip(parts.iter().map(Value::count))
            .collect();
        to.push((router, route_value.count()));
        let kept = parts
            .into_iter()
            .map(|p| p.held.filter(|_| route_value.needs));
        let kept = kept.collect();
        self.push(out, Undo::Each(to), kept)
    }

    fn unary(&mut self, op: Unary, x: Id) -> OpResult {
        let value = self.value(x)?;
        if op == Unary::Silu && self.pass.card.is_some() {
            let argument = value.held.ok_or("a value is gone")?;
            return Ok(self.keep(Value {
                held: None,
                silu: Some((x, argument)),
                ..value
            }));
        }
        let y = self.make(&value, value.dims.clone(), value.needs);
        let undo = Undo::Each(vec![(x, value.count())]);
        let saved = match saves_result(op) {
            true => y.held.clone(),
            false => value.held.clone(),
        };
        let silu = value
            .held
            .filter(|_| op == Unary::Silu && value.needs && self.record);
        let out = self.push(y, undo, vec![saved])?;
        self.silu = silu.map(|held| (out, held));
        Ok(out)
    }

    fn binary(&mut self, op: Binary, a: Id, b: Id) -> OpResult {
        if let Some((gate, g, av)) = self.waiting(a, b).filter(|_| op == Binary::Mul) {
            let bv = self.value(b)?;
            if av.dims == bv.dims {
                let y = self.make(&bv, bv.dims.clone(), av.needs || bv.needs);
                let undo = Undo::SwiGlu {
                    gate,
                    up: b,
                    count: bv.count(),
                };
                return self.push(y, undo, vec![Some(g), bv.held]);
            }
        }
        let (av, bv) = (self.value(a)?, self.value(b)?);
        let shape = rules::binary(&av.dims, &bv.dims)?;
        let silu = self.silu.take().filter(|(out, _)| *out == a);
        let y = self.make(&av, shape, av.needs || bv.needs);
        let (product, quotient) = (op == Binary::Mul, op == Binary::Div);
        let counts = (av.count(), bv.count());
        if !product && !quotient {
            let same = op == Binary::Add && av.dims == bv.dims;
            let undo = Undo::Add {
                a,
                b,
                same,
                b_count: bv.count(),
            };
            return self.push(y, undo, Vec::new());
        }
        let again = if silu.is_some() && bv.needs {
            av.count()
        } else {
            0
        };
        let first = match silu {
            Some((_, argument)) => Some(argument),
            None => av.held,
        }
        .filter(|_| bv.needs);
        let second = bv.held.filter(|_| av.needs || quotient);
        let undo = Undo::Multiply {
            a,
            b,
            counts,
            first,
            again,
        };
        self.push(y, undo, vec![second])
    }

    fn affine(&mut self, x: Id, mul: f64, add: f64) -> OpResult {
        rules::affine(mul, add)?;
        let value = self.value(x)?;
        let y = self.make(&value, value.dims.clone(), value.needs);
        self.push(y, Undo::Each(vec![(x, value.count())]), Vec::new())
    }

    fn unflatten(&mut self, x: Id, n: usize) -> OpResult {
        let shape = rules::unflatten(&self.value(x)?.dims, n)?;
        self.alias(x, shape)
    }

    fn flatten(&mut self, x: Id) -> OpResult {
        let shape = rules::flatten(&self.value(x)?.dims)?;
        self.alias(x, shape)
    }

    fn narrow(&mut self, x: Id, start: usize, len: usize) -> OpResult {
        let value = self.value(x)?;
        let y = self.make(&value, rules::narrow(&value.dims, start, len)?, value.needs);
        self.push(y, Undo::Each(vec![(x, value.count())]), Vec::new())
    }

    fn concat(&mut self, xs: &[Id]) -> OpResult {
        let values = xs
            .iter()
            .map(|x| self.value(*x))
            .collect::<Result<Vec<_>, _>>()?;
        let shapes: Vec<&[usize]> = values.iter().map(|v| v.dims.as_slice()).collect();
        let shape = rules::concat(&shapes)?;
        let first = values.first().ok_or("concat wants at least one value")?;
        let y = self.make(first, shape, values.iter().any(|v| v.needs));
        let to = xs
            .iter()
            .copied()
            .zip(values.iter().map(Value::count))
            .collect();
        self.push(y, Undo::Each(to), Vec::new())
    }
}
