//! `space`: self-play by noise-contrastive estimation (Wang et al. 2025, arXiv 2512.07175).
//!
//! ```text
//! L = -log s_mu(a) - mu log s_{1/mu}(-b),    s_mu(x) = 1 / (1 + mu exp(-x))
//!   = softplus(ln mu - a) + mu softplus(b - ln mu)
//! ```
//!
//! Each response is classified by itself as the data's or the opponent's, assuming mu answers of
//! the opponent to one of the data. When y' becomes like y, spin's objective becomes flat, while
//! this one still pulls both log-ratios to 0. It has no beta: a and b are not scaled.

use randori_sdk::{Dual, Pair, PairLoss, options};

options! {
    /// SPACE (Wang et al. 2025): classifies real and generated responses each on its own
    /// (noise-contrastive).
    pub struct Space {
        /// How many generated responses the classifier expects for one real one.
        mu: f64 = 1.0, 0.001..=1000.0;
    }
}

impl PairLoss for Space {
    const NAME: &'static str = "space";

    fn loss(&self, p: &Pair) -> Dual {
        let prior = self.mu.ln();
        let real = (p.real.ratio() - prior).log_sigmoid();
        let generated = (prior - p.generated.ratio()).log_sigmoid();
        -(real + generated * self.mu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{At, check, eval, worked};

    /// -log s_mu(x) as the paper defines it, and its asymptote where that overflows.
    fn minus_log_s(mu: f64, x: f64) -> f64 {
        if x < -500.0 {
            mu.ln() - x
        } else {
            -(1.0 / (1.0 + mu * (-x).exp())).ln()
        }
    }

    #[test]
    fn matches_its_formula() {
        for mu in [0.5, 1.0, 3.0] {
            check(&Space { mu }, |at| {
                minus_log_s(mu, at.a()) + mu * minus_log_s(1.0 / mu, -at.b())
            });
        }
        let slopes = [-0.40097897303616, 0.12949359893999];
        worked(
            &Space { mu: 3.0 },
            At::ratios(1.5, -2.0),
            0.64483006233442,
            slopes,
        );
    }

    #[test]
    fn one_answer_for_both_is_drawn_to_the_opponent() {
        let pull = |x: f64| {
            eval(&Space { mu: 1.0 }, &At::ratios(x, x))
                .1
                .iter()
                .sum::<f64>()
        };
        assert!(pull(0.5) > 0.0 && pull(0.0).abs() < 1e-15 && pull(-0.5) < 0.0);
    }
}
