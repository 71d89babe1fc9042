//! The op set, run eagerly: checks shapes, calls a kernel, and says what the backward pass would
//! need.

use randori_kernels::{Error, Heads, Kernels, Norm, Result, Shaped, rows};
use randori_sdk::seam::{AttnSpec, Backend, Binary, Id, OpResult, RopeSpec, RouteSpec, Unary};

use super::{
    BinaryOp, Context, Factor, Linear, Node, NormOp, Op, SwiGluOp, Tape, Value, Vector, rules, say,
};

/// Trailing axes.
pub(super) fn trailing<T: Shaped>(x: &T) -> &[usize] {
    x.dims().get(1..).unwrap_or(&[])
}

/// The token axis, then these.
fn dims<T: Shaped>(x: &T, trailing: &[usize]) -> Vec<usize> {
    let mut dims = vec![x.dims().first().copied().unwrap_or(0)];
    dims.extend_from_slice(trailing);
    dims
}

/// x as (rows, last axis).
pub(super) fn flat<T: Shaped>(x: &T) -> Result<T> {
    let (n, width) = rows(x.dims());
    match x.dims().len() {
        2 => Ok(x.clone()),
        _ => x.in_shape(&[n, width]),
    }
}

impl<K: Kernels> Tape<'_, '_, K> {
    fn norm(&mut self, name: &str, x: Id, norm: Norm, eps: f64, bias: bool) -> OpResult {
        let (x_value, x_needs) = self.by_token("a norm", x)?;
        let width = rules::norm(name, trailing(&x_value), eps)?;
        let pass = self.pass;
        let scale = match (name, norm) {
            // x / rms(x): the scale is 1 + 0
            ("", Norm::Rms { .. }) => {
                let none = pass.kernels.zero_gradient(&[width], &x_value);
                let (values, own) = (none.map_err(say)?, None);
                Vector { values, own }
            }
            _ => pass.vector(format!("{name}.weight"), &[width])?,
        };
        let bias = self.bias(name, width, bias)?;
        let own = scale.own.is_some() || bias.as_ref().is_some_and(|b| b.own.is_some());
        let b = bias.as_ref().map(|b| &b.values);
        let done = pass.kernels.norm(&x_value, &scale.values, b, norm, eps);
        let (y, stats) = done.map_err(say)?;
        self.push(y, x_needs || own, || {
            Op::Norm(NormOp {
                x,
                x_value,
                stats,
                scale,
                bias,
                norm,
            })
        })
    }

    /// The bias of a module, if it has one.
    pub(super) fn bias(
        &self,
        name: &str,
        width: usize,
        has: bool,
    ) -> Result<Option<Vector<K>>, String> {
        let find = || self.pass.vector(format!("{name}.bias"), &[width]);
        has.then(find).transpose()
    }

    /// Rows without neighbours know neither positions nor sequences.
    pub(super) fn sequences(&self, op: &str, x: &K::Tensor) -> Result<(), String> {
        if matches!(self.context, Context::Alone | Context::Picked(_)) {
            return Err(format!(
                "{op} belongs into a block: the embedding and the head see single rows"
            ));
        }
        if x.dims()[0] != self.pass.rows() {
            return Err(format!(
                "{op} cannot run inside an expert, which sees some of the tokens only"
            ));
        }
        Ok(())
    }

    /// Runs `call` on values that have these rows of the present ones.
    fn among<T>(&mut self, rows: &K::Indices, call: impl FnOnce(&mut Self) -> T) -> T {
        let outer = self.rows.take();
        self.rows = Some(self.pass.kernels.compose(outer.as_ref(), rows));
        let done = call(self);
        self.rows = outer;
        done
    }

    fn attend(
        &mut self,
        [_, k_id, v_id]: [Id; 3],
        qkv: [&K::Tensor; 3],
        sinks: Option<&K::Tensor>,
        heads: &Heads,
    ) -> Result<(K::Tensor, K::SoftmaxStats)> {
        let (kernels, plan) = (self.pass.kernels, &self.pass.plan);
        let held = self.cached_at(k_id, v_id);
        match &mut self.context {
            Context::Packed => kernels.attention(plan, qkv, sinks, heads),
            Context::Cached {
                cache, layer, call, ..
            } => {
                let [q, k, v] = qkv;
                if let Some(at) = held {
                    return kernels.cached_attention(cache, at, q, None, sinks, heads);
                }
                let at = (*layer, *call);
                *call += 1;
                let done = kernels.cached_attention(cache, at, q, Some([k, v]), sinks, heads)?;
                self.cache_at(k_id, v_id, at);
                Ok(done)
            }
            Context::Alone | Context::Picked(_) => {
                Err(Error::rule("attention belongs into a block"))
            }
        }
    }
}

