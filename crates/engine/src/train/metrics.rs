//! The figures of a training step, and what who hears of them answers.

/// What a step over pairs tells of the policy against its opponent: means over the step's pairs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rewards {
    /// beta·(log p_policy(real) − log p_opponent(real)).
    pub real: f64,
    /// The same of the generated responses.
    pub generated: f64,
    /// Real minus generated reward.
    pub margins: f64,
    /// Share of pairs with a margin above 0 (a tie within f32's rounding is none).
    pub accuracies: f64,
}

/// What a step over pairs adds to [`StepMetrics`]: means over the step's pairs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PairMetrics {
    /// `None` where the loss needs no opponent, whose log-probs are then unknown.
    pub rewards: Option<Rewards>,
    /// log p_policy(real), summed over a response's tokens.
    pub logps_real: f64,
    /// log p_policy(generated).
    pub logps_generated: f64,
}

/// One step's figures; losses, rewards and log-probs are those before the step's update.
#[derive(Debug, Clone, PartialEq)]
pub struct StepMetrics {
    /// Steps done, this one included.
    pub step: usize,
    /// Steps of the whole training.
    pub total_steps: usize,
    /// Epochs done, as a fraction.
    pub epoch: f64,
    /// Mean loss of the step's pairs, or of the step's response tokens.
    pub loss: f64,
    /// Norm over all gradients, before clipping.
    pub grad_norm: f64,
    /// This step's learning rate.
    pub learning_rate: f64,
    /// Rows computed since training began (a pair's prompt counts once, and so does a pass that had
    /// to be repeated).
    pub num_tokens: u64,
    /// An epoch is over in which every slope of the loss was 0: it is satisfied by all pairs, and
    /// the training ends here.
    pub converged: bool,
    /// In training on pairs.
    pub pairs: Option<PairMetrics>,
    /// What the loss reports besides, as means over the step's pairs.
    pub extra: Vec<(String, f64)>,
}

impl StepMetrics {
    /// All figures under the project's metric keys, in a fixed order.
    pub fn values(&self) -> Vec<(String, f64)> {
        let mut values = vec![
            ("loss", self.loss),
            ("grad_norm", self.grad_norm),
            ("learning_rate", self.learning_rate),
            ("num_tokens", self.num_tokens as f64),
            ("epoch", self.epoch),
        ];
        if let Some(r) = self.pairs.as_ref().and_then(|p| p.rewards.as_ref()) {
            values.extend([
                ("rewards/real", r.real),
                ("rewards/generated", r.generated),
                ("rewards/margins", r.margins),
                ("rewards/accuracies", r.accuracies),
            ]);
        }
        if let Some(p) = &self.pairs {
            values.extend([
                ("logps/real", p.logps_real),
                ("logps/generated", p.logps_generated),
            ]);
        }
        values.extend(self.converged.then_some(("converged", 1.0)));
        values
            .into_iter()
            .map(|(key, value)| (key.to_string(), value))
            .chain(self.extra.iter().cloned())
            .collect()
    }
}

/// What a step's listener wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Go on.
    Continue,
    /// End here; a later call goes on at the next step.
    Stop,
}
