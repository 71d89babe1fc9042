//! What training, scoring and generating hold at their worst moment: a player's passes, run on
//! kernels that only count.

use std::sync::Arc;

use randori_kernels::{
    Gain, Result,
    shapes::{self, Shapes},
};
use randori_sdk::seam::{Architecture, Id};

use super::{
    packing::Packing,
    planner::{HEAP, Peak, Planner, SLACK, THREAD},
};
use crate::{
    PassOptions,
    generate::{PIECE, PREFILL},
    heap,
    tape::{Carried, Context, Gradients, Matrix, Model, Pass, Update, Vector},
    trace::TracedCarried,
    training_pass::{Chunk, Targets, chunk_rows},
};

/// Generation at its fullest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoding {
    /// Sequences at once.
    pub slots: usize,
    /// Longest prompt.
    pub prompt: usize,
    /// Longest response.
    pub response: usize,
    /// Whether a slot may get another prompt while the others are full.
    pub refilled: bool,
}

impl Targets<Shapes> for Packing {
    fn count(&self) -> usize {
        self.targets
    }

    fn single_chunks(&self, size: usize) -> Option<Vec<Chunk<Shapes>>> {
        let chunks = self.chunks(size);
        (chunks.len() > 1).then_some(chunks)
    }

    fn chunks(&self, size: usize) -> Vec<Chunk<Shapes>> {
        let chunk = |from| Chunk {
            rows: size.min(self.targets - from),
            wanted: (),
        };
        (0..self.targets).step_by(size).map(chunk).collect()
    }
}

/// A planned player, as a pass sees it.
impl Model<Shapes> for Planner {
    fn arch(&self) -> &dyn Architecture {
        &*self.arch
    }

    fn last_uses(&self, layer: usize, _: usize, _: &[TracedCarried]) -> Option<Arc<[Vec<Id>]>> {
        self.last_uses.get(layer)?.clone()
    }

    fn matrix(
        &self,
        _: &Shapes,
        name: &str,
        shape: (usize, usize),
    ) -> Result<Matrix<Shapes>, String> {
        let full = format!("{name}.weight");
        let own = self.trainable.full.contains(&full);
        let stored = self.stored.get(&full).copied();
        Ok(Matrix {
            weight: shapes::Matrix { shape, stored, own },
            own: own.then_some(full),
        })
    }

    fn vector(
        &self,
        kernels: &Shapes,
        full: String,
        shape: &[usize],
    ) -> Result<Vector<Shapes>, String> {
        let own = self.trainable.full.contains(&full);
        Ok(Vector {
            values: kernels.outside(shape),
            own: own.then_some(full),
        })
    }

    fn param(
        &self,
        kernels: &Shapes,
        full: &str,
        shape: &[usize],
    ) -> Result<Vector<Shapes>, String> {
        let own = self.trainable.full.contains(full);
        Ok(Vector {
            values: kernels.outside(shape),
            own: own.then(|| full.to_string()),
        })
    }

    fn update(&self, name: &str) -> Option<Update<Shapes>> {
        let rank = *self.trainable.ranks.get(name)?;
        Some(Update {
            lora: shapes::Update { rank },
            dropout: if self.trainable.dropout { 0.5 } else { 0.0 },
        })
    }

    /// Computed anew each time, as for a player in its first pass.
    fn gain(
        &self,
        kernels: &Shapes,
        _: &str,
        matrix: &Matrix<Shapes>,
        update: &Update<Shapes>,
    ) -> Result<Option<Arc<Gain>>> {
        Ok(self.trainable.dora.then(|| {
            kernels.touch_gain(&matrix.weight, update.lora.rank);
            Arc::default()
        }))
    }
}

