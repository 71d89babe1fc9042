//! What training, scoring and generating hold at their worst moment: the passes of `training_pass.rs`, `player.rs` and
//! `generate.rs` on shapes.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

use super::{
    HEAP, Packing, Peak, Planner, SLACK, THREAD,
    ledger::{Held, Ledger},
    meter::{Input, Meter, Recorded},
    pass::Pass,
    undo::Undo,
};
use crate::{
    Error, Result,
    generate::{PIECE, PREFILL},
    heap,
    player::EARLY,
    training_pass::chunk_rows,
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

/// The parts of a model.
#[derive(Clone, Copy)]
pub(super) enum Part {
    Embed,
    /// A block; whether its values are let go at their last use.
    Block(usize, bool),
    Head,
}

/// What the forward pass keeps of a block.
enum Kept {
    Tape(Recorded),
    /// An input, unless it is in the host's memory, and whether a gradient must reach it.
    Input(Option<Held>, bool),
}

impl Planner {
    /// A training step of a player among `players` in memory, and its saving.
    ///
    /// # Errors
    /// What the architecture refuses.
    pub fn train(&self, packing: &Packing, checkpoint: bool, players: usize) -> Result<Peak> {
        let (peak, kept) = self.step_of_training(packing, checkpoint)?;
        if self.card.is_some() {
            return Ok(self.trained_on_card(peak, kept));
        }
        // an update makes a tensor anew, with all gradients there; saving copies every tensor, and one more as bytes
        let others = self.player() + self.largest();
        // where a tensor was before an update is a hole in the heap, which the next step's passes seldom fill
        let most = self.slack((peak + self.largest()).max(others));
        let gradients = self.player();
        let kept = kept.min(most.saturating_sub(gradients));
        Ok(Peak {
            base: self.base(),
            players: players as u64 * self.player(),
            moments: self.moments(),
            gradients: gradients.min(most),
            kept,
            work: most.saturating_sub(gradients + kept),
            attention: self.attention(packing, true)?,
            logits: 4 * (self.chunk_rows() * self.trace.vocab) as u64,
        })
    }

    /// The most that a step's passes hold, gradients included, and what the forward pass keeps.
    fn step_of_training(&self, packing: &Packing, checkpoint: bool) -> Result<(u64, u64)> {
        let pass = self.pass(packing.keys, packing.attended);
        let mut kept = self.forward_backward(&pass, packing, checkpoint)?;
        if packing.several {
            // whatever a step's first micro-batch has made of gradients lies there in the next
            pass.tables.borrow_mut().clear();
            kept = self.forward_backward(&pass, packing, checkpoint)?;
        }
        Ok((pass.ledger.peak(), kept))
    }

    /// Log-probs of a micro-batch.
    ///
    /// # Errors
    /// What the architecture refuses.
    pub fn score(&self, packing: &Packing, players: usize) -> Result<Peak> {
        let pass = self.pass(packing.keys, packing.attended);
        let hidden = self.blocks(&pass, packing.rows, true)?;
        for rows in chunks(packing.targets, self.chunk_rows()) {
            self.head(&pass, rows, false, false)?;
        }
        drop(hidden);
        if self.card.is_some() {
            return Ok(self.scored_on_card(pass.ledger.peak()));
        }
        Ok(Peak {
            base: self.base(),
            players: players as u64 * self.player(),
            work: self.slack(pass.ledger.peak()),
            attention: self.attention(packing, false)?,
            logits: 4 * (self.chunk_rows() * self.trace.vocab) as u64,
            ..Peak::default()
        })
    }

    /// Answers to prompts.
    ///
    /// # Errors
    /// What the architecture refuses.
    pub fn generate(&self, d: &Decoding, players: usize) -> Result<Peak> {
        if self.card.is_some() {
            return self.generated_on_card(d);
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
            d.slots as u64 * tokens as u64 * self.trace.cache_bytes_per_token as u64
        };
        let (short, long) = (of(d.prompt), of((d.prompt + d.response).saturating_sub(1)));
        // a row of logits as a list, and two of its samplers, for every sequence
        let rows = 3 * 4 * (d.slots * self.trace.vocab) as u64;
        // keys and values lie outside the heap, which keeps some of what loading and prompts took
        let left = self.weights.iter().map(|w| w.beside).filter(|b| *b <= HEAP);
        let free = left.fold(beginning, u64::max).min(heap::KEPT as u64);
        let peak = (short + beginning).max(long + going_on.max(refill).max(free));
        let kept = long.min(peak);
        Ok(Peak {
            base: self.base(),
            players: players as u64 * self.player(),
            kept,
            work: self.slack(peak - kept + rows),
            attention: self.pass(d.prompt + d.response, 0).scores(1),
            logits: 4 * (d.slots * self.trace.vocab) as u64 + rows,
            ..Peak::default()
        })
    }

    /// One step over `rows` new tokens of `sequences` sequences.
    fn step(&self, rows: usize, sequences: usize, keys: usize) -> Result<u64> {
        self.cached_step(self.pass(keys, 0), rows, sequences)
    }

    pub(super) fn cached_step(&self, pass: Pass, rows: usize, sequences: usize) -> Result<u64> {
        let x = self.blocks(&pass, rows, false)?;
        let head = self.head(&pass, sequences, false, false)?;
        drop((x, head));
        Ok(pass.ledger.peak())
    }

    pub(super) fn pass(&self, keys: usize, attended: u64) -> Pass<'_> {
        Pass {
            ledger: Ledger::default(),
            learnt: &self.learnt,
            stored: &self.stored,
            attended,
            work: Cell::default(),
            keys,
            threads: self.threads as u64,
            tables: RefCell::default(),
            grads: RefCell::new(BTreeMap::new()),
            card: self.card.map(|card| card.float),
            decodes: false,
        }
    }

    /// Everything up to the head, nothing recorded.
    pub(super) fn blocks(&self, pass: &Pass, rows: usize, packed: bool) -> Result<Held> {
        let ids = self.ids(pass, rows);
        let mut x = self.run(pass, Part::Embed, false, ids)?.output;
        for layer in 0..self.arch.layers() {
            let part = Part::Block(layer, packed && rows >= EARLY);
            x = self
                .run(pass, part, false, self.wide(x, rows, false))?
                .output;
        }
        Ok(x)
    }

    /// As `Player::forward_backward`; answers what the forward pass has kept.
    pub(super) fn forward_backward(
        &self,
        pass: &Pass,
        packing: &Packing,
        checkpoint: bool,
    ) -> Result<u64> {
        let before = pass.ledger.live();
        let rows = packing.rows;
        let embed = self.run(pass, Part::Embed, true, self.ids(pass, rows))?;
        let (mut x, mut needs) = (embed.output.clone(), embed.needs);
        let embed = needs.then_some(embed);
        let mut blocks = Vec::new();
        for layer in 0..self.arch.layers() {
            let (input, needed) = (x.clone(), needs);
            let part = Part::Block(layer, rows >= EARLY);
            let done = self.run(pass, part, !checkpoint, self.wide(x, rows, needs))?;
            (x, needs) = (done.output.clone(), done.needs);
            let stays = !self.moves(layer, embed.is_some());
            blocks.push(match checkpoint {
                true => Kept::Input(stays.then_some(input), needed),
                false => Kept::Tape(done),
            });
        }
        let hidden = x;
        let kept = pass.ledger.live() - before;
        if let Some(mut up) = self.through_head(pass, packing, needs)? {
            while let Some(block) = blocks.pop() {
                let fetched = || pass.values(rows * self.trace.width);
                if let Some(Kept::Input(next @ None, _)) = blocks.last_mut() {
                    *next = Some(fetched());
                }
                let tape = match block {
                    Kept::Tape(tape) => tape,
                    Kept::Input(x, needs) => {
                        let part = Part::Block(blocks.len(), rows >= EARLY);
                        let x = x.unwrap_or_else(fetched);
                        self.run(pass, part, true, self.wide(x, rows, needs))?
                    }
                };
                match tape.backward(pass, up) {
                    Some(dx) => up = dx,
                    None => return Ok(kept),
                }
            }
            if let Some(embed) = embed {
                embed.backward(pass, up);
            }
        }
        drop(hidden);
        Ok(kept)
    }

    /// The head in chunks, and the gradient to the hidden state if it needs one.
    fn through_head(&self, pass: &Pass, packing: &Packing, needs: bool) -> Result<Option<Held>> {
        let hold_up = || pass.values(packing.rows * self.trace.width);
        let sizes = chunks(packing.targets, self.chunk_rows());
        let backward = |head: Recorded| {
            let logits = head.output.clone();
            head.backward(pass, logits)
        };
        let trains = self.head_trains();
        if needs && sizes.len() > 1 && !trains {
            let mut slopes = Vec::new();
            for rows in sizes {
                slopes.push(backward(self.head(pass, rows, true, true)?));
            }
            return Ok(Some(hold_up()));
        }
        let mut kept = None;
        for &rows in &sizes {
            let alone = sizes.len() == 1;
            kept = Some(self.head(pass, rows, alone, needs)?).filter(|_| alone);
        }
        let up = hold_up();
        for rows in sizes {
            let head = match kept.take() {
                Some(head) => head,
                None => self.head(pass, rows, true, needs)?,
            };
            if !head.needs {
                return Ok(None);
            }
            backward(head);
        }
        Ok(needs.then_some(up))
    }

    /// Whether anything in the head is trained.
    fn head_trains(&self) -> bool {
        let head = self.trace.linears.iter().filter(|l| l.layer.is_none());
        let mut names = head.map(|l| (l.name.as_str(), format!("{}.weight", l.name)));
        names.any(|(name, weight)| {
            self.learnt.ranks.contains_key(name) || self.learnt.full.contains(&weight)
        })
    }

    pub(super) fn head(
        &self,
        pass: &Pass,
        rows: usize,
        record: bool,
        needs: bool,
    ) -> Result<Recorded> {
        let x = pass.values(rows * self.trace.width);
        self.run(pass, Part::Head, record, self.wide(x, rows, needs))
    }

    /// Rows that go through the head together.
    pub(super) fn chunk_rows(&self) -> usize {
        chunk_rows(self.trace.vocab, self.card.is_some())
    }

    pub(super) fn ids(&self, pass: &Pass, rows: usize) -> Input {
        Input {
            // a GPU's are taken from the host, and gone when they have been looked up
            held: pass.single(if self.card.is_some() { 0 } else { rows }),
            rows,
            dims: Vec::new(),
            needs: false,
        }
    }

    /// A hidden state.
    fn wide(&self, held: Held, rows: usize, needs: bool) -> Input {
        let dims = vec![self.trace.width];
        Input {
            held,
            rows,
            dims,
            needs,
        }
    }

    pub(super) fn run(
        &self,
        pass: &Pass,
        part: Part,
        record: bool,
        input: Input,
    ) -> Result<Recorded> {
        let arch = &*self.arch;
        let uses = match part {
            Part::Block(layer, true) => self.last_uses.get(layer).and_then(Option::as_deref),
            _ => None,
        };
        Meter::run(pass, record, input, uses, |meter, x| match part {
            Part::Embed => arch.embed(meter, x),
            Part::Block(layer, _) => arch.block(meter, layer, x),
            Part::Head => arch.head(meter, x),
        })
        .map_err(|e| Error::rule(format!("`{}`: {e}", arch.name())))
    }

    /// With what the allocator and the threads take.
    fn slack(&self, bytes: u64) -> u64 {
        (bytes as f64 * SLACK) as u64 + self.threads as u64 * THREAD
    }

    /// Attention's own memory over a micro-batch.
    fn attention(&self, packing: &Packing, backward: bool) -> Result<u64> {
        let plain = self.pass(packing.keys, packing.attended);
        if !backward {
            return Ok(plain.scores(1));
        }
        let x = plain.ledger.hold(0);
        let block = self.run(
            &plain,
            Part::Block(0, false),
            true,
            self.wide(x, packing.rows, true),
        )?;
        let shares = block.nodes.iter().map(|node| match node.undo {
            Undo::Attention { counts, .. } => 2 * 4 * counts[0] as u64,
            _ => 0,
        });
        Ok(plain.scores(2) + shares.max().unwrap_or(0))
    }
}

/// `all` rows in chunks of at most `size`.
pub(super) fn chunks(all: usize, size: usize) -> Vec<usize> {
    (0..all)
        .step_by(size)
        .map(|from| size.min(all - from))
        .collect()
}

#[cfg(test)]
mod tests;
