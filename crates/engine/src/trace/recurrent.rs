//! Ops that keep a state of a sequence, on shapes.

use randori_sdk::seam::{Id, OpResult};

use super::{Tracer, Use};
use crate::tape::rules;

impl Tracer {
    /// A convolution along each sequence.
    pub(super) fn convolve(&mut self, name: &str, x: Id, taps: usize, bias: bool) -> OpResult {
        let dims = self.by_token("conv", x)?;
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

    /// The gated delta rule.
    pub(super) fn scan(&mut self, ids: [Id; 5]) -> OpResult {
        let mut shapes = Vec::with_capacity(ids.len());
        for id in ids {
            shapes.push(self.by_token("delta_rule", id)?);
        }
        let of = |i: usize| shapes.get(i).map_or(&[][..], Vec::as_slice);
        let shape = rules::delta_rule([0, 1, 2, 3, 4].map(of))?;
        self.sequences("delta_rule")?;
        let state = of(0)[1] * shape.iter().product::<usize>();
        self.spend((2 * 4 * state) as f64);
        self.trace.state_bytes += 4 * state;
        self.save(&ids);
        self.push(shape)
    }
}
