//! The op set, run eagerly: checks shapes, calls a kernel, and says what the backward pass would
//! need.

use randori_kernels::{Error, Heads, Kernels, Norm, Result, Shaped, rows};
use randori_sdk::seam::{AttnSpec, Backend, Binary, Id, OpResult, RopeSpec, RouteSpec, Unary};

use super::{
    BinaryOp, Context, ConvOp, Factor, Linear, Node, NormOp, Op, SwiGluOp, Tape, Value, Vector,
    rules, say,
};

/// Trailing axes.
fn trailing<T: Shaped>(x: &T) -> &[usize] {
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
        let (x_value, x_needs) = self.float(x)?;
        let width = rules::norm(name, trailing(&x_value), eps)?;
        let pass = self.pass;
        let scale = pass.vector(format!("{name}.weight"), &[width])?;
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
    fn bias(&self, name: &str, width: usize, has: bool) -> Result<Option<Vector<K>>, String> {
        let find = || self.pass.vector(format!("{name}.bias"), &[width]);
        has.then(find).transpose()
    }

    /// Rows without neighbours know neither positions nor sequences.
    fn sequences(&self, op: &str, x: &K::Tensor) -> Result<(), String> {
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
        qkv: [&K::Tensor; 3],
        heads: &Heads,
    ) -> Result<(K::Tensor, K::SoftmaxStats)> {
        let (kernels, plan) = (self.pass.kernels, &self.pass.plan);
        match &mut self.context {
            Context::Packed => kernels.attention(plan, qkv, heads),
            Context::Cached {
                cache, layer, call, ..
            } => {
                let place = (*layer, *call);
                *call += 1;
                kernels.cached_attention(cache, place, qkv, heads)
            }
            Context::Alone | Context::Picked(_) => {
                Err(Error::rule("attention belongs into a block"))
            }
        }
    }
}

