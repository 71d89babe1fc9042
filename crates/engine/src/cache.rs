//! Keys and values of sequences that are being generated, per block and slot.

use crate::Player;

/// The KV cache: `slots` independent sequences that grow by [`Player::step`].
pub struct KvCache {
    /// By block, then slot.
    pub(crate) blocks: Vec<Vec<SlotKv>>,
    /// Tokens held, by slot.
    pub(crate) lens: Vec<usize>,
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
        KvCache { blocks: vec![vec![SlotKv::default(); slots]; player.base.arch.layers()], lens: vec![0; slots] }
    }

    /// Forgets a slot's sequence; its memory is kept for the next one.
    pub fn clear(&mut self, slot: usize) {
        for block in &mut self.blocks {
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
        self.blocks.iter().flatten().map(|kv| 4 * (kv.k.capacity() + kv.v.capacity())).sum()
    }
}
