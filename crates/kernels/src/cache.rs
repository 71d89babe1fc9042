//! Keys and values of sequences that grow a step at a time, where a player's passes run.

#[cfg(feature = "cuda")]
use super::card::pages::Paged;
use super::cpu::maps::Maps;
use crate::Result;

/// Tokens of a page, on a GPU.
pub const PAGE: usize = 64;

/// The new rows of one slot in a step.
#[derive(Clone, Copy)]
pub struct Entry {
    /// Which slot.
    pub slot: usize,
    /// First row in the step.
    pub row: usize,
    /// New tokens.
    pub len: usize,
}

/// Keys and values by slot.
pub struct Cache {
    pub(super) held: Held,
    /// Tokens held, by slot.
    pub(super) lens: Vec<usize>,
    /// Tokens that each slot gets room for at once; 0: as they come.
    pub(super) room: usize,
    /// The rows of the step that is under way.
    pub(super) batch: Vec<Entry>,
}

/// Where they are.
pub(super) enum Held {
    /// In the machine's memory, by block, then call of attention inside the block (nearly always
    /// one).
    Near(Vec<Vec<Maps>>),
    /// On a GPU.
    #[cfg(feature = "cuda")]
    Card(Paged),
}

impl Cache {
    /// Of sequences of these tokens at most, of a model of so many blocks.
    pub fn new(blocks: usize, longest: &[usize], on_card: bool) -> Self {
        let near = || Held::Near((0..blocks).map(|_| Vec::new()).collect());
        Cache {
            held: match on_card {
                #[cfg(feature = "cuda")]
                true => Held::Card(Paged::new(blocks, longest)),
                _ => near(),
            },
            lens: vec![0; longest.len()],
            room: longest.iter().copied().max().unwrap_or(0),
            batch: Vec::new(),
        }
    }

    /// Forgets a slot's sequence; its memory is kept for the next one.
    pub fn clear(&mut self, slot: usize) {
        #[cfg(feature = "cuda")]
        if let Held::Card(paged) = &mut self.held {
            paged.clear(slot);
        }
        if let Some(len) = self.lens.get_mut(slot) {
            *len = 0;
        }
    }

    /// Tokens held, by slot.
    pub fn lens(&self) -> &[usize] {
        &self.lens
    }

    /// Bytes of the room for keys and values.
    pub fn bytes(&self) -> usize {
        match &self.held {
            Held::Near(blocks) => blocks.iter().flatten().map(Maps::bytes).sum(),
            #[cfg(feature = "cuda")]
            Held::Card(paged) => paged.bytes(),
        }
    }

    /// A step over these rows begins. Attention reads and writes it until it [ends](Cache::end).
    ///
    /// # Errors
    /// No room on a GPU.
    pub fn begin(&mut self, batch: Vec<Entry>) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let Held::Card(paged) = &mut self.held {
            paged.begin(&batch, &self.lens)?;
        }
        self.batch = batch;
        Ok(())
    }

    /// The step is over: what it appended belongs to its sequences.
    pub fn end(&mut self) {
        #[cfg(feature = "cuda")]
        if let Held::Card(paged) = &mut self.held {
            paged.end();
        }
        for e in self.batch.drain(..) {
            self.lens[e.slot] += e.len;
        }
    }
}
