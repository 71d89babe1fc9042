//! `repetition_penalty` (CTRL, Keskar et al. 2019, arXiv 1909.05858, section 4.1): makes tokens
//! that occurred before less likely.
//!
//! As in Hugging Face: a positive logit is divided by the penalty, any other multiplied, once for
//! each different token of the prompt and of what was generated. The result depends on the logits'
//! offset, so this comes first in a chain, before samplers that scale or shift logits.
//! `skip_prompt` leaves the prompt's own tokens alone.

use randori_sdk::{Logits, Sampler, Step, options};
use std::collections::HashSet;

options! {
    /// Makes tokens that occurred before less likely.
    pub struct RepetitionPenalty {
        /// Positive logits are divided by it, others multiplied; 1 changes nothing, below 1 repeats
        /// are favoured.
        penalty: f64 = 1.2, 0.01..=100.0;
        /// Count only what was generated, not the prompt.
        skip_prompt: bool = false;
    }
}

/// The distinct tokens of a sequence, updated by reading each of its tokens once.
#[derive(Debug, Default)]
pub struct Seen {
    tokens: HashSet<u32>,
    /// Number of tokens read so far.
    upto: usize,
}

impl Sampler for RepetitionPenalty {
    const NAME: &'static str = "repetition_penalty";
    type State = Seen;

    fn apply(&self, seen: &mut Seen, at: &Step, logits: &mut Logits) {
        let start = if self.skip_prompt { at.prompt } else { 0 };
        let new = at.tokens.get(seen.upto.max(start)..).unwrap_or_default();
        seen.tokens.extend(new);
        seen.upto = at.tokens.len();

        let penalty = self.penalty as f32;
        for &token in &seen.tokens {
            if let Some(i) = logits.index(token) {
                let l = logits[i];
                logits[i] = if l > 0.0 { l / penalty } else { l * penalty };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{GONE, apply_at, rows};

    const ROW: [f32; 5] = [2.0, -2.0, 0.25, 0.0, GONE];

    fn penalise(skip_prompt: bool, tokens: &[u32], prompt: usize) -> Vec<f32> {
        let sampler = RepetitionPenalty {
            penalty: 2.0,
            skip_prompt,
        };
        apply_at(&sampler, &mut Seen::default(), tokens, prompt, &ROW)
    }

    #[test]
    fn divides_what_is_positive_and_multiplies_the_rest() {
        assert_eq!(penalise(false, &[], 0), ROW);
        assert_eq!(
            penalise(false, &[0, 1, 3, 4], 2),
            [1.0, -4.0, 0.25, 0.0, GONE]
        );
    }

    #[test]
    fn counts_a_token_once() {
        assert_eq!(
            penalise(false, &[0, 0, 0, 0], 4),
            [1.0, -2.0, 0.25, 0.0, GONE]
        );
    }

    #[test]
    fn skips_the_prompt_if_told_to() {
        assert_eq!(penalise(true, &[0, 1, 2], 2), [2.0, -2.0, 0.125, 0.0, GONE]);
        assert_eq!(penalise(true, &[0, 1, 0], 2), [1.0, -2.0, 0.25, 0.0, GONE]); // said again
        assert_eq!(penalise(true, &[0, 1], 2), ROW);
    }

    #[test]
    fn a_token_beyond_the_row_is_nobody() {
        assert_eq!(penalise(false, &[5, u32::MAX], 1), ROW);
    }

    /// Step by step with one state, as the host calls it, against the definition applied to the
    /// whole sequence.
    #[test]
    fn remembers_between_steps() {
        for (skip_prompt, penalty) in [(false, 1.3), (true, 1.3), (false, 0.5), (false, 1.0)] {
            let sampler = RepetitionPenalty {
                penalty,
                skip_prompt,
            };
            let row = rows().into_iter().find(|r| r.len() == 333).unwrap();
            let sequence: Vec<u32> = (0..60).map(|i| (i * i * 7) % 333).collect();
            let (prompt, mut seen) = (10, Seen::default());
            for upto in prompt..sequence.len() {
                let counted = &sequence[if skip_prompt { prompt } else { 0 }..upto];
                let expected: Vec<f32> = (0..333u32)
                    .zip(&row)
                    .map(|(id, &l)| match counted.contains(&id) {
                        true if l > 0.0 => l / penalty as f32,
                        true => l * penalty as f32,
                        false => l,
                    })
                    .collect();
                assert_eq!(
                    apply_at(&sampler, &mut seen, &sequence[..upto], prompt, &row),
                    expected
                );
            }
        }
    }
}
