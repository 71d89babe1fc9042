//! Log-probs of target tokens, and the gradient to the logits. Only the rows' log Σ e^z and the
//! targets' logits leave the GPU.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};
use randori_cuda::ops::logprob::{Logits, MOST, Slopes};

use super::memory::{float, gpu, overwrite, ptr};
use crate::{ChunkTarget, Result, cpu::logprob, host};

fn logits(t: &Tensor) -> Result<Logits> {
    let (rows, vocab) = t.dims2()?;
    Ok(Logits {
        float: float(t)?,
        rows,
        vocab,
        at: ptr(t)?,
    })
}

/// Each row's largest logit and log Σ e^(z - largest): (rows, 2).
fn sums(z: &Tensor) -> Result<Tensor> {
    let sums = gpu()?.room(&[z.dims()[0], 2], DType::F32)?; // every row is written
    logits(z)?.sums(gpu()?, ptr(&sums)?)?;
    Ok(sums)
}

/// log Σ e^z of every row of logits.
pub fn log_sum_exp(z: &Tensor) -> Result<Vec<f64>> {
    let parts: Vec<Vec<f32>> = sums(z)?.to_vec2()?;
    let add = |p: &Vec<f32>| p.iter().map(|x| f64::from(*x)).sum();
    Ok(parts.iter().map(add).collect())
}

/// Writes the targets' log-probs to `out`, each at its target's index.
pub fn log_probs(z: &Tensor, sums: &[f64], targets: &[ChunkTarget], out: &mut [f64]) -> Result<()> {
    logprob::check(z, targets)?;
    if targets.is_empty() {
        return Ok(());
    }
    let rows: Vec<u32> = targets.iter().map(|t| t.row as u32).collect();
    let tokens: Vec<u32> = targets.iter().map(|t| t.token).collect();
    let gpu = gpu()?;
    let (rows, tokens) = (gpu.upload(&rows)?, gpu.upload(&tokens)?);
    let picked = gpu.room(&[targets.len()], DType::F32)?; // every one is written
    logits(z)?.pick(
        gpu,
        ptr(&rows)?,
        ptr(&tokens)?,
        targets.len(),
        ptr(&picked)?,
    )?;
    for (t, z) in targets.iter().zip(picked.to_vec1::<f32>()?) {
        out[t.target] = f64::from(z) - sums[t.row];
    }
    Ok(())
}

/// Overwrites logits with the gradient to them; `known` are the rows' log Σ e^z. Rows with more
/// distinct targets than the kernel takes go through the processor.
pub fn logits_gradient(
    z: &Tensor,
    known: &[f64],
    targets: &[ChunkTarget],
    slope: &(dyn Fn(usize) -> f64 + Sync),
) -> Result<()> {
    let rows = z.dims()[0];
    let mut totals = vec![0f64; rows];
    let mut entries: Vec<BTreeMap<u32, f64>> = vec![BTreeMap::new(); rows];
    for t in targets {
        totals[t.row] += slope(t.target);
        *entries[t.row].entry(t.token).or_default() += slope(t.target);
    }
    let most = entries.iter().map(BTreeMap::len).max().unwrap_or(0);
    if most > MOST {
        let near = host(z)?;
        logprob::logits_gradient(&near, known, targets, slope)?;
        return overwrite(z, near);
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
    let by_row = Slopes {
        totals: ptr(&totals)?,
        starts: ptr(&starts)?,
        tokens: ptr(&tokens)?,
        slopes: ptr(&slopes)?,
    };
    let sums = sums(z)?;
    Ok(logits(z)?.gradient(gpu, ptr(&sums)?, &by_row, most)?)
}
