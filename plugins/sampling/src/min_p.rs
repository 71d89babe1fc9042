//! `min_p` (Nguyen et al. 2024, arXiv 2407.01082): keeps the tokens that are at least `p` times as
//! likely as the most likely one. The set narrows where the model is sure and widens where it is
//! not.

use crate::cut;
use randori_sdk::{Logits, Sampler, Step, options};

options! {
    /// Keeps the tokens that are at least p times as likely as the most likely one.
    pub struct MinP {
        /// Share of the highest probability; 0 keeps all, 1 only the most likely token and its
        /// equals.
        p: f64 = 0.05, 0.0..=1.0;
    }
}

impl Sampler for MinP {
    const NAME: &'static str = "min_p";
    type State = ();

    fn apply(&self, _: &mut (), _: &Step, logits: &mut Logits) {
        if self.p > 0.0 {
            keep(self.p, logits);
        }
    }
}

fn keep(p: f64, row: &mut [f32]) {
    let Some(top) = cut::best(row) else { return };
    let floor = f64::from(top.logit) + p.ln(); // log(p * P_max), up to the soft-max's constant
    for l in row {
        if f64::from(*l) < floor {
            *l = f32::NEG_INFINITY;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{GONE, apply, kept, left_only, probabilities, rows};

    #[test]
    fn keeps_what_is_likely_enough() {
        let row = [0.1f32, 0.5, 0.15, 0.25].map(f32::ln);
        let kept = |p| kept(&apply(&MinP { p }, &row));
        assert_eq!(kept(0.9), [1]);
        assert_eq!(kept(0.49), [1, 3]);
        assert_eq!(kept(0.29), [1, 2, 3]);
        assert_eq!(kept(0.19), [0, 1, 2, 3]);
    }

    #[test]
    fn the_ends_of_p() {
        let row = [1.0, 3.0, 3.0, GONE];
        assert_eq!(apply(&MinP { p: 0.0 }, &row), row);
        assert_eq!(apply(&MinP { p: 1.0 }, &row), [GONE, 3.0, 3.0, GONE]);
    }

    #[test]
    fn equals_its_definition() {
        for row in rows() {
            let probability = probabilities(&row);
            let top = probability.iter().copied().fold(0.0, f64::max);
            for p in [1e-6, 0.0501, 0.3337, 0.9003] {
                let likely: Vec<usize> = (0..row.len())
                    .filter(|&i| probability[i] >= p * top)
                    .collect();
                left_only(&likely, &apply(&MinP { p }, &row), &row, &format!("p {p}"));
            }
        }
    }
}
