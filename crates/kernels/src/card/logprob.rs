//! Log-probs of chosen tokens, and the gradient back to the logits. Only the sums of rows and the
//! chosen logits leave the GPU.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};
use randori_cuda::ops::logprob::{Logits, MOST, Slopes};

use super::{float, gpu, ptr};
use crate::{Result, Wanted, cpu::logprob, host};

fn logits(t: &Tensor) -> Result<Logits> {
    let (rows, vocab) = t.dims2()?;
    Ok(Logits {
        float: float(t)?,
        rows,
        vocab,
        at: ptr(t)?,
    })
}

/// (rows, 2): the largest logit and log Σ e^(z - largest).
fn sums(z: &Tensor) -> Result<Tensor> {
    let sums = gpu()?.room(&[z.dims()[0], 2], DType::F32)?; // every row is written
    logits(z)?.sums(gpu()?, ptr(&sums)?)?;
    Ok(sums)
}

/// log Σ e^z of every row.
pub fn log_sum_exp(z: &Tensor) -> Result<Vec<f64>> {
    let parts: Vec<Vec<f32>> = sums(z)?.to_vec2()?;
    let add = |p: &Vec<f32>| p.iter().map(|x| f64::from(*x)).sum();
    Ok(parts.iter().map(add).collect())
}

/// Writes the log-prob of every wanted token to its target's place.
pub fn log_probs(z: &Tensor, sums: &[f64], wanted: &[Wanted], out: &mut [f64]) -> Result<()> {
    logprob::check(z, wanted)?;
    if wanted.is_empty() {
        return Ok(());
    }
    let rows: Vec<u32> = wanted.iter().map(|w| w.row as u32).collect();
    let tokens: Vec<u32> = wanted.iter().map(|w| w.token).collect();
    let gpu = gpu()?;
    let (rows, tokens) = (gpu.upload(&rows)?, gpu.upload(&tokens)?);
    let picked = gpu.room(&[wanted.len()], DType::F32)?; // every one is written
    logits(z)?.pick(gpu, ptr(&rows)?, ptr(&tokens)?, wanted.len(), ptr(&picked)?)?;
    for (w, z) in wanted.iter().zip(picked.to_vec1::<f32>()?) {
        out[w.target] = f64::from(z) - sums[w.row];
    }
    Ok(())
}

/// Turns logits, in place, into the gradient to them.
pub fn logits_gradient(
    z: &Tensor,
    known: &[f64],
    wanted: &[Wanted],
    slope: &(dyn Fn(usize) -> f64 + Sync),
) -> Result<()> {
    let rows = z.dims()[0];
    let mut totals = vec![0f64; rows];
    let mut entries: Vec<BTreeMap<u32, f64>> = vec![BTreeMap::new(); rows];
    for w in wanted {
        totals[w.row] += slope(w.target);
        *entries[w.row].entry(w.token).or_default() += slope(w.target);
    }
    let most = entries.iter().map(BTreeMap::len).max().unwrap_or(0);
    if most > MOST {
        let near = host(z)?;
        logprob::logits_gradient(&near, known, wanted, slope)?;
        return super::elementwise::replace(z, near);
    }
    let mut starts = vec![0u32];
    let (mut tokens, mut slopes) = (Vec::new(), Vec::new());
    for row in &entries {
        tokens.extend(row.keys().copied());
        slopes.extend(row.values().map(|s| *s as f32));
        starts.push(tokens.len() as u32);
    }
    if tokens.is_empty() {
        (tokens, slopes) = (vec![0], vec![0.0]); // an address at least
    }
    let gpu = gpu()?;
    let totals: Vec<f32> = totals.iter().map(|t| *t as f32).collect();
    let (totals, starts) = (gpu.upload(&totals)?, gpu.upload(&starts)?);
    let (tokens, slopes) = (gpu.upload(&tokens)?, gpu.upload(&slopes)?);
    let given = Slopes {
        totals: ptr(&totals)?,
        starts: ptr(&starts)?,
        tokens: ptr(&tokens)?,
        slopes: ptr(&slopes)?,
    };
    let sums = sums(z)?;
    Ok(logits(z)?.gradient(gpu, ptr(&sums)?, &given, most)?)
}
