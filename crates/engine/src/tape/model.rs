//! What a pass asks of whoever runs it: the architecture, and where each op's weights come from.

use std::sync::Arc;

use randori_kernels::{Gain, Kernels, Result};
use randori_sdk::seam::{Architecture, Id};

use crate::trace::TracedCarried;

/// A projection's or embedding's weight, (out, in) or (vocab, width).
pub(crate) struct Matrix<K: Kernels> {
    pub(crate) weight: K::Matrix,
    /// The name that its gradient goes by, where it is trained.
    pub(crate) own: Option<String>,
}

/// A norm's scale, a bias, the taps of a convolution, or a parameter of any shape.
pub(crate) struct Vector<K: Kernels> {
    pub(crate) values: K::Tensor,
    /// Its name when it is trainable.
    pub(crate) own: Option<String>,
}

/// The low-rank update of a projection.
pub(crate) struct Update<K: Kernels> {
    pub(crate) lora: K::Update,
    pub(crate) dropout: f32,
}

/// A player, or what is planned as one.
pub(crate) trait Model<K: Kernels> {
    /// What runs its ops.
    fn arch(&self) -> &dyn Architecture;
    /// Which values a block over rows of `width` needs no more once it has made a value, by its id;
    /// `carried` has crossed blocks to it.
    fn last_uses(
        &self,
        layer: usize,
        width: usize,
        carried: &[TracedCarried],
    ) -> Option<Arc<[Vec<Id>]>>;
    /// The weight of an embedding, by its name without `.weight`.
    fn matrix(&self, kernels: &K, name: &str, shape: (usize, usize)) -> Result<Matrix<K>, String>;
    /// A projection's weight: for a tied head its own, where it has one, else what the base's
    /// embedding is.
    fn projection(
        &self,
        kernels: &K,
        name: &str,
        shape: (usize, usize),
    ) -> Result<Matrix<K>, String> {
        self.matrix(kernels, name, shape)
    }
    /// A weight that an op takes as it is, by its full name.
    fn vector(&self, kernels: &K, full: String, shape: &[usize]) -> Result<Vector<K>, String>;
    /// A parameter by its full name, in the numbers that the pass computes in.
    fn param(&self, kernels: &K, full: &str, shape: &[usize]) -> Result<Vector<K>, String>;
    /// What this projection's own tensors go by: a tied head's by its own name, not by the
    /// embedding's.
    fn goes_by<'n>(&self, name: &'n str) -> &'n str {
        name
    }
    /// The update of a projection, by the name that its own tensors go by.
    fn update(&self, name: &str) -> Option<Update<K>>;
    /// The gain of a projection whose update has a magnitude; `name` is its weight's.
    fn gain(
        &self,
        kernels: &K,
        name: &str,
        matrix: &Matrix<K>,
        update: &Update<K>,
    ) -> Result<Option<Arc<Gain>>>;
    /// `x` (n, in) is what this projection is about to multiply.
    fn see(&self, _kernels: &K, _projection: &str, _x: &K::Tensor) -> Result<()> {
        Ok(())
    }
}
