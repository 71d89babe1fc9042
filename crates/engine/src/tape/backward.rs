//! The reverse pass over what a tape recorded.

use candle_core::{DType, Device, Tensor};
use randori_sdk::seam::{Binary, Id, Unary};

use super::{Factor, Linear, Matrix, Op, Pass, Recorded, Vector, forward::flat};
use crate::{
    Error, Grads, Result,
    kernels::{
        self, attention_backward, elementwise, layout, linear, low_rank, norm, rope,
        route::{self, Routing},
    },
};

/// The gradient to one value, as far as it is known.
struct Grad {
    tensor: Tensor,
    /// Whether nobody else holds its memory, so that more may be added in place.
    owned: bool,
}

/// Gradients to a call's values.
struct Arena {
    grads: Vec<Option<Grad>>,
    needed: Vec<bool>,
}

impl Arena {
    fn needs(&self, id: Id) -> bool {
        self.needed[id as usize - 1]
    }

    fn take(&mut self, id: Id) -> Option<Tensor> {
        self.grads[id as usize - 1].take().map(|g| g.tensor)
    }

    /// Adds to a value's gradient. `owned`: `tensor` was made for this and is held by nobody else.
    fn add(&mut self, id: Id, tensor: Tensor, owned: bool) -> Result<()> {
        if !self.needs(id) {
            return Ok(());
        }
        let slot = &mut self.grads[id as usize - 1];
        *slot = Some(match slot.take() {
            None => Grad { tensor, owned },
            Some(old) if old.owned => {
                layout::add_onto(&old.tensor, &tensor)?;
                old
            }
            Some(old) if owned => {
                layout::add_onto(&tensor, &old.tensor)?;
                Grad { tensor, owned }
            }
            Some(old) => Grad {
                tensor: elementwise::binary(Binary::Add, &old.tensor, &tensor)?,
                owned: true,
            },
        });
        Ok(())
    }
}

impl Factor {
    fn value(self) -> Result<Tensor> {
        match self {
            Factor::Kept(value) => Ok(value),
            Factor::Silu(x) => elementwise::unary(Unary::Silu, &x),
        }
    }
}

impl Recorded {
    /// From the gradient to the result: adds the weights' gradients to `grads` and answers the input's, if it needs one.
    /// What each op saved is freed as soon as it is done.
    pub(crate) fn backward(
        self,
        pass: &Pass,
        dout: Tensor,
        grads: &mut Grads,
    ) -> Result<Option<Tensor>> {
        let count = self.needed.len();
        let mut arena = Arena {
            grads: (0..count).map(|_| None).collect(),
            needed: self.needed,
        };
        arena.add(self.out, dout, false)?;
        for node in self.nodes.into_iter().rev() {
            // a value that nothing used has no gradient
            if let Some(dy) = arena.take(node.out) {
                step(pass, node.op, dy, &mut arena, grads)?;
            }
        }
        Ok(arena.take(1))
    }
}

