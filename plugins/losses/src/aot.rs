//! `aot`: alignment by optimal transport (Melnyk et al. 2024, arXiv 2406.05882). It compares two
//! distributions of a whole step, quantile by quantile, instead of two answers to one prompt.
//!
//! ```text
//! L = mean over ranks k of softplus(-beta (u_(k) - v_(k)))        u_(1) <= u_(2) <= …, v likewise
//! of = "responses":  u = the a of all pairs,                      v = the b of all pairs
//! of = "margins":    u = log p(y) - log p(y') of all pairs,       v = the same under the opponent
//! ```
//!
//! "responses" is the paper's unpaired form: the data's log-ratios should stochastically dominate
//! the opponent's, and answers are not compared within their prompt, so that one prompt that is
//! hard for both players cannot dominate the step. "margins" is its paired form. Among equal values
//! the pair that comes first in the step has the lower rank; at step 0, where all ratios are 0,
//! "responses" therefore is `spin`.

use randori_sdk::{Dual, Error, Loss, Out, Result, Rows, loss::pairs, options};

options! {
    /// AOT (Melnyk et al. 2024): the step's real log-ratios are to lie above the generated ones,
    /// quantile by quantile.
    pub struct Aot {
        /// How strongly the policy is held to its opponent.
        beta: f64 = 0.1, 0.0001..=100.0;
        /// What is sorted: the log-ratios of real and of generated responses, or the pairs'
        /// margins.
        of: String = "responses", ["responses", "margins"];
    }
}

impl Loss for Aot {
    const NAME: &'static str = "aot";
    const COUPLED: bool = true;

    fn eval(&self, rows: &Rows, out: &mut Out) -> Result<()> {
        let pairs = pairs(rows)?;
        let ratio = |row: usize| rows.logp[row] - rows.ref_logp[row];
        match self.of.as_str() {
            "responses" => {
                let real = ranked(&pairs, |[real, _]| ratio(real));
                let generated = ranked(&pairs, |[_, generated]| ratio(generated));
                for (&(own, u), &(other, v)) in real.iter().zip(&generated) {
                    let (value, slope) = self.of_rank(u - v);
                    out.loss[own] = value;
                    out.d_logp[pairs[own][0]] = slope;
                    out.d_logp[pairs[other][1]] = -slope;
                }
            }
            "margins" => {
                let policy = ranked(&pairs, |[y, g]| rows.logp[y] - rows.logp[g]);
                let opponent = ranked(&pairs, |[y, g]| rows.ref_logp[y] - rows.ref_logp[g]);
                for (&(own, u), &(_, v)) in policy.iter().zip(&opponent) {
                    let (value, slope) = self.of_rank(u - v);
                    out.loss[own] = value;
                    out.d_logp[pairs[own][0]] = slope;
                    out.d_logp[pairs[own][1]] = -slope;
                }
            }
            other => {
                return Err(Error::from(format!(
                    "there is nothing to sort called {other}"
                )));
            }
        }
        Ok(())
    }
}

impl Aot {
    /// softplus(-beta·gap) and its slope to the gap.
    fn of_rank(&self, gap: f64) -> (f64, f64) {
        let loss = -(Dual::real(gap) * self.beta).log_sigmoid();
        (loss.value, loss.slope[0])
    }
}

/// Each pair's index and value, in ascending order of value; equal values in the pairs' order.
fn ranked(pairs: &[[usize; 2]], value: impl Fn([usize; 2]) -> f64) -> Vec<(usize, f64)> {
    let mut all: Vec<_> = pairs.iter().map(|&rows| value(rows)).enumerate().collect();
    all.sort_by(|a, b| a.1.total_cmp(&b.1));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::step;

    fn aot(of: &str) -> Aot {
        Aot {
            beta: 0.5,
            of: of.into(),
        }
    }

    /// (log p, opponent's log p) of y and of y'.
    const STEP: [[(f64, f64); 2]; 3] = [
        [(-10.0, -12.0), (-9.0, -8.0)],   // a 2, b -1; margins -1 and -4
        [(-7.0, -6.0), (-20.0, -23.0)],   // a -1, b 3; 13 and 17
        [(-30.0, -30.5), (-11.0, -11.2)], // a 0.5, b 0.2; -19 and -19.3
    ];

    fn softplus(x: f64) -> f64 {
        (1.0 + x.exp()).ln()
    }

    fn sigmoid(x: f64) -> f64 {
        1.0 / (1.0 + (-x).exp())
    }

    /// The formula with the ranks written out by hand.
    #[test]
    fn quantiles_of_responses() {
        let (loss, slopes) = step(&aot("responses"), &STEP).unwrap();
        // a: pair 1 (-1), 2 (0.5), 0 (2); b: pair 0 (-1), 2 (0.2), 1 (3)
        let gaps = [2.0 - 3.0, -1.0 - -1.0, 0.5 - 0.2];
        for (pair, gap) in gaps.into_iter().enumerate() {
            assert!((loss[pair] - softplus(-0.5 * gap)).abs() < 1e-12);
            assert!((slopes[pair][0] + 0.5 * sigmoid(-0.5 * gap)).abs() < 1e-12);
        }
        let of_generated = [slopes[0][1], slopes[2][1], slopes[1][1]];
        let of_real = [slopes[1][0], slopes[2][0], slopes[0][0]];
        assert_eq!(of_generated, of_real.map(|s| -s));
    }

    #[test]
    fn quantiles_of_margins() {
        let (loss, slopes) = step(&aot("margins"), &STEP).unwrap();
        // policy: pair 2 (-19), 0 (-1), 1 (13); opponent: -19.3, -4, 17
        let gaps = [-1.0 + 4.0, 13.0 - 17.0, -19.0 + 19.3];
        for (pair, gap) in gaps.into_iter().enumerate() {
            assert!((loss[pair] - softplus(-0.5 * gap)).abs() < 1e-12);
            assert!((slopes[pair][0] + 0.5 * sigmoid(-0.5 * gap)).abs() < 1e-12);
            assert_eq!(slopes[pair][1], -slopes[pair][0]);
        }
    }

    #[test]
    fn a_step_of_one_pair_and_step_0_are_spin() {
        let spin = crate::spin::Spin {
            beta: 0.5,
            nll: 0.0,
        };
        for of in ["responses", "margins"] {
            for pair in STEP {
                let (got, want) = (step(&aot(of), &[pair]), step(&spin, &[pair]));
                let ((loss, slopes), (l, s)) = (got.unwrap(), want.unwrap());
                assert!((loss[0] - l[0]).abs() < 1e-12 && (slopes[0][0] - s[0][0]).abs() < 1e-12);
            }
        }
        let start = STEP.map(|pair| pair.map(|(_, opponent)| (opponent, opponent)));
        assert_eq!(
            step(&aot("responses"), &start).unwrap(),
            step(&spin, &start).unwrap()
        );
    }
}
