//! Log-probs of chosen tokens, and the gradient back to the logits.

use candle_core::Tensor;

use crate::{
    Result,
    kernels::{
        host,
        logprob::{self, Wanted},
    },
};

pub(crate) fn log_sum_exp(logits: &Tensor) -> Result<Vec<f64>> {
    logprob::log_sum_exp(&host(logits)?)
}

pub(crate) fn log_probs(
    logits: &Tensor,
    sums: &[f64],
    wanted: &[Wanted],
    out: &mut [f64],
) -> Result<()> {
    logprob::log_probs(&host(logits)?, sums, wanted, out)
}

pub(crate) fn into_gradient(
    logits: &Tensor,
    sums: &[f64],
    wanted: &[Wanted],
    slope: &(dyn Fn(usize) -> f64 + Sync),
) -> Result<()> {
    let near = host(logits)?;
    logprob::into_gradient(&near, sums, wanted, slope)?;
    super::elementwise::replace(logits, near)
}
