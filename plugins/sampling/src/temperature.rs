//! `temperature`: divides the logits by T. Below 1 the likely tokens gain, above 1 the unlikely
//! ones.
//!
//! T = 0 is out of bounds: that is `greedy`. At the smallest T, 0.01, logits up to 3e36 stay
//! finite.

use randori_sdk::{Logits, Sampler, Step, options};

options! {
    /// Divides the logits by T: below 1 sharper, above 1 flatter.
    pub struct Temperature {
        /// The divisor; 1 changes nothing. For 0 use `greedy`.
        t: f64 = 1.0, 0.01..=100.0;
    }
}

impl Sampler for Temperature {
    const NAME: &'static str = "temperature";
    type State = ();

    fn apply(&self, _: &mut (), _: &Step, logits: &mut Logits) {
        // Not by the reciprocal: T = 1 must leave every bit as it was, and so must T = 2^n up to
        // the exponent.
        let t = self.t as f32;
        if t != 1.0 {
            for l in logits.iter_mut() {
                *l /= t;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{GONE, apply, probabilities, rows};

    #[test]
    fn probabilities_go_with_the_power_1_over_t() {
        // softmax(l/T) = p^(1/T) / sum p^(1/T)
        for t in [0.5, 0.7, 2.0, 100.0] {
            for row in rows() {
                let powers: Vec<f64> = probabilities(&row)
                    .iter()
                    .map(|p| p.powf(1.0 / t))
                    .collect();
                let total: f64 = powers.iter().sum();
                let got = probabilities(&apply(&Temperature { t }, &row));
                for (got, power) in got.iter().zip(&powers) {
                    assert!(
                        (got - power / total).abs() < 1e-5,
                        "T {t}: {got}, expected {}",
                        power / total
                    );
                }
            }
        }
    }

    #[test]
    fn one_changes_no_bit_and_removed_stays_removed() {
        let row = [0.1, -3.7, GONE];
        assert_eq!(apply(&Temperature { t: 1.0 }, &row), row);
        assert_eq!(apply(&Temperature { t: 0.5 }, &row), [0.2, -7.4, GONE]);
    }

    #[test]
    fn the_bounds_stay_finite() {
        for t in [0.01, 100.0] {
            assert!(
                apply(&Temperature { t }, &[3e36, -3e36, 0.0])
                    .iter()
                    .all(|l| l.is_finite())
            );
        }
    }
}
