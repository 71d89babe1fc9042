//! Log-probs of target tokens, and the gradient to the logits: log p(y) = z_y - log Σ e^z, and
//! d loss / d z = Σ slope · (onehot(y) - softmax(z)) over a row's targets y.

use candle_core::Tensor;
use rayon::prelude::*;

use super::{Values, change, math};
use crate::{ChunkTarget, Error, Result};

/// log Σ e^z of every row of logits.
pub fn log_sum_exp(logits: &Tensor) -> Result<Vec<f64>> {
    let (_, vocab) = logits.dims2()?;
    let logits = Values::of(logits)?;
    let logits: &[f32] = &logits;
    Ok(logits
        .par_chunks(vocab)
        .map(|row| {
            let most = math::max(row);
            f64::from(most) + math::sum_exp(row, most).ln()
        })
        .collect())
}

/// The size of the vocabulary, after a check that it has all target tokens.
pub fn check(logits: &Tensor, targets: &[ChunkTarget]) -> Result<usize> {
    let (_, vocab) = logits.dims2()?;
    match targets.iter().find(|t| t.token as usize >= vocab) {
        Some(t) => Err(Error::rule(format!(
            "token {} is outside the model's vocabulary of {vocab}",
            t.token
        ))),
        None => Ok(vocab),
    }
}

/// Writes the targets' log-probs to `out`, each at its target's index.
pub fn log_probs(
    logits: &Tensor,
    sums: &[f64],
    targets: &[ChunkTarget],
    out: &mut [f64],
) -> Result<()> {
    let vocab = check(logits, targets)?;
    let logits = Values::of(logits)?;
    for t in targets {
        out[t.target] = f64::from(logits[t.row * vocab + t.token as usize]) - sums[t.row];
    }
    Ok(())
}

/// Overwrites logits with the gradient to them. `slope` is d loss / d log p by target.
pub fn logits_gradient(
    logits: &Tensor,
    sums: &[f64],
    targets: &[ChunkTarget],
    slope: &(dyn Fn(usize) -> f64 + Sync),
) -> Result<()> {
    let (rows, vocab) = logits.dims2()?;
    let mut total = vec![0f64; rows];
    for t in targets {
        total[t.row] += slope(t.target);
    }
    change(logits, |logits| {
        logits
            .par_chunks_mut(vocab)
            .enumerate()
            .for_each(|(row, z)| {
                if total[row] == 0.0 {
                    z.fill(0.0);
                } else {
                    // e^(z - lse) in two factors, since z - lse in f32 would lose lse's last digits
                    let most = sums[row] as f32;
                    let rest = (f64::from(most) - sums[row]).exp();
                    math::exp_scaled(z, most, (-total[row] * rest) as f32);
                }
            });
        for t in targets {
            logits[t.row * vocab + t.token as usize] += slope(t.target) as f32;
        }
    })
}
