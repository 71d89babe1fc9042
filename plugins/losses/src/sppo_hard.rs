//! `sppo_hard`: self-play preference optimisation (Wu et al. 2024, arXiv 2405.00675) with the hard
//! probabilities 1 and 0: y always wins.
//!
//! ```text
//! L = (a - 1/(2 beta))^2 + (b + 1/(2 beta))^2
//! ```
//!
//! Each response has its own target: log p(y) up by 1/(2 beta) nats, log p(y') down by as much; so
//! log p(y) cannot fall along with log p(y'). The paper's eta is 1/beta.

use randori_sdk::{Dual, Pair, PairLoss, options};

options! {
    /// SPPO (Wu et al. 2024) with hard probabilities: squared distance of each side from its own
    /// target.
    pub struct SppoHard {
        /// The targets are 1/(2 beta) nats above the opponent for y and below it for y'.
        beta: f64 = 0.1, 0.0001..=100.0;
    }
}

impl PairLoss for SppoHard {
    const NAME: &'static str = "sppo_hard";

    fn loss(&self, p: &Pair) -> Dual {
        let target = 0.5 / self.beta;
        (p.real.ratio() - target).square() + (p.generated.ratio() + target).square()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{At, check, eval, worked};

    #[test]
    fn matches_its_formula() {
        for beta in [0.01, 0.1, 5.0] {
            let half = 1.0 / (2.0 * beta);
            check(&SppoHard { beta }, |at| {
                (at.a() - half).powi(2) + (at.b() + half).powi(2)
            });
        }
        worked(
            &SppoHard { beta: 0.1 },
            At::ratios(1.5, -2.0),
            21.25,
            [-7.0, 6.0],
        );
    }

    #[test]
    fn each_side_has_its_own_target() {
        let (value, slopes) = eval(&SppoHard { beta: 0.5 }, &At::ratios(1.0, -1.0));
        assert_eq!((value, slopes), (0.0, [0.0, 0.0]));
        // y has fallen with y': the margin is as wide, and yet y is pulled up.
        assert!(eval(&SppoHard { beta: 0.5 }, &At::ratios(-1.0, -3.0)).1[0] < 0.0);
    }
}
