//! Drawing where the logits are: from the model's own distribution only chosen tokens and their
//! log-probs cross the bus. Samplers are plugins of the host, and see rows there.

use candle_core::{DType, Tensor};
use randori_cuda::{
    gpu::{Gpu, float, ptr},
    ops::sample::{Banned, Sample},
};
use randori_kernels::Result;

use super::{GenerateOptions, Sequence};
use crate::rng;

/// What the device could not draw from: the host says why.
const NOTHING: u32 = u32::MAX;

/// Draws the next token of every sequence that is ready; `fed[i]` is row i's sequence and whether
/// it is.
pub(super) fn draw(
    mut fed: Vec<(&mut Sequence, bool)>,
    logits: &Tensor,
    o: &GenerateOptions,
) -> Result<()> {
    let gpu = Gpu::open()?;
    let (rows, vocab) = logits.dims2()?;
    let uniform = |(s, _): &(&mut Sequence, bool)| {
        let (sequence, position) = (s.number(o), s.out.tokens.len() as u64);
        rng::uniform(o.seed, o.iteration, sequence, position, 0)
    };
    let uniform: Vec<f64> = fed.iter().map(uniform).collect();
    let forbidden = |(s, _): &(&mut Sequence, bool)| u32::from(!s.banned(o).is_empty());
    let forbidden: Vec<u32> = fed.iter().map(forbidden).collect();
    // what the kernel reads must live until it was started: memory is given back in the queue's
    // order
    let (uniform, forbidden) = (gpu.upload(&uniform)?, gpu.upload(&forbidden)?);
    let stop = match o.stop.is_empty() {
        true => None,
        false => Some(gpu.upload(&o.stop)?),
    };
    let banned = match &stop {
        None => None,
        Some(stop) => Some(Banned {
            tokens: ptr(stop)?,
            count: o.stop.len(),
            rows: ptr(&forbidden)?,
        }),
    };
    // every row is written
    let ids = gpu.room(&[rows], DType::U32)?;
    let (logp, behaviour) = (
        gpu.room(&[rows], DType::F64)?,
        gpu.room(&[rows], DType::F64)?,
    );
    let sample = Sample {
        float: float(logits)?,
        rows,
        vocab,
        open: vocab.min(o.vocabulary),
        chain: &[],
        banned,
    };
    let (from, u) = (ptr(logits)?, ptr(&uniform)?);
    sample.draw(gpu, from, u, ptr(&ids)?, ptr(&logp)?, ptr(&behaviour)?)?;
    let (logp, behaviour) = (logp.to_vec1::<f64>()?, behaviour.to_vec1::<f64>()?);
    for (row, id) in ids.to_vec1::<u32>()?.into_iter().enumerate() {
        let (sequence, ready) = &mut fed[row];
        if !*ready {
            continue;
        }
        if id == NOTHING {
            let values = randori_kernels::host(&logits.narrow(0, row, 1)?.contiguous()?)?;
            sequence.extend(&values.flatten_all()?.to_vec1()?, &[], o)?;
        } else {
            sequence.append(id, logp[row], behaviour[row], o);
        }
    }
    Ok(())
}
