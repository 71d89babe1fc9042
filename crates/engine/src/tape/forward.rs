//! The op set, run eagerly: checks shapes, calls a kernel, and says what the backward pass would need.

use candle_core::Tensor;
use randori_sdk::seam::{AttnSpec, Backend, Binary, Id, OpResult, RopeSpec, RouteSpec, Unary};

use super::{Factor, Linear, Matrix, Node, Op, Place, Tape, Update, Value, rules, say};
use crate::{
    Error, Result,
    kernels::{
        attention, attention::Heads, elementwise, layout, linear, low_rank, norm, norm::Norm, rope,
        route::Routing, rows,
    },
};

/// Trailing axes.
fn trailing(x: &Tensor) -> &[usize] {
    x.dims().get(1..).unwrap_or(&[])
}

/// The token axis, then these.
fn dims(x: &Tensor, trailing: &[usize]) -> Vec<usize> {
    let mut dims = vec![x.dims().first().copied().unwrap_or(0)];
    dims.extend_from_slice(trailing);
    dims
}

/// x as (rows, last axis).
pub(super) fn flat(x: &Tensor) -> Result<Tensor> {
    let size = rows(x.dims());
    Ok(if x.dims().len() == 2 {
        x.clone()
    } else {
        x.reshape(size)?
    })
}

/// x Wᵀ for x (n, in).
pub(super) fn project(x: &Tensor, matrix: &Matrix) -> Result<Tensor> {
    match matrix {
        Matrix::Frozen(w) | Matrix::Own(w, _) => linear::forward(x, w),
        Matrix::Quant(w) => linear::quantised(x, w),
        #[cfg(feature = "cuda")]
        Matrix::Gpu(w) => w.forward(x),
    }
}

impl Tape<'_, '_> {
    fn norm(&mut self, name: &str, x: Id, norm: Norm, eps: f64, bias: bool) -> OpResult {
        let (x_value, x_needs) = self.float(x)?;
        let width = rules::norm(name, trailing(&x_value), eps)?;
        let scale = self.pass.vector(format!("{name}.weight"), width)?;
        let bias = match bias {
            true => Some(self.pass.vector(format!("{name}.bias"), width)?),
            false => None,
        };
        let own = scale.own.is_some() || bias.as_ref().is_some_and(|b| b.own.is_some());
        let b = bias.as_ref().map(|b| &b.values);
        let (y, stats) = norm::forward(&x_value, &scale.values, b, norm, eps).map_err(say)?;
        self.push(y, x_needs || own, || Op::Norm {
            x,
            x_value,
            stats,
            scale,
            bias,
            norm,
        })
    }

