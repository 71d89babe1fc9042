//! Held-out likelihood, and the honest signals of a round: what the policy now thinks of both responses.

use serde::{Deserialize, Serialize};

/// Sum of response log-probs over a held-out set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Likelihood {
    /// Responses.
    pub responses: usize,
    /// Their tokens.
    pub tokens: usize,
    /// Their summed log-probs, in nats.
    pub logps: f64,
}

impl Likelihood {
    /// Adds one response: its summed log-prob (nats) and its length in tokens.
    pub fn add(&mut self, logps: f64, tokens: usize) {
        self.responses += 1;
        self.tokens += tokens;
        self.logps += logps;
    }

    /// Negative log-likelihood in nats per token; `None` where there was no token.
    pub fn nll(&self) -> Option<f64> {
        (self.tokens > 0).then(|| -self.logps / self.tokens as f64)
    }

    /// Mean summed log-prob of a response.
    pub fn mean_logps(&self) -> Option<f64> {
        (self.responses > 0).then(|| self.logps / self.responses as f64)
    }
}

/// One pair under policy and opponent: summed response log-probs (nats) and lengths (tokens).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairRow {
    /// log p_theta(y|x)
    pub real: f64,
    /// log p_theta(y'|x)
    pub generated: f64,
    /// log p_theta_t(y|x)
    pub ref_real: f64,
    /// log p_theta_t(y'|x)
    pub ref_generated: f64,
    /// |y|
    pub real_tokens: usize,
    /// |y'|
    pub generated_tokens: usize,
}

/// Means over pairs, in the paper's terms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct PairMeasures {
    /// Mean log p_theta(y|x).
    pub logps_real: f64,
    /// Mean log p_theta(y'|x).
    pub logps_generated: f64,
    /// Mean of (log p_theta(y) - log p_theta_t(y)) - (log p_theta(y') - log p_theta_t(y')), before beta.
    pub margin: f64,
    /// Share of pairs with a margin > 0 (strictly: at step 0 it is 0).
    pub accuracy: f64,
    /// Share of pairs whose real response is less likely than the generated one, per token.
    pub inverted: f64,
    /// Mean tokens of the generated response.
    pub generated_tokens: f64,
    /// Mean tokens of the real response.
    pub real_tokens: f64,
    /// Share of pairs that "the shorter one is real" would tell apart, ties one half: far from 0.5 means a length cue.
    pub shorter_is_real: f64,
}

impl PairMeasures {
    /// Over all pairs; `None` where there is none.
    pub fn of(rows: &[PairRow]) -> Option<Self> {
        let n = rows.len() as f64;
        if rows.is_empty() {
            return None;
        }
        let mean = |f: &dyn Fn(&PairRow) -> f64| rows.iter().map(f).sum::<f64>() / n;
        let margin = |r: &PairRow| (r.real - r.ref_real) - (r.generated - r.ref_generated);
        let share = |yes: bool| if yes { 1.0 } else { 0.0 };
        Some(PairMeasures {
            logps_real: mean(&|r| r.real),
            logps_generated: mean(&|r| r.generated),
            margin: mean(&margin),
            accuracy: mean(&|r| share(margin(r) > 0.0)),
            inverted: mean(&|r| {
                let per_token = |logps: f64, tokens: usize| logps / tokens.max(1) as f64;
                share(per_token(r.real, r.real_tokens) < per_token(r.generated, r.generated_tokens))
            }),
            generated_tokens: mean(&|r| r.generated_tokens as f64),
            real_tokens: mean(&|r| r.real_tokens as f64),
            shorter_is_real: mean(&|r| match r.real_tokens.cmp(&r.generated_tokens) {
                std::cmp::Ordering::Less => 1.0,
                std::cmp::Ordering::Equal => 0.5,
                std::cmp::Ordering::Greater => 0.0,
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nll_is_per_token_not_per_response() {
        let mut l = Likelihood::default();
        assert_eq!(l.nll(), None);
        l.add(-2.0, 1);
        l.add(-1.0, 5);
        assert_eq!(l.nll(), Some(0.5));
        assert_eq!(l.mean_logps(), Some(-1.5));
    }

    #[test]
    fn step_zero_has_no_margin_and_no_accuracy() {
        let same = PairRow {
            real: -3.0,
            generated: -4.0,
            ref_real: -3.0,
            ref_generated: -4.0,
            real_tokens: 2,
            generated_tokens: 4,
        };
        let m = PairMeasures::of(&[same]).unwrap();
        assert_eq!((m.margin, m.accuracy), (0.0, 0.0));
        assert_eq!(m.inverted, 1.0); // -1.5 a token against -1.0 a token
        assert_eq!(m.shorter_is_real, 1.0);
        assert_eq!(PairMeasures::of(&[]), None);
    }

    #[test]
    fn margins_by_hand() {
        let won = PairRow {
            real: -1.0,
            generated: -9.0,
            ref_real: -3.0,
            ref_generated: -4.0,
            real_tokens: 3,
            generated_tokens: 3,
        };
        let lost = PairRow {
            real: -5.0,
            generated: -4.0,
            ref_real: -3.0,
            ref_generated: -4.0,
            real_tokens: 3,
            generated_tokens: 3,
        };
        let m = PairMeasures::of(&[won, lost]).unwrap();
        assert_eq!(m.margin, (7.0 - 2.0) / 2.0);
        assert_eq!((m.accuracy, m.inverted, m.shorter_is_real), (0.5, 0.5, 0.5));
        assert_eq!((m.logps_real, m.logps_generated), (-3.0, -6.5));
    }
}
