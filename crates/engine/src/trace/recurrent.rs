//! Ops that keep a state of a sequence, on shapes.

use randori_sdk::seam::{Id, OpResult};

use super::{Tracer, Use};
use crate::tape::rules;

impl Tracer {
    /// A convolution along each sequence.
    pub(super) fn convolve(&mut self, name: &str, x: Id, taps: usize, bias: bool) -> OpResult {
        let dims = self.shape(x)?;
        let shape = rules::conv(name, &dims, taps)?;
        self.sequences("conv")?;
        let channels = shape[0];
        self.weight(format!("{name}.weight"), shape, Use::Conv)?;
        if bias {
            self.weight(format!("{name}.bias"), vec![channels], Use::Bias)?;
        }
        self.spend(2.0 * (channels * taps) as f64);
        self.trace.state_bytes += 4 * channels * (taps - 1);
        self.push(dims)
    }
}
