//! The KV cache of generation: keys and values of sequences that grow a step at a time.

#[cfg(feature = "cuda")]
use crate::card::pages::Paged;
use crate::{Entry, Result, cpu::maps::Maps};

/// Keys and values of sequences, one in each slot.
pub struct Cache {
    pub(super) memory: Memory,
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
    }

    /// Tokens in each slot.
    pub fn lens(&self) -> &[usize] {
        &self.lens
    }

    /// Bytes reserved for keys and values.
    pub fn bytes(&self) -> usize {
        match &self.memory {
            Memory::Host(blocks) => blocks.iter().flatten().map(Maps::bytes).sum(),
            #[cfg(feature = "cuda")]
            Memory::Card(paged) => paged.bytes(),
        }
    }

    /// Begins a step over these rows; until it [ends](Cache::end), attention appends them and reads
    /// the cache.
    ///
    /// # Errors
    /// Not enough memory on a GPU.
    pub fn begin(&mut self, batch: Vec<Entry>) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let Memory::Card(paged) = &mut self.memory {
            paged.begin(&batch, &self.lens)?;
        }
        self.batch = batch;
        Ok(())
    }

    /// Ends the step: its rows now count as their sequences' tokens.
    pub fn end(&mut self) {
        #[cfg(feature = "cuda")]
        if let Memory::Card(paged) = &mut self.memory {
            paged.end();
        }
        for e in self.batch.drain(..) {
            self.lens[e.slot] += e.len;
        }
    }
}
