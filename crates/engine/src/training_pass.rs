//! The log-prob primitive, and the forward and backward pass around it.
//!
//! Only rows with targets go through the head, a chunk at a time, so (tokens, vocab) never exists.
//! A loss's slopes depend on all log-probs, and are known when the last chunk is gone. But the head
//! sees single rows, so its backward pass is linear in each row's slope: with d log p(y) / dh =
//! Jᵀ(onehot(y) - softmax(z)) kept for every target, (targets, width), the gradient is slope ·
//! that, and the head runs once forward and once backward. Where the head itself is trained, its
//! weights' gradients want the slopes at once: it then runs again, recorded (unless one chunk holds
//! everything).
//!
//! Blocks are recorded at once, or, with checkpointing, again in the backward pass; both give the
//! same bits. So does keeping their inputs elsewhere meanwhile.

use std::collections::HashSet;

use randori_kernels::{ChunkTarget, Error, Kernels, OnCandle, Result, Shaped};
use randori_sdk::seam::Id;

use crate::{
    Grads, Packed, PassOptions, Player, Target,
    base::on_kernels,
    block_input,
    block_input::Input,
    player::{passes::in_pool, weights::PassWeights},
    tape::{Carried, CarriedGrads, Context, Gradients, Pass, Recorded},
};

/// Bytes of logits that exist at a time, counted in f32, and rows in a chunk, both at most: what a
/// processor's caches hold.
const CHUNK: (usize, usize) = (16 << 20, 128);
/// The same on a GPU, which wants more rows to be busy.
const CHUNK_ON_GPU: (usize, usize) = (128 << 20, 1024);

/// Rows that go through the head together.
pub(crate) struct Chunk<K: Kernels> {
    /// Rows of the hidden state, ascending.
    pub(crate) rows: K::Indices,
    pub(crate) wanted: K::ChunkTargets,
}

/// The targets of a micro-batch.
pub(crate) trait Targets<K: Kernels> {
    /// How many targets there are.
    fn count(&self) -> usize;
    /// A row for every target (a row with several targets as often), in the plan's order, cut into
    /// chunks of `size`. `None` where one chunk would hold all of them, and where many rows have so
    /// many targets that this is more than [`Targets::chunks`] twice.
    fn single_chunks(&self, size: usize) -> Option<Vec<Chunk<K>>>;
    /// The targets' rows, each once, cut into chunks of `size`.
    fn chunks(&self, size: usize) -> Vec<Chunk<K>>;
}

/// Rows of a chunk, on a GPU or the processor.
pub(crate) fn chunk_rows(vocab: usize, on_gpu: bool) -> usize {
    let (logits, rows) = if on_gpu { CHUNK_ON_GPU } else { CHUNK };
    (logits / (4 * vocab.max(1))).clamp(1, rows)
}

impl<K: OnCandle> Targets<K> for Packed {
    fn count(&self) -> usize {
        self.targets.len()
    }

    fn single_chunks(&self, size: usize) -> Option<Vec<Chunk<K>>> {
        let rows: HashSet<usize> = self.targets.iter().map(|t| t.row).collect();
        if rows.len() <= size || 2 * self.targets.len() > 3 * rows.len() {
            return None;
        }
        let chunk = |(first, targets): (usize, &[Target])| Chunk {
            rows: targets.iter().map(|t| t.row as u32).collect(),
            wanted: targets
                .iter()
                .enumerate()
                .map(|(row, t)| ChunkTarget {
                    row,
                    token: t.token,
                    target: first * size + row,
                })
                .collect(),
        };
        Some(self.targets.chunks(size).enumerate().map(chunk).collect())
    }

    fn chunks(&self, size: usize) -> Vec<Chunk<K>> {
        let targets = &self.targets;
        let mut order: Vec<usize> = (0..targets.len()).collect();
        order.sort_by_key(|&t| targets[t].row); // stable
        let same_row = |a: &usize, b: &usize| targets[*a].row == targets[*b].row;
        let by_row: Vec<&[usize]> = order.chunk_by(same_row).collect();
        let chunk = |rows: &[&[usize]]| Chunk {
            rows: rows.iter().map(|r| targets[r[0]].row as u32).collect(),
            wanted: rows
                .iter()
                .enumerate()
                .flat_map(|(row, of_row)| {
                    of_row.iter().map(move |&target| ChunkTarget {
                        row,
                        token: targets[target].token,
                        target,
                    })
                })
                .collect(),
        };
        by_row.chunks(size).map(chunk).collect()
    }
}

