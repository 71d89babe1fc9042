//! Functions of every element, binary functions, dropout.

use candle_core::{DType, Tensor};
use randori_cuda::{
    Ptr,
    ops::{
        binary::{self, ToSecond},
        elementwise as ops,
        softmax::SoftMax,
    },
};
use randori_sdk::seam::{Binary, Unary};

use super::{float, gpu, maybe, ptr, room};
use crate::{Result, beside, rows};

pub fn unary(op: Unary, x: &Tensor) -> Result<Tensor> {
    let y = room(x, x.dims())?; // every value is written
    let (from, to) = (ptr(x)?, ptr(&y)?);
    match op {
        Unary::Softmax => rows_of(x)?.forward(gpu()?, from, to)?,
        f => ops::unary(gpu()?, f.name(), float(x)?, x.elem_count(), from, to)?,
    }
    Ok(y)
}

pub fn unary_backward(op: Unary, saved: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let dx = room(dy, dy.dims())?; // every value is written
    let (saved, from, to) = (ptr(saved)?, ptr(dy)?, ptr(&dx)?);
    match op {
        Unary::Softmax => rows_of(dy)?.backward(gpu()?, saved, from, to)?,
        f => {
            let (float, n) = (float(dy)?, dy.elem_count());
            ops::unary_backward(gpu()?, f.name(), float, n, saved, from, to)?;
        }
    }
    Ok(dx)
}

fn rows_of(x: &Tensor) -> Result<SoftMax> {
    let (rows, width) = rows(x.dims());
    Ok(SoftMax {
        float: float(x)?,
        rows,
        width,
    })
}

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

pub fn binary(op: Binary, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let y = room(a, a.dims())?; // every value is written
    let (left, right) = ((ptr(a)?, a.dims()), (ptr(b)?, b.dims()));
    binary::binary(gpu()?, two(op), float(a)?, left, right, ptr(&y)?)?;
    Ok(y)
}

/// silu(g)·u, of one shape.
pub fn swiglu(g: &Tensor, u: &Tensor) -> Result<Tensor> {
    let y = room(u, u.dims())?; // every value is written
    ops::swiglu(
        gpu()?,
        float(u)?,
        u.elem_count(),
        ptr(g)?,
        ptr(u)?,
        ptr(&y)?,
    )?;
    Ok(y)
}

/// Its gradients to g and u.
pub fn swiglu_backward(g: &Tensor, u: &Tensor, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    let (dg, du) = (room(dy, dy.dims())?, room(dy, dy.dims())?); // every value is written
    let (gate, up, from) = (ptr(g)?, ptr(u)?, ptr(dy)?);
    let (to_gate, to_up) = (ptr(&dg)?, ptr(&du)?);
    let n = dy.elem_count();
    ops::swiglu_backward(gpu()?, float(dy)?, n, gate, up, from, to_gate, to_up)?;
    Ok((dg, du))
}

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

/// a·b of each row (the first axis): (rows, 1).
pub fn row_dots(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let size = (a.dims()[0], a.dims()[1..].iter().product::<usize>());
    let (a, b) = (a.reshape(size)?, b.reshape(size)?);
    // what a factor of each row would get
    binary_backward_b(Binary::Mul, Some(&a), None, &[size.0, 1], &b)
}

/// a += b, in place.
pub fn add_onto(a: &Tensor, b: &Tensor) -> Result<()> {
    let (from, to): (Ptr, Ptr) = (ptr(b)?, ptr(a)?);
    Ok(ops::add_onto(gpu()?, float(a)?, a.elem_count(), from, to)?)
}

/// x with the mask of `randori_lora::dropout` on it.
pub fn drop_out(x: &Tensor, p: f32, keys: &[u64], salt: u64) -> Result<Tensor> {
    let y = room(x, x.dims())?; // every value is written
    // candle has no u64; the kernel reads the same 64 bits
    let bits: Vec<i64> = keys.iter().map(|key| key.cast_signed()).collect();
    let bits = gpu()?.upload(&bits)?;
    let (from, to, keys) = (ptr(x)?, ptr(&y)?, (ptr(&bits)?, keys.len()));
    ops::dropout(gpu()?, float(x)?, x.elem_count(), from, p, keys, salt, to)?;
    Ok(y)
}

/// Writes values over a tensor's.
pub fn replace(y: &Tensor, values: Tensor) -> Result<()> {
    let new = beside(values, y)?;
    let bytes = y.elem_count() * y.dtype().size_in_bytes();
    Ok(gpu()?.copy(ptr(&new)?, ptr(y)?, bytes)?)
}
