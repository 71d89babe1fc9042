//! Multiple choice by likelihood, as lm-eval 0.4.13 computes it: `acc` by the summed log-prob of
//! each choice, `acc_norm` by the log-prob per character of its text, `mc2` by the probability on
//! the correct choices. Of equal choices the first wins.

use crate::Tally;

/// One choice of a question, with its log-prob.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// Summed log-prob of its tokens given the question, in nats.
    pub logps: f64,
    /// Length of its text in Unicode scalar values, as Python's `len` counts them; not in bytes,
    /// not in tokens.
    pub characters: usize,
    /// Whether it is correct; a question may have several correct choices.
    pub right: bool,
}

impl Choice {
    /// A choice with this text.
    pub fn new(text: &str, logps: f64, right: bool) -> Choice {
        Choice {
            logps,
            characters: text.chars().count(),
            right,
        }
    }

    /// Log-prob per character; an empty text counts as one character.
    fn per_character(&self) -> f64 {
        self.logps / self.characters.max(1) as f64
    }
}

/// Running multiple-choice measures.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct MultipleChoice {
    /// Accuracy by summed log-prob.
    pub acc: Tally,
    /// Accuracy by log-prob per character.
    pub acc_norm: Tally,
    /// Sum over questions of the probability of correct choices.
    mc2: f64,
}

impl MultipleChoice {
    /// Counts one question; one without choices counts as wrong.
    pub fn add(&mut self, choices: &[Choice]) {
        self.acc.add(best(choices, |c| c.logps));
        self.acc_norm.add(best(choices, Choice::per_character));
        let top = choices
            .iter()
            .map(|c| c.logps)
            .fold(f64::NEG_INFINITY, f64::max);
        let mass = |keep: &dyn Fn(&Choice) -> bool| -> f64 {
            choices
                .iter()
                .filter(|c| keep(c))
                .map(|c| (c.logps - top).exp())
                .sum()
        };
        let all = mass(&|_| true);
        if all > 0.0 {
            self.mc2 += mass(&|c| c.right) / all;
        }
    }

    /// Mean probability of correct choices.
    pub fn mc2(&self) -> Option<f64> {
        (self.acc.seen > 0).then(|| self.mc2 / self.acc.seen as f64)
    }
}

/// Whether the first of the choices with the highest score is correct.
fn best(choices: &[Choice], score: impl Fn(&Choice) -> f64) -> bool {
    let mut best: Option<(f64, bool)> = None;
    for choice in choices {
        let score = score(choice);
        if best.is_none_or(|(highest, _)| score > highest) {
            best = Some((score, choice.right));
        }
    }
    best.is_some_and(|(_, right)| right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_normalisation_can_change_the_winner() {
        let mut m = MultipleChoice::default();
        m.add(&[
            Choice::new("x", -2.0, false),
            Choice::new("ten letter", -3.0, true),
        ]);
        assert_eq!((m.acc.right, m.acc_norm.right), (0, 1));
        let p = (-3f64).exp() / ((-3f64).exp() + (-2f64).exp());
        assert!((m.mc2().unwrap() - p).abs() < 1e-12);
    }

    /// Seven characters are 13 bytes here: by bytes the wrong one would win (-9/13 against -9/10),
    /// by characters -9/7 loses against -9/10. lm-eval: `completion_len = np.array([float(len(i))
    /// for i in choices])`.
    #[test]
    fn length_is_counted_in_characters() {
        let mut m = MultipleChoice::default();
        m.add(&[
            Choice::new("привет!", -9.0, false),
            Choice::new("ten letter", -9.0, true),
        ]);
        assert_eq!("привет!".len(), 13);
        assert_eq!(m.acc_norm.right, 1);
        let mut m = MultipleChoice::default();
        m.add(&[
            Choice::new("é漢👩", -3.0, false), // 3 characters, 9 bytes: -1 a character, -0.33 a byte
            Choice::new("four", -2.0, true),
        ]);
        assert_eq!((m.acc.right, m.acc_norm.right), (1, 1));
    }

    /// `np.argmax` returns the first.
    #[test]
    fn of_level_choices_the_first_is_taken() {
        for (first, second, right) in [(true, false, 1), (false, true, 0)] {
            let mut m = MultipleChoice::default();
            m.add(&[
                Choice::new("ab", -2.0, first),
                Choice::new("cd", -2.0, second),
            ]);
            assert_eq!((m.acc.right, m.acc_norm.right), (right, right));
        }
    }

    #[test]
    fn nothing_to_choose_is_wrong() {
        let mut m = MultipleChoice::default();
        m.add(&[]);
        assert_eq!(m.acc, Tally { seen: 1, right: 0 });
        assert_eq!(m.mc2(), Some(0.0));
    }
}
