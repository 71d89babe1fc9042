//! Attention's sinks: a logit of each head in the soft-max of all its queries, whose value is 0.
//!
//! With lse = log Σ e^score over the keys and z the sink, the soft-max's denominator is e^lse +
//! e^z: so lse' = log (e^lse + e^z) and out' = e^(lse - lse') out. Given lse' the backward pass to
//! q, k and v is that without sinks, and dz = -e^(z - lse') Σ dout·out' over the queries.

use candle_core::Tensor;

use super::{Values, change, math, tensor};
use crate::{Heads, Result};

/// Adds the sinks to what attention without them gave: out (tokens, heads, value_dim), which nobody
/// else holds, and log Σ e^score (heads, tokens).
pub fn add(sinks: &Tensor, h: &Heads, out: &Tensor, lse: &mut [f32]) -> Result<()> {
    let sinks = Values::of(sinks)?;
    let tokens = lse.len() / h.heads.max(1);
    let mut kept = vec![0f32; lse.len()];
    for (i, (lse, kept)) in lse.iter_mut().zip(&mut kept).enumerate() {
        let (keys, sink) = (f64::from(*lse), f64::from(sinks[i / tokens]));
        let most = keys.max(sink);
        let all = most + ((keys - most).exp() + (sink - most).exp()).ln();
        *kept = (keys - all).exp() as f32;
        *lse = all as f32;
    }
    change(out, |out| {
        for (row, out) in out.chunks_exact_mut(h.value_dim).enumerate() {
            let (token, head) = (row / h.heads, row % h.heads);
            math::scale(out, kept[head * tokens + token]);
        }
    })
}

/// The gradient to the sinks, from attention's results with them and the gradient to the first.
pub fn gradient(
    sinks: &Tensor,
    h: &Heads,
    (out, lse): (&Tensor, &[f32]),
    dout: &Tensor,
) -> Result<Tensor> {
    let dims = sinks.dims();
    let (sinks, out, dout) = (Values::of(sinks)?, Values::of(out)?, Values::of(dout)?);
    let tokens = lse.len() / h.heads.max(1);
    let mut sums = vec![0f64; h.heads];
    let rows = out.chunks_exact(h.value_dim);
    for (row, (out, dout)) in rows.zip(dout.chunks_exact(h.value_dim)).enumerate() {
        let (token, head) = (row / h.heads, row % h.heads);
        let weight = f64::from(sinks[head] - lse[head * tokens + token]).exp();
        sums[head] -= weight * math::dot(out, dout);
    }
    tensor(sums.iter().map(|sum| *sum as f32).collect(), dims)
}