/// A chunk's logits with what their gradient needs.
struct Logits<K: Kernels> {
    head: Recorded<K>,
    sums: Vec<f64>,
}

/// The chunks of a plan, the log-probs so far, and the logits when one chunk holds them all.
struct Scored<K: Kernels> {
    logps: Vec<f64>,
    chunks: Vec<Chunk<K>>,
    kept: Option<Logits<K>>,
}

/// A chunk's d log p / d hidden, a row for every target.
struct Slope<K: Kernels> {
    chunk: Chunk<K>,
    d: K::Tensor,
}

impl Player {
    /// Log-prob of every target, in the plan's order.
    ///
    /// # Errors
    /// As [`Player::hidden`]; a target token outside the vocabulary.
    pub fn logps(&self, plan: &Packed) -> Result<Vec<f64>> {
        self.logps_dropped(plan, None)
    }

    /// The same with LoRA's dropout, as a training pass with this seed has it.
    ///
    /// # Errors
    /// As there.
    pub fn logps_dropped(&self, plan: &Packed, dropout_seed: Option<u64>) -> Result<Vec<f64>> {
        in_pool(|| {
            let weights = PassWeights::new(self, Default::default())?;
            let (rows, size) = (plan.to_plan(dropout_seed)?, self.chunk_rows());
            on_kernels!(self.base.compute, kernels => {
                Pass::new(kernels, &weights, rows).logps(plan, size)
            })
        })
    }

    /// One forward and backward pass. `slopes` gets the log-prob of every target and answers d loss
    /// / d logp; gradients are added into `grads`, in place where a name is there already.
    ///
    /// # Errors
    /// As [`Player::logps`]; an error of `slopes`; another number of slopes than targets.
    pub fn forward_backward(
        &self,
        plan: &Packed,
        options: &PassOptions,
        slopes: &mut dyn FnMut(&[f64]) -> Result<Vec<f64>>,
        grads: &mut Grads,
    ) -> Result<()> {
        block_input::check(options, &self.base.compute)?;
        let weights = PassWeights::new(self, Default::default())?;
        let (rows, size) = (plan.to_plan(options.dropout_seed)?, self.chunk_rows());
        let mut slopes = |logps: &[f64]| {
            let slopes = slopes(logps)?;
            match slopes.len() == plan.targets.len() {
                true => Ok(slopes),
                false => Err(Error::rule(format!(
                    "a loss must answer one slope for each of {} targets, not {}",
                    plan.targets.len(),
                    slopes.len()
                ))),
            }
        };
        on_kernels!(self.base.compute, kernels => {
            let pass = Pass::new(kernels, &weights, rows);
            let forward = pass.forward(options)?;
            pass.backward(forward, plan, size, &mut slopes, grads)
        })
    }

    /// Rows that go through the head together; of the vocabulary a guess is good enough.
    fn chunk_rows(&self) -> usize {
        let configured = self.base.config.get("vocab_size").and_then(|v| v.as_u64());
        let vocab = configured.map_or(1 << 16, |v| v as usize);
        chunk_rows(vocab, self.base.compute.device.is_cuda())
    }
}

