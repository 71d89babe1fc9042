//! Log-probs of chosen tokens from rows of logits, and the gradient back to the logits.
//!
//! log p(y) = z_y - log Σ e^z;  d loss / d z = Σ_targets slope · (onehot(y) - softmax(z)).

use candle_core::Tensor;
use rayon::prelude::*;

#[cfg(feature = "cuda")]
use super::gpu;
use super::{Values, change, math, on_gpu};
use crate::{Error, Result};

/// One wanted log-prob inside a chunk of rows.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    /// Row in the chunk.
    pub(crate) row: usize,
    /// Which token.
    pub(crate) token: u32,
    /// Its place in the plan's list of targets.
    pub(crate) target: usize,
}

/// log Σ e^z of every row.
pub(crate) fn log_sum_exp(logits: &Tensor) -> Result<Vec<f64>> {
    on_gpu!(logits, gpu::logprob::log_sum_exp(logits));
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

/// Writes the log-prob of every wanted token to its target's place.
pub(crate) fn log_probs(
    logits: &Tensor,
    sums: &[f64],
    wanted: &[Wanted],
    out: &mut [f64],
) -> Result<()> {
    let (_, vocab) = logits.dims2()?;
    if let Some(w) = wanted.iter().find(|w| w.token as usize >= vocab) {
        return Err(Error::rule(format!(
            "token {} is outside the model's vocabulary of {vocab}",
            w.token
        )));
    }
    on_gpu!(logits, gpu::logprob::log_probs(logits, sums, wanted, out));
    let logits = Values::of(logits)?;
    for w in wanted {
        out[w.target] = f64::from(logits[w.row * vocab + w.token as usize]) - sums[w.row];
    }
    Ok(())
}

/// Turns logits, in place, into the gradient to them. `slope` answers d loss / d log p by target.
pub(crate) fn into_gradient(
    logits: &Tensor,
    sums: &[f64],
    wanted: &[Wanted],
    slope: impl Fn(usize) -> f64 + Sync,
) -> Result<()> {
    on_gpu!(
        logits,
        gpu::logprob::into_gradient(logits, sums, wanted, &slope)
    );
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
                    // e^(z - lse) with the lse split, since z - (f32)lse would lose the lse's last digits
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
