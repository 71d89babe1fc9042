//! Measures of an iteration computed from log-probs: rewards, margin, accuracy, ties, lengths.

use std::collections::BTreeMap;

/// Measures at the end of an iteration. One that was not taken is NaN; `exact_match` is `None`.
#[derive(Debug, Clone, PartialEq)]
pub struct Signals {
    /// Number of pairs measured.
    pub pairs: usize,
    /// Mean negative log-prob per token of the real responses, in nats.
    pub nll_real: f64,
    /// Mean over pairs of log p(real), summed over the response's tokens, in nats. It may fall
    /// while the loss falls.
    pub logps_real: f64,
    /// Mean over pairs of log p(generated), in nats.
    pub logps_generated: f64,
    /// Mean of reward(real) - reward(generated).
    pub margin: f64,
    /// Share of pairs with a margin strictly above 0: 0 before the first step, when all rewards are
    /// 0.
    pub accuracy: f64,
    /// Share of pairs with a margin of exactly 0, as of identical responses.
    pub ties: f64,
    /// Share of pairs whose generated response is more likely under the policy than the real one.
    pub inverted: f64,
    /// Mean length of a real response, in tokens.
    pub real_tokens: f64,
    /// Mean length of a generated response, in tokens.
    pub generated_tokens: f64,
    /// Share of correct answers on held-out prompts, where answers can be checked.
    pub exact_match: Option<f64>,
    /// Further measures, by name.
    pub extra: BTreeMap<String, f64>,
}

/// Summed log-probs (nats) and lengths (tokens) of one pair.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairLogps {
    /// Policy's log p(real).
    pub policy_real: f64,
    /// Policy's log p(generated).
    pub policy_generated: f64,
    /// Opponent's log p(real).
    pub opponent_real: f64,
    /// Opponent's log p(generated).
    pub opponent_generated: f64,
    /// Tokens of the real response.
    pub real_tokens: usize,
    /// Tokens of the generated response.
    pub generated_tokens: usize,
}

impl PairLogps {
    /// Reward of the real response: `beta (log p_theta(y) - log p_theta_t(y))`.
    pub fn reward_real(&self, beta: f64) -> f64 {
        beta * (self.policy_real - self.opponent_real)
    }

    /// Reward of the generated response.
    pub fn reward_generated(&self, beta: f64) -> f64 {
        beta * (self.policy_generated - self.opponent_generated)
    }

    /// Reward of the real response minus that of the generated one: the loss's argument (paper, eq.
    /// 4.7).
    pub fn margin(&self, beta: f64) -> f64 {
        self.reward_real(beta) - self.reward_generated(beta)
    }
}

impl Signals {
    /// Signals with no measure taken.
    pub fn none() -> Signals {
        Signals {
            pairs: 0,
            nll_real: f64::NAN,
            logps_real: f64::NAN,
            logps_generated: f64::NAN,
            margin: f64::NAN,
            accuracy: f64::NAN,
            ties: f64::NAN,
            inverted: f64::NAN,
            real_tokens: f64::NAN,
            generated_tokens: f64::NAN,
            exact_match: None,
            extra: BTreeMap::new(),
        }
    }

    /// Computes the measures that follow from log-probs and lengths; [`Signals::none`] without
    /// pairs.
    pub fn of(pairs: &[PairLogps], beta: f64) -> Signals {
        if pairs.is_empty() {
            return Signals::none();
        }
        let n = pairs.len() as f64;
        let mean = |value: &dyn Fn(&PairLogps) -> f64| pairs.iter().map(value).sum::<f64>() / n;
        let share = |holds: &dyn Fn(&PairLogps) -> bool| {
            pairs.iter().filter(|pair| holds(pair)).count() as f64 / n
        };
        let logps_real = mean(&|p| p.policy_real);
        let real_tokens = mean(&|p| p.real_tokens as f64);
        Signals {
            pairs: pairs.len(),
            nll_real: -logps_real / real_tokens,
            logps_real,
            logps_generated: mean(&|p| p.policy_generated),
            margin: mean(&|p| p.margin(beta)),
            accuracy: share(&|p| p.margin(beta) > 0.0),
            ties: share(&|p| p.margin(beta) == 0.0),
            inverted: share(&|p| p.policy_real < p.policy_generated),
            real_tokens,
            generated_tokens: mean(&|p| p.generated_tokens as f64),
            exact_match: None,
            extra: BTreeMap::new(),
        }
    }

    /// Mean generated length minus mean real length, in tokens: far from 0, length alone tells the
    /// two apart.
    pub fn length_gap(&self) -> f64 {
        self.generated_tokens - self.real_tokens
    }

    /// Every measure under its name in `eval.json`, in reading order, with `pairs` and the extras.
    pub fn entries(&self) -> Vec<(&str, f64)> {
        let mut entries = vec![
            ("pairs", self.pairs as f64),
            ("nll_real", self.nll_real),
            ("logps_real", self.logps_real),
            ("logps_generated", self.logps_generated),
            ("margin", self.margin),
            ("accuracy", self.accuracy),
            ("ties", self.ties),
            ("inverted", self.inverted),
            ("real_tokens", self.real_tokens),
            ("generated_tokens", self.generated_tokens),
            ("length_gap", self.length_gap()),
        ];
        entries.extend(self.exact_match.map(|value| ("exact_match", value)));
        entries.extend(
            self.extra
                .iter()
                .map(|(name, value)| (name.as_str(), *value)),
        );
        entries
    }

    /// Inverse of [`Signals::entries`]: unknown names become extras, missing ones stay unmeasured.
    pub fn from_entries<'a>(entries: impl IntoIterator<Item = (&'a str, f64)>) -> Signals {
        let mut signals = Signals::none();
        for (name, value) in entries {
            match name {
                "pairs" => signals.pairs = value as usize,
                "nll_real" => signals.nll_real = value,
                "logps_real" => signals.logps_real = value,
                "logps_generated" => signals.logps_generated = value,
                "margin" => signals.margin = value,
                "accuracy" => signals.accuracy = value,
                "ties" => signals.ties = value,
                "inverted" => signals.inverted = value,
                "real_tokens" => signals.real_tokens = value,
                "generated_tokens" => signals.generated_tokens = value,
                "length_gap" => {} // follows from the two above
                "exact_match" => signals.exact_match = Some(value),
                _ => {
                    signals.extra.insert(name.to_owned(), value);
                }
            }
        }
        signals
    }
}