impl<K: Kernels> Pass<'_, K> {
    /// Log-prob of every target, `size` rows at a time through the head.
    pub(crate) fn logps(&self, targets: &dyn Targets<K>, size: usize) -> Result<Vec<f64>> {
        let hidden = self.run_blocks()?;
        // cut as training with a frozen head cuts: step 0 then agrees to the last bit
        let single = targets.single_chunks(size);
        let chunks = single.unwrap_or_else(|| targets.chunks(size));
        let scored = self.score_targets(targets.count(), chunks, &hidden, false, false)?;
        Ok(scored.logps)
    }

    /// What follows the forward pass: log-probs, the loss's slopes to them, and gradients, which
    /// are added into `grads`. `size` rows go through the head at a time.
    pub(crate) fn backward(
        &self,
        forward: Forward<K>,
        targets: &dyn Targets<K>,
        size: usize,
        slopes: &mut dyn FnMut(&[f64]) -> Result<Vec<f64>>,
        grads: &mut Gradients<K>,
    ) -> Result<()> {
        let up = match self.row_slopes(targets, size, &forward)? {
            Some((logps, rows)) => Some(self.join(&rows, &slopes(&logps)?, &forward.hidden)?),
            None => {
                let (count, chunks) = (targets.count(), targets.chunks(size));
                let (hidden, needs) = (&forward.hidden, forward.needs);
                let scored = self.score_targets(count, chunks, hidden, needs, true)?;
                let slopes = slopes(&scored.logps)?;
                self.head_backward(&forward, scored, &slopes, grads)?
            }
        };
        match up {
            Some(up) => self.blocks_backward(forward, up, grads),
            None => Ok(()),
        }
    }

    /// Log-probs, and their gradients to the hidden state before any slope is known; `None` where
    /// that saves nothing or cannot be: as [`Targets::single_chunks`] says, and when nothing below
    /// the head or something in it is trained.
    fn row_slopes(
        &self,
        targets: &dyn Targets<K>,
        size: usize,
        forward: &Forward<K>,
    ) -> Result<Option<(Vec<f64>, Vec<Slope<K>>)>> {
        if !forward.needs {
            return Ok(None);
        }
        let Some(chunks) = targets.single_chunks(size) else {
            return Ok(None);
        };
        if self.head_trains(forward.hidden.dims()[1])? {
            return Ok(None);
        }
        let mut logps = vec![0.0; targets.count()];
        let mut slopes = Vec::new();
        let kernels = self.kernels;
        for chunk in chunks {
            let head = self.chunk_head(&chunk, &forward.hidden, true, true)?;
            let sums = kernels.log_sum_exp(&head.output)?;
            kernels.log_probs(&head.output, &sums, &chunk.wanted, &mut logps)?;
            let logits = head.own_output()?;
            kernels.logits_gradient(&logits, &sums, &chunk.wanted, &|_| 1.0)?;
            let (carried, grads) = (&mut CarriedGrads::new(), &mut Gradients::<K>::new());
            if let Some(d) = head.backward(self, Some(logits), carried, grads)? {
                slopes.push(Slope { chunk, d });
            }
        }
        Ok(Some((logps, slopes)))
    }

    /// The forward pass up to the head.
    pub(crate) fn forward(&self, options: &PassOptions) -> Result<Forward<K>> {
        let mut carried = Carried::new();
        let embed = self.run_embed(true, &mut carried)?;
        let (mut x, mut needs) = (embed.output.clone(), embed.needs);
        // where it is not trained nothing of it is wanted again, least of all its result
        let embed = embed.has_backward().then_some(embed);
        let (record, layers) = (!options.checkpoint, self.model.arch().layers());
        let mut blocks = Vec::with_capacity(layers);
        for layer in 0..layers {
            let moves =
                options.offload_inputs && block_input::moves(layer, layers, embed.is_some());
            let mut input = match record {
                true => None,
                false => Some(Input::of(self.kernels, &x, needs, moves)?),
            };
            let done = self.run_block(Context::Packed, layer, record, x, needs, &mut carried)?;
            if let Some(input) = &mut input {
                input.was_used(self.kernels);
            }
            (x, needs) = (done.output.clone(), done.needs);
            blocks.push(match input {
                None => SavedBlock::Tape(done),
                Some(input) => SavedBlock::Input(input, done.carries),
            });
        }
        Ok(Forward {
            embed,
            blocks,
            carried,
            hidden: x,
            needs,
        })
    }

    /// Log-probs through the head, chunk by chunk.
    fn score_targets(
        &self,
        count: usize,
        chunks: Vec<Chunk<K>>,
        hidden: &K::Tensor,
        needs: bool,
        keep: bool,
    ) -> Result<Scored<K>> {
        let mut logps = vec![0.0; count];
        let mut kept = None;
        let keep = keep && chunks.len() == 1;
        for chunk in &chunks {
            let head = self.chunk_head(chunk, hidden, needs, keep)?;
            let sums = self.kernels.log_sum_exp(&head.output)?;
            let wanted = &chunk.wanted;
            self.kernels
                .log_probs(&head.output, &sums, wanted, &mut logps)?;
            kept = keep.then_some(Logits { head, sums });
        }
        Ok(Scored {
            logps,
            chunks,
            kept,
        })
    }

    fn chunk_head(
        &self,
        chunk: &Chunk<K>,
        hidden: &K::Tensor,
        needs: bool,
        record: bool,
    ) -> Result<Recorded<K>> {
        let rows = self.kernels.gather(hidden, &chunk.rows)?; // (rows, width)
        let context = Context::Picked(chunk.rows.clone());
        self.run_head(context, record, rows, needs)
    }

    /// Gradients of the head's weights, and the gradient to the hidden state when it needs one.
    fn head_backward(
        &self,
        forward: &Forward<K>,
        scored: Scored<K>,
        slopes: &[f64],
        grads: &mut Gradients<K>,
    ) -> Result<Option<K::Tensor>> {
        let (kernels, hidden) = (self.kernels, &forward.hidden);
        let up = kernels.zeros(hidden.dims(), hidden)?;
        let mut kept = scored.kept;
        for chunk in &scored.chunks {
            let Logits { head, sums } = match kept.take() {
                Some(kept) => kept,
                None => {
                    let head = self.chunk_head(chunk, hidden, forward.needs, true)?;
                    let sums = kernels.log_sum_exp(&head.output)?;
                    Logits { head, sums }
                }
            };
            if !head.needs {
                return Ok(None);
            }
            let logits = head.own_output()?;
            kernels.logits_gradient(&logits, &sums, &chunk.wanted, &|t| slopes[t])?;
            let carried = &mut CarriedGrads::new();
            if let Some(d) = head.backward(self, Some(logits), carried, grads)? {
                kernels.scatter(&d, &chunk.rows, &up)?;
            }
        }
        match forward.needs {
            true => Ok(Some(up)),
            false => Ok(None),
        }
    }

    fn blocks_backward(
        &self,
        forward: Forward<K>,
        up: K::Tensor,
        grads: &mut Gradients<K>,
    ) -> Result<()> {
        let (mut up, mut blocks) = (Some(up), forward.blocks);
        let (mut carried, mut across) = (forward.carried, CarriedGrads::new());
        while let Some(saved) = blocks.pop() {
            // comes while this block is computed
            if let Some(SavedBlock::Input(next, _)) = blocks.last_mut() {
                next.fetch(self.kernels)?;
            }
            let tape = match saved {
                SavedBlock::Tape(tape) => tape,
                SavedBlock::Input(input, carries) => {
                    let (x, needs) = input.take(self.kernels)?;
                    // it hands them on again; whoever took them is done
                    carries
                        .iter()
                        .for_each(|(name, _)| drop(carried.remove(name)));
                    let layer = blocks.len();
                    self.run_block(Context::Packed, layer, true, x, needs, &mut carried)?
                }
            };
            for (name, _) in &tape.carries {
                carried.remove(name);
            }
            up = tape.backward(self, up, &mut across, grads)?;
            if up.is_none() && across.is_empty() {
                return Ok(()); // nothing trainable below
            }
        }
        if let Some(embed) = forward.embed {
            embed.backward(self, up, &mut across, grads)?;
        }
        Ok(())
    }

    /// The gradient to the hidden state: every target's slope times its row.
    fn join(&self, rows: &[Slope<K>], slopes: &[f64], hidden: &K::Tensor) -> Result<K::Tensor> {
        let up = self.kernels.zeros(hidden.dims(), hidden)?;
        for Slope { chunk, d } in rows {
            let (rows, wanted) = (&chunk.rows, &chunk.wanted);
            self.kernels.scatter_slopes(d, rows, wanted, slopes, &up)?;
        }
        Ok(up)
    }
}

/// A block as the forward pass leaves it to the backward pass: recorded, or only its input, from
/// which it is run again (activation checkpointing), with what it has handed on to later ones.
enum SavedBlock<K: Kernels> {
    Tape(Recorded<K>),
    Input(Input<K>, Vec<(String, Id)>),
}

/// The forward pass up to the head.
pub(crate) struct Forward<K: Kernels> {
    /// `None` where no gradient reaches it.
    embed: Option<Recorded<K>>,
    blocks: Vec<SavedBlock<K>>,
    /// What crosses blocks: it stays where it is, whatever is offloaded.
    carried: Carried<K::Tensor>,
    hidden: K::Tensor,
    needs: bool,
}