fn step(pass: &Pass, op: Op, dy: Tensor, arena: &mut Arena, grads: &mut Grads) -> Result<()> {
    match op {
        Op::Embed { ids, name, shape } => linear::lookup_gradient(
            &ids,
            &dy,
            slot(grads, &name, &[shape.0, shape.1], dy.device())?,
        ),
        Op::Linear(op) => project(pass, *op, dy, arena, grads),
        Op::Norm {
            x,
            x_value,
            stats,
            scale,
            bias,
            norm,
        } => {
            if let Some(bias) = &bias {
                bias_gradient(bias, &dy, grads)?;
            }
            if let Some(name) = &scale.own {
                let dw = slot(grads, name, scale.values.dims(), dy.device())?;
                norm::scale_gradient(&x_value, &stats, &dy, dw)?;
            }
            if arena.needs(x) {
                let w = &scale.values;
                arena.add(x, norm::backward(&x_value, w, norm, &stats, &dy)?, true)?;
            }
            Ok(())
        }
        Op::Rope { x, table } => arena.add(x, rope::turn(&dy, &table, true)?, true),
        Op::Attention {
            ids,
            values: [q, k, v],
            heads,
            result,
        } => {
            #[cfg(feature = "cuda")]
            if kernels::gpu::on(&q) {
                let (dq, dk, dv) =
                    kernels::gpu::attention::backward(pass, [&q, &k, &v], &heads, &result, &dy)?;
                arena.add(ids[0], dq, true)?;
                arena.add(ids[1], dk, true)?;
                return arena.add(ids[2], dv, true);
            }
            let (_, width) = heads.widths();
            let (dq, dk, dv) = pass.with_spans(&k, &v, width, |spans| {
                attention_backward::backward(&q, k.dims(), spans, &heads, &result, &dy)
            })?;
            arena.add(ids[0], dq, true)?;
            arena.add(ids[1], dk, true)?;
            arena.add(ids[2], dv, true)
        }
        Op::Gather { x, rows, dims } => {
            let dx = layout::zeros(&dims, &dy)?;
            layout::scatter(&dy, &rows, None, &dx)?;
            arena.add(x, dx, true)
        }
        Op::Moe {
            router,
            routing,
            parts,
        } => mix(router, &routing, parts, &dy, arena),
        Op::Unary { op, x, saved } => {
            arena.add(x, elementwise::unary_backward(op, &saved, &dy)?, true)
        }
        Op::Binary {
            op,
            a,
            b,
            a_value,
            b_value,
            b_dims,
        } => {
            if arena.needs(b) {
                let same = op == Binary::Add && dy.dims() == b_dims;
                let db = match same {
                    true => dy.clone(),
                    false => {
                        let a_value = a_value.map(Factor::value).transpose()?;
                        let (a, b) = (a_value.as_ref(), b_value.as_ref());
                        elementwise::binary_backward_b(op, a, b, &b_dims, &dy)?
                    }
                };
                arena.add(b, db, !same)?;
            }
            if arena.needs(a) {
                let (da, owned) = match &b_value {
                    Some(b) => (elementwise::binary_backward_a(op, b, &dy)?, true),
                    None => (dy, false),
                };
                arena.add(a, da, owned)?;
            }
            Ok(())
        }
        Op::SwiGlu { gate, up, g, u } => match (arena.needs(gate), arena.needs(up)) {
            (true, true) => {
                let (dg, du) = elementwise::swiglu_backward(&g, &u, &dy)?;
                arena.add(gate, dg, true)?;
                arena.add(up, du, true)
            }
            (true, false) => {
                let da = elementwise::binary(Binary::Mul, &dy, &u)?;
                let dg = elementwise::unary_backward(Unary::Silu, &g, &da)?;
                arena.add(gate, dg, true)
            }
            (false, _) => {
                let a = elementwise::unary(Unary::Silu, &g)?;
                arena.add(up, elementwise::binary(Binary::Mul, &dy, &a)?, true)
            }
        },
        Op::Affine { x, mul } => arena.add(x, elementwise::affine(&dy, mul, 0.0)?, true),
        Op::Reshape { x, dims } => arena.add(x, dy.reshape(dims)?, false),
        Op::Narrow { x, start, width } => arena.add(x, layout::widen(&dy, start, width)?, true),
        Op::Concat { xs } => {
            let mut start = 0;
            for (x, width) in xs {
                if arena.needs(x) {
                    arena.add(x, layout::narrow(&dy, start, width)?, true)?;
                }
                start += width;
            }
            Ok(())
        }
    }
}

/// The place a gradient is added to, zero at first.
fn slot<'a>(
    grads: &'a mut Grads,
    name: &str,
    dims: &[usize],
    device: &Device,
) -> Result<&'a Tensor> {
    if !grads.contains_key(name) {
        grads.insert(name.into(), Tensor::zeros(dims, DType::F32, device)?);
    }
    grads
        .get(name)
        .ok_or_else(|| Error::rule(format!("no gradient for `{name}`")))
}

fn bias_gradient(bias: &Vector, dy: &Tensor, grads: &mut Grads) -> Result<()> {
    match &bias.own {
        Some(name) => {
            linear::bias_gradient(dy, slot(grads, name, bias.values.dims(), dy.device())?)
        }
        None => Ok(()),
    }
}

