//! The projections of a model, as an adapter sees them: names and sizes.

/// A projection of a model that can get an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Projection {
    /// Name by which its update is stored: `model.layers.0.self_attn.q_proj`, `lm_head`.
    pub name: String,
    /// Name of its weight, without `.weight`: the same, except for a head that shares the
    /// embedding's.
    pub weight: String,
    /// Number of input features.
    pub inputs: usize,
    /// Number of output features.
    pub outputs: usize,
    /// Whether it computes the logits.
    pub head: bool,
}

impl Projection {
    /// A projection inside a block, with a weight of its own.
    pub fn new(name: &str, inputs: usize, outputs: usize) -> Projection {
        Projection {
            name: name.into(),
            weight: name.into(),
            inputs,
            outputs,
            head: false,
        }
    }

    /// Its name, and its weight's if that differs.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let other = (self.weight != self.name).then_some(self.weight.as_str());
        [self.name.as_str()].into_iter().chain(other)
    }
}
