//! Element-wise functions, soft-max, binary functions, SwiGLU and dropout, forward and backward.

use candle_core::{DType, Tensor};
use randori_cuda::ops::{
    binary::{self, ToSecond},
    elementwise as ops,
    softmax::SoftMax,
};
use randori_sdk::seam::{Binary, Unary};

use super::memory::{float, gpu, maybe, ptr, room};
use crate::{Result, rows};

/// f(x); soft-max is over the last axis.
pub fn unary(op: Unary, x: &Tensor) -> Result<Tensor> {
    let y = room(x, x.dims())?; // every value is written
    let (from, to) = (ptr(x)?, ptr(&y)?);
    match op {
        Unary::Softmax => soft_max(x)?.forward(gpu()?, from, to)?,
        f => ops::unary(gpu()?, f.name(), float(x)?, x.elem_count(), from, to)?,
    }
    Ok(y)
}

/// The gradient to x; `saved` is f's argument or its result, as [`Unary::saves_result`] says.
pub fn unary_backward(op: Unary, saved: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let dx = room(dy, dy.dims())?; // every value is written
    let (saved, from, to) = (ptr(saved)?, ptr(dy)?, ptr(&dx)?);
    match op {
        Unary::Softmax => soft_max(dy)?.backward(gpu()?, saved, from, to)?,
        f => {
            let (float, n) = (float(dy)?, dy.elem_count());
            ops::unary_backward(gpu()?, f.name(), float, n, saved, from, to)?;
        }
    }
    Ok(dx)
}

/// The sizes of a soft-max of x.
fn soft_max(x: &Tensor) -> Result<SoftMax> {
    let (rows, width) = rows(x.dims());
    Ok(SoftMax {
        float: float(x)?,
        rows,
        width,
    })
}

/// x · mul + add.
pub fn affine(x: &Tensor, mul: f32, add: f32) -> Result<Tensor> {
    let y = room(x, x.dims())?; // every value is written
    let (from, to) = (ptr(x)?, ptr(&y)?);
    ops::affine(gpu()?, float(x)?, x.elem_count(), from, mul, add, to)?;
    Ok(y)
}

fn two(op: Binary) -> binary::Binary {
    match op {
        Binary::Add => binary::Binary::Add,
        Binary::Sub => binary::Binary::Sub,
        Binary::Mul => binary::Binary::Mul,
        Binary::Div => binary::Binary::Div,
    }
}

/// op(a, b) in a's shape, with b broadcast.
pub fn binary(op: Binary, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let y = room(a, a.dims())?; // every value is written
    let (left, right) = ((ptr(a)?, a.dims()), (ptr(b)?, b.dims()));
    binary::binary(gpu()?, two(op), float(a)?, left, right, ptr(&y)?)?;
    Ok(y)
}

/// silu(g) · u, of one shape.
pub fn swiglu(g: &Tensor, u: &Tensor) -> Result<Tensor> {
    let y = room(u, u.dims())?; // every value is written
    let (gate, up, to) = (ptr(g)?, ptr(u)?, ptr(&y)?);
    ops::swiglu(gpu()?, float(u)?, u.elem_count(), gate, up, to)?;
    Ok(y)
}

/// The gradients of [`swiglu`] to g and u.
pub fn swiglu_backward(g: &Tensor, u: &Tensor, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    let (dg, du) = (room(dy, dy.dims())?, room(dy, dy.dims())?); // every value is written
    let (gate, up, from) = (ptr(g)?, ptr(u)?, ptr(dy)?);
    let (to_gate, to_up) = (ptr(&dg)?, ptr(&du)?);
    let n = dy.elem_count();
    ops::swiglu_backward(gpu()?, float(dy)?, n, gate, up, from, to_gate, to_up)?;
    Ok((dg, du))
}

/// The gradient to b, summed over the broadcast axes. Products need a, quotients a and b.
pub fn binary_backward_b(
    op: Binary,
    a: Option<&Tensor>,
    b: Option<&Tensor>,
    b_dims: &[usize],
    dy: &Tensor,
) -> Result<Tensor> {
    let sum = ToSecond::new(float(dy)?, dy.dims(), b_dims)?;
    let op = two(op);
    let db = room(dy, b_dims)?; // every value is written
    let scratch = gpu()?.room(&[sum.scratch(op).max(1)], DType::F32)?;
    let (a, b) = (maybe(a)?, maybe(b)?);
    sum.run(gpu()?, op, a, b, ptr(dy)?, ptr(&scratch)?, ptr(&db)?)?;
    Ok(db)
}

/// The dot product of each row (the first axis) of a and of b: (rows, 1).
pub fn row_dots(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let size = (a.dims()[0], a.dims()[1..].iter().product::<usize>());
    let (a, b) = (a.reshape(size)?, b.reshape(size)?);
    // it is the gradient to a factor of each row
    binary_backward_b(Binary::Mul, Some(&a), None, &[size.0, 1], &b)
}

/// a += b.
pub fn add_onto(a: &Tensor, b: &Tensor) -> Result<()> {
    let (from, to) = (ptr(b)?, ptr(a)?);
    Ok(ops::add_onto(gpu()?, float(a)?, a.elem_count(), from, to)?)
}

/// Dropout of x (rows, width) with the masks of `randori_lora::dropout`, one key a row.
pub fn dropout(x: &Tensor, p: f32, keys: &[u64], salt: u64) -> Result<Tensor> {
    let y = room(x, x.dims())?; // every value is written
    // candle has no u64; the kernel reads the same 64 bits
    let bits: Vec<i64> = keys.iter().map(|key| key.cast_signed()).collect();
    let bits = gpu()?.upload(&bits)?;
    let (from, to, keys) = (ptr(x)?, ptr(&y)?, (ptr(&bits)?, keys.len()));
    ops::dropout(gpu()?, float(x)?, x.elem_count(), from, p, keys, salt, to)?;
    Ok(y)
}
