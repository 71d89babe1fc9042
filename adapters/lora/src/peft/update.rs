//! Names of the tensors of which an update of a projection is made.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::Tensor;

pub(super) const PARTS: [&str; 3] = ["lora_A", "lora_B", "lora_magnitude_vector"];

/// Names of the projections that these tensors update.
pub fn projections(params: &BTreeMap<String, Tensor>) -> BTreeSet<String> {
    params
        .keys()
        .filter_map(|name| split(name))
        .map(|(projection, _)| projection.to_string())
        .collect()
}

/// Splits `model.layers.0.mlp.up_proj.lora_A` into projection and tensor.
pub(super) fn split(name: &str) -> Option<(&str, &str)> {
    name.rsplit_once('.')
        .filter(|(_, part)| PARTS.contains(part))
}
