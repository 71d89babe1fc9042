//! Keys and values of sequences that are being generated, per block and slot.

use std::sync::Arc;

use randori_kernels::{Cache, Lengths};

use crate::{Player, player::weights::Gains};

/// The KV cache: `slots` independent sequences that grow by [`Player::step`].
pub struct KvCache {
    pub(crate) kv: Cache,
    /// DoRA's gains of the player it was made for.
    pub(crate) gains: Arc<Gains>,
    /// By slot: how many tokens its sequence is taken to have, where rotation depends on that.
    pub(crate) lengths: Vec<usize>,
}

impl KvCache {
    /// An empty cache for `slots` sequences of this player's base, which takes memory as they grow.
    pub fn new(player: &Player, slots: usize) -> Self {
        KvCache::with_room(player, &vec![0; slots])
    }

    /// An empty cache of `longest.len()` slots that is given its memory once: at no time will there
    /// be sequences longer than the longest of these, the two longest longer than the two longest
    /// of these, and so on. On a GPU that is pages for exactly these; on the CPU room of which only
    /// what is written takes memory.
    pub fn with_room(player: &Player, longest: &[usize]) -> Self {
        let base = &player.base;
        let on_card = base.compute.device.is_cuda();
        KvCache {
            kv: Cache::new(base.arch.layers(), longest, on_card),
            gains: Arc::default(),
            lengths: vec![0; longest.len()],
        }
    }

    /// Forgets a slot's sequence; its memory is kept for the next one.
    pub fn clear(&mut self, slot: usize) {
        self.kv.clear(slot);
        self.expect(slot, 0);
    }

    /// Says how many tokens an empty slot's sequence will have at least. It is wanted where a
    /// sequence comes in pieces and the architecture has a [border](crate::Trace::border): all of
    /// its positions must be rotated alike, and what is cached is not rotated again.
    pub fn expect(&mut self, slot: usize, tokens: usize) {
        if let Some(length) = self.lengths.get_mut(slot) {
            *length = tokens;
        }
    }

    /// How many tokens the sequence of a slot belongs to while `new` more are fed: as its cached
    /// rows were taken to, and as the new ones are.
    pub(crate) fn lengths(&self, slot: usize, new: usize) -> Lengths {
        let (held, taken) = (self.len(slot), self.lengths.get(slot).copied().unwrap_or(0));
        let now = Lengths::of(taken.max(held + new));
        match held {
            0 => now,
            _ => now.with(Some(Lengths::of(taken))),
        }
    }

    /// Tokens held by a slot (0 for a slot that does not exist).
    pub fn len(&self, slot: usize) -> usize {
        self.kv.lens().get(slot).copied().unwrap_or(0)
    }

    /// Whether a slot holds no token.
    pub fn is_empty(&self, slot: usize) -> bool {
        self.len(slot) == 0
    }

    /// How many slots there are.
    pub fn slots(&self) -> usize {
        self.kv.lens().len()
    }

    /// Bytes of the room for keys and values. On the CPU only what was ever written of it takes
    /// memory.
    pub fn bytes(&self) -> usize {
        self.kv.bytes()
    }
}
