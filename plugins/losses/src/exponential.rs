//! `exponential`: the paper's game with l(t) = exp(-t) (arXiv 2401.01335).
//!
//! ```text
//! L = exp(-beta (a - b))    [+ nll * (-log p(y) / |y|)]
//! ```
//!
//! A difference from the paper: below beta (a - b) = -20 the curve continues along its tangent. It
//! stays convex, decreasing and once differentiable, which is all that the paper requires of l, and
//! does not overflow: at -1e4 the loss is 4.8e12 and its slope 4.9e8 beta, as at -20. Without it a
//! pair that the policy gets very wrong is infinite in f32 below -88.

use crate::per_token;
use randori_sdk::{Dual, Pair, PairLoss, options};

/// The x from which `exp(x)` continues as its tangent.
const STRAIGHT_FROM: f64 = 20.0;

options! {
    /// SPIN's game with the exponential loss: pulls hardest at the pairs it gets most wrong.
    pub struct Exponential {
        /// How strongly the policy is held to its opponent (the paper's lambda).
        beta: f64 = 0.1, 0.0001..=100.0;
        /// Weight of the real response's negative log-prob per token: keeps it from falling.
        nll: f64 = 0.0, 0.0..=1000.0;
    }
}

impl PairLoss for Exponential {
    const NAME: &'static str = "exponential";

    fn loss(&self, p: &Pair) -> Dual {
        let x = -p.margin() * self.beta;
        let curve = if x <= STRAIGHT_FROM {
            x.exp()
        } else {
            (x - STRAIGHT_FROM + 1.0) * STRAIGHT_FROM.exp()
        };
        curve + per_token::nll(&p.real) * self.nll
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{At, check, eval, worked};

    /// exp, or its tangent at 20.
    fn curve(x: f64) -> f64 {
        if x <= 20.0 {
            x.exp()
        } else {
            20f64.exp() * (1.0 + (x - 20.0))
        }
    }

    #[test]
    fn matches_its_formula() {
        for beta in [0.001, 0.1, 5.0] {
            check(&Exponential { beta, nll: 0.0 }, |at| {
                curve(-beta * (at.a() - at.b()))
            });
        }
        check(
            &Exponential {
                beta: 0.1,
                nll: 0.7,
            },
            |at| curve(-0.1 * (at.a() - at.b())) - 0.7 * at.per_y(at.y),
        );
        let slope = 0.086886971725223;
        worked(
            &Exponential {
                beta: 0.5,
                nll: 0.0,
            },
            At::ratios(1.5, -2.0),
            0.17377394345045,
            [-slope, slope],
        );
    }

    #[test]
    fn far_out_it_is_finite_in_f32() {
        let far = At::ratios(-1e4, 0.0);
        let slope = 48516519.540979;
        worked(
            &Exponential {
                beta: 0.1,
                nll: 0.0,
            },
            far,
            475947056697.004,
            [-slope, slope],
        );
        let (value, slopes) = eval(
            &Exponential {
                beta: 100.0,
                nll: 0.0,
            },
            &far,
        );
        assert!((value as f32).is_finite() && (slopes[0] as f32).powi(2).is_finite());
    }

    #[test]
    fn the_tangent_joins_without_a_step() {
        let at = |x: f64| {
            eval(
                &Exponential {
                    beta: 1.0,
                    nll: 0.0,
                },
                &At::ratios(-x, 0.0),
            )
        };
        let (below, above) = (at(20.0 - 1e-9), at(20.0 + 1e-9));
        assert!(
            (above.0 / below.0 - 1.0).abs() < 1e-8 && (above.1[0] / below.1[0] - 1.0).abs() < 1e-8
        );
        assert!(
            below.1[0].abs() <= above.1[0].abs(),
            "convex across the join"
        );
    }
}
