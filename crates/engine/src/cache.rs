//! Keys and values of sequences that are being generated, per block and slot.

use std::sync::Arc;

use candle_core::Tensor;

use crate::{
    Player, Result,
    kernels::{
        Values,
        attention::{Keys, Span},
    },
    tape::Gains,
};

mod rows;
pub(crate) use rows::Rows;

/// Tokens of a page, on a GPU.
pub(crate) const PAGE: usize = 64;

/// The KV cache: `slots` independent sequences that grow by [`Player::step`].
pub struct KvCache {
    /// By block, then call of attention inside the block (nearly always one).
    pub(crate) blocks: Vec<Vec<Rows>>,
    /// Tokens held, by slot.
    pub(crate) lens: Vec<usize>,
    /// Tokens that each slot gets room for at once; 0: as they come.
    pub(crate) room: usize,
    /// Of the player it was made for.
    pub(crate) gains: Arc<Gains>,
    /// Where keys and values are when the player's base is on a GPU.
    #[cfg(feature = "cuda")]
    pub(crate) paged: Option<crate::gpu::pages::Paged>,
}

impl KvCache {
    /// An empty cache for `slots` sequences of this player's base, which takes memory as they grow.
    pub fn new(player: &Player, slots: usize) -> Self {
        KvCache::with_room(player, &vec![0; slots])
    }

    /// An empty cache of `longest.len()` slots that is given its memory once: at no time will there be sequences longer than
    /// the longest of these, the two longest longer than the two longest of these, and so on. On a GPU that is pages for
    /// exactly these; on the CPU room of which only what is written takes memory.
    pub fn with_room(player: &Player, longest: &[usize]) -> Self {
        KvCache {
            blocks: (0..player.base.arch.layers()).map(|_| Vec::new()).collect(),
            lens: vec![0; longest.len()],
            room: longest.iter().copied().max().unwrap_or(0),
            gains: Arc::default(),
            #[cfg(feature = "cuda")]
            paged: (player.base.compute.device.is_cuda())
                .then(|| crate::gpu::pages::Paged::new(player.base.arch.layers(), longest)),
        }
    }

    /// Forgets a slot's sequence; its memory is kept for the next one.
    pub fn clear(&mut self, slot: usize) {
        #[cfg(feature = "cuda")]
        if let Some(paged) = &mut self.paged {
            paged.clear(slot);
        }
        if let Some(len) = self.lens.get_mut(slot) {
            *len = 0;
        }
    }

    /// Tokens held by a slot (0 for a slot that does not exist).
    pub fn len(&self, slot: usize) -> usize {
        self.lens.get(slot).copied().unwrap_or(0)
    }

    /// Whether a slot holds no token.
    pub fn is_empty(&self, slot: usize) -> bool {
        self.len(slot) == 0
    }

    /// How many slots there are.
    pub fn slots(&self) -> usize {
        self.lens.len()
    }

    /// Bytes of the room for keys and values. On the CPU only what was ever written of it takes memory.
    pub fn bytes(&self) -> usize {
        #[cfg(feature = "cuda")]
        if let Some(paged) = &self.paged {
            return paged.bytes();
        }
        self.blocks.iter().flatten().map(Rows::bytes).sum()
    }
}

/// The new rows of one slot in a step.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) slot: usize,
    /// First row in the step.
    pub(crate) row: usize,
    /// New tokens.
    pub(crate) len: usize,
}

/// One block's part of the cache, for the time of one step.
pub(crate) struct BlockCache<'a> {
    calls: &'a mut Vec<Rows>,
    lens: &'a [usize],
    room: usize,
    batch: &'a [Entry],
    /// Calls of attention so far.
    call: usize,
    #[cfg(feature = "cuda")]
    paged: Option<crate::gpu::pages::PagedBlock<'a>>,
}

impl<'a> BlockCache<'a> {
    pub(crate) fn new(
        calls: &'a mut Vec<Rows>,
        lens: &'a [usize],
        room: usize,
        batch: &'a [Entry],
    ) -> Self {
        BlockCache {
            calls,
            lens,
            room,
            batch,
            call: 0,
            #[cfg(feature = "cuda")]
            paged: None,
        }
    }

    /// The same on a GPU.
    #[cfg(feature = "cuda")]
    pub(crate) fn on_gpu(mut self, paged: crate::gpu::pages::PagedBlock<'a>) -> Self {
        self.paged = Some(paged);
        self
    }

    /// Appends the new rows and attends, on a GPU.
    #[cfg(feature = "cuda")]
    pub(crate) fn attend_on_gpu(
        &mut self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        heads: &crate::kernels::attention::Heads,
    ) -> Result<crate::kernels::attention::Attended> {
        match &mut self.paged {
            Some(paged) => paged.attend(q, k, v, heads),
            None => Err(crate::Error::rule("this cache is not on the GPU")),
        }
    }

    /// Puts the new rows of k and v, `width` values each, behind what their slots hold.
    pub(crate) fn append(&mut self, k: &Tensor, v: &Tensor, width: usize) -> Result<()> {
        let lens = self.lens;
        let most = self.batch.iter().map(|e| lens[e.slot] + e.len).max();
        let most = most.unwrap_or(0);
        if self.calls.len() == self.call {
            let room = self.room.max(most);
            self.calls.push(Rows::new(lens.len(), room, width)?);
        }
        let rows = &mut self.calls[self.call];
        rows.grow(most, lens)?;
        let (k, v) = (Values::of(k)?, Values::of(v)?);
        for e in self.batch {
            let new = e.row * width..(e.row + e.len) * width;
            rows.write(e.slot, lens[e.slot], [&k[new.clone()], &v[new]]);
        }
        self.call += 1;
        Ok(())
    }

    /// The batch's queries over what its slots hold, after [`BlockCache::append`].
    pub(crate) fn spans(&self) -> Vec<Span<'_>> {
        let rows = &self.calls[self.call - 1];
        let span = |(tree, e): (usize, &Entry)| {
            let old = self.lens[e.slot];
            let [k, v] = rows.slot(e.slot, old + e.len);
            let keys = Keys {
                k,
                v,
                row: 0,
                len: old + e.len,
                position: 0,
            };
            Span {
                row: e.row,
                len: e.len,
                position: old,
                keys: vec![keys],
                tree,
            }
        };
        self.batch.iter().enumerate().map(span).collect()
    }
}
