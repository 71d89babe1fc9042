//! The log-prob primitive, and the forward and backward pass around it.
//!
//! Only rows with targets go through the head, a chunk at a time, so (tokens, vocab) never exists. A loss's slopes depend on
//! all log-probs, and are known when the last chunk is gone. But the head sees single rows, so its backward pass is linear
//! in each row's slope: with d log p(y) / dh = Jᵀ(onehot(y) - softmax(z)) kept for every target, (targets, width), the
//! gradient is slope · that, and the head runs once forward and once backward. Where the head itself is trained, its
//! weights' gradients want the slopes at once: it then runs again, recorded (unless one chunk holds everything).
//!
//! Blocks are recorded at once, or, with checkpointing, again in the backward pass; both give the same bits. So does keeping
//! their inputs elsewhere meanwhile.

use std::collections::HashSet;

use candle_core::Tensor;

use crate::{
    Error, Grads, Packed, PassOptions, Player, Result, Target, block_input,
    block_input::Input,
    kernels::{layout, logprob, logprob::Wanted},
    player::in_pool,
    tape::{Pass, Place, Recorded},
};

/// Bytes of logits that exist at a time, counted in f32, and rows in a chunk, both at most: what a processor's caches hold.
const CHUNK: (usize, usize) = (16 << 20, 128);
/// The same on a GPU, which wants more rows to be busy.
const CHUNK_ON_GPU: (usize, usize) = (128 << 20, 1024);

/// Rows that go through the head together.
struct Chunk {
    /// Rows of the hidden state, ascending.
    rows: Vec<u32>,
    wanted: Vec<Wanted>,
}

/// Rows of a chunk, on a GPU or the processor.
pub(crate) fn chunk_rows(vocab: usize, on_gpu: bool) -> usize {
    let (logits, rows) = if on_gpu { CHUNK_ON_GPU } else { CHUNK };
    (logits / (4 * vocab.max(1))).clamp(1, rows)
}

/// A row for every target (a row with several targets as often), in the plan's order, cut into chunks of `size`. `None` where one
/// chunk would hold all of them, and where many rows have so many targets that this is more than [`chunks`] twice.
fn single_chunks(plan: &Packed, size: usize) -> Option<Vec<Chunk>> {
    let rows: HashSet<usize> = plan.targets.iter().map(|t| t.row).collect();
    if rows.len() <= size || 2 * plan.targets.len() > 3 * rows.len() {
        return None;
    }
    let chunk = |(first, targets): (usize, &[Target])| Chunk {
        rows: targets.iter().map(|t| t.row as u32).collect(),
        wanted: targets
            .iter()
            .enumerate()
            .map(|(row, t)| Wanted {
                row,
                token: t.token,
                target: first * size + row,
            })
            .collect(),
    };
    Some(plan.targets.chunks(size).enumerate().map(chunk).collect())
}

/// The targets' rows, each once, cut into chunks of `size`.
fn chunks(plan: &Packed, size: usize) -> Vec<Chunk> {
    let mut order: Vec<usize> = (0..plan.targets.len()).collect();
    order.sort_by_key(|&t| plan.targets[t].row); // stable
    let mut chunks: Vec<Chunk> = Vec::new();
    for target in order {
        let (row, token) = (plan.targets[target].row as u32, plan.targets[target].token);
        let new = chunks
            .last()
            .is_none_or(|c| c.rows.last() != Some(&row) && c.rows.len() == size);
        if new {
            chunks.push(Chunk {
                rows: Vec::with_capacity(size),
                wanted: Vec::new(),
            });
        }
        let count = chunks.len();
        let chunk = &mut chunks[count - 1];
        if chunk.rows.last() != Some(&row) {
            chunk.rows.push(row);
        }
        chunk.wanted.push(Wanted {
            row: chunk.rows.len() - 1,
            token,
            target,
        });
    }
    chunks
}

/// A chunk's logits with what their gradient needs.
struct Logits {
    head: Recorded,
    sums: Vec<f64>,
}

/// The chunks of a plan, the log-probs so far, and the logits when one chunk holds them all.
struct Scored {
    logps: Vec<f64>,
    chunks: Vec<Chunk>,
    kept: Option<Logits>,
}

