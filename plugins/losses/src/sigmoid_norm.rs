//! `sigmoid_norm`: the logistic loss on per-token log-ratios (length-normalised DPO, Tulu 3,
//! Lambert et al. 2024, arXiv 2411.15124).
//!
//! ```text
//! L = -log sigmoid(beta (a/|y| - b/|y'|))
//! ```
//!
//! `spin` per token, so that a longer response does not weigh more. Its beta is per token too,
//! hence larger: 5 in the paper.

use crate::per_token;
use randori_sdk::{Dual, Pair, PairLoss, options};

options! {
    /// Length-normalised logistic loss (Tulu 3): the margin is per token, so length alone is no
    /// cue.
    pub struct SigmoidNorm {
        /// Scale of the per-token margin.
        beta: f64 = 5.0, 0.0001..=1000.0;
    }
}

impl PairLoss for SigmoidNorm {
    const NAME: &'static str = "sigmoid_norm";

    fn loss(&self, p: &Pair) -> Dual {
        let margin = per_token::ratio(&p.real) - per_token::ratio(&p.generated);
        -(margin * self.beta).log_sigmoid()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{At, check, softplus, worked};

    #[test]
    fn matches_its_formula() {
        for beta in [0.1, 5.0, 50.0] {
            check(&SigmoidNorm { beta }, |at| {
                softplus(-beta * (at.per_y(at.a()) - at.per_g(at.b())))
            });
        }
        let slopes = [-0.065207134374738, 0.086942845832984];
        worked(
            &SigmoidNorm { beta: 5.0 },
            At::ratios(1.5, -2.0),
            0.3022253653238,
            slopes,
        );
    }
}
