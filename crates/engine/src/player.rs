//! A player: the shared base plus its own (small) set of tensors.

use std::{collections::BTreeMap, sync::Arc};

use candle_core::Tensor;

use crate::{Base, Error, KvCache, Packed, Result};

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

impl Player {
    /// The base alone: nothing to train.
    pub fn bare(base: Arc<Base>) -> Player {
        Player { base, lora: None, params: Arc::new(Params::new()) }
    }

    /// Base with a fresh adapter (B = 0) on every projection that `spec` wants.
    /// Error when none matches, listing the projections there are.
    pub fn with_lora(base: Arc<Base>, spec: randori_lora::LoraSpec, seed: u64) -> Result<Player> {
        let _ = (base, spec, seed);
        Err(Error::rule("not built yet"))
    }

    /// Every weight trainable, as an f32 copy. Error on a quantised base.
    pub fn full(base: Arc<Base>) -> Result<Player> {
        let _ = base;
        Err(Error::rule("not built yet"))
    }

    /// (tokens, width) after the last block; nothing is recorded.
    pub fn hidden(&self, plan: &Packed) -> Result<Tensor> {
        let _ = plan;
        Err(Error::rule("not built yet"))
    }

    /// Log-prob of every target, in the plan's order.
    pub fn logps(&self, plan: &Packed) -> Result<Vec<f64>> {
        let _ = plan;
        Err(Error::rule("not built yet"))
    }

    /// One forward and backward pass. `slopes` gets the log-prob of every target and answers d loss / d logp;
    /// gradients are added into `grads`, in place where a name is there already.
    pub fn forward_backward(
        &self,
        plan: &Packed,
        options: &PassOptions,
        slopes: &mut dyn FnMut(&[f64]) -> Result<Vec<f64>>,
        grads: &mut Grads,
    ) -> Result<()> {
        let _ = (plan, options, slopes, grads);
        Err(Error::rule("not built yet"))
    }

    /// Runs each entry's new tokens behind what its slot holds, appends their keys and values, and answers
    /// (batch, vocab) f32 logits after each entry's last token.
    pub fn step(&self, cache: &mut KvCache, batch: &[SlotTokens]) -> Result<Tensor> {
        let _ = (cache, batch);
        Err(Error::rule("not built yet"))
    }
}
