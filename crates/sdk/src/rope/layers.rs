//! [`Ropes`]: the rotary embedding of each layer.

use crate::seam::RopeSpec;

/// The rotary embedding of each layer's queries and keys; some layers may have none.
#[derive(Debug, Clone, PartialEq)]
pub enum Ropes {
    /// The same in all layers.
    Same(RopeSpec),
    /// The tables that there are, and the number of each layer's among them; `None`: that layer
    /// rotates nothing.
    Each(Vec<RopeSpec>, Vec<Option<usize>>),
}

impl Ropes {
    /// `rope` in the layers that `rotated` says, and nothing in the others.
    pub fn only(rope: RopeSpec, rotated: impl IntoIterator<Item = bool>) -> Ropes {
        let layers = rotated.into_iter().map(|yes| yes.then_some(0));
        Ropes::Each(vec![rope], layers.collect())
    }

    /// `windowed` in the layers that `windowed_layers` says, `full` in the others.
    pub fn by_window(
        full: RopeSpec,
        windowed: RopeSpec,
        windowed_layers: impl IntoIterator<Item = bool>,
    ) -> Ropes {
        let layers = windowed_layers
            .into_iter()
            .map(|yes| Some(usize::from(yes)));
        Ropes::Each(vec![full, windowed], layers.collect())
    }

    /// The rotary embedding of a layer, if it has one.
    pub fn of(&self, layer: usize) -> Option<&RopeSpec> {
        match self {
            Ropes::Same(rope) => Some(rope),
            Ropes::Each(tables, layers) => tables.get(layers.get(layer).copied().flatten()?),
        }
    }
}
