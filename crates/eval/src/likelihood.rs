//! Held-out likelihood: log-prob of human responses under a player.

/// Running sum of response log-probs over a held-out set.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Likelihood {
    /// Number of tokens.
    pub tokens: usize,
    /// Summed log-probs, in nats.
    pub logps: f64,
}

impl Likelihood {
    /// Adds one response: its summed log-prob (nats) and its length in tokens.
    pub fn add(&mut self, logps: f64, tokens: usize) {
        self.tokens += tokens;
        self.logps += logps;
    }

    /// Negative log-likelihood in nats per token; `None` where there was no token.
    pub fn nll(&self) -> Option<f64> {
        (self.tokens > 0).then(|| -self.logps / self.tokens as f64)
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
    }
}
