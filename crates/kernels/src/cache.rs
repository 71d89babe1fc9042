//! The cache of generation: what ops keep of sequences that grow a step at a time. Attention's keys
//! and values grow with them; a recurrent op's state of a sequence keeps its size.

#[cfg(feature = "cuda")]
use crate::card::pages::Paged;
use crate::{Entry, Error, Result, cpu::maps::Maps};

/// Keys, values and states of sequences, one in each slot.
pub struct Cache {
    pub(super) memory: Memory,
    /// By block, then call of a recurrent op inside the block; always in the machine's memory.
    states: Vec<Vec<States>>,
    /// Whether the current step has changed states.
    changed: bool,
    /// Tokens in each slot.
    pub(super) lens: Vec<usize>,
    /// Tokens that a slot has room for from the start; 0: as many as its first step needs.
    pub(super) room: usize,
    /// The rows of the current step.
    pub(super) batch: Vec<Entry>,
}

/// The memory that holds a cache.
pub(super) enum Memory {
    /// The machine's: by block, then call of attention inside the block (nearly always one).
    Host(Vec<Vec<Maps>>),
    /// A GPU's.
    #[cfg(feature = "cuda")]
    Card(Paged),
}

/// The states that one call of a recurrent op has of all sequences.
struct States {
    /// (slots, width). That of a slot without tokens is as the last sequence left it, and not read.
    values: Vec<f32>,
    width: usize,
}

/// What a recurrent op works on in a step.
pub(super) struct Held<'a> {
    /// Its states, (slots, width).
    pub(super) values: &'a mut [f32],
    /// Tokens in each slot before the step.
    pub(super) lens: &'a [usize],
    /// The rows of the step.
    pub(super) batch: &'a [Entry],
}

impl Cache {
    /// A cache for a model of `blocks` blocks, with a slot for each of `longest`, its greatest
    /// number of tokens.
    pub fn new(blocks: usize, longest: &[usize], on_card: bool) -> Self {
        let on_host = || Memory::Host((0..blocks).map(|_| Vec::new()).collect());
        Cache {
            memory: match on_card {
                #[cfg(feature = "cuda")]
                true => Memory::Card(Paged::new(blocks, longest)),
                _ => on_host(),
            },
            states: (0..blocks).map(|_| Vec::new()).collect(),
            changed: false,
            lens: vec![0; longest.len()],
            room: longest.iter().copied().max().unwrap_or(0),
            batch: Vec::new(),
        }
    }

    /// Removes a slot's sequence; its memory is kept for the next one.
    pub fn clear(&mut self, slot: usize) {
        #[cfg(feature = "cuda")]
        if let Memory::Card(paged) = &mut self.memory {
            paged.clear(slot);
        }
        if let Some(len) = self.lens.get_mut(slot) {
            *len = 0;
        }
        self.batch.retain(|e| e.slot != slot); // of a step that failed
    }

    /// Tokens in each slot.
    pub fn lens(&self) -> &[usize] {
        &self.lens
    }

    /// Bytes reserved for keys, values and states.
    pub fn bytes(&self) -> usize {
        let states = self.states.iter().flatten();
        let states: usize = states.map(|s| 4 * s.values.len()).sum();
        states
            + match &self.memory {
                Memory::Host(blocks) => blocks.iter().flatten().map(Maps::bytes).sum::<usize>(),
                #[cfg(feature = "cuda")]
                Memory::Card(paged) => paged.bytes(),
            }
    }

    /// The states that a call of a recurrent op, (block, number of the call inside it), has of all
    /// slots, `width` values each. It reads those of slots with tokens only, and leaves each of the
    /// step's as it is after the step's last token.
    ///
    /// # Errors
    /// Not enough memory.
    pub(super) fn states(
        &mut self,
        (layer, call): (usize, usize),
        width: usize,
    ) -> Result<Held<'_>> {
        let (slots, calls) = (self.lens.len(), &mut self.states[layer]);
        if calls.len() == call {
            let mut values = Vec::new();
            let count = slots.saturating_mul(width);
            values.try_reserve_exact(count).map_err(|_| {
                let mib = count.saturating_mul(4) >> 20;
                Error::OutOfMemory(format!("out of memory: {mib} MiB for states of one block"))
            })?;
            values.resize(count, 0.0);
            calls.push(States { values, width });
        }
        self.changed = true;
        let states = calls
            .get_mut(call)
            .filter(|s| s.width == width)
            .ok_or_else(|| Error::rule("a block calls its recurrent ops otherwise than before"))?;
        Ok(Held {
            values: &mut states.values,
            lens: &self.lens,
            batch: &self.batch,
        })
    }

    /// Begins a step over these rows; until it [ends](Cache::end), attention appends them and reads
    /// the cache.
    ///
    /// # Errors
    /// Not enough memory on a GPU; a sequence whose last step has failed in the middle and left its
    /// states between two tokens: its slot must be [cleared](Cache::clear).
    pub fn begin(&mut self, batch: Vec<Entry>) -> Result<()> {
        if let Some(e) = self.batch.first().filter(|_| self.changed) {
            return Err(Error::rule(format!(
                "the last step of slot {} has failed: its sequence must begin again",
                e.slot
            )));
        }
        #[cfg(feature = "cuda")]
        if let Memory::Card(paged) = &mut self.memory {
            paged.begin(&batch, &self.lens)?;
        }
        (self.batch, self.changed) = (batch, false);
        Ok(())
    }

    /// Ends the step: its rows now count as their sequences' tokens.
    pub fn end(&mut self) {
        #[cfg(feature = "cuda")]
        if let Memory::Card(paged) = &mut self.memory {
            paged.end();
        }
        self.changed = false;
        for e in self.batch.drain(..) {
            self.lens[e.slot] += e.len;
        }
    }
}
