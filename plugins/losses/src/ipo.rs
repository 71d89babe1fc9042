//! `ipo`: identity preference optimisation (Azar et al. 2023, arXiv 2310.12036), per token.
//!
//! ```text
//! L = (a/|y| - b/|y'| - 1/(2 beta))^2
//! ```
//!
//! The margin has a target of 1/(2 beta) nats a token, and is pulled back beyond it. Log-probs are
//! averaged over tokens, as TRL does after a correction by the paper's authors; the printed formula
//! sums them. Slopes scale with 1/beta: at step 0 they are ∓1/(beta |y|), so a smaller beta needs a
//! smaller learning rate.

use crate::per_token;
use randori_sdk::{Dual, Pair, PairLoss, options};

options! {
    /// IPO (Azar et al. 2023): squared distance of the per-token margin from a target.
    pub struct Ipo {
        /// The target margin is 1/(2 beta) nats a token.
        beta: f64 = 0.1, 0.0001..=100.0;
    }
}

impl PairLoss for Ipo {
    const NAME: &'static str = "ipo";

    fn loss(&self, p: &Pair) -> Dual {
        let margin = per_token::ratio(&p.real) - per_token::ratio(&p.generated);
        (margin - 0.5 / self.beta).square()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{At, check, eval, worked};

    #[test]
    fn matches_its_formula() {
        for beta in [0.01, 0.1, 5.0] {
            check(&Ipo { beta }, |at| {
                (at.per_y(at.a()) - at.per_g(at.b()) - 1.0 / (2.0 * beta)).powi(2)
            });
        }
        let slopes = [-0.47916666666667, 0.63888888888889];
        worked(
            &Ipo { beta: 0.1 },
            At::ratios(1.5, -2.0),
            22.960069444444,
            slopes,
        );
    }

    #[test]
    fn a_margin_past_its_target_is_pulled_back() {
        let ipo = Ipo { beta: 0.5 }; // target: 1 nat a token
        let slope_at = |per_token: f64| eval(&ipo, &At::ratios(20.0 * per_token, 0.0)).1[0];
        assert!(slope_at(0.9) < 0.0 && slope_at(1.0).abs() < 1e-15 && slope_at(1.1) > 0.0);
    }
}
