//! Log-probs of chosen tokens from rows of logits, and the gradient back to the logits.
//!
//! log p(y) = z_y - log Σ e^z;  d loss / d z = Σ_targets slope · (onehot(y) - softmax(z)).

use candle_core::Tensor;
use rayon::prelude::*;

use super::{Values, change, math};
use crate::{Error, Result, Wanted};

/// log Σ e^z of every row.
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

/// The vocabulary, which all wanted tokens must lie in.
pub fn check(logits: &Tensor, wanted: &[Wanted]) -> Result<usize> {
    let (_, vocab) = logits.dims2()?;
    match wanted.iter().find(|w| w.token as usize >= vocab) {
        Some(w) => Err(Error::rule(format!(
            "token {} is outside the model's vocabulary of {vocab}",
            w.token
        ))),
        None => Ok(vocab),
    }
}

/// Writes the log-prob of every wanted token to its target's place.
pub fn log_probs(logits: &Tensor, sums: &[f64], wanted: &[Wanted], out: &mut [f64]) -> Result<()> {
    let vocab = check(logits, wanted)?;
    let logits = Values::of(logits)?;
    for w in wanted {
        out[w.target] = f64::from(logits[w.row * vocab + w.token as usize]) - sums[w.row];
    }
    Ok(())
}

/// Turns logits, in place, into the gradient to them. `slope` answers d loss / d log p by target.
pub fn logits_gradient(
    logits: &Tensor,
    sums: &[f64],
    wanted: &[Wanted],
    slope: &(dyn Fn(usize) -> f64 + Sync),
) -> Result<()> {
    let (rows, vocab) = logits.dims2()?;
    let mut total = vec![0f64; rows];
    for w in wanted {
        total[w.row] += slope(w.target);
    }
    change(logits, |logits| {
        logits
            .par_chunks_mut(vocab)
            .enumerate()
            .for_each(|(row, z)| {
                if total[row] == 0.0 {
                    z.fill(0.0);
                } else {
                    // e^(z - lse) with the lse split, since z - (f32)lse would lose the lse's last
                    // digits
                    let most = sums[row] as f32;
                    let rest = (f64::from(most) - sums[row]).exp();
                    math::exp_scaled(z, most, (-total[row] * rest) as f32);
                }
            });
        for w in wanted {
            logits[w.row * vocab + w.token as usize] += slope(w.target) as f32;
        }
    })
}