/// A projection: dx = dy W (+ the update's), and the gradients of what is trained.
fn project(
    pass: &Pass,
    op: Linear,
    dy: Tensor,
    arena: &mut Arena,
    grads: &mut Grads,
) -> Result<()> {
    let dy = flat(&dy)?; // (n, out)
    if let Some(bias) = &op.bias {
        bias_gradient(bias, &dy, grads)?;
    }
    if let (Matrix::Own(w, name), Some(x)) = (&op.matrix, &op.x_value) {
        linear::weight_gradient(x, &dy, slot(grads, name, w.dims(), dy.device())?)?;
    }
    let dy = match &op.gain {
        Some((gain, y)) => {
            let name = format!("{}.lora_magnitude_vector", op.name);
            let dm = slot(grads, &name, &[gain.magnitude.len()], dy.device())?;
            let bias = op.bias.as_ref().map(|b| &b.values);
            gain.gradient(y, bias, &dy, dm)?;
            let dz = dy.copy()?; // others may hold dy
            gain.apply(&dz)?;
            dz
        }
        None => dy,
    };
    let mut dx = None;
    if arena.needs(op.x) {
        dx = Some(match &op.matrix {
            Matrix::Frozen(w) | Matrix::Own(w, _) => linear::backward(&dy, w)?,
            Matrix::Quant(w) => linear::quantised_backward(&dy, w)?,
            #[cfg(feature = "cuda")]
            Matrix::Gpu(w) => w.backward(&dy)?,
        });
    }
    if let (Some(u), Some(x), Some(xa)) = (&op.update, &op.x_value, &op.xa) {
        let rows = op.rows.as_deref();
        let x = pass.drop_out(x, &op.name, u.dropout, rows)?;
        let lora = &u.lora;
        let device = dy.device();
        let da = slot(grads, &format!("{}.lora_A", op.name), lora.a.dims(), device)?.clone();
        let db = slot(grads, &format!("{}.lora_B", op.name), lora.b.dims(), device)?.clone();
        let through = low_rank::backward(&x, xa, lora, &dy, &da, &db)
            .map_err(|e| Error::rule(format!("`{}`: {e}", op.name)))?;
        match &dx {
            Some(dx) if pass.dropout.is_some() && u.dropout > 0.0 => {
                let masked = Tensor::zeros(dx.dims(), dx.dtype(), dx.device())?;
                low_rank::through(&through, &lora.a, &masked)?;
                layout::add_onto(dx, &pass.drop_out(&masked, &op.name, u.dropout, rows)?)?;
            }
            Some(dx) => low_rank::through(&through, &lora.a, dx)?,
            None => {}
        }
    }
    match dx {
        Some(dx) => arena.add(op.x, dx.reshape(op.x_dims)?, true),
        None => Ok(()),
    }
}

fn mix(
    router: Id,
    routing: &Routing,
    parts: Vec<(Id, super::Share, Option<Tensor>)>,
    dout: &Tensor,
    arena: &mut Arena,
) -> Result<()> {
    let mut dweights = vec![0f32; routing.places()];
    let mut slopes = Vec::new();
    for (y, share, value) in parts {
        let own = layout::gather(dout, &share.rows)?;
        let slope = value.map(|value| route::weight_gradient(&value, &own));
        if arena.needs(y) {
            arena.add(y, routing.expert_gradient(&share, &own)?, true)?;
        }
        slopes.extend(slope.transpose()?.map(|slope| (share, slope)));
    }
    // only now does a GPU have to be waited for
    for (share, slope) in slopes {
        let slope = kernels::host(&slope)?.flatten_all()?.to_vec1::<f32>()?;
        for (place, d) in share.places.iter().zip(slope) {
            dweights[*place as usize] = d;
        }
    }
    if arena.needs(router) {
        let d = routing.router_gradient(&dweights)?;
        arena.add(router, kernels::beside(d, dout)?, true)?;
    }
    Ok(())
}