impl Planner {
    /// Peak memory of a training step and of saving it, with `players` players in memory.
    ///
    /// # Errors
    /// What the architecture refuses.
    pub fn training_peak(
        &self,
        packing: &Packing,
        checkpoint: bool,
        players: usize,
    ) -> Result<Peak> {
        let (peak, kept) = self.step_peak(packing, checkpoint)?;
        if self.card.is_some() {
            return Ok(self.training_peak_on_card(peak, kept));
        }
        // an update makes a tensor anew, with all gradients there; saving copies every tensor, and
        // one more as bytes
        let others = self.player_bytes() + self.largest_bytes();
        // where a tensor was before an update is a hole in the heap, which the next step's passes
        // seldom fill
        let most = self.slack((peak + self.largest_bytes()).max(others));
        let gradients = self.player_bytes();
        let kept = kept.min(most.saturating_sub(gradients));
        Ok(Peak {
            base: self.base_bytes(),
            players: players as u64 * self.player_bytes(),
            moments: self.moment_bytes(),
            gradients: gradients.min(most),
            kept,
            work: most.saturating_sub(gradients + kept),
            attention: self.attention(packing, true)?,
            logits: 4 * (self.chunk_rows() * self.trace.vocab) as u64,
        })
    }

    /// The most that a step's passes hold, gradients included, and what the forward pass keeps.
    fn step_peak(&self, packing: &Packing, checkpoint: bool) -> Result<(u64, u64)> {
        let kernels = self.kernels(packing.keys, packing.attended);
        let mut grads = Gradients::<Shapes>::new();
        let mut kept = self.forward_backward(&kernels, packing, checkpoint, &mut grads)?;
        if packing.several {
            // whatever a step's first micro-batch has made of gradients lies there in the next
            kept = self.forward_backward(&kernels, packing, checkpoint, &mut grads)?;
        }
        Ok((kernels.ledger.peak(), kept))
    }

    /// Forward and backward over a micro-batch; answers what the forward pass has kept.
    pub(super) fn forward_backward(
        &self,
        kernels: &Shapes,
        packing: &Packing,
        checkpoint: bool,
        grads: &mut Gradients<Shapes>,
    ) -> Result<u64> {
        let before = kernels.ledger.live();
        let pass = Pass::new(kernels, self, packing.rows);
        let forward = pass.forward(&PassOptions {
            checkpoint,
            offload_inputs: self.offloads(),
            dropout_seed: None,
        })?;
        let kept = kernels.ledger.live() - before;
        // slopes are numbers, of which there are none
        let mut slopes = |_: &[f64]| Ok(Vec::new());
        pass.backward(forward, packing, self.chunk_rows(), &mut slopes, grads)?;
        Ok(kept)
    }

    /// Peak memory of scoring a micro-batch.
    ///
    /// # Errors
    /// What the architecture refuses.
    pub fn scoring_peak(&self, packing: &Packing, players: usize) -> Result<Peak> {
        let kernels = self.kernels(packing.keys, packing.attended);
        self.logps(&kernels, packing)?;
        let peak = kernels.ledger.peak();
        if self.card.is_some() {
            return Ok(self.scoring_peak_on_card(peak));
        }
        Ok(Peak {
            base: self.base_bytes(),
            players: players as u64 * self.player_bytes(),
            work: self.slack(peak),
            attention: self.attention(packing, false)?,
            logits: 4 * (self.chunk_rows() * self.trace.vocab) as u64,
            ..Peak::default()
        })
    }