impl<K: Kernels> Backend for Tape<'_, '_, K> {
    fn embed(&mut self, name: &str, ids: Id, vocab: usize, width: usize) -> OpResult {
        let (ids, pass) = (self.value(ids)?.0, self.pass);
        let ids = pass.kernels.token_ids(name, &ids, vocab)?;
        let matrix = pass.matrix(name, (vocab, width))?;
        let rows = pass.kernels.lookup(&matrix.weight, &ids).map_err(say)?;
        self.push(rows, matrix.own.is_some(), || Op::Embed {
            ids,
            name: matrix.own.unwrap_or_default(),
            shape: (vocab, width),
        })
    }

    fn linear(&mut self, name: &str, x: Id, out: usize, bias: bool) -> OpResult {
        let (value, x_needs) = self.by_token("linear", x)?;
        let (inputs, shape) = rules::linear(name, trailing(&value), out)?;
        let (pass, kernels) = (self.pass, self.pass.kernels);
        let matrix = pass.projection(name, (out, inputs))?;
        let bias = self.bias(name, out, bias)?;
        let base = name;
        let name = pass.model.goes_by(name);
        let update = pass.model.update(name);
        let run = || -> Result<_> {
            let x = flat(&value)?; // (n, in)
            pass.model.see(kernels, name, &x)?;
            let y = kernels.product(&x, &matrix.weight)?; // (n, out)
            let (mut xa, mut gain) = (None, None);
            if let Some(update) = &update {
                let kept = {
                    let x = pass.drop_out(&x, name, update.dropout, self.rows.as_ref())?;
                    let kept = kernels.add_update(&x, &update.lora, &y);
                    kept.map_err(|e| Error::rule(format!("`{name}`: {e}")))?
                };
                xa = Some(kept);
                gain = pass.model.gain(kernels, base, &matrix, update)?;
                gain.iter().try_for_each(|g| kernels.scale_columns(&y, g))?;
            }
            if let Some(bias) = &bias {
                kernels.add_bias(&y, &bias.values)?;
            }
            let gain = gain.map(|g| (g, y.clone()));
            Ok((y.in_shape(&dims(&value, &shape))?, x, xa, gain))
        };
        let (y, x_flat, xa, gain) = run().map_err(say)?;
        let own_bias = bias.as_ref().is_some_and(|b| b.own.is_some());
        let saves_x = matrix.own.is_some() || update.is_some();
        let rows = self.rows.clone();
        self.push(y, x_needs || own_bias || saves_x, || {
            Op::Linear(Box::new(Linear {
                name: name.into(),
                x,
                x_dims: value.dims().to_vec(),
                matrix,
                bias,
                update,
                x_value: saves_x.then_some(x_flat),
                xa,
                rows,
                gain,
            }))
        })
    }

    fn rms_norm(&mut self, name: &str, x: Id, eps: f64, plus: f32) -> OpResult {
        // without a weight nothing is added to it either
        let plus = if name.is_empty() { 1.0 } else { plus };
        self.norm(name, x, Norm::Rms { plus }, eps, false)
    }

    fn layer_norm(&mut self, name: &str, x: Id, eps: f64, bias: bool) -> OpResult {
        self.norm(name, x, Norm::Layer, eps, bias)
    }

    fn rope(&mut self, x: Id, spec: &RopeSpec) -> OpResult {
        let (value, needs) = self.by_token("rope", x)?;
        rules::rope(trailing(&value), spec)?;
        self.sequences("rope", &value)?;
        let table = self.pass.table(spec).map_err(say)?;
        let y = self.pass.kernels.rotate(&value, &table, false);
        let y = y.map_err(say)?;
        self.push(y, needs, || Op::Rope { x, table })
    }

