//! The work that shapes count.

use std::ops::{AddAssign, Mul};

/// The work of a pass, from which its time is estimated.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Work {
    /// Multiply-adds of matrix products and attention: exactly those that [`crate::work`] counts.
    pub multiply_adds: f64,
    /// Bytes of memory traffic: weights at each product, a cache's keys and values, the optimiser's
    /// tensors.
    pub bytes: f64,
    /// Weights that the processor's products widen to f32.
    pub widened: f64,
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Work) {
        self.multiply_adds += other.multiply_adds;
        self.bytes += other.bytes;
        self.widened += other.widened;
    }
}

impl Mul<f64> for Work {
    type Output = Work;
    fn mul(self, times: f64) -> Work {
        Work {
            multiply_adds: times * self.multiply_adds,
            bytes: times * self.bytes,
            widened: times * self.widened,
        }
    }
}
