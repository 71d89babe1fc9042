//! `odpo`: direct preference optimisation with an offset (Amini et al. 2024, arXiv 2402.10571), for
//! pairs whose responses have been scored: `randori train --pairs` on data with rewards.
//!
//! ```text
//! L = softplus(-beta (a - b) + alpha (r(y) - r(y')))
//! ```
//!
//! `spin` with a target margin that grows with the data's preference for y: a pair of nearly equal
//! responses has small slopes once its margin is reached. The difference of rewards is used as it
//! is (the paper's f is the identity); with scores from 1 to 10, start with alpha near 0.1.

use randori_sdk::{Dual, Pair, PairLoss, options};

options! {
    /// DPO with an offset (Amini et al. 2024): the margin has to exceed the difference of the
    /// data's rewards.
    pub struct Odpo {
        /// How strongly the policy is held to its reference.
        beta: f64 = 0.1, 0.0001..=100.0;
        /// Nats of scaled margin that one unit of reward asks for.
        alpha: f64 = 1.0, 0.0..=1000.0;
    }
}

impl PairLoss for Odpo {
    const NAME: &'static str = "odpo";
    const NEEDS_REWARD: bool = true;

    fn loss(&self, p: &Pair) -> Dual {
        // the host passes no pair without rewards
        let reward = |response: &randori_sdk::Response| response.reward.unwrap_or(f64::NAN);
        let offset = self.alpha * (reward(&p.real) - reward(&p.generated));
        -(p.margin() * self.beta - offset).log_sigmoid()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(rewards: Option<[f64; 2]>) -> (f64, [f64; 2]) {
        let mut pair = Pair::new((-28.5, -30.0, 20), (-27.0, -25.0, 15)); // a 1.5, b -2
        pair.real.reward = rewards.map(|r| r[0]);
        pair.generated.reward = rewards.map(|r| r[1]);
        let odpo = Odpo {
            beta: 0.5,
            alpha: 0.25,
        };
        let loss = odpo.loss(&pair);
        (loss.value, loss.slope)
    }

    /// ln(1 + exp(0.25·(7 - 3) - 0.5·3.5)) and -0.5 times its share, by Python's math.
    #[test]
    fn matches_its_formula() {
        let (value, slopes) = at(Some([7.0, 3.0]));
        assert!((value - 0.386_871_006_114_900).abs() < 1e-14, "{value}");
        assert!(
            (slopes[0] + 0.160_410_650_412_304).abs() < 1e-14,
            "{slopes:?}"
        );
        assert_eq!(slopes[1], -slopes[0]);
        assert!(at(None).0.is_nan());
    }

    #[test]
    fn equal_rewards_make_it_spin() {
        let spin = crate::spin::Spin {
            beta: 0.5,
            nll: 0.0,
        };
        let pair = Pair::new((-28.5, -30.0, 20), (-27.0, -25.0, 15));
        assert_eq!(at(Some([4.0, 4.0])).0, spin.loss(&pair).value);
    }
}
