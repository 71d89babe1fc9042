//! A player: the shared base plus its own (small) set of tensors.

use std::{collections::BTreeMap, sync::Arc};

use candle_core::Tensor;

use crate::{Base, Packed, Result};

/// Trainable tensors by name, all f32: `model.layers.0.self_attn.q_proj.lora_A` / `.lora_B`, or, in full training,
/// `model.layers.0.self_attn.q_proj.weight`.
pub type Params = BTreeMap<String, Tensor>;
/// Their gradients, by the same names.
pub type Grads = BTreeMap<String, Tensor>;

/// Base and adapter. Cloning shares both; freezing an opponent is a clone.
#[derive(Clone)]
pub struct Player {
    /// Shared weights.
    pub base: Arc<Base>,
    /// LoRA settings; `None` in full training or for the bare base.
    pub lora: Option<Arc<randori_lora::LoraSpec>>,
    /// The player's own tensors.
    pub params: Arc<Params>,
}

/// How a training pass runs.
#[derive(Debug, Clone, Copy, Default)]
pub struct PassOptions {
    /// Keep block inputs only and recompute each block in the backward pass.
    pub checkpoint: bool,
    /// Seed of this pass's LoRA dropout masks; `None` switches dropout off.
    pub dropout_seed: Option<u64>,
}

/// The new tokens of one cached sequence.
pub struct SlotTokens<'a> {
    /// Which cache slot.
    pub slot: usize,
    /// Its new tokens (a whole prompt, or one token).
    pub tokens: &'a [u32],
}
