//! The update's product with its backward, and the merge. All tensors are f32 and contiguous; n counts rows (tokens).

use candle_core::{DType, Tensor};

use crate::{Error, Result, init::word};

/// scale · B·A·x for every row.
///
/// `x` (n, in), `a` (r, in), `b` (out, r) -> the update (n, out) and x·Aᵀ (n, r), which [`backward`] wants back.
///
/// # Errors
/// Shapes that do not fit, or another dtype than f32.
pub fn forward(x: &Tensor, a: &Tensor, b: &Tensor, scale: f64) -> Result<(Tensor, Tensor)> {
    check(x, a, b)?;
    let xa = x.matmul(&a.t()?)?; // (n, r)
    let delta = (&xa * scale)?.matmul(&b.t()?)?; // (n, out)
    Ok((delta, xa))
}

/// Gradients of [`forward`]: `dy` (n, out) -> dx (n, in), dA (r, in), dB (out, r).
///
/// With u = scale · dy·B: dx = u·A, dA = uᵀ·x, dB = scale · dyᵀ·(x·Aᵀ).
///
/// # Errors
/// Shapes that do not fit, or another dtype than f32.
pub fn backward(
    x: &Tensor,
    xa: &Tensor,
    a: &Tensor,
    b: &Tensor,
    scale: f64,
    dy: &Tensor,
) -> Result<(Tensor, Tensor, Tensor)> {
    check(x, a, b)?;
    let u = (dy.matmul(b)? * scale)?; // (n, r)
    let dx = u.matmul(a)?; // (n, in)
    let da = u.t()?.matmul(x)?; // (r, in)
    let db = dy.t()?.matmul(&(xa * scale)?)?; // (out, r)
    Ok((dx, da, db))
}

/// W + scale · B·A in f32, whatever W's dtype: (out, in).
///
/// # Errors
/// Shapes that do not fit.
pub fn merge(w: &Tensor, a: &Tensor, b: &Tensor, scale: f64) -> Result<Tensor> {
    let (outputs, inputs) = w.dims2()?;
    let (rank, a_inputs) = a.dims2()?;
    let (b_outputs, b_rank) = b.dims2()?;
    if (a_inputs, b_outputs) != (inputs, outputs) || rank != b_rank {
        return Err(Error::rule(format!(
            "cannot merge A {:?} and B {:?} into a weight of shape {:?}: A must be (rank, {inputs}) and B ({outputs}, rank)",
            a.dims(),
            b.dims(),
            w.dims()
        )));
    }
    let delta = (b.to_dtype(DType::F32)? * scale)?.matmul(&a.to_dtype(DType::F32)?)?;
    Ok((w.to_dtype(DType::F32)? + delta)?)
}

/// Zeroes each element with probability `p` and divides the others by 1 - p. The mask is a pure function of `seed` and
/// the index, so the backward pass is this same function of the gradient.
///
/// # Errors
/// `p` outside 0..1, or another dtype than f32.
pub fn dropout(x: &Tensor, p: f32, seed: u64) -> Result<Tensor> {
    if !(0.0..1.0).contains(&p) {
        return Err(Error::rule(format!("a dropout must be in 0..1, not {p}")));
    }
    if p == 0.0 {
        return Ok(x.clone());
    }
    let keep = 1.0 / (1.0 - p);
    let threshold = (f64::from(p) * (1u64 << 24) as f64) as u64;
    let values = x.flatten_all()?.to_vec1::<f32>()?;
    let masked: Vec<f32> = values
        .iter()
        .enumerate()
        .map(|(i, &v)| {
            if (word(seed, i as u64) >> 40) < threshold {
                0.0
            } else {
                v * keep
            }
        })
        .collect();
    Ok(Tensor::from_vec(masked, x.shape(), x.device())?)
}

fn check(x: &Tensor, a: &Tensor, b: &Tensor) -> Result<()> {
    let (inputs, rank) = (x.dims2()?.1, b.dims2()?.1);
    if a.dims2()? != (rank, inputs) {
        return Err(Error::rule(format!(
            "an input of {inputs} features and a B of shape {:?} want an A of shape ({rank}, {inputs}), not {:?}",
            b.dims(),
            a.dims()
        )));
    }
    if [x, a, b].iter().any(|t| t.dtype() != DType::F32) {
        return Err(Error::rule(format!(
            "LoRA computes in f32; got x {:?}, A {:?}, B {:?}",
            x.dtype(),
            a.dtype(),
            b.dtype()
        )));
    }
    Ok(())
}
