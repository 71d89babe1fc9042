//! The reverse pass over what a tape recorded.

use randori_kernels::{Error, ExpertOutput, ExpertTokens, Kernels, Result, Shaped};
use randori_sdk::seam::{Binary, Id, Unary};

use super::{
    BinaryOp, ConvOp, Factor, Gradients, Linear, NormOp, Op, Pass, Recorded, SwiGluOp, Vector,
    carried::{CarriedGrads, Grad},
    forward::flat,
};

/// Gradients to a call's values.
struct Arena<'k, K: Kernels> {
    kernels: &'k K,
    grads: Vec<Option<Grad<K::Tensor>>>,
    needed: Vec<bool>,
}

impl<K: Kernels> Arena<'_, K> {
    fn needs(&self, id: Id) -> bool {
        self.needed[id as usize - 1]
    }

    fn take(&mut self, id: Id) -> Option<K::Tensor> {
        self.grads[id as usize - 1].take().map(|g| g.tensor)
    }

    /// Adds to a value's gradient. `owned`: `tensor` was made for this and is held by nobody else.
    fn add(&mut self, id: Id, tensor: K::Tensor, owned: bool) -> Result<()> {
        if !self.needs(id) {
            return Ok(());
        }
        let slot = &mut self.grads[id as usize - 1];
        *slot = Some(sum(self.kernels, slot.take(), Grad { tensor, owned })?);
        Ok(())
    }
}

/// What is known of a gradient, and more of it.
fn sum<K: Kernels>(
    kernels: &K,
    old: Option<Grad<K::Tensor>>,
    new: Grad<K::Tensor>,
) -> Result<Grad<K::Tensor>> {
    Ok(match old {
        None => new,
        Some(old) if old.owned => {
            kernels.add_onto(&old.tensor, &new.tensor)?;
            old
        }
        Some(old) if new.owned => {
            kernels.add_onto(&new.tensor, &old.tensor)?;
            new
        }
        Some(old) => Grad {
            tensor: kernels.binary(Binary::Add, &old.tensor, &new.tensor)?,
            owned: true,
        },
    })
}

impl<K: Kernels> Factor<K> {
    fn value(self, kernels: &K) -> Result<K::Tensor> {
        match self {
            Factor::Value(value) => Ok(value),
            Factor::Silu(x) => kernels.unary(Unary::Silu, &x),
        }
    }
}

impl<K: Kernels> Recorded<K> {
    /// From the gradients to the result and to the values that it has handed on, which it takes
    /// from `carried`: adds the weights' gradients to `grads`, those of the carried values that it
    /// took over to `carried`, and answers the input's, if it needs one. What each op saved is
    /// freed as soon as it is done.
    pub(crate) fn backward(
        self,
        pass: &Pass<K>,
        dout: Option<K::Tensor>,
        carried: &mut CarriedGrads<K::Tensor>,
        grads: &mut Gradients<K>,
    ) -> Result<Option<K::Tensor>> {
        let count = self.needed.len();
        let mut arena = Arena {
            kernels: pass.kernels,
            grads: (0..count).map(|_| None).collect(),
            needed: self.needed,
        };
        if let Some(dout) = dout {
            arena.add(self.out, dout, false)?;
        }
        for (name, id) in &self.carries {
            if let Some(Grad { tensor, owned }) = carried.remove(name) {
                arena.add(*id, tensor, owned)?;
            }
        }
        for node in self.nodes.into_iter().rev() {
            // a value that nothing used has no gradient
            if let Some(dy) = arena.take(node.out) {
                step(pass, node.op, dy, &mut arena, grads)?;
            }
        }
        for (name, id) in self.taken {
            if let Some(grad) = arena.grads[id as usize - 1].take() {
                let known = sum(pass.kernels, carried.remove(&name), grad)?;
                carried.insert(name, known);
            }
        }
        Ok(arena.take(1))
    }
}

