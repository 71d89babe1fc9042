//! Base weights: loaded once, shared by every player.

use std::{collections::HashMap, sync::Arc};

use candle_core::Tensor;
use randori_qlora::QuantMatrix;
use randori_sdk::seam::Architecture;

/// One weight of the base.
#[derive(Clone)]
pub enum Weight {
    /// f32, f16 or bf16.
    Dense(Tensor),
    /// NF4 or a GGUF block format; two axes (out, in).
    Quant(Arc<QuantMatrix>),
}

/// A model without adapters.
pub struct Base {
    /// What runs it.
    pub arch: Arc<dyn Architecture>,
    /// The configuration in Hugging Face's spelling (also when it came from GGUF metadata).
    pub config: serde_json::Value,
    /// By full tensor name: `model.embed_tokens.weight`, `model.layers.0.self_attn.q_proj.weight`, `….bias`.
    pub weights: HashMap<String, Weight>,
}
