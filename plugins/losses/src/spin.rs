//! `spin`: the paper's loss (arXiv 2401.01335, eq. 4.7 with the logistic l(t) = log(1 + exp(-t))).
//!
//! ```text
//! L = log(1 + exp(-beta (a - b)))    [+ nll * (-log p(y) / |y|)]
//! a = log p(y|x) - log p_opponent(y|x),  b = the same on y'
//! ```
//!
//! Slopes: -beta sigmoid(-beta (a-b)) to log p(y), the opposite to log p(y'). `log_sigmoid` never
//! takes the exponential of a positive number, so value and slope are finite for any finite margin.

use crate::per_token;
use randori_sdk::{Dual, Pair, PairLoss, options};

options! {
    /// SPIN (Chen et al. 2024): logistic loss on how much more than its opponent the policy prefers
    /// the data.
    pub struct Spin {
        /// How strongly the policy is held to its opponent (the paper's lambda).
        beta: f64 = 0.1, 0.0001..=100.0;
        /// Weight of the real response's negative log-prob per token: keeps it from falling.
        nll: f64 = 0.0, 0.0..=1000.0;
    }
}

impl PairLoss for Spin {
    const NAME: &'static str = "spin";

    fn loss(&self, p: &Pair) -> Dual {
        -(p.margin() * self.beta).log_sigmoid() + per_token::nll(&p.real) * self.nll
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{At, check, close, eval, grid, softplus, worked};
    use std::f64::consts::LN_2;

    #[test]
    fn matches_its_formula() {
        for beta in [0.001, 0.1, 5.0] {
            check(&Spin { beta, nll: 0.0 }, |at| {
                softplus(-beta * (at.a() - at.b()))
            });
        }
        check(
            &Spin {
                beta: 0.1,
                nll: 0.7,
            },
            |at| softplus(-0.1 * (at.a() - at.b())) - 0.7 * at.per_y(at.y),
        );
        let slope = 0.074023599015845;
        worked(
            &Spin {
                beta: 0.5,
                nll: 0.0,
            },
            At::ratios(1.5, -2.0),
            0.16022415043809,
            [-slope, slope],
        );
        let at = At::ratios(1.5, -2.0);
        worked(
            &Spin {
                beta: 0.5,
                nll: 0.25,
            },
            at,
            0.51647415043809,
            [-0.086523599015845, slope],
        );
    }

    #[test]
    fn step_0_is_ln_2() {
        for beta in [0.1, 1.0, 5.0] {
            for pair in grid() {
                let at = At {
                    y: pair.y_ref,
                    g: pair.g_ref,
                    ..pair
                };
                let (value, slopes) = eval(&Spin { beta, nll: 0.0 }, &at);
                close("value", value, LN_2, 1e-12, &at);
                close("slope to log p(y)", slopes[0], -beta / 2.0, 1e-12, &at);
                close("slope to log p(y')", slopes[1], beta / 2.0, 1e-12, &at);
            }
        }
    }

    #[test]
    fn far_out_it_is_a_line_or_nothing() {
        let spin = Spin {
            beta: 1.0,
            nll: 0.0,
        };
        assert_eq!(eval(&spin, &At::ratios(-1e4, 0.0)), (1e4, [-1.0, 1.0]));
        assert_eq!(eval(&spin, &At::ratios(1e4, 0.0)), (0.0, [0.0, 0.0]));
    }
}
