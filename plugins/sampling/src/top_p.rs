//! `top_p` (nucleus sampling, Holtzman et al. 2020, arXiv 1904.09751): keeps the smallest set of
//! most likely tokens whose probabilities sum to at least p.
//!
//! Probabilities are those of the row as it arrives, so `temperature` before `top_p` is not the
//! same as after it. The token that reaches p is kept. Sums are f64.

use crate::cut::{self, Ranked};
use randori_sdk::{Logits, Sampler, Step, options};

options! {
    /// Keeps the smallest set of most likely tokens whose probabilities sum to at least p.
    pub struct TopP {
        /// The sum to reach; 1 keeps all, 0 only the most likely token.
        p: f64 = 0.9, 0.0..=1.0;
    }
}

impl Sampler for TopP {
    const NAME: &'static str = "top_p";
    /// The tokens among which the last one kept is sought; kept between calls so that a call
    /// allocates nothing.
    type State = Vec<Ranked>;

    fn apply(&self, candidates: &mut Self::State, _: &Step, logits: &mut Logits) {
        if self.p < 1.0 {
            keep(self.p, logits, candidates);
        }
    }
}

fn keep(p: f64, row: &mut [f32], candidates: &mut Vec<Ranked>) {
    let Some(top) = cut::best(row) else { return };
    let weight = |t: &Ranked| (f64::from(t.logit) - f64::from(top.logit)).exp();
    let total: f64 = cut::remaining(row).map(|t| weight(&t)).sum();

    // Tokens below probability (1-p)/n sum to less than 1-p, so those above reach p without them.
    // On a trained model's row this leaves tens or hundreds of 50,000.
    let floor = (total * (1.0 - p) / row.len() as f64).ln() + f64::from(top.logit);
    candidates.clear();
    candidates.extend(cut::remaining(row).filter(|t| f64::from(t.logit) >= floor));
    if let Some(last) = reaches(p * total, candidates, weight) {
        cut::cut_after(row, last);
    }
}

/// The token at which the weights, summed from the best token down, reach `target`. Halves the
/// candidates at the median and goes on in the half where the target is reached: linear expected
/// time, where a sort would take n log n.
fn reaches(
    target: f64,
    candidates: &mut [Ranked],
    weight: impl Fn(&Ranked) -> f64,
) -> Option<Ranked> {
    let mut rest = candidates;
    let mut above = 0.0; // of tokens better than all of `rest`
    while rest.len() > 1 {
        let middle = rest.len() / 2;
        rest.select_nth_unstable_by(middle, Ranked::order);
        let (better, worse) = rest.split_at_mut(middle);
        let sum = above + better.iter().map(&weight).sum::<f64>();
        if sum >= target {
            rest = better;
        } else {
            above = sum;
            rest = worse;
        }
    }
    rest.first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{GONE, apply, kept, left_only, probabilities, ranked, rows};

    #[test]
    fn keeps_the_smallest_set_that_reaches_p() {
        let row = [0.1f32, 0.5, 0.15, 0.25].map(f32::ln);
        let kept = |p| kept(&apply(&TopP { p }, &row));
        assert_eq!(kept(0.45), [1]);
        assert_eq!(kept(0.55), [1, 3]);
        assert_eq!(kept(0.74), [1, 3]);
        assert_eq!(kept(0.76), [1, 2, 3]);
        assert_eq!(kept(0.95), [0, 1, 2, 3]);
    }

    #[test]
    fn exactly_p_is_reached() {
        // Four equal tokens: exact arithmetic.
        assert_eq!(kept(&apply(&TopP { p: 0.5 }, &[2.0; 4])), [0, 1]);
        assert_eq!(kept(&apply(&TopP { p: 0.75 }, &[2.0; 4])), [0, 1, 2]);
    }

    #[test]
    fn the_ends_of_p() {
        let row = [1.0, 3.0, 3.0, GONE];
        assert_eq!(apply(&TopP { p: 1.0 }, &row), row);
        assert_eq!(apply(&TopP { p: 0.0 }, &row), [GONE, 3.0, GONE, GONE]);
        assert_eq!(apply(&TopP { p: 1.0 - 1e-15 }, &[0.0, -60.0]), [0.0, GONE]); // without e^-60
    }

    #[test]
    fn equals_a_full_sort() {
        for row in rows() {
            let (order, probability) = (ranked(&row), probabilities(&row));
            for p in [0.001, 0.1003, 0.3337, 0.5003, 0.9001, 0.9901, 0.99999] {
                let mut sum = 0.0;
                let before = order.iter().take_while(|&&i| {
                    let short = sum < p;
                    sum += probability[i];
                    short
                });
                let smallest: Vec<usize> = before.copied().collect();
                left_only(
                    &smallest,
                    &apply(&TopP { p }, &row),
                    &row,
                    &format!("p {p}"),
                );
            }
        }
    }

    #[test]
    fn a_row_that_is_not_finite_is_left_to_the_host() {
        assert_eq!(
            apply(&TopP { p: 0.5 }, &[f32::INFINITY, 1.0]),
            [f32::INFINITY, 1.0]
        );
        assert_eq!(apply(&TopP { p: 0.5 }, &[GONE, GONE]), [GONE, GONE]);
    }
}
