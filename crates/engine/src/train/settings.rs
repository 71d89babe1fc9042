//! The settings of a training, and what of them cannot be meant.

use randori_kernels::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{
    optim::Optimizer,
    schedule::{Schedule, ScheduleKind},
};

/// How to train. Everything here decides the result; a checkpoint is resumed with the same settings
/// only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSettings {
    /// Which optimiser.
    pub optimizer: Optimizer,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// What a linear or cosine schedule ends at; `None`: 0.
    pub min_learning_rate: Option<f64>,
    /// The rate over the steps.
    pub schedule: Schedule,
    /// Largest norm over all gradients; `None`: no clipping.
    pub clip: Option<f64>,
    /// Pairs or examples in a step (an epoch's last step may have fewer).
    pub batch: usize,
    /// Times every pair or example is seen.
    pub epochs: usize,
    /// Stop (and end the schedule) after this many steps even if `epochs` would last longer.
    pub max_steps: Option<usize>,
    /// Rows of a forward pass: a step's pairs are packed into micro-batches of at most this size.
    /// It changes memory and speed, and the result only by rounding. When memory runs out in a
    /// step, the trainer halves it for itself and repeats the step.
    pub micro_batch_tokens: usize,
    /// Keep block inputs only and recompute each block in the backward pass.
    pub checkpoint: bool,
    /// On a GPU: parameters and moments stay in the machine's memory and the optimiser works there,
    /// which leaves the card their room and takes time; the result changes by rounding.
    #[serde(default)]
    pub offload_optimizer: bool,
    /// On a GPU, with `checkpoint`: block inputs wait for the backward pass in pinned memory of the
    /// host's.
    #[serde(default)]
    pub offload_inputs: bool,
    /// Seed of the order and of dropout.
    pub seed: u64,
    /// Use the adapter's dropout. SPIN trains without.
    pub dropout: bool,
    /// A new order every epoch; `false`: as given.
    pub shuffle: bool,
    /// Factor of the reported rewards, beta·(log p_policy − log p_opponent); 1: plain log-ratios.
    /// The loss's own beta is the loss's option.
    pub beta: f64,
}

impl Default for TrainSettings {
    /// The paper's first iteration, for one small machine: RMSProp, linear decay, 10 % warm-up, 64
    /// pairs a step.
    fn default() -> Self {
        TrainSettings {
            optimizer: Optimizer::rmsprop(),
            learning_rate: 5e-7,
            min_learning_rate: None,
            schedule: Schedule {
                kind: ScheduleKind::Linear,
                warmup_ratio: 0.1,
            },
            clip: Some(1.0),
            batch: 64,
            epochs: 2,
            max_steps: None,
            micro_batch_tokens: 2048,
            checkpoint: false,
            offload_optimizer: false,
            offload_inputs: false,
            seed: 42,
            dropout: false,
            shuffle: true,
            beta: 1.0,
        }
    }
}

impl TrainSettings {
    /// Refuses values that cannot be meant, naming rule and value.
    pub fn check(&self) -> Result<()> {
        self.optimizer.check()?;
        // what weights are changed by is f32: below its smallest number nothing is
        let positive = |name: &str, value: f64| match value as f32 {
            held if held.is_finite() && held > 0.0 => Ok(()),
            held if value > 0.0 => Err(Error::rule(format!(
                "{name} is {value:?}; it must be a positive number in f32 too, where it is {held}"
            ))),
            _ => Err(Error::rule(format!(
                "{name} is {value}; it must be a positive number"
            ))),
        };
        positive("learning_rate", self.learning_rate)?;
        positive("beta", self.beta)?;
        if let Some(clip) = self.clip {
            positive("clip", clip)?;
        }
        let floor = self.min_learning_rate.unwrap_or(0.0);
        if !(0.0..=self.learning_rate).contains(&floor) {
            return Err(Error::rule(format!(
                "min_learning_rate is {floor}; it must lie between 0 and the learning rate, {}",
                self.learning_rate
            )));
        }
        let warmup = self.schedule.warmup_ratio;
        if !(0.0..=1.0).contains(&warmup) {
            return Err(Error::rule(format!(
                "warmup_ratio is {warmup}; it must lie between 0 and 1"
            )));
        }
        let counts = [
            ("batch", self.batch),
            ("epochs", self.epochs),
            ("micro_batch_tokens", self.micro_batch_tokens),
            ("max_steps", self.max_steps.unwrap_or(1)),
        ];
        match counts.iter().find(|(_, count)| *count == 0) {
            Some((name, _)) => Err(Error::rule(format!("{name} is 0; it must be at least 1"))),
            None => Ok(()),
        }
    }

    /// Refuses a training over `n` items (`noun`: pairs, examples) in which every step's rate is 0
    /// in f32, the numbers that weights are held in: a single step that the warm-up begins with.
    pub fn check_rates(&self, n: usize, noun: &str) -> Result<()> {
        let total = self.total_steps(n);
        if n == 0 || (0..total).any(|step| self.rate(step, total) as f32 > 0.0) {
            return Ok(());
        }
        let steps = match total {
            1 => "1 step".to_string(),
            n => format!("{n} steps"),
        };
        Err(Error::rule(format!(
            "nothing would be learnt: {n} {noun}, batch {}, epochs {} make {steps}, and a warm-up of {} begins at rate 0; take a smaller batch, more epochs or a warm-up of 0",
            self.batch, self.epochs, self.schedule.warmup_ratio
        )))
    }

    /// The learning rate of `step` (from 0) of `total`.
    pub fn rate(&self, step: usize, total: usize) -> f64 {
        let floor = self.min_learning_rate.unwrap_or(0.0);
        self.schedule.rate(self.learning_rate, floor, step, total)
    }

    /// Steps of an epoch over `n` pairs or examples.
    pub fn steps_per_epoch(&self, n: usize) -> usize {
        n.div_ceil(self.batch.max(1))
    }

    /// Steps of the whole training over `n` pairs or examples.
    pub fn total_steps(&self, n: usize) -> usize {
        let steps = self.epochs * self.steps_per_epoch(n);
        self.max_steps.map_or(steps, |max| max.min(steps))
    }
}
