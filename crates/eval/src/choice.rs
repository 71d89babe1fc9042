//! Multiple choice by likelihood, as the Open LLM Leaderboard counts it: `acc` by the summed log-prob of each choice,
//! `acc_norm` by the log-prob per byte of its text, `mc2` by the probability on the true choices.

use crate::Tally;

/// One possible answer, scored.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// Summed log-prob given the question, in nats.
    pub logps: f64,
    /// Bytes of its text.
    pub bytes: usize,
    /// Whether it is (one of) the right one(s).
    pub right: bool,
}

/// Running multiple-choice measures.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct MultipleChoice {
    /// Right by summed log-prob.
    pub acc: Tally,
    /// Right by log-prob per byte.
    pub acc_norm: Tally,
    /// Sum over questions of the probability mass on right choices.
    mc2: f64,
}

impl MultipleChoice {
    /// Counts one question; a question without choices counts as wrong.
    pub fn add(&mut self, choices: &[Choice]) {
        let best = |score: &dyn Fn(&Choice) -> f64| {
            choices
                .iter()
                .max_by(|a, b| score(a).total_cmp(&score(b)))
                .is_some_and(|c| c.right)
        };
        self.acc.add(best(&|c| c.logps));
        self.acc_norm
            .add(best(&|c| c.logps / c.bytes.max(1) as f64));
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

    /// Mean probability mass on right choices.
    pub fn mc2(&self) -> Option<f64> {
        (self.acc.seen > 0).then(|| self.mc2 / self.acc.seen as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_normalisation_can_change_the_winner() {
        let mut m = MultipleChoice::default();
        m.add(&[
            Choice {
                logps: -2.0,
                bytes: 1,
                right: false,
            },
            Choice {
                logps: -3.0,
                bytes: 10,
                right: true,
            },
        ]);
        assert_eq!((m.acc.right, m.acc_norm.right), (0, 1));
        let p = (-3f64).exp() / ((-3f64).exp() + (-2f64).exp());
        assert!((m.mc2().unwrap() - p).abs() < 1e-12);
    }

    #[test]
    fn nothing_to_choose_is_wrong() {
        let mut m = MultipleChoice::default();
        m.add(&[]);
        assert_eq!(m.acc, Tally { seen: 1, right: 0 });
        assert_eq!(m.mc2(), Some(0.0));
    }
}