impl<K: Kernels> Tape<'_, '_, K> {
    /// Where the next recurrent op of a block over cached sequences has its states; `None` of
    /// packed rows.
    fn next_states(&mut self) -> Option<(&mut K::Cache, (usize, usize))> {
        match &mut self.context {
            Context::Cached {
                cache,
                layer,
                recurrent,
                ..
            } => {
                let place = (*layer, *recurrent);
                *recurrent += 1;
                Some((&mut **cache, place))
            }
            Context::Packed | Context::Alone | Context::Picked(_) => None,
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
        let (value, x_needs) = self.float(x)?;
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
        self.norm(name, x, Norm::Rms { plus }, eps, false)
    }

    fn layer_norm(&mut self, name: &str, x: Id, eps: f64, bias: bool) -> OpResult {
        self.norm(name, x, Norm::Layer, eps, bias)
    }

    fn rope(&mut self, x: Id, spec: &RopeSpec) -> OpResult {
        let (value, needs) = self.float(x)?;
        rules::rope(trailing(&value), spec)?;
        self.sequences("rope", &value)?;
        let table = self.pass.table(spec).map_err(say)?;
        let y = self.pass.kernels.rotate(&value, &table, false);
        let y = y.map_err(say)?;
        self.push(y, needs, || Op::Rope { x, table })
    }

    fn attention(&mut self, q: Id, k: Id, v: Id, spec: &AttnSpec) -> OpResult {
        let ids = [q, k, v];
        let ((q, q_needs), (k, k_needs), (v, v_needs)) =
            (self.float(q)?, self.float(k)?, self.float(v)?);
        rules::attention(trailing(&q), trailing(&k), trailing(&v), spec)?;
        self.sequences("attention", &q)?;
        let heads = Heads::new(q.dims()[1], k.dims()[1], q.dims()[2], spec);
        let values = [q, k, v];
        let (out, sums) = self.attend(values.each_ref(), &heads).map_err(say)?;
        let kept = out.clone();
        self.push(out, q_needs || k_needs || v_needs, || Op::Attention {
            ids,
            values,
            heads,
            out: kept,
            sums,
        })
    }

    fn conv(&mut self, name: &str, x: Id, taps: usize, bias: bool) -> OpResult {
        let (value, x_needs) = self.float(x)?;
        let shape = rules::conv(name, trailing(&value), taps)?;
        self.sequences("conv", &value)?;
        let pass = self.pass;
        let kernels = pass.kernels;
        let weight = pass.vector(format!("{name}.weight"), &shape)?;
        let bias = self.bias(name, shape[0], bias)?;
        let w = &weight.values;
        let y = match self.next_states() {
            Some((cache, at)) => kernels.cached_convolve(cache, at, &value, w),
            None => kernels.convolve(&pass.plan, &value, w),
        };
        let y = y.map_err(say)?;
        if let Some(bias) = &bias {
            kernels.add_bias(&y, &bias.values).map_err(say)?;
        }
        let own_bias = bias.as_ref().is_some_and(|b| b.own.is_some());
        let x_value = weight.own.is_some().then_some(value);
        let needs = x_needs || own_bias || x_value.is_some();
        self.push(y, needs, || {
            Op::Conv(Box::new(ConvOp {
                x,
                x_value,
                weight,
                bias,
            }))
        })
    }

    fn delta_rule(&mut self, q: Id, k: Id, v: Id, strength: Id, decay: Id) -> OpResult {
        let ids = [q, k, v, strength, decay];
        let mut values = Vec::with_capacity(ids.len());
        let mut needs = false;
        for id in ids {
            let (value, needed) = self.float(id)?;
            self.sequences("delta_rule", &value)?;
            needs |= needed;
            values.push(value);
        }
        let values: [K::Tensor; 5] = values
            .try_into()
            .map_err(|_| "delta_rule takes five values")?;
        rules::delta_rule(values.each_ref().map(trailing))?;
        let (pass, inputs) = (self.pass, values.each_ref());
        let out = match self.next_states() {
            Some((cache, at)) => pass.kernels.cached_delta_rule(cache, at, inputs),
            None => pass.kernels.delta_rule(&pass.plan, inputs),
        };
        let out = out.map_err(say)?;
        self.push(out, needs, || Op::DeltaRule { ids, values })
    }

    fn moe(
        &mut self,
        router: Id,
        x: Id,
        route: &RouteSpec,
        expert: &mut dyn FnMut(&mut dyn Backend, usize, Id) -> Id,
    ) -> OpResult {
        let (router_value, router_needs) = self.float(router)?;
        let (value, x_needs) = self.float(x)?;
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
            let (y_value, y_needs) = self.float(y)?;
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
            }));
        }
        let y = self.pass.kernels.unary(op, &value).map_err(say)?;
        let saved = if op.saves_result() { y.clone() } else { value };
        self.push(y, needs, || Op::Unary { op, x, saved })
    }

    fn binary(&mut self, op: Binary, a: Id, b: Id) -> OpResult {
        if let Some((gate, g, g_needs)) = self.deferred_silu(a, b).filter(|_| op == Binary::Mul) {
            let (u, u_needs) = self.float(b)?;
            if u.dims() == g.dims() {
                let y = self.pass.kernels.swiglu(&g, &u).map_err(say)?;
                let op = SwiGluOp { gate, up: b, g, u };
                return self.push(y, g_needs || u_needs, || Op::SwiGlu(op));
            }
        }
        let ((av, a_needs), (bv, b_needs)) = (self.float(a)?, self.float(b)?);
        rules::binary(trailing(&av), trailing(&bv))?;
        if av.dims()[0] != bv.dims()[0] {
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
        self.push(y, a_needs || b_needs, || Op::Binary(op))
    }

    fn affine(&mut self, x: Id, mul: f64, add: f64) -> OpResult {
        rules::affine(mul, add)?;
        let (value, needs) = self.float(x)?;
        let y = self.pass.kernels.affine(&value, mul as f32, add as f32);
        let y = y.map_err(say)?;
        self.push(y, needs, || Op::Affine { x, mul: mul as f32 })
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
        self.push(y, needs, || Op::Narrow { x, start, width })
    }

    fn concat(&mut self, xs: &[Id]) -> OpResult {
        let values = xs
            .iter()
            .map(|x| self.float(*x))
            .collect::<Result<Vec<_>, _>>()?;
        let shapes: Vec<&[usize]> = values.iter().map(|(v, _)| trailing(v)).collect();
        rules::concat(&shapes)?;
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
        self.push(y, needs, || Op::Concat {
            xs: xs
                .iter()
                .zip(&tensors)
                .map(|(x, t)| (*x, rows(t.dims()).1))
                .collect(),
        })
    }
}

impl<K: Kernels> Tape<'_, '_, K> {
    fn reshape(&mut self, x: Id, shape: &[usize]) -> OpResult {
        let (value, needs) = self.float(x)?;
        let y = value.in_shape(&dims(&value, shape)).map_err(say)?;
        self.push(y, needs, || Op::Reshape {
            x,
            dims: value.dims().to_vec(),
        })
    }
}