    /// Peak memory of generating.
    ///
    /// # Errors
    /// What the architecture refuses.
    pub fn generation_peak(&self, d: &Decoding, players: usize) -> Result<Peak> {
        if self.card.is_some() {
            return self.generation_peak_on_card(d);
        }
        let pieces = PREFILL.min(d.slots.saturating_mul(d.prompt));
        let fed = pieces.div_ceil(d.prompt.clamp(1, PIECE));
        let beginning = self.step(pieces, fed, d.prompt)?;
        let going_on = self.step(d.slots, d.slots, d.prompt + d.response)?;
        let both = pieces + d.slots.saturating_sub(fed);
        let refill = match d.refilled {
            true => self.step(both, d.slots, d.prompt + d.response)?,
            false => 0,
        };
        let of = |tokens: usize| {
            let keys = tokens as u64 * self.trace.cache_bytes_per_token as u64;
            d.slots as u64 * (keys + self.trace.state_bytes as u64)
        };
        let (short, long) = (of(d.prompt), of((d.prompt + d.response).saturating_sub(1)));
        // a row of logits as a list, and two of its samplers, for every sequence
        let rows = 3 * 4 * (d.slots * self.trace.vocab) as u64;
        // keys and values lie outside the heap, which keeps some of what loading and prompts took
        let left = self
            .weights
            .iter()
            .map(|w| w.scratch)
            .filter(|b| *b <= HEAP);
        let free = left.fold(beginning, u64::max).min(heap::KEPT as u64);
        let peak = (short + beginning).max(long + going_on.max(refill).max(free));
        let kept = long.min(peak);
        Ok(Peak {
            base: self.base_bytes(),
            players: players as u64 * self.player_bytes(),
            kept,
            work: self.slack(peak - kept + rows),
            attention: self.kernels(d.prompt + d.response, 0).scores(1),
            logits: 4 * (d.slots * self.trace.vocab) as u64 + rows,
            ..Peak::default()
        })
    }

    /// Peak of one step over `rows` new tokens of `sequences` sequences.
    fn step(&self, rows: usize, sequences: usize, keys: usize) -> Result<u64> {
        self.cached_step(self.kernels(keys, 0), rows, sequences)
    }

    pub(super) fn cached_step(
        &self,
        kernels: Shapes,
        rows: usize,
        sequences: usize,
    ) -> Result<u64> {
        self.next_logits(&kernels, rows, sequences)?;
        Ok(kernels.ledger.peak())
    }

    /// Logits of `sequences` sequences after `rows` new tokens.
    pub(super) fn next_logits(
        &self,
        kernels: &Shapes,
        rows: usize,
        sequences: usize,
    ) -> Result<()> {
        let pass = Pass::new(kernels, self, rows);
        pass.cached_logits(&mut (), &sequences).map(drop)
    }

    /// Log-probs of all targets.
    pub(super) fn logps(&self, kernels: &Shapes, packing: &Packing) -> Result<()> {
        let pass = Pass::new(kernels, self, packing.rows);
        pass.logps(packing, self.chunk_rows()).map(drop)
    }

    pub(super) fn kernels(&self, keys: usize, attended: u64) -> Shapes {
        let mut kernels = Shapes::new(self.threads, self.card.map(|card| card.float));
        (kernels.keys, kernels.attended) = (keys, attended);
        kernels.drops = self.trainable.dropout;
        kernels
    }

    /// Rows that go through the head together.
    pub(super) fn chunk_rows(&self) -> usize {
        chunk_rows(self.trace.vocab, self.card.is_some())
    }

    /// Bytes with what the allocator and the threads take besides.
    fn slack(&self, bytes: u64) -> u64 {
        (bytes as f64 * SLACK) as u64 + self.threads as u64 * THREAD
    }

    /// Attention's own memory over a micro-batch.
    fn attention(&self, packing: &Packing, backward: bool) -> Result<u64> {
        let kernels = self.kernels(packing.keys, packing.attended);
        if !backward {
            return Ok(kernels.scores(1));
        }
        let x = kernels.outside(&[packing.rows, self.trace.width]);
        let (pass, carried) = (Pass::new(&kernels, self, packing.rows), &mut Carried::new());
        pass.run_embed(true, carried)?;
        pass.run_block(Context::Packed, 0, true, x, true, carried)?;
        let shares = 2 * 4 * kernels.widest.get() as u64;
        Ok(kernels.scores(2) + shares)
    }
}

#[cfg(test)]
mod tests;
