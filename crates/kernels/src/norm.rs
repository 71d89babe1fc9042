//! [`Norm`], the norms that there are.

/// A norm over the last axis.
#[derive(Clone, Copy, PartialEq)]
pub enum Norm {
    /// RMSNorm: x / rms(x) · (plus + w)
    Rms {
        /// Added to the scale w (Gemma: 1).
        plus: f32,
    },
    /// Layer norm: (x - mean) / std · w
    Layer,
}

impl Norm {
    /// The number that is added to the scale.
    pub fn plus(self) -> f32 {
        match self {
            Norm::Rms { plus } => plus,
            Norm::Layer => 0.0,
        }
    }
}
