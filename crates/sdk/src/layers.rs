//! [`Layers`]: a set of a model's layers.

/// Some of a model's layers. All but the list take no memory by layer, so that a configuration of
/// absurdly many layers is refused for its tensors and not for lack of memory here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layers {
    /// All from this one on, and none before it.
    From(usize),
    /// All but every n-th: not the layers i where n divides i + 1. Of n = 0: all.
    ButEvery(usize),
    /// Every n-th: the layers i where n divides i + 1. Of n = 0: none.
    Every(usize),
    /// Those that are `true`; a layer beyond the list is not among them.
    Listed(Vec<bool>),
}

impl Layers {
    /// Every layer.
    pub const ALL: Layers = Layers::From(0);

    /// Whether `layer` is one of them.
    pub fn has(&self, layer: usize) -> bool {
        match self {
            Layers::From(first) => layer >= *first,
            Layers::ButEvery(n) => *n == 0 || !(layer + 1).is_multiple_of(*n),
            Layers::Every(n) => *n > 0 && (layer + 1).is_multiple_of(*n),
            Layers::Listed(layers) => layers.get(layer).copied().unwrap_or(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_layers_that_it_says() {
        let of = |layers: Layers| [0, 1, 2, 3].map(|layer| layers.has(layer));
        assert_eq!(of(Layers::ALL), [true; 4]);
        assert_eq!(of(Layers::From(2)), [false, false, true, true]);
        assert_eq!(of(Layers::ButEvery(2)), [true, false, true, false]);
        assert_eq!(of(Layers::ButEvery(3)), [true, true, false, true]);
        assert_eq!(of(Layers::ButEvery(1)), [false; 4]);
        assert_eq!(of(Layers::ButEvery(0)), [true; 4]);
        assert_eq!(of(Layers::Every(2)), [false, true, false, true]);
        assert_eq!(of(Layers::Every(0)), [false; 4]);
        let listed = Layers::Listed(vec![false, true]);
        assert_eq!(of(listed), [false, true, false, false]);
    }
}
