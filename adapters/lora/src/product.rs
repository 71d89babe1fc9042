//! Reference definition of the update's product with its backward, and the merge. The engine
//! computes the same in place in its own kernels and is tested against this. All tensors are f32
//! and contiguous; n counts rows (tokens).

use candle_core::{DType, Tensor};

use crate::{Error, Result, Update, init::word};

/// scale · B·A·x for every row.
///
/// `x` (n, in), `a` (r, in), `b` (out, r) -> the update (n, out), and x·Aᵀ (n, r), an input of
/// [`backward`].
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

/// The merged weight in f32, whatever W's dtype: W + scale · B·A (out, in); with DoRA each of its
/// rows is scaled to its magnitude, m · (W + scale · B·A) / ‖W + scale · B·A‖.
///
/// # Errors
/// Shapes that do not fit.
pub fn merge(w: &Tensor, update: &Update) -> Result<Tensor> {
    let (outputs, inputs) = w.dims2()?;
    let Update {
        a,
        b,
        scale,
        magnitude,
    } = update;
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
    let delta = (b.to_dtype(DType::F32)? * *scale)?.matmul(&a.to_dtype(DType::F32)?)?;
    let sum = (w.to_dtype(DType::F32)? + delta)?;
    let Some(magnitude) = magnitude else {
        return Ok(sum);
    };
    if magnitude.dims() != [outputs] {
        return Err(Error::rule(format!(
            "a magnitude for each of {outputs} outputs must have the shape [{outputs}], not {:?}",
            magnitude.dims()
        )));
    }
    let factors: Vec<f32> = row_squares(&sum)?
        .into_iter()
        .zip(magnitude.to_dtype(DType::F32)?.to_vec1::<f32>()?)
        .map(|(square, m)| factor(m, square.sqrt()))
        .collect();
    Ok(sum.broadcast_mul(&Tensor::from_vec(factors, (outputs, 1), w.device())?)?)
}

/// The factor m / ‖row‖; 0 for a row of zeros, which stays zero.
fn factor(magnitude: f32, norm: f64) -> f32 {
    if norm > 0.0 {
        (f64::from(magnitude) / norm) as f32
    } else {
        0.0
    }
}

/// ‖row‖² of every row of a matrix (out, in) of any float dtype.
///
/// # Errors
/// A tensor without exactly two axes.
pub fn row_squares(w: &Tensor) -> Result<Vec<f64>> {
    let (_, inputs) = w.dims2()?;
    let values = w.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let square = |row: &[f32]| row.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
    Ok(values.chunks(inputs.max(1)).map(square).collect())
}

/// DoRA: ‖W + scale · B·A‖ of every row, without storing the sum: ‖w‖² + 2 scale · b·(A·w) + scale²
/// · b·(A·Aᵀ)·b for the rows w of W and b of B.
///
/// `squares` are W's own ‖w‖²; `aw` is A·Wᵀ (rank, out).
///
/// # Errors
/// Shapes that do not fit.
pub fn row_norms(
    squares: &[f64],
    aw: &Tensor,
    a: &Tensor,
    b: &Tensor,
    scale: f64,
) -> Result<Vec<f32>> {
    let (outputs, rank) = b.dims2()?;
    if aw.dims2()? != (rank, outputs) || squares.len() != outputs {
        return Err(Error::rule(format!(
            "row norms of {outputs} outputs and rank {rank} want A·Wᵀ of that shape, not {:?}, and {outputs} squares, not {}",
            aw.dims(),
            squares.len()
        )));
    }
    let aw = aw.t()?.contiguous()?.flatten_all()?.to_vec1::<f32>()?; // (out, rank)
    let gram = a.matmul(&a.t()?)?.flatten_all()?.to_vec1::<f32>()?; // (rank, rank)
    let b = b.flatten_all()?.to_vec1::<f32>()?;
    let dot = |x: &[f32], y: &[f32]| -> f64 {
        x.iter()
            .zip(y)
            .map(|(x, y)| f64::from(*x) * f64::from(*y))
            .sum()
    };
    let norm = |row: usize| {
        let at = row * rank..(row + 1) * rank;
        let (b, aw) = (&b[at.clone()], &aw[at]);
        let quadratic: f64 = b
            .iter()
            .zip(gram.chunks(rank))
            .map(|(&bi, g)| f64::from(bi) * dot(g, b))
            .sum();
        let square = squares[row] + 2.0 * scale * dot(b, aw) + scale * scale * quadratic;
        square.max(0.0).sqrt() as f32
    };
    Ok((0..outputs).map(norm).collect())
}

/// Zeroes each element of x (rows, …) with probability `p` and divides the others by 1 - p. A row's
/// mask is a pure function of its key, `salt` (one per projection) and the index in the row: it
/// does not depend on which rows share a batch, and the backward pass is this same function of the
/// gradient.
///
/// # Errors
/// `p` outside 0..1, another number of rows than keys, or another dtype than f32.
pub fn dropout(x: &Tensor, p: f32, keys: &[u64], salt: u64) -> Result<Tensor> {
    if !(0.0..1.0).contains(&p) {
        return Err(Error::rule(format!("a dropout must be in 0..1, not {p}")));
    }
    if x.dims().first() != Some(&keys.len()) {
        return Err(Error::rule(format!(
            "dropout got {} rows' keys for a value of shape {:?}",
            keys.len(),
            x.dims()
        )));
    }
    if p == 0.0 || x.elem_count() == 0 {
        return Ok(x.clone());
    }
    let keep = 1.0 / (1.0 - p);
    let threshold = (f64::from(p) * (1u64 << 24) as f64) as u64;
    let mut values = x.flatten_all()?.to_vec1::<f32>()?;
    let width = values.len() / keys.len();
    for (row, key) in values.chunks_exact_mut(width).zip(keys) {
        let seed = key ^ salt;
        for (i, value) in row.iter_mut().enumerate() {
            let gone = (word(seed, i as u64) >> 40) < threshold;
            *value = if gone { 0.0 } else { *value * keep };
        }
    }
    Ok(Tensor::from_vec(values, x.shape(), x.device())?)
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
