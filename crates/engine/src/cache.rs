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

/// Tokens of a page, on a GPU.
pub(crate) const PAGE: usize = 64;

/// How many pages are made when `pages` are all taken.
pub(crate) fn more_pages(pages: usize) -> usize {
    (pages / 4).max(8)
}

/// The KV cache: `slots` independent sequences that grow by [`Player::step`].
pub struct KvCache {
    /// By block, then call of attention inside the block (nearly always one), then slot.
    pub(crate) blocks: Vec<Vec<Vec<SlotKv>>>,
    /// Tokens held, by slot.
    pub(crate) lens: Vec<usize>,
    /// Of the player it was made for.
    pub(crate) gains: Arc<Gains>,
    /// Where keys and values are when the player's base is on a GPU.
    #[cfg(feature = "cuda")]
    pub(crate) paged: Option<crate::gpu::pages::Paged>,
}

/// One slot's keys and values in one block, each (tokens, kv_heads · head_dim) in f32, keys already rotated.
#[derive(Clone, Default)]
pub(crate) struct SlotKv {
    pub(crate) k: Vec<f32>,
    pub(crate) v: Vec<f32>,
}

impl KvCache {
    /// An empty cache for `slots` sequences of this player's base.
    pub fn new(player: &Player, slots: usize) -> Self {
        KvCache {
            blocks: vec![Vec::new(); player.base.arch.layers()],
            lens: vec![0; slots],
            gains: Arc::default(),
            #[cfg(feature = "cuda")]
            paged: (player.base.compute.device.is_cuda())
                .then(|| crate::gpu::pages::Paged::new(player.base.arch.layers(), slots)),
        }
    }

    /// Forgets a slot's sequence; its memory is kept for the next one.
    pub fn clear(&mut self, slot: usize) {
        #[cfg(feature = "cuda")]
        if let Some(paged) = &mut self.paged {
            paged.clear(slot);
        }
        for block in self.blocks.iter_mut().flatten() {
            if let Some(kv) = block.get_mut(slot) {
                kv.k.clear();
                kv.v.clear();
            }
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

    /// Bytes allocated for keys and values.
    pub fn bytes(&self) -> usize {
        #[cfg(feature = "cuda")]
        if let Some(paged) = &self.paged {
            return paged.bytes();
        }
        self.blocks
            .iter()
            .flatten()
            .flatten()
            .map(|kv| 4 * (kv.k.capacity() + kv.v.capacity()))
            .sum()
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
    calls: &'a mut Vec<Vec<SlotKv>>,
    lens: &'a [usize],
    batch: &'a [Entry],
    /// Calls of attention so far.
    call: usize,
    #[cfg(feature = "cuda")]
    paged: Option<crate::gpu::pages::PagedBlock<'a>>,
}

impl<'a> BlockCache<'a> {
    pub(crate) fn new(
        calls: &'a mut Vec<Vec<SlotKv>>,
        lens: &'a [usize],
        batch: &'a [Entry],
    ) -> Self {
        BlockCache {
            calls,
            lens,
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
        if self.calls.len() == self.call {
            self.calls.push(vec![SlotKv::default(); self.lens.len()]);
        }
        let (k, v) = (Values::of(k)?, Values::of(v)?);
        for e in self.batch {
            let kv = &mut self.calls[self.call][e.slot];
            let place = e.row * width..(e.row + e.len) * width;
            for (kept, new) in [(&mut kv.k, &k[place.clone()]), (&mut kv.v, &v[place])] {
                kept.truncate(self.lens[e.slot] * width); // what a failed step left
                kept.extend_from_slice(new);
            }
        }
        self.call += 1;
        Ok(())
    }

    /// The batch's queries over what its slots hold, after [`BlockCache::append`].
    pub(crate) fn spans(&self) -> Vec<Span<'_>> {
        let slots = &self.calls[self.call - 1];
        let span = |(tree, e): (usize, &Entry)| {
            let (old, kv) = (self.lens[e.slot], &slots[e.slot]);
            let keys = Keys {
                k: &kv.k,
                v: &kv.v,
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
