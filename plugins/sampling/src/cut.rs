//! The order in which truncating samplers keep tokens, and the cut after the last one kept.
//!
//! Higher logit first; among equal logits the lower id. The order is total on a row without NaN, so
//! "the k best" and "the smallest set" are unique, and results do not depend on which selection
//! algorithm found them.
//!
//! A NaN logit is neither ranked nor removed: it stays where it is, for the host to refuse. A
//! sampler that quietly dropped it would hide a model that has diverged.

use std::cmp::Ordering;

/// A token with its logit; orders by rank, so `a < b` means `a` is kept before `b`.
#[derive(Debug, Clone, Copy)]
pub struct Ranked {
    /// Never NaN.
    pub logit: f32,
    /// Index into the row.
    pub at: u32,
}

impl Ranked {
    /// Rank order: `Less` is better.
    pub fn order(&self, other: &Ranked) -> Ordering {
        let by_logit = other.logit.partial_cmp(&self.logit);
        by_logit
            .unwrap_or(Ordering::Equal)
            .then(self.at.cmp(&other.at))
    }
}

/// The tokens of a row that have not been removed yet, with their places.
pub fn remaining(logits: &[f32]) -> impl Iterator<Item = Ranked> + '_ {
    let places = (0u32..).zip(logits);
    places
        .filter(|(_, l)| **l > f32::NEG_INFINITY)
        .map(|(at, &logit)| Ranked { logit, at })
}

/// The best remaining token, or `None` if there is none.
pub fn best(logits: &[f32]) -> Option<Ranked> {
    // Ascending ids and a strict comparison: the lowest id among equals.
    remaining(logits).reduce(|best, next| if next.logit > best.logit { next } else { best })
}

/// Removes every token that ranks after `last`.
pub fn cut_after(logits: &mut [f32], last: Ranked) {
    for (at, l) in (0u32..).zip(logits) {
        if *l < last.logit || (*l == last.logit && at > last.at) {
            *l = f32::NEG_INFINITY;
        }
    }
}
