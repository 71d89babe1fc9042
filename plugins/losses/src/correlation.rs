//! `correlation`: the paper's game with l(t) = 1 - t (arXiv 2401.01335), an integral probability
//! metric.
//!
//! ```text
//! L = 1 - beta (a - b)    [+ nll * (-log p(y) / |y|)]
//! ```
//!
//! Slopes are -beta and +beta everywhere: the loss never saturates and has no minimum, so stop
//! early.

use crate::per_token;
use randori_sdk::{Dual, Pair, PairLoss, options};

options! {
    /// SPIN's game with the correlation loss: constant slopes, no saturation.
    pub struct Correlation {
        /// How strongly the policy is held to its opponent (the paper's lambda).
        beta: f64 = 0.1, 0.0001..=100.0;
        /// Weight of the real response's negative log-prob per token: keeps it from falling.
        nll: f64 = 0.0, 0.0..=1000.0;
    }
}

impl PairLoss for Correlation {
    const NAME: &'static str = "correlation";

    fn loss(&self, p: &Pair) -> Dual {
        1.0 - p.margin() * self.beta + per_token::nll(&p.real) * self.nll
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{At, check, worked};

    #[test]
    fn matches_its_formula() {
        for beta in [0.001, 0.1, 5.0] {
            check(&Correlation { beta, nll: 0.0 }, |at| {
                1.0 - beta * (at.a() - at.b())
            });
        }
        check(
            &Correlation {
                beta: 0.1,
                nll: 0.7,
            },
            |at| 1.0 - 0.1 * (at.a() - at.b()) - 0.7 * at.per_y(at.y),
        );
        worked(
            &Correlation {
                beta: 0.5,
                nll: 0.0,
            },
            At::ratios(1.5, -2.0),
            -0.75,
            [-0.5, 0.5],
        );
    }
}
