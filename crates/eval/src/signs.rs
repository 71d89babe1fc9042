//! Signs that a game goes wrong though nothing fails: rules over the figures of an iteration, each
//! with its likely cause and what to try.
//!
//! A loss on differences of log-ratios is content with whatever tells the two answers apart. What
//! that was is seen in how the log-probs of held-out pairs moved, token by token.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Held-out pairs that the rules about their log-ratios ask for at least.
const FEWEST: usize = 16;
/// Standard errors that a mean must lie from 0 to count as moved.
const ERRORS: f64 = 2.0;
/// Share of the margin, and of what moved against it, on one token of a response that is called all
/// of it, of responses of [`LONG`] tokens or more.
const MOST: f64 = 0.75;
/// Mean tokens of a real response from which one token's share of the margin says something.
const LONG: f64 = 8.0;
/// Share of pairs told apart by sums, and by means a token, between which length is what tells.
const BY_SUM: f64 = 0.7;
const BY_MEAN: f64 = 0.55;
/// Difference of the mean lengths, of the real one.
const LENGTHS: f64 = 0.25;
/// Training's steps after the first within which an accuracy of 1 comes too soon, and the pairs
/// that they must hold together.
const SOON: usize = 3;
const SOON_PAIRS: usize = 16;
/// Share of generated responses equal to the real ones from which a game has little to learn.
const EQUAL: f64 = 0.25;

/// How an iteration's training moved one held-out pair: log-ratios, log p under the policy less
/// log p under its opponent, in nats.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    /// Summed over the real response.
    pub real: f64,
    /// Summed over the opponent's response.
    pub generated: f64,
    /// First token of the real response less first token of the opponent's.
    pub first: f64,
    /// End of the real turn less end of the opponent's, which counts 0 where it was cut.
    pub end: f64,
    /// Tokens of the real response.
    pub real_tokens: usize,
    /// Tokens of the opponent's response.
    pub generated_tokens: usize,
}

impl Moved {
    /// From log-probs by token, under policy and opponent, of the real response and of the
    /// opponent's, which ended its turn or was `cut`.
    pub fn of(real: [&[f64]; 2], generated: [&[f64]; 2], cut: bool) -> Moved {
        let at = |[policy, opponent]: [&[f64]; 2], i: Option<usize>| {
            let both = i.and_then(|i| policy.get(i).zip(opponent.get(i)));
            both.map_or(0.0, |(p, o)| p - o)
        };
        let sum = |of: &[f64]| of.iter().sum::<f64>();
        let last = |[policy, _]: [&[f64]; 2]| policy.len().checked_sub(1);
        let generated_end = last(generated).filter(|_| !cut);
        Moved {
            real: sum(real[0]) - sum(real[1]),
            generated: sum(generated[0]) - sum(generated[1]),
            first: at(real, Some(0)) - at(generated, Some(0)),
            end: at(real, last(real)) - at(generated, generated_end),
            real_tokens: real[0].len(),
            generated_tokens: generated[0].len(),
        }
    }

    /// The margin over beta.
    fn margin(&self) -> f64 {
        self.real - self.generated
    }

    /// The same of means a token.
    fn margin_per_token(&self) -> f64 {
        let mean = |sum: f64, tokens: usize| sum / tokens.max(1) as f64;
        mean(self.real, self.real_tokens) - mean(self.generated, self.generated_tokens)
    }
}

/// What is known of an iteration.
#[derive(Debug, Clone, Copy)]
pub struct Iteration<'a> {
    /// `rewards/accuracies` of each training step.
    pub accuracies: &'a [f64],
    /// Pairs a step.
    pub step_pairs: usize,
    /// Pairs that were trained on.
    pub pairs: usize,
    /// Those whose generated response is the real one.
    pub equal: usize,
    /// The held-out pairs.
    pub moved: &'a [Moved],
}

/// Something to think about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sign {
    /// The real responses became less likely by so many nats, while the margin rose.
    RealFalls(f64),
    /// The margin's sign follows from lengths.
    Length {
        /// Share of pairs with a margin above 0.
        told: f64,
        /// The same of means a token.
        told_per_token: f64,
        /// Mean tokens.
        real: f64,
        /// Mean tokens.
        generated: f64,
    },
    /// So much of the margin lies on the end of the turn.
    End(f64),
    /// So much of the margin lies on the first token.
    First(f64),
    /// All pairs were told apart by this step already (from 1).
    AtOnce(usize),
    /// So many of the generated responses are the real ones.
    Equal(f64),
}

impl Sign {
    /// Its name in `summary.json`.
    pub fn name(&self) -> &'static str {
        match self {
            Sign::RealFalls(_) => "real_falls",
            Sign::Length { .. } => "won_by_length",
            Sign::End(_) => "won_by_the_end",
            Sign::First(_) => "won_by_the_first_token",
            Sign::AtOnce(_) => "told_apart_at_once",
            Sign::Equal(_) => "generated_equals_real",
        }
    }

    /// How strong it is; of one kind, the larger is the worse.
    pub fn strength(&self) -> f64 {
        match *self {
            Sign::RealFalls(by) => by,
            Sign::Length {
                told,
                told_per_token,
                ..
            } => told - told_per_token,
            Sign::End(share) | Sign::First(share) | Sign::Equal(share) => share,
            Sign::AtOnce(step) => -(step as f64),
        }
    }
}

impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let percent = |share: &f64| 100.0 * share;
        match self {
            Sign::RealFalls(by) => write!(
                f,
                "the human answers became less likely, by {by:.1} nats each, while the margin rose: the loss asks for a difference only, and both answers may fall; try a smaller train.lr, fewer train.epochs, or loss.name = \"dpop\", which holds the human answer up"
            ),
            Sign::Length {
                told,
                told_per_token,
                real,
                generated,
            } => write!(
                f,
                "length tells the answers apart: {:.0} % of the held-out pairs by their sums, {:.0} % by their means a token; generated answers have {generated:.0} tokens, human ones {real:.0}; try generate.max_new_tokens nearer to the data's lengths, or a loss over means, loss.name = \"sigmoid_norm\"",
                percent(told),
                percent(told_per_token)
            ),
            Sign::End(share) => write!(
                f,
                "{:.0} % of the margin lies on the end of the turn: generated answers are cut, or end otherwise than the data's; try a larger generate.max_new_tokens, and compare how both end in `randori inspect` and generated.jsonl",
                percent(share)
            ),
            Sign::First(share) => write!(
                f,
                "{:.0} % of the margin lies on the first token: human and generated answers begin otherwise, for example with a space or a heading, and all else may stay as it was; compare how both begin in `randori inspect` and generated.jsonl; where the form is what it is to learn, as in the demo, all is well",
                percent(share)
            ),
            Sign::AtOnce(step) => write!(
                f,
                "all pairs were told apart by step {step} of the training: the two kinds of answers differ in their form rather than in what they say; compare chat template, first and last words of both in `randori inspect` and generated.jsonl"
            ),
            Sign::Equal(share) => write!(
                f,
                "{:.0} % of the generated answers are the human ones, token for token, from which nothing is learnt: the start knows its data by heart, or draws too coldly; try fewer sft.epochs, or a higher temperature in generate.sampling",
                percent(share)
            ),
        }
    }
}

/// The signs of an iteration.
pub fn signs(seen: &Iteration) -> Vec<Sign> {
    let mut found = Vec::new();
    if seen.pairs > 0 {
        let share = seen.equal as f64 / seen.pairs as f64;
        found.extend((share >= EQUAL).then_some(Sign::Equal(share)));
    }
    found.extend(at_once(seen));
    if seen.moved.len() >= FEWEST {
        found.extend(of_moved(seen.moved));
    }
    found
}

/// The first step counts in no rule: policy and opponent are the same then.
fn at_once(seen: &Iteration) -> Option<Sign> {
    let later = seen.accuracies.get(1..1 + SOON)?;
    let enough = SOON * seen.step_pairs >= SOON_PAIRS && seen.accuracies.len() > 2 * SOON;
    let from = later.iter().rposition(|a| *a < 1.0).map_or(0, |i| i + 1);
    (enough && from < SOON).then_some(Sign::AtOnce(from + 2))
}

fn of_moved(moved: &[Moved]) -> Vec<Sign> {
    let mean = |of: &dyn Fn(&Moved) -> f64| moved.iter().map(of).sum::<f64>() / moved.len() as f64;
    let share = |of: &dyn Fn(&Moved) -> f64| mean(&|m| f64::from(u8::from(of(m) > 0.0)));
    let mut found = Vec::new();
    let margin = mean(&Moved::margin);
    if margin <= ERRORS * error(moved, &Moved::margin) {
        return found;
    }
    let real = mean(&|m| m.real);
    if real < -ERRORS * error(moved, &|m| m.real) {
        found.push(Sign::RealFalls(-real));
    }
    let lengths = [
        mean(&|m| m.real_tokens as f64),
        mean(&|m| m.generated_tokens as f64),
    ];
    let (told, told_per_token) = (share(&Moved::margin), share(&Moved::margin_per_token));
    let apart = (lengths[1] - lengths[0]).abs() >= LENGTHS * lengths[0];
    if apart && told >= BY_SUM && told_per_token <= BY_MEAN {
        found.push(Sign::Length {
            told,
            told_per_token,
            real: lengths[0],
            generated: lengths[1],
        });
    }
    if lengths[0] >= LONG {
        // of all that moved either way: the rest may have fallen while this one token rose
        let part = |of: &dyn Fn(&Moved) -> f64| {
            let (token, rest) = (mean(of), margin - mean(of));
            let share = token / (token.abs() + rest.abs());
            Some(share).filter(|s| *s >= MOST)
        };
        found.extend(part(&|m| m.end).map(Sign::End));
        found.extend(part(&|m| m.first).map(Sign::First));
    }
    found
}