fn step<K: Kernels>(
    pass: &Pass<K>,
    op: Op<K>,
    dy: K::Tensor,
    arena: &mut Arena<K>,
    grads: &mut Gradients<K>,
) -> Result<()> {
    let kernels = pass.kernels;
    match op {
        Op::Embed { ids, name, shape } => {
            let dtable = slot(kernels, grads, &name, &[shape.0, shape.1], &dy)?;
            kernels.lookup_gradient(&ids, &dy, dtable)
        }
        Op::Linear(op) => project(pass, *op, dy, arena, grads),
        Op::Norm(op) => normalise(kernels, op, &dy, arena, grads),
        Op::Rope { x, table } => arena.add(x, kernels.rotate(&dy, &table, true)?, true),
        Op::Attention {
            ids,
            values: [q, k, v],
            sinks,
            heads,
            out,
            sums,
        } => {
            let (qkv, results) = ([&q, &k, &v], (&out, &sums));
            let grads = kernels.attention_backward(&pass.plan, qkv, &heads, results, &dy)?;
            if let Some((id, sinks)) = sinks.filter(|(id, _)| arena.needs(*id)) {
                let dz = kernels.sinks_gradient(&sinks, &heads, results, &dy)?;
                arena.add(id, dz, true)?;
            }
            let mut each = ids.into_iter().zip(grads);
            each.try_for_each(|(id, grad)| arena.add(id, grad, true))
        }
        Op::Conv(op) => convolve(pass, *op, &dy, arena, grads),
        Op::DeltaRule { ids, values } => {
            let inputs = values.each_ref();
            let grads = kernels.delta_rule_backward(&pass.plan, inputs, &dy)?;
            let mut each = ids.into_iter().zip(grads);
            each.try_for_each(|(id, grad)| arena.add(id, grad, true))
        }
        Op::Gather { x, rows, dims } => {
            let dx = kernels.zeros(&dims, &dy)?;
            kernels.scatter(&dy, &rows, &dx)?;
            arena.add(x, dx, true)
        }
        Op::Moe {
            router,
            routing,
            parts,
        } => mix(router, &routing, &parts, &dy, arena),
        Op::Unary { op, x, saved } => arena.add(x, kernels.unary_backward(op, &saved, &dy)?, true),
        Op::Binary(op) => combine(kernels, op, dy, arena),
        Op::SwiGlu(op) => swiglu(kernels, op, &dy, arena),
        Op::Affine { x, mul } => arena.add(x, kernels.affine(&dy, mul, 0.0)?, true),
        Op::Reshape { x, dims } => arena.add(x, dy.in_shape(&dims)?, false),
        Op::Narrow { x, start, width } => arena.add(x, kernels.widen(&dy, start, width)?, true),
        Op::Concat { xs } => {
            let mut start = 0;
            for (x, width) in xs {
                if arena.needs(x) {
                    arena.add(x, kernels.narrow(&dy, start, width)?, true)?;
                }
                start += width;
            }
            Ok(())
        }
        Op::Param { name, shape } => {
            let numbers = shape.iter().product();
            let sum = slot(kernels, grads, &name, &shape, &dy)?;
            kernels.bias_gradient(&dy.in_shape(&[1, numbers])?, sum)
        }
    }
}

/// A norm: dx, and the gradients of scale and bias where they are trained.
fn normalise<K: Kernels>(
    kernels: &K,
    op: NormOp<K>,
    dy: &K::Tensor,
    arena: &mut Arena<K>,
    grads: &mut Gradients<K>,
) -> Result<()> {
    let w = &op.scale.values;
    if let Some(bias) = &op.bias {
        bias_gradient(kernels, bias, dy, grads)?;
    }
    if let Some(name) = &op.scale.own {
        let dw = slot(kernels, grads, name, w.dims(), dy)?;
        kernels.scale_gradient(&op.x_value, &op.stats, dy, dw)?;
    }
    if arena.needs(op.x) {
        let dx = kernels.norm_backward(&op.x_value, w, op.norm, &op.stats, dy)?;
        arena.add(op.x, dx, true)?;
    }
    Ok(())
}