    fn attention(&mut self, q: Id, k: Id, v: Id, spec: &AttnSpec) -> OpResult {
        let (op, ids) = ("attention", [q, k, v]);
        let (q, q_needs) = self.by_token(op, q)?;
        let (k, k_needs) = self.by_token(op, k)?;
        let (v, v_needs) = self.by_token(op, v)?;
        let (mut sinks, mut needs) = (None, q_needs || k_needs || v_needs);
        if let Some(id) = spec.sinks {
            let (value, sinks_needs) = self.float(id)?;
            rules::sinks(trailing(&q), trailing(&value), self.common(&[id]))?;
            needs |= sinks_needs;
            sinks = Some((id, value));
        }
        rules::attention(trailing(&q), trailing(&k), trailing(&v), spec)?;
        self.sequences(op, &q)?;
        let heads = Heads {
            value_dim: v.dims()[2],
            ..Heads::new(q.dims()[1], k.dims()[1], q.dims()[2], spec)
        };
        let values = [q, k, v];
        let added = sinks.as_ref().map(|(_, value)| value);
        let done = self.attend(ids, values.each_ref(), added, &heads);
        let (out, sums) = done.map_err(say)?;
        let kept = out.clone();
        self.push(out, needs, || Op::Attention {
            ids,
            values,
            sinks,
            heads,
            out: kept,
            sums,
        })
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
        let (router_value, router_needs) = self.by_token("moe", router)?;
        let (value, x_needs) = self.by_token("moe", x)?;
        let bias = route.bias.map(|bias| self.float(bias)).transpose()?;
        let bias = bias.map(|(value, _)| value); // it has no gradient
        let experts = rules::moe(trailing(&router_value), bias.as_ref().map(trailing), route)?;
        let kernels = self.pass.kernels;
        let routing = kernels
            .route(&router_value, bias.as_ref(), route)
            .map_err(say)?;
        let (mut parts, mut needs) = (Vec::new(), router_needs);
        let mut out: Option<K::Tensor> = None;
        for e in 0..experts {
            let Some(share) = kernels.tokens_of(&routing, e) else {
                continue;
            };
            let picked = kernels.gather(&value, &share.rows).map_err(say)?;
            let id = self.push(picked, x_needs, || Op::Gather {
                x,
                rows: share.rows.clone(),
                dims: value.dims().to_vec(),
            })?;
            let y = match self.among(&share.rows, |tape| expert(tape, e, id)) {
                0 => return Err(format!("expert {e} failed")),
                y => y,
            };
            let (y_value, y_needs) = self.by_token("moe", y)?;
            let sum = match out.take() {
                Some(sum) => sum,
                None => {
                    let dims = dims(&value, trailing(&y_value));
                    kernels.zeros(&dims, &value).map_err(say)?
                }
            };
            let tokens = kernels.count(&share.rows);
            if y_value.dims()[0] != tokens || trailing(&y_value) != trailing(&sum) {
                return Err(format!(
                    "expert {e} answered the shape {:?} for {tokens} tokens; the first expert's trailing shape was {:?}",
                    y_value.dims(),
                    trailing(&sum)
                ));
            }
            let added = kernels.add_weighted(&routing, &share, &y_value, &sum);
            added.map_err(say)?;
            out = Some(sum);
            needs |= y_needs;
            parts.push((y, share, router_needs.then_some(y_value)));
        }
        let out = out.ok_or("moe was called without tokens")?;
        self.push(out, needs, || Op::Moe {
            router,
            routing,
            parts,
        })
    }

    fn unary(&mut self, op: Unary, x: Id) -> OpResult {
        let (value, needs) = self.float(x)?;
        if op == Unary::Softmax {
            rules::soft_max(trailing(&value))?;
        }
        if op == Unary::Silu && self.pass.kernels.fuses_silu() {
            return Ok(self.keep(Value {
                tensor: None,
                silu: Some((x, value)),
                needs,
                common: self.common(&[x]),
                kept: Default::default(),
            }));
        }
        let y = self.pass.kernels.unary(op, &value).map_err(say)?;
        let saved = if op.saves_result() { y.clone() } else { value };
        self.push_as(self.common(&[x]), y, needs, || Op::Unary { op, x, saved })
    }