/// Standard error of a mean.
fn error(moved: &[Moved], of: &dyn Fn(&Moved) -> f64) -> f64 {
    let n = moved.len() as f64;
    let mean = moved.iter().map(of).sum::<f64>() / n;
    let squares: f64 = moved.iter().map(|m| (of(m) - mean).powi(2)).sum();
    (squares / (n - 1.0) / n).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Twenty pairs whose log-ratios are spread evenly over responses of ten tokens each, which
    /// vary a little.
    fn sound() -> Vec<Moved> {
        (0..20)
            .map(|i| {
                let real = 2.0 + 0.1 * (i % 5) as f64;
                Moved {
                    real,
                    generated: -real,
                    first: 0.2 * real,
                    end: 0.2 * real,
                    real_tokens: 10,
                    generated_tokens: 10,
                }
            })
            .collect()
    }

    fn of(moved: &[Moved]) -> Vec<Sign> {
        signs(&Iteration {
            accuracies: &[0.0, 0.6, 0.7, 0.7, 0.8, 0.8, 0.9, 0.9],
            step_pairs: 8,
            pairs: 64,
            equal: 3,
            moved,
        })
    }

    fn with(change: impl Fn(&mut Moved)) -> Vec<Sign> {
        let mut moved = sound();
        moved.iter_mut().for_each(change);
        of(&moved)
    }

    #[test]
    fn a_sound_iteration_has_none() {
        assert_eq!(of(&sound()), []);
        assert_eq!(of(&[]), []);
    }

    #[test]
    fn falling_human_answers() {
        let both_fall = with(|m| (m.real, m.generated) = (m.real - 5.0, m.generated - 5.0));
        let [Sign::RealFalls(by)] = both_fall[..] else {
            panic!("{both_fall:?}")
        };
        assert!((by - 2.8).abs() < 1e-12, "{by}"); // 5 less the mean of 2.0, 2.1 … 2.4
        // a fall without a margin is no game's doing, and few pairs say nothing
        assert_eq!(with(|m| (m.real, m.generated) = (-3.0, -3.0)), []);
        let mut few = sound();
        few.truncate(FEWEST - 1);
        few.iter_mut().for_each(|m| m.real -= 3.0);
        assert_eq!(of(&few), []);
    }

    #[test]
    fn length() {
        // every token of either answer falls by 0.2 nats: the longer one loses
        let long = with(|m| {
            (m.real_tokens, m.generated_tokens) = (10, 20);
            (m.real, m.generated) = (-0.2 * 10.0, -0.2 * 20.0);
            (m.first, m.end) = (0.0, 0.0);
        });
        assert!(
            matches!(long[..], [Sign::RealFalls(_), Sign::Length { told, told_per_token, .. }]
            if told == 1.0 && told_per_token == 0.0)
        );
        // longer, but told apart token by token as well
        assert_eq!(with(|m| m.generated_tokens = 20), []);
    }

    #[test]
    fn one_token() {
        let near = |share: f64| (share - 0.8).abs() < 1e-12;
        let end = with(|m| m.end = 0.8 * m.margin());
        assert!(matches!(end[..], [Sign::End(share)] if near(share)));
        let first = with(|m| m.first = 0.8 * m.margin());
        assert!(matches!(first[..], [Sign::First(share)] if near(share)));
        assert_eq!(with(|m| m.end = 0.7 * m.margin()), []);
        // 1.2 margins on the token and -0.2 on the rest: 1.2 of 1.4 that moved, never above all
        let over = with(|m| m.first = 1.2 * m.margin());
        assert!(matches!(over[..], [Sign::First(share)] if (share - 1.2 / 1.4).abs() < 1e-12));
        let short = |m: &mut Moved| (m.first, m.real_tokens) = (0.8 * m.margin(), 7);
        assert_eq!(with(short), []);
    }

    #[test]
    fn parts_of_a_pair() {
        let real: [&[f64]; 2] = [&[-1.0, -2.0, -0.5], &[-1.5, -2.0, -1.5]];
        let generated: [&[f64]; 2] = [&[-3.0, -1.0], &[-1.0, -0.75]];
        let whole = Moved::of(real, generated, false);
        assert_eq!((whole.real, whole.generated), (1.5, -2.25));
        assert_eq!((whole.first, whole.end), (2.5, 1.25));
        assert_eq!((whole.real_tokens, whole.generated_tokens), (3, 2));
        assert_eq!(Moved::of(real, generated, true).end, 1.0);
        assert_eq!(Moved::of(real, [&[], &[]], false).first, 0.5);
    }

    #[test]
    fn at_once_and_equal() {
        let seen = |accuracies: &[f64], step_pairs, equal| {
            signs(&Iteration {
                accuracies,
                step_pairs,
                pairs: 64,
                equal,
                moved: &[],
            })
        };
        let soon = [0.0, 0.9, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
        assert_eq!(seen(&soon, 8, 0), [Sign::AtOnce(3)]);
        assert_eq!(seen(&soon, 4, 0), []); // twelve pairs may be luck
        assert_eq!(seen(&soon[..5], 8, 0), []); // a training of few steps is to be quick
        assert_eq!(seen(&[0.0, 0.9, 0.9, 0.9, 1.0, 1.0, 1.0, 1.0], 8, 0), []);
        assert_eq!(seen(&[], 8, 16), [Sign::Equal(0.25)]);
        assert_eq!(seen(&[], 8, 15), []);
    }
}
