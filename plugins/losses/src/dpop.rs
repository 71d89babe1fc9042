//! `dpop`: DPO-positive (Smaug, Pal et al. 2024, arXiv 2402.13228).
//!
//! ```text
//! L = -log sigmoid(beta (a - b - lambda max(0, -a)))
//! ```
//!
//! `spin` with a penalty where log p(y) is below the opponent's. Every iteration starts exactly at
//! the kink, a = 0, where the slope is that of a > 0, which is spin's.

use randori_sdk::{Dual, Pair, PairLoss, options};

options! {
    /// DPO-positive (Pal et al. 2024): the logistic loss with a penalty when the real response's
    /// log-prob falls.
    pub struct Dpop {
        /// How strongly the policy is held to its opponent.
        beta: f64 = 0.1, 0.0001..=100.0;
        /// Nats of margin that one lost nat of the real response costs.
        lambda: f64 = 50.0, 0.0..=10000.0;
    }
}

impl PairLoss for Dpop {
    const NAME: &'static str = "dpop";

    fn loss(&self, p: &Pair) -> Dual {
        let fallen = (-p.real.ratio()).relu();
        -((p.margin() - fallen * self.lambda) * self.beta).log_sigmoid()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{At, check, eval, softplus, worked};

    #[test]
    fn matches_its_formula() {
        for (beta, lambda) in [(0.1, 50.0), (0.3, 5.0), (0.1, 0.0)] {
            let formula =
                |at: &At| softplus(-beta * (at.a() - at.b() - lambda * f64::max(0.0, -at.a())));
            check(&Dpop { beta, lambda }, formula);
        }
        let dpop = Dpop {
            beta: 0.1,
            lambda: 50.0,
        };
        let slope = 0.041338242108267;
        worked(
            &dpop,
            At::ratios(1.5, -2.0),
            0.53338215541878,
            [-slope, slope],
        );
        let slopes = [-4.6559645605546, 0.091293422755973];
        worked(&dpop, At::ratios(-0.5, -2.0), 2.4410914408948, slopes);
    }

    #[test]
    fn starts_as_spin() {
        let at = At::ratios(0.0, 0.0);
        let spin = crate::spin::Spin {
            beta: 0.1,
            nll: 0.0,
        };
        assert_eq!(
            eval(
                &Dpop {
                    beta: 0.1,
                    lambda: 50.0
                },
                &at
            ),
            eval(&spin, &at)
        );
    }
}