    fn binary(&mut self, op: Binary, a: Id, b: Id) -> OpResult {
        let common = [self.common(&[a]), self.common(&[b])];
        let fuses = op == Binary::Mul && common == [false; 2];
        if let Some((gate, g, g_needs)) = self.deferred_silu(a, b).filter(|_| fuses) {
            let (u, u_needs) = self.float(b)?;
            if u.dims() == g.dims() {
                let y = self.pass.kernels.swiglu(&g, &u).map_err(say)?;
                let op = SwiGluOp { gate, up: b, g, u };
                return self.push(y, g_needs || u_needs, || Op::SwiGlu(op));
            }
        }
        let ((av, a_needs), (bv, b_needs)) = (self.float(a)?, self.float(b)?);
        rules::binary(trailing(&av), trailing(&bv), common)?;
        if av.dims()[0] != bv.dims()[0] && !common[1] {
            return Err(format!(
                "a binary op cannot mix values of {} and {} tokens",
                av.dims()[0],
                bv.dims()[0]
            ));
        }
        let y = self.pass.kernels.binary(op, &av, &bv).map_err(say)?;
        let b_dims = bv.dims().to_vec();
        let (product, quotient) = (op == Binary::Mul, op == Binary::Div);
        let a_value = (b_needs && (product || quotient)).then(|| match self.nodes.last() {
            Some(Node {
                out,
                op:
                    Op::Unary {
                        op: Unary::Silu,
                        saved,
                        ..
                    },
            }) if *out == a => Factor::Silu(saved.clone()),
            _ => Factor::Value(av),
        });
        let b_value = ((a_needs && product) || quotient).then_some(bv);
        let op = BinaryOp {
            op,
            a,
            b,
            a_value,
            b_value,
            b_dims,
        };
        self.push_as(common[0], y, a_needs || b_needs, || Op::Binary(op))
    }

    fn affine(&mut self, x: Id, mul: f64, add: f64) -> OpResult {
        rules::affine(mul, add)?;
        let (value, needs) = self.float(x)?;
        let y = self.pass.kernels.affine(&value, mul as f32, add as f32);
        let (y, mul) = (y.map_err(say)?, mul as f32);
        self.push_as(self.common(&[x]), y, needs, || Op::Affine { x, mul })
    }

    fn unflatten(&mut self, x: Id, n: usize) -> OpResult {
        let (value, _) = self.float(x)?;
        let shape = rules::unflatten(trailing(&value), n)?;
        self.reshape(x, &shape)
    }

    fn flatten(&mut self, x: Id) -> OpResult {
        let (value, _) = self.float(x)?;
        let shape = rules::flatten(trailing(&value))?;
        self.reshape(x, &shape)
    }

    fn narrow(&mut self, x: Id, start: usize, len: usize) -> OpResult {
        let (value, needs) = self.float(x)?;
        rules::narrow(trailing(&value), start, len)?;
        let (_, width) = rows(value.dims());
        let y = self.pass.kernels.narrow(&value, start, len).map_err(say)?;
        let common = self.common(&[x]);
        self.push_as(common, y, needs, || Op::Narrow { x, start, width })
    }

    fn concat(&mut self, xs: &[Id]) -> OpResult {
        let values = xs
            .iter()
            .map(|x| self.float(*x))
            .collect::<Result<Vec<_>, _>>()?;
        let shapes: Vec<&[usize]> = values.iter().map(|(v, _)| trailing(v)).collect();
        let common: Vec<bool> = xs.iter().map(|x| self.common(&[*x])).collect();
        rules::concat(&shapes, &common)?;
        let needs = values.iter().any(|(_, needs)| *needs);
        let tensors: Vec<K::Tensor> = values.into_iter().map(|(v, _)| v).collect();
        if let Some(odd) = tensors.iter().find(|t| t.dims()[0] != tensors[0].dims()[0]) {
            return Err(format!(
                "concat cannot mix values of {} and {} tokens",
                tensors[0].dims()[0],
                odd.dims()[0]
            ));
        }
        let y = self.pass.kernels.concat(&tensors).map_err(say)?;
        self.push_as(self.common(xs), y, needs, || Op::Concat {
            xs: xs
                .iter()
                .zip(&tensors)
                .map(|(x, t)| (*x, rows(t.dims()).1))
                .collect(),
        })
    }

    fn param(&mut self, name: &str, shape: &[usize]) -> OpResult {
        rules::param(name, shape)?;
        let Vector { values, own } = self.pass.param(name, shape)?;
        let row = values.in_shape(&[&[1], shape].concat()).map_err(say)?;
        self.push_as(true, row, own.is_some(), || Op::Param {
            name: own.unwrap_or_default(),
            shape: shape.to_vec(),
        })
    }

    fn carry(&mut self, name: &str, x: Id) -> OpResult {
        self.hand_on(name, x)
    }

    fn carried(&mut self, name: &str) -> OpResult {
        self.take_over(name)
    }
}

impl<K: Kernels> Tape<'_, '_, K> {
    fn reshape(&mut self, x: Id, shape: &[usize]) -> OpResult {
        let (value, needs) = self.float(x)?;
        let y = value.in_shape(&dims(&value, shape)).map_err(say)?;
        self.push_as(self.common(&[x]), y, needs, || Op::Reshape {
            x,
            dims: value.dims().to_vec(),
        })
    }
}
