//! A player: the shared base and the player's own (small) set of tensors. How one begins stands in
//! `adapter.rs`, the passes that it can run in `player/passes.rs` and `training_pass.rs`.

pub(crate) mod passes;
pub(crate) mod probe;
pub(crate) mod weights;

use std::sync::Arc;

use randori_kernels::Result;

use crate::{Base, Params};

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
    /// Of those inputs only what is computed on stays on the GPU: the others wait in pinned memory
    /// of the host's. Wants `checkpoint` and a base on a GPU; the results are the same to the bit.
    pub offload_inputs: bool,
    /// Seed of LoRA's dropout masks; `None` switches dropout off. A row's mask is a function of the
    /// seed, its item, response and position, and the projection: not of what else is in the plan.
    pub dropout_seed: Option<u64>,
}

impl Player {
    /// The base alone: nothing to train.
    pub fn bare(base: Arc<Base>) -> Player {
        Player {
            base,
            lora: None,
            params: Arc::new(Params::new()),
        }
    }

    /// The architecture's [`Trace::border`](crate::Trace::border); `None` also where it cannot be
    /// traced, which a pass then says.
    pub fn border(&self) -> Option<usize> {
        crate::trace(self.base.arch.as_ref()).ok()?.border
    }

    /// The player's own tensors on the device on which its base computes.
    pub(crate) fn params_on_device(&self) -> Result<Arc<Params>> {
        #[cfg(feature = "cuda")]
        if self.base.compute.device.is_cuda() {
            return self.base.compute.upload_params(&self.params);
        }
        Ok(self.params.clone())
    }
}
