//! A player's own tensors and their gradients, by name.

use std::collections::BTreeMap;

use candle_core::Tensor;

/// Trainable tensors, all f32, by name: `model.layers.0.self_attn.q_proj.lora_A` / `.lora_B`, or,
/// in full training, `model.layers.0.self_attn.q_proj.weight`.
pub type Params = BTreeMap<String, Tensor>;
/// Their gradients, by the same names.
pub type Grads = BTreeMap<String, Tensor>;
