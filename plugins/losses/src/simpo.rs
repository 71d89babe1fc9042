//! `simpo`: simple preference optimisation (Meng et al. 2024, arXiv 2405.14734).
//!
//! ```text
//! L = -log sigmoid(beta (log p(y)/|y| - log p(y')/|y'|) - gamma)
//! ```
//!
//! Without the opponent's log-probs: they are not computed, and nothing keeps the policy near the
//! opponent. The loss at step 0 is therefore not ln 2 but depends on the model.

use crate::per_token;
use randori_sdk::{Dual, Pair, PairLoss, options};

options! {
    /// SimPO (Meng et al. 2024): logistic loss on per-token log-probs with a target gap; needs no
    /// opponent log-probs.
    pub struct Simpo {
        /// Scale of the per-token gap.
        beta: f64 = 2.0, 0.0001..=100.0;
        /// The gap to reach, after scaling by beta.
        gamma: f64 = 1.0, 0.0..=100.0;
    }
}

impl PairLoss for Simpo {
    const NAME: &'static str = "simpo";
    const NEEDS_REF: bool = false;

    fn loss(&self, p: &Pair) -> Dual {
        let gap = per_token::logp(&p.real) - per_token::logp(&p.generated);
        -(gap * self.beta - self.gamma).log_sigmoid()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{At, check, eval, softplus, worked};

    #[test]
    fn matches_its_formula() {
        for (beta, gamma) in [(2.0, 1.0), (0.1, 0.0), (10.0, 5.0)] {
            let formula = |at: &At| softplus(gamma - beta * (at.per_y(at.y) - at.per_g(at.g)));
            check(&Simpo { beta, gamma }, formula);
        }
        let slopes = [-0.05621765008858, 0.074956866784773];
        worked(
            &Simpo {
                beta: 2.0,
                gamma: 1.0,
            },
            At::ratios(1.5, -2.0),
            0.82593941987884,
            slopes,
        );
    }

    #[test]
    fn the_opponent_plays_no_part() {
        let at = At::ratios(1.5, -2.0);
        let without = At {
            y_ref: f64::NAN,
            g_ref: f64::NAN,
            ..at
        };
        let simpo = Simpo {
            beta: 2.0,
            gamma: 1.0,
        };
        assert_eq!(eval(&simpo, &at), eval(&simpo, &without));
        const { assert!(!Simpo::NEEDS_REF) };
    }
}