/// A convolution: dx, and the gradients of taps and bias where they are trained.
fn convolve<K: Kernels>(
    pass: &Pass<K>,
    op: ConvOp<K>,
    dy: &K::Tensor,
    arena: &mut Arena<K>,
    grads: &mut Gradients<K>,
) -> Result<()> {
    let (kernels, w) = (pass.kernels, &op.weight.values);
    if let Some(bias) = &op.bias {
        bias_gradient(kernels, bias, dy, grads)?;
    }
    if let (Some(name), Some(x)) = (&op.weight.own, &op.x_value) {
        let dw = slot(kernels, grads, name, w.dims(), dy)?;
        kernels.taps_gradient(&pass.plan, x, dy, dw)?;
    }
    match arena.needs(op.x) {
        true => arena.add(op.x, kernels.convolve_backward(&pass.plan, w, dy)?, true),
        false => Ok(()),
    }
}

/// a ∘ b: da and db, each where it is needed.
fn combine<K: Kernels>(
    kernels: &K,
    BinaryOp {
        op,
        a,
        b,
        a_value,
        b_value,
        b_dims,
    }: BinaryOp<K>,
    dy: K::Tensor,
    arena: &mut Arena<K>,
) -> Result<()> {
    if arena.needs(b) {
        let same = op == Binary::Add && dy.dims() == b_dims;
        let db = match same {
            true => dy.clone(),
            false => {
                let a_value = a_value.map(|a| a.value(kernels)).transpose()?;
                let (a, b) = (a_value.as_ref(), b_value.as_ref());
                kernels.binary_backward_b(op, a, b, &b_dims, &dy)?
            }
        };
        arena.add(b, db, !same)?;
    }
    if arena.needs(a) {
        let (da, owned) = match &b_value {
            // of a·b or a/b
            Some(b) => (kernels.binary(op, &dy, b)?, true),
            None => (dy, false),
        };
        arena.add(a, da, owned)?;
    }
    Ok(())
}

/// silu(g)·u: dg and du, each where it is needed.
fn swiglu<K: Kernels>(
    kernels: &K,
    SwiGluOp { gate, up, g, u }: SwiGluOp<K>,
    dy: &K::Tensor,
    arena: &mut Arena<K>,
) -> Result<()> {
    match (arena.needs(gate), arena.needs(up)) {
        (true, true) => {
            let (dg, du) = kernels.swiglu_backward(&g, &u, dy)?;
            arena.add(gate, dg, true)?;
            arena.add(up, du, true)
        }
        (true, false) => {
            let da = kernels.binary(Binary::Mul, dy, &u)?;
            let dg = kernels.unary_backward(Unary::Silu, &g, &da)?;
            arena.add(gate, dg, true)
        }
        (false, _) => {
            let a = kernels.unary(Unary::Silu, &g)?;
            arena.add(up, kernels.binary(Binary::Mul, dy, &a)?, true)
        }
    }
}

/// The place a gradient is added to, zero at first.
fn slot<'a, K: Kernels>(
    kernels: &K,
    grads: &'a mut Gradients<K>,
    name: &str,
    dims: &[usize],
    like: &K::Tensor,
) -> Result<&'a K::Tensor> {
    if !grads.contains_key(name) {
        grads.insert(name.into(), kernels.zero_gradient(dims, like)?);
    }
    grads
        .get(name)
        .ok_or_else(|| Error::rule(format!("no gradient for `{name}`")))
}

fn bias_gradient<K: Kernels>(
    kernels: &K,
    bias: &Vector<K>,
    dy: &K::Tensor,
    grads: &mut Gradients<K>,
) -> Result<()> {
    match &bias.own {
        Some(name) => {
            let db = slot(kernels, grads, name, bias.values.dims(), dy)?;
            kernels.bias_gradient(dy, db)
        }
        None => Ok(()),
    }
}

