//! The forward passes of a player: over packed rows, and over new tokens behind a KV cache.

use std::sync::Arc;

use candle_core::Tensor;
use randori_kernels::{Entry, Error, Lengths, OnCandle, Plan, Result, host};

use super::{Player, weights::PassWeights};
use crate::{KvCache, Packed, base::on_kernels, tape::Pass};

/// The new tokens of one cached sequence.
pub struct SlotTokens<'a> {
    /// Which cache slot.
    pub slot: usize,
    /// Its new tokens (a whole prompt, or one token).
    pub tokens: &'a [u32],
}

impl Player {
    /// The hidden state after the last block, (tokens, width); nothing is recorded.
    ///
    /// # Errors
    /// A plan that breaks its rules, a token outside the vocabulary, or whatever the architecture
    /// did wrong.
    pub fn hidden(&self, plan: &Packed) -> Result<Tensor> {
        in_pool(|| {
            let weights = PassWeights::new(self, Arc::default())?;
            let plan = plan.to_plan(None)?;
            on_kernels!(self.base.compute, kernels => {
                Pass::new(kernels, &weights, plan).run_blocks()
            })
        })
    }

    /// Runs each entry's new tokens behind what its slot holds, appends their keys and values, and
    /// answers (batch, vocab) f32 logits after each entry's last token.
    ///
    /// # Errors
    /// An empty batch or entry, a slot that does not exist or occurs twice, or as
    /// [`Player::hidden`].
    pub fn step(&self, cache: &mut KvCache, batch: &[SlotTokens]) -> Result<Tensor> {
        host(&self.step_on_device(cache, batch)?)
    }

    /// [`Player::step`], with logits as the pass leaves them: on its device, in its
    /// dtype.
    pub(crate) fn step_on_device(
        &self,
        cache: &mut KvCache,
        batch: &[SlotTokens],
    ) -> Result<Tensor> {
        let (mut ids, mut positions, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
        let mut entries: Vec<Entry> = Vec::with_capacity(batch.len());
        for SlotTokens { slot, tokens } in batch {
            if *slot >= cache.slots()
                || entries.iter().any(|e| e.slot == *slot)
                || tokens.is_empty()
            {
                return Err(Error::rule(format!(
                    "a step wants at least one token for each of different slots below {}; got {} for slot {slot}",
                    cache.slots(),
                    tokens.len()
                )));
            }
            entries.push(Entry {
                slot: *slot,
                row: ids.len(),
                len: tokens.len(),
            });
            ids.extend_from_slice(tokens);
            positions.extend((0..tokens.len()).map(|i| (cache.len(*slot) + i) as u32));
            let of_slot = cache.lengths(*slot, tokens.len());
            lengths.extend(std::iter::repeat_n(of_slot, tokens.len()));
        }
        if entries.is_empty() {
            return Err(Error::rule("a step wants at least one entry"));
        }
        let plan = Plan {
            ids,
            positions,
            lengths,
            ..Plan::default()
        };
        in_pool(|| {
            let weights = PassWeights::new(self, cache.gains.clone())?;
            on_kernels!(self.base.compute, kernels => {
                cached_logits(Pass::new(kernels, &weights, plan), cache, entries)
            })
        })
    }
}

/// Logits (entries, vocab) after each entry's last token, whose keys and values the cache then
/// holds.
fn cached_logits<K: OnCandle>(
    pass: Pass<K>,
    cache: &mut KvCache,
    entries: Vec<Entry>,
) -> Result<Tensor> {
    let last = entries.iter().map(|e| (e.row + e.len - 1) as u32).collect();
    let taken = entries
        .iter()
        .map(|e| (e.slot, cache.lengths(e.slot, e.len)));
    let taken: Vec<(usize, Lengths)> = taken.collect();
    cache.kv.begin(entries)?;
    let logits = pass.cached_logits(&mut cache.kv, &last)?;
    cache.kv.end();
    for (slot, lengths) in taken {
        cache.expect(slot, lengths.most);
    }
    Ok(logits)
}

/// Runs a whole pass on one of the pool's own threads: a parallel product then is a push to that
/// thread's queue, where from outside each would be a hand-over to the pool and back, hundreds a
/// pass.
pub(crate) fn in_pool<T: Send>(pass: impl FnOnce() -> T + Send) -> T {
    rayon::scope(|_| pass())
}