    /// Rows without neighbours know neither positions nor sequences.
    fn sequences(&self, op: &str, x: &Tensor) -> std::result::Result<(), String> {
        if matches!(self.place, Place::Rows | Place::Picked(_)) {
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
    fn among<T>(&mut self, rows: &[u32], call: impl FnOnce(&mut Self) -> T) -> T {
        let outer = self.rows.take();
        let of_pass = |&row: &u32| outer.as_ref().map_or(row, |outer| outer[row as usize]);
        self.rows = Some(rows.iter().map(of_pass).collect());
        let done = call(self);
        self.rows = outer;
        done
    }

    fn attend(&mut self, values: &[Tensor; 3], heads: &Heads) -> Result<attention::Attended> {
        let [q, k, v] = values;
        let (_, width) = heads.widths();
        #[cfg(feature = "cuda")]
        if crate::kernels::gpu::on(q) {
            return match &mut self.place {
                Place::Packed => crate::kernels::gpu::attention::packed(self.pass, q, k, v, heads),
                Place::Cached(cache) => cache.attend_on_gpu(q, k, v, heads),
                Place::Rows | Place::Picked(_) => {
                    Err(Error::rule("attention belongs into a block"))
                }
            };
        }
        match &mut self.place {
            Place::Packed => self
                .pass
                .with_spans(k, v, width, |spans| attention::forward(q, spans, heads)),
            Place::Cached(cache) => {
                cache.append(k, v, width)?;
                attention::forward(q, &cache.spans(), heads)
            }
            Place::Rows | Place::Picked(_) => Err(Error::rule("attention belongs into a block")),
        }
    }
}

impl Backend for Tape<'_, '_> {
    fn embed(&mut self, name: &str, ids: Id, vocab: usize, width: usize) -> OpResult {
        let ids: Vec<u32> = self
            .value(ids)?
            .0
            .to_vec1()
            .map_err(|_| format!("embed `{name}` wants token ids"))?;
        if let Some(bad) = ids.iter().find(|id| **id as usize >= vocab) {
            return Err(format!(
                "token {bad} is outside the model's vocabulary of {vocab}"
            ));
        }
        let matrix = self.pass.matrix(name, (vocab, width))?;
        let rows = match &matrix {
            Matrix::Frozen(w) | Matrix::Own(w, _) => linear::lookup(w, &ids).map_err(say)?,
            Matrix::Quant(w) => w.rows(&ids).map_err(say)?,
            #[cfg(feature = "cuda")]
            Matrix::Gpu(w) => w.rows(&ids).map_err(say)?,
        };
        match matrix {
            Matrix::Own(_, name) => self.push(rows, true, || Op::Embed {
                ids,
                name,
                shape: (vocab, width),
            }),
            _ => self.push(rows, false, || Op::Embed {
                ids: Vec::new(),
                name: String::new(),
                shape: (vocab, width),
            }),
        }
    }

    fn linear(&mut self, name: &str, x: Id, out: usize, bias: bool) -> OpResult {
        let (value, x_needs) = self.float(x)?;
        let (inputs, shape) = rules::linear(name, trailing(&value), out)?;
        let pass = self.pass;
        let matrix = pass.projection(name, (out, inputs))?;
        let bias = match bias {
            true => Some(pass.vector(format!("{name}.bias"), out)?),
            false => None,
        };
        let base = name;
        let name = pass.goes_by(name);
        let update = pass.update(name);
        let run = || -> Result<_> {
            let x = flat(&value)?; // (n, in)
            if let Some(probe) = &self.pass.probe {
                probe.see(name, &x)?;
            }
            let y = project(&x, &matrix)?; // (n, out)
            let (mut xa, mut gain) = (None, None);
            if let Some(Update { lora, dropout }) = &update {
                let x = self
                    .pass
                    .drop_out(&x, name, *dropout, self.rows.as_deref())?;
                let kept = low_rank::forward(&x, lora, &y)
                    .map_err(|e| Error::rule(format!("`{name}`: {e}")))?;
                xa = Some(kept);
                gain = self.pass.gain(base, &matrix, lora)?;
                gain.iter().try_for_each(|g| g.apply(&y))?;
            }
            if let Some(bias) = &bias {
                linear::add_bias(&y, &bias.values)?;
            }
            let gain = gain.map(|g| (g, y.clone()));
            Ok((y.reshape(dims(&value, &shape))?, x, xa, gain))
        };
        let (y, x_flat, xa, gain) = run().map_err(say)?;
        let own_matrix = matches!(matrix, Matrix::Own(..));
        let own_bias = bias.as_ref().is_some_and(|b| b.own.is_some());
        let needs = x_needs || own_matrix || own_bias || update.is_some();
        let rows = self.rows.clone();
        let saves_x = own_matrix || update.is_some();
        self.push(y, needs, || {
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
        let table = self.pass.table(spec);
        let y = rope::turn(&value, &table, false).map_err(say)?;
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
        let result = self.attend(&values, &heads).map_err(say)?;
        let out = result.out.clone();
        self.push(out, q_needs || k_needs || v_needs, || Op::Attention {
            ids,
            values,
            heads,
            result,
        })
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
        let experts = rules::moe(trailing(&router_value), route)?;
        let routing = Routing::new(&router_value, route).map_err(say)?;
        let (mut parts, mut needs) = (Vec::new(), router_needs);
        let mut out: Option<Tensor> = None;
        for e in 0..experts {
            let share = routing.share(e);
            if share.rows.is_empty() {
                continue;
            }
            let rows = share.rows.clone();
            let picked = layout::gather(&value, &rows).map_err(say)?;
            let source = value.dims().to_vec();
            let id = self.push(picked, x_needs, || Op::Gather {
                x,
                rows,
                dims: source,
            })?;
            let y = match self.among(&share.rows, |tape| expert(tape, e, id)) {
                0 => return Err(format!("expert {e} failed")),
                y => y,
            };
            let (y_value, y_needs) = self.float(y)?;
            let sum = match out.take() {
                Some(sum) => sum,
                None => layout::zeros(&dims(&value, trailing(&y_value)), &value).map_err(say)?,
            };
            if y_value.dims()[0] != share.rows.len() || trailing(&y_value) != trailing(&sum) {
                return Err(format!(
                    "expert {e} answered the shape {:?} for {} tokens; the first expert's trailing shape was {:?}",
                    y_value.dims(),
                    share.rows.len(),
                    trailing(&sum)
                ));
            }
            routing.add_weighted(&share, &y_value, &sum).map_err(say)?;
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
        if op == Unary::Silu && value.device().is_cuda() {
            return Ok(self.keep(Value {
                tensor: None,
                silu: Some((x, value)),
                needs,
            }));
        }
        let y = elementwise::unary(op, &value).map_err(say)?;
        let saved = if elementwise::saves_result(op) {
            y.clone()
        } else {
            value
        };
        self.push(y, needs, || Op::Unary { op, x, saved })
    }

    fn binary(&mut self, op: Binary, a: Id, b: Id) -> OpResult {
        if let Some((gate, g, g_needs)) = self.waiting(a, b).filter(|_| op == Binary::Mul) {
            let (u, u_needs) = self.float(b)?;
            if u.dims() == g.dims() {
                let y = elementwise::swiglu(&g, &u).map_err(say)?;
                return self.push(y, g_needs || u_needs, || Op::SwiGlu { gate, up: b, g, u });
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
        let y = elementwise::binary(op, &av, &bv).map_err(say)?;
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
            _ => Factor::Kept(av),
        });
        let b_value = ((a_needs && product) || quotient).then_some(bv);
        self.push(y, a_needs || b_needs, || Op::Binary {
            op,
            a,
            b,
            a_value,
            b_value,
            b_dims,
        })
    }

    fn affine(&mut self, x: Id, mul: f64, add: f64) -> OpResult {
        rules::affine(mul, add)?;
        let (value, needs) = self.float(x)?;
        let y = elementwise::affine(&value, mul as f32, add as f32).map_err(say)?;
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
        let y = layout::narrow(&value, start, len).map_err(say)?;
        self.push(y, needs, || Op::Narrow { x, start, width })
    }

    fn concat(&mut self, xs: &[Id]) -> OpResult {
        let values = xs
            .iter()
            .map(|x| self.float(*x))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        let shapes: Vec<&[usize]> = values.iter().map(|(v, _)| trailing(v)).collect();
        rules::concat(&shapes)?;
        let needs = values.iter().any(|(_, needs)| *needs);
        let tensors: Vec<Tensor> = values.into_iter().map(|(v, _)| v).collect();
        if let Some(odd) = tensors.iter().find(|t| t.dims()[0] != tensors[0].dims()[0]) {
            return Err(format!(
                "concat cannot mix values of {} and {} tokens",
                tensors[0].dims()[0],
                odd.dims()[0]
            ));
        }
        let y = layout::concat(&tensors).map_err(say)?;
        self.push(y, needs, || Op::Concat {
            xs: xs
                .iter()
                .zip(&tensors)
                .map(|(x, t)| (*x, rows(t.dims()).1))
                .collect(),
        })
    }
}

impl Tape<'_, '_> {
    fn reshape(&mut self, x: Id, shape: &[usize]) -> OpResult {
        let (value, needs) = self.float(x)?;
        let y = value.reshape(dims(&value, shape)).map_err(say)?;
        self.push(y, needs, || Op::Reshape {
            x,
            dims: value.dims().to_vec(),
        })
    }
}