/// A projection: dx = dy W (+ the update's), and the gradients of what is trained.
fn project<K: Kernels>(
    pass: &Pass<K>,
    op: Linear<K>,
    dy: K::Tensor,
    arena: &mut Arena<K>,
    grads: &mut Gradients<K>,
) -> Result<()> {
    let kernels = pass.kernels;
    let dy = flat(&dy)?; // (n, out)
    let outputs = dy.dims()[1];
    if let Some(bias) = &op.bias {
        bias_gradient(kernels, bias, &dy, grads)?;
    }
    if let (Some(name), Some(x)) = (&op.matrix.own, &op.x_value) {
        let dw = slot(kernels, grads, name, &[outputs, x.dims()[1]], &dy)?;
        kernels.weight_gradient(x, &dy, dw)?;
    }
    let dy = match &op.gain {
        Some((gain, y)) => {
            let name = format!("{}.lora_magnitude_vector", op.name);
            let dm = slot(kernels, grads, &name, &[outputs], &dy)?;
            let bias = op.bias.as_ref().map(|b| &b.values);
            kernels.magnitude_gradient(y, bias, &dy, gain, dm)?;
            let dz = dy.duplicate()?; // others may hold dy
            kernels.scale_columns(&dz, gain)?;
            dz
        }
        None => dy,
    };
    let dx = match arena.needs(op.x) {
        true => Some(kernels.product_backward(&dy, &op.matrix.weight)?),
        false => None,
    };
    if let (Some(u), Some(x), Some(xa)) = (&op.update, &op.x_value, &op.xa) {
        let rows = op.rows.as_ref();
        let x = pass.drop_out(x, &op.name, u.dropout, rows)?;
        let (inputs, rank) = (x.dims()[1], xa.dims()[1]);
        let (a, b) = (format!("{}.lora_A", op.name), format!("{}.lora_B", op.name));
        let da = slot(kernels, grads, &a, &[rank, inputs], &dy)?.clone();
        let db = slot(kernels, grads, &b, &[outputs, rank], &dy)?;
        let through = kernels
            .update_backward(&x, xa, &u.lora, &dy, [&da, db])
            .map_err(|e| Error::rule(format!("`{}`: {e}", op.name)))?;
        match &dx {
            Some(dx) if pass.drops(u.dropout) => {
                let masked = kernels.zeros(dx.dims(), dx)?;
                kernels.update_input_gradient(&through, &u.lora, &masked)?;
                let masked = pass.drop_out(&masked, &op.name, u.dropout, rows)?;
                kernels.add_onto(dx, &masked)?;
            }
            Some(dx) => kernels.update_input_gradient(&through, &u.lora, dx)?,
            None => {}
        }
    }
    match dx {
        Some(dx) => arena.add(op.x, dx.in_shape(&op.x_dims)?, true),
        None => Ok(()),
    }
}

/// A mixture of experts: gradients to the experts' outputs and to the router's logits.
fn mix<K: Kernels>(
    router: Id,
    routing: &K::Routing,
    parts: &[(Id, ExpertTokens<K>, Option<K::Tensor>)],
    dout: &K::Tensor,
    arena: &mut Arena<K>,
) -> Result<()> {
    let mixed = parts.iter().map(|(y, tokens, value)| ExpertOutput {
        tokens,
        value: value.clone(),
        needs: arena.needs(*y),
    });
    let mixed: Vec<ExpertOutput<K>> = mixed.collect();
    let trained = arena.needs(router);
    let (outputs, logits) = arena.kernels.mix_backward(routing, &mixed, trained, dout)?;
    for ((y, ..), dy) in parts.iter().zip(outputs) {
        if let Some(dy) = dy {
            arena.add(*y, dy, true)?;
        }
    }
    match logits {
        Some(logits) => arena.add(router, logits, true),
        None => Ok(()),
    }
}
