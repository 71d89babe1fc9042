//! What a player did on each held-out prompt, and how sure that makes its figures.

use randori_engine::rng::{self, Stream};
use randori_eval::{Moved, Resamples, Spread, ratio, spread};
use serde::{Deserialize, Serialize};

/// What was measured on one held-out prompt, as a line of `prompts.jsonl`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PromptRow {
    /// Share of right answers over `eval.seeds`; `None` where answers are not checked.
    pub exact_match: Option<f64>,
    /// Share of answers in which an answer can be found at all; `None` where answers are not
    /// checked.
    pub in_form: Option<f64>,
    /// Share of answers that were cut at the token limit.
    pub cut: f64,
    /// Mean tokens of an answer.
    pub tokens: f64,
    /// Summed log-prob of the real response, nats.
    pub logps_real: f64,
    /// Its tokens.
    pub real_tokens: usize,
    /// Summed log-prob of the opponent's response, nats.
    pub logps_generated: f64,
    /// Reward of the real response less that of the opponent's.
    pub margin: f64,
    /// How the training before moved the pair; `None` of a player that is no game's, or where it
    /// was not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved: Option<Moved>,
}

impl PromptRow {
    /// A measure's part of this prompt and its weight: the measure is the sum of the parts by that
    /// of the weights.
    fn part(&self, name: &str) -> Option<(f64, f64)> {
        let share = |yes: bool| Some((f64::from(u8::from(yes)), 1.0));
        match name {
            "exact_match" => self.exact_match.map(|v| (v, 1.0)),
            "in_form" => self.in_form.map(|v| (v, 1.0)),
            "nll_real" => Some((-self.logps_real, self.real_tokens as f64)),
            "logps_real" => Some((self.logps_real, 1.0)),
            "logps_generated" => Some((self.logps_generated, 1.0)),
            "margin" => Some((self.margin, 1.0)),
            "accuracy" => share(self.margin > 0.0),
            "inverted" => share(self.logps_real < self.logps_generated),
            "generated_tokens" => Some((self.tokens, 1.0)),
            "cut" => Some((self.cut, 1.0)),
            _ => None,
        }
    }
}

/// The prompts of a game's players, where they were kept.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Prompts {
    /// Before iteration 0.
    pub start: Vec<PromptRow>,
    /// After each iteration.
    pub iterations: Vec<Vec<PromptRow>>,
}

/// Draws of so many prompts: the same for all players and measures of a comparison.
pub fn draws(prompts: usize, seed: u64) -> Resamples {
    let mut asked = 0;
    Resamples::draw(prompts, &mut || {
        asked += 1;
        let word = rng::word(Stream::Resample, seed, [asked, 0, 0, 0]);
        // the upper bits of a word's product with a number are below that number, each as often
        ((u128::from(word) * prompts as u128) >> 64) as usize
    })
}

/// One player's prompts, of each seed.
pub type Seeds<'a> = &'a [Vec<PromptRow>];

/// The mean over `values`, one a seed, with the interval that seeds and prompts give it; less that
/// of `other`, if given, which is paired seed by seed and prompt by prompt.
pub fn interval(
    name: &str,
    values: &[f64],
    prompts: Seeds,
    other: Option<Seeds>,
    draws: &Resamples,
) -> Option<Spread> {
    let parts = |of: Seeds| -> Option<Vec<Vec<(f64, f64)>>> {
        let whole = |rows: &&Vec<PromptRow>| rows.len() == draws.prompts();
        if of.is_empty() || !of.iter().all(|rows| whole(&rows)) {
            return None;
        }
        let of_seed = |rows: &Vec<PromptRow>| rows.iter().map(|row| row.part(name)).collect();
        of.iter().map(of_seed).collect()
    };
    let mean = |of: &[Vec<(f64, f64)>], counts: &[u32]| {
        of.iter().map(|seed| ratio(counts, seed)).sum::<f64>() / of.len() as f64
    };
    let error = match (parts(prompts), other.map(parts)) {
        (Some(own), None) => draws.error(&mut |counts| mean(&own, counts)),
        (Some(own), Some(Some(theirs))) => {
            draws.error(&mut |counts| mean(&own, counts) - mean(&theirs, counts))
        }
        _ => None,
    };
    spread(values, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(i: usize) -> PromptRow {
        PromptRow {
            exact_match: Some(f64::from(u8::from(i.is_multiple_of(4)))),
            in_form: None,
            cut: 0.0,
            tokens: 3.0,
            logps_real: -((i % 7) as f64) - 1.0,
            real_tokens: 1 + i % 3,
            logps_generated: -2.0,
            margin: 0.0,
            moved: None,
        }
    }

    /// One seed: what is left is the prompts' 1.96 sqrt(p (1 - p) / (n - 1)).
    #[test]
    fn of_one_seed_the_prompts_are_what_varies() {
        let rows = [(0..100).map(row).collect::<Vec<_>>()];
        let s = interval("exact_match", &[0.25], &rows, None, &draws(100, 1)).unwrap();
        let want = 1.96 * (0.25f64 * 0.75 / 99.0).sqrt();
        assert!((s.half.unwrap() / want - 1.0).abs() < 0.08, "{s:?} {want}");
        assert_eq!((s.by_seeds, s.by_prompts), (None, s.half));
        // the same draws, the same interval
        let again = interval("exact_match", &[0.25], &rows, None, &draws(100, 1));
        assert_eq!(again, Some(s));
        // what was not measured, or not kept, has none
        let none = interval("in_form", &[0.25], &rows, None, &draws(100, 1)).unwrap();
        assert_eq!(none.half, None);
        let none = interval("exact_match", &[0.25], &[Vec::new()], None, &draws(100, 1));
        assert_eq!(none.unwrap().half, None);
    }

    /// A player against itself, right on the same prompts: nothing varies, however hard the prompts
    /// are.
    #[test]
    fn differences_are_paired() {
        let rows = [(0..100).map(row).collect::<Vec<_>>()];
        let other = [rows[0]
            .iter()
            .map(|r| PromptRow {
                logps_real: r.logps_real - 0.5 * r.real_tokens as f64,
                ..*r
            })
            .collect::<Vec<_>>()];
        let of = |name| interval(name, &[0.5], &other, Some(&rows), &draws(100, 1)).unwrap();
        assert!(of("nll_real").half.unwrap() < 1e-9);
        assert!(of("exact_match").half.unwrap() < 1e-9);
        let alone = interval("nll_real", &[0.5], &rows, None, &draws(100, 1)).unwrap();
        assert!(alone.half.unwrap() > 0.1, "{alone:?}");
    }
}
