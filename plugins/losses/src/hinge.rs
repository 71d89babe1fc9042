//! `hinge`: the paper's game with l(t) = max(0, 1 - t) (arXiv 2401.01335).
//!
//! ```text
//! L = max(0, 1 - beta (a - b))    [+ nll * (-log p(y) / |y|)]
//! ```
//!
//! Slopes -beta and +beta until the margin reaches 1/beta, 0 from there on (and at the kink
//! itself).

use crate::per_token;
use randori_sdk::{Dual, Pair, PairLoss, options};

options! {
    /// SPIN's game with the hinge loss: a pair stops pulling at margin 1/beta.
    pub struct Hinge {
        /// How strongly the policy is held to its opponent (the paper's lambda).
        beta: f64 = 0.1, 0.0001..=100.0;
        /// Weight of the real response's negative log-prob per token: keeps it from falling.
        nll: f64 = 0.0, 0.0..=1000.0;
    }
}

impl PairLoss for Hinge {
    const NAME: &'static str = "hinge";

    fn loss(&self, p: &Pair) -> Dual {
        (1.0 - p.margin() * self.beta).relu() + per_token::nll(&p.real) * self.nll
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{At, check, eval, worked};

    #[test]
    fn matches_its_formula() {
        for beta in [0.001, 0.1, 5.0] {
            check(&Hinge { beta, nll: 0.0 }, |at| {
                f64::max(0.0, 1.0 - beta * (at.a() - at.b()))
            });
        }
        check(
            &Hinge {
                beta: 0.1,
                nll: 0.7,
            },
            |at| f64::max(0.0, 1.0 - 0.1 * (at.a() - at.b())) - 0.7 * at.per_y(at.y),
        );
        worked(
            &Hinge {
                beta: 0.2,
                nll: 0.0,
            },
            At::ratios(1.5, -2.0),
            0.3,
            [-0.2, 0.2],
        );
    }

    #[test]
    fn a_won_pair_stops_pulling() {
        let hinge = Hinge {
            beta: 0.5,
            nll: 0.0,
        };
        for b in [-2.0, -2.5, -1e4] {
            assert_eq!(
                eval(&hinge, &At::ratios(0.0, b)),
                (0.0, [0.0, 0.0]),
                "margin {}",
                -b
            );
        }
    }
}