/// A chunk's d log p / d hidden, a row for every target.
struct Slope {
    chunk: Chunk,
    d: Tensor,
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
            let pass = Pass::packed(self, plan, dropout_seed)?;
            let hidden = self.run_blocks(&pass)?;
            let scored = self.score_targets(&pass, plan, &hidden, false, false)?;
            Ok(scored.logps)
        })
    }

    /// One forward and backward pass. `slopes` gets the log-prob of every target and answers d loss / d logp;
    /// gradients are added into `grads`, in place where a name is there already.
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
        let pass = Pass::packed(self, plan, options.dropout_seed)?;
        let forward = self.forward(&pass, options)?;
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
        let up = match self.row_slopes(&pass, plan, &forward)? {
            Some((logps, rows)) => Some(join(&rows, &slopes(&logps)?, &forward.hidden)?),
            None => {
                let scored =
                    self.score_targets(&pass, plan, &forward.hidden, forward.needs, true)?;
                let slopes = slopes(&scored.logps)?;
                self.head_backward(&pass, &forward, scored, &slopes, grads)?
            }
        };
        match up {
            Some(up) => self.blocks_backward(&pass, forward, up, grads),
            None => Ok(()),
        }
    }

    /// Log-probs, and their gradients to the hidden state before any slope is known; `None` where that saves nothing or
    /// cannot be: as [`single_chunks`] says, and when nothing below the head or something in it is trained.
    fn row_slopes(
        &self,
        pass: &Pass,
        plan: &Packed,
        forward: &Forward,
    ) -> Result<Option<(Vec<f64>, Vec<Slope>)>> {
        if !forward.needs {
            return Ok(None);
        }
        let Some(chunks) = single_chunks(plan, self.chunk_rows()) else {
            return Ok(None);
        };
        let mut logps = vec![0.0; plan.targets.len()];
        let mut slopes = Vec::new();
        for chunk in chunks {
            let head = self.chunk_head(pass, &chunk, &forward.hidden, true, true)?;
            if head.trains() {
                return Ok(None); // the first chunk says so
            }
            let sums = logprob::log_sum_exp(&head.output)?;
            logprob::log_probs(&head.output, &sums, &chunk.wanted, &mut logps)?;
            let logits = head.own_output()?;
            logprob::into_gradient(&logits, &sums, &chunk.wanted, |_| 1.0)?;
            if let Some(d) = head.backward(pass, logits, &mut Grads::new())? {
                slopes.push(Slope { chunk, d });
            }
        }
        Ok(Some((logps, slopes)))
    }

    fn forward(&self, pass: &Pass, options: &PassOptions) -> Result<Forward> {
        let embed = self.run_embed(pass, true)?;
        let (mut x, mut needs) = (embed.output.clone(), embed.needs);
        // where it is not trained nothing of it is wanted again, least of all its result
        let embed = needs.then_some(embed);
        let (record, layers) = (!options.checkpoint, self.base.arch.layers());
        let mut blocks = Vec::with_capacity(layers);
        for layer in 0..layers {
            let moves =
                options.offload_inputs && block_input::moves(layer, layers, embed.is_some());
            let moves = moves.then_some(&self.base.compute);
            let mut input = match record {
                true => None,
                false => Some(Input::of(&x, needs, moves)?),
            };
            let done = self.run_block(pass, Place::Packed, layer, record, x, needs)?;
            if let Some(input) = &mut input {
                input.was_used();
            }
            (x, needs) = (done.output.clone(), done.needs);
            blocks.push(input.map_or(Kept::Tape(done), Kept::Input));
        }
        Ok(Forward {
            embed,
            blocks,
            hidden: x,
            needs,
        })
    }

    /// Log-probs through the head, chunk by chunk.
    fn score_targets(
        &self,
        pass: &Pass,
        plan: &Packed,
        hidden: &Tensor,
        needs: bool,
        keep: bool,
    ) -> Result<Scored> {
        let mut logps = vec![0.0; plan.targets.len()];
        // without a gradient, cut as training with a frozen head cuts: step 0 then agrees to the last bit
        let single = (!keep)
            .then(|| single_chunks(plan, self.chunk_rows()))
            .flatten();
        let chunks = single.unwrap_or_else(|| chunks(plan, self.chunk_rows()));
        let mut kept = None;
        let keep = keep && chunks.len() == 1;
        for chunk in &chunks {
            let head = self.chunk_head(pass, chunk, hidden, needs, keep)?;
            let sums = logprob::log_sum_exp(&head.output)?;
            logprob::log_probs(&head.output, &sums, &chunk.wanted, &mut logps)?;
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
        pass: &Pass,
        chunk: &Chunk,
        hidden: &Tensor,
        needs: bool,
        record: bool,
    ) -> Result<Recorded> {
        let rows = layout::gather(hidden, &chunk.rows)?; // (rows, width)
        let place = Place::Picked(chunk.rows.as_slice().into());
        self.run_head(pass, place, record, rows, needs)
    }

    /// Gradients of the head's weights, and the gradient to the hidden state when it needs one.
    fn head_backward(
        &self,
        pass: &Pass,
        forward: &Forward,
        scored: Scored,
        slopes: &[f64],
        grads: &mut Grads,
    ) -> Result<Option<Tensor>> {
        let dims = forward.hidden.dims();
        let up = layout::zeros(dims, &forward.hidden)?;
        let mut kept = scored.kept;
        for chunk in &scored.chunks {
            let Logits { head, sums } = match kept.take() {
                Some(kept) => kept,
                None => {
                    let head =
                        self.chunk_head(pass, chunk, &forward.hidden, forward.needs, true)?;
                    let sums = logprob::log_sum_exp(&head.output)?;
                    Logits { head, sums }
                }
            };
            if !head.needs {
                return Ok(None);
            }
            let logits = head.own_output()?;
            logprob::into_gradient(&logits, &sums, &chunk.wanted, |t| slopes[t])?;
            if let Some(d) = head.backward(pass, logits, grads)? {
                layout::scatter(&d, &chunk.rows, None, &up)?;
            }
        }
        match forward.needs {
            true => Ok(Some(up)),
            false => Ok(None),
        }
    }

    fn blocks_backward(
        &self,
        pass: &Pass,
        forward: Forward,
        up: Tensor,
        grads: &mut Grads,
    ) -> Result<()> {
        let (mut up, mut blocks) = (up, forward.blocks);
        while let Some(kept) = blocks.pop() {
            // comes while this block is computed
            if let Some(Kept::Input(next)) = blocks.last_mut() {
                next.fetch()?;
            }
            let tape = match kept {
                Kept::Tape(tape) => tape,
                Kept::Input(input) => {
                    let (x, needs) = input.take()?;
                    self.run_block(pass, Place::Packed, blocks.len(), true, x, needs)?
                }
            };
            match tape.backward(pass, up, grads)? {
                Some(dx) => up = dx,
                None => return Ok(()), // nothing trainable below
            }
        }
        if let Some(embed) = forward.embed {
            embed.backward(pass, up, grads)?;
        }
        Ok(())
    }

    /// Rows that go through the head together; of the vocabulary a guess is good enough.
    fn chunk_rows(&self) -> usize {
        let configured = self.base.config.get("vocab_size").and_then(|v| v.as_u64());
        let vocab = configured.map_or(1 << 16, |v| v as usize);
        chunk_rows(vocab, self.base.compute.device.is_cuda())
    }
}

/// The gradient to the hidden state: every target's slope times its row.
fn join(rows: &[Slope], slopes: &[f64], hidden: &Tensor) -> Result<Tensor> {
    let up = layout::zeros(hidden.dims(), hidden)?;
    for Slope { chunk, d } in rows {
        let factor = |w: &Wanted| slopes[w.target] as f32;
        let factors: Vec<f32> = chunk.wanted.iter().map(factor).collect();
        layout::scatter(d, &chunk.rows, Some(&factors), &up)?;
    }
    Ok(up)
}

/// What the forward pass keeps of a block.
enum Kept {
    Tape(Recorded),
    Input(Input),
}

/// The forward pass up to the head.
struct Forward {
    /// `None` where no gradient reaches it.
    embed: Option<Recorded>,
    blocks: Vec<Kept>,
    hidden: Tensor,
    needs: bool,
}
