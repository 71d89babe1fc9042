//! `greedy`: keeps the most likely token only; among equals the one with the lowest id.

use crate::cut;
use randori_sdk::{Logits, Sampler, Step, options};

options! {
    /// Keeps the most likely token only.
    pub struct Greedy {}
}

impl Sampler for Greedy {
    const NAME: &'static str = "greedy";
    type State = ();

    fn apply(&self, _: &mut (), _: &Step, logits: &mut Logits) {
        let row: &mut [f32] = logits;
        if let Some(top) = cut::best(row) {
            cut::cut_after(row, top);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{GONE, apply, kept, ranked, rows};

    #[test]
    fn keeps_the_best_and_the_lowest_id_among_equals() {
        assert_eq!(apply(&Greedy {}, &[1.0, 3.0, 2.0]), [GONE, 3.0, GONE]);
        assert_eq!(apply(&Greedy {}, &[1.0, 3.0, 3.0]), [GONE, 3.0, GONE]);
        assert_eq!(apply(&Greedy {}, &[0.0, -0.0]), [0.0, GONE]);
        assert_eq!(apply(&Greedy {}, &[GONE, GONE, -7.0]), [GONE, GONE, -7.0]);
        for row in rows() {
            assert_eq!(kept(&apply(&Greedy {}, &row)), ranked(&row)[..1]);
        }
    }

    /// NaN stays in the row: a diverged model must not look like a confident one.
    #[test]
    fn leaves_nan_for_the_host_to_refuse() {
        let row = apply(&Greedy {}, &[f32::NAN, 3.0, 2.0]);
        assert!(row[0].is_nan() && row[1..] == [3.0, GONE]);
    }
}
