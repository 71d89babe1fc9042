//! `top_k`: keeps the k most likely tokens.
//!
//! Exactly k remain (or all, if there are fewer); equal logits keep the lower id. Hugging Face
//! keeps every token that ties with the k-th instead, so its k may be more; ours makes `k = 1` and
//! `greedy` the same.

use crate::cut::{self, Ranked};
use randori_sdk::{Logits, Sampler, Step, options};

options! {
    /// Keeps the k most likely tokens.
    pub struct TopK {
        /// How many tokens remain; 0 keeps all.
        k: usize = 50;
    }
}

impl Sampler for TopK {
    const NAME: &'static str = "top_k";
    /// The best tokens seen so far, kept between calls so that a call allocates nothing.
    type State = Vec<Ranked>;

    fn apply(&self, best: &mut Self::State, _: &Step, logits: &mut Logits) {
        if self.k > 0 && self.k < logits.len() {
            keep(self.k, logits, best);
        }
    }
}

/// Keeps the k best tokens, in expected time linear in the row's length if k is much smaller:
/// whenever 2k tokens are collected, the worst k are dropped, and later tokens must beat the k-th.
fn keep(k: usize, row: &mut [f32], best: &mut Vec<Ranked>) {
    best.clear();
    let mut bar = f32::NEG_INFINITY; // k tokens already seen have this logit or a better one
    for token in cut::remaining(row) {
        // A token that ties with the bar has a higher id than the k that reach it: it loses.
        if token.logit <= bar {
            continue;
        }
        best.push(token);
        if best.len() == k.saturating_mul(2) {
            let (_, worst_kept, _) = best.select_nth_unstable_by(k - 1, Ranked::order);
            bar = worst_kept.logit;
            best.truncate(k);
        }
    }
    if best.len() < k {
        return; // fewer than k are left: keep all
    }
    let (_, last, _) = best.select_nth_unstable_by(k - 1, Ranked::order);
    cut::cut_after(row, *last);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{GONE, apply, kept, left_only, ranked, rows};

    #[test]
    fn keeps_k() {
        let row = [1.0, 4.0, 2.0, 3.0];
        assert_eq!(apply(&TopK { k: 1 }, &row), [GONE, 4.0, GONE, GONE]);
        assert_eq!(apply(&TopK { k: 3 }, &row), [GONE, 4.0, 2.0, 3.0]);
    }

    #[test]
    fn ties_keep_the_lower_ids() {
        assert_eq!(
            apply(&TopK { k: 2 }, &[5.0, 7.0, 5.0, 5.0]),
            [5.0, 7.0, GONE, GONE]
        );
        assert_eq!(kept(&apply(&TopK { k: 3 }, &[0.0; 100])), [0, 1, 2]);
    }

    #[test]
    fn nothing_to_do_changes_nothing() {
        for k in [0, 4, 5, 1_000_000] {
            let row = [1.0, GONE, 2.0, 3.0];
            assert_eq!(apply(&TopK { k }, &row), row, "k {k}");
        }
    }

    #[test]
    fn equals_a_full_sort() {
        for row in rows() {
            let left = kept(&row).len();
            for k in [1, 2, 3, 10, 50, 500, 1999] {
                let best = &ranked(&row)[..k.min(left)];
                left_only(best, &apply(&TopK { k }, &row), &row, &format!("k {k}"));
            }
        }
    }
}
