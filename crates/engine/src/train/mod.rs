//! Training a player on pairs (self-play, preferences) or on examples (supervised), resumable at
//! any step.

use randori_sdk::seam::LossFn;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

mod apply;
mod checkpoint;
pub(crate) mod moments;
#[cfg(feature = "cuda")]
mod on_card;
pub mod optim;
mod pairs;
pub mod schedule;
mod sft;
mod trainer;

pub use optim::Optimizer;
pub use schedule::{Schedule, ScheduleKind};
pub use trainer::Trainer;

/// A prompt, the human response, the opponent's, and what the opponent thinks of both.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// Token ids, at least one.
    pub prompt: Vec<u32>,
    /// The human response's token ids.
    pub real: Vec<u32>,
    /// The opponent's response's token ids (no end-of-turn token if it was cut).
    pub generated: Vec<u32>,
    /// Summed log-prob of `real` under the opponent; finite. Not read where the loss needs none.
    pub ref_real: f64,
    /// Summed log-prob of `generated` under the opponent; finite. Not read where the loss needs
    /// none.
    pub ref_generated: f64,
    /// External rewards of `real` and `generated`; a loss gets them where all pairs of a training
    /// have them.
    pub rewards: Option<[f64; 2]>,
    /// Where it comes from, for messages: `file:line`.
    pub place: String,
}

/// A pair as the trainer reads it: borrowed from whoever keeps it, fields as those of [`Pair`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairRef<'a> {
    /// Token ids, at least one.
    pub prompt: &'a [u32],
    /// The human response's token ids.
    pub real: &'a [u32],
    /// The opponent's response's token ids.
    pub generated: &'a [u32],
    /// Summed log-prob of `real` under the opponent; finite, unless the loss needs none.
    pub ref_real: f64,
    /// Summed log-prob of `generated` under the opponent; finite, unless the loss needs none.
    pub ref_generated: f64,
    /// External rewards of `real` and `generated`.
    pub rewards: Option<[f64; 2]>,
    /// Where it comes from, for messages: `file:line`.
    pub place: &'a str,
}

/// What can be trained on as a pair, in whatever form it is kept.
pub trait AsPair {
    /// For the trainer.
    fn as_pair(&self) -> PairRef<'_>;
}

impl AsPair for Pair {
    fn as_pair(&self) -> PairRef<'_> {
        PairRef {
            prompt: &self.prompt,
            real: &self.real,
            generated: &self.generated,
            ref_real: self.ref_real,
            ref_generated: self.ref_generated,
            rewards: self.rewards,
            place: &self.place,
        }
    }
}

/// A prompt and its response, for supervised training: borrowed from whoever keeps them.
#[derive(Clone, Copy)]
pub struct Example<'a> {
    /// Token ids, at least one.
    pub prompt: &'a [u32],
    /// Token ids, at least one.
    pub response: &'a [u32],
    /// Where it comes from, for messages: `file:line`.
    pub place: &'a dyn std::fmt::Display,
}

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

impl Trainer {
    /// Trains on pairs, from the step the trainer stands at to the last, or to the end of an epoch
    /// in which every slope of the loss was 0 ([`StepMetrics::converged`]). After every update
    /// `on_step` gets the step's figures and the trainer (to save it).
    ///
    /// # Errors
    /// No pairs, steps that all have the rate 0, a loss that needs rewards where a pair has none,
    /// an empty prompt, an opponent's log-prob that is not finite, a loss that fails, or a loss or
    /// gradient that is not finite: the message names the step and the pair's place, and the step
    /// has changed nothing. No memory for a pair alone ([`Error::OutOfMemory`]). Also whatever
    /// `on_step` returns.
    pub fn train_pairs<P: AsPair>(
        &mut self,
        pairs: &[P],
        loss: &dyn LossFn,
        on_step: &mut dyn FnMut(&StepMetrics, &Trainer) -> Result<Control>,
    ) -> Result<()> {
        let beta = self.settings().beta;
        let pairs: Vec<PairRef> = pairs.iter().map(AsPair::as_pair).collect();
        self.train(&mut pairs::PairTask::new(&pairs, loss, beta)?, on_step)
    }

    /// Trains on examples; the loss is −Σ log p over all response tokens of the step divided by
    /// their number. Otherwise as [`Trainer::train_pairs`].
    ///
    /// # Errors
    /// As there, and an empty response.
    pub fn train_sft(
        &mut self,
        examples: &[Example],
        on_step: &mut dyn FnMut(&StepMetrics, &Trainer) -> Result<Control>,
    ) -> Result<()> {
        self.train(&mut sft::SftTask::new(examples)?, on_step)
    }
}

/// What a kind of training adds to the loop over steps and micro-batches.
trait Task {
    /// Its kind, for checkpoints: `pairs, loss spin (beta=0.1)`, `sft`.
    fn kind(&self) -> String;
    /// What its items are called.
    fn noun(&self) -> &'static str;
    /// Whether [`Task::slopes`] wants all items of a step at once.
    fn coupled(&self) -> bool {
        false
    }
    /// How many items.
    fn len(&self) -> usize;
    /// Prompt and responses of an item.
    fn item(&self, i: usize) -> (&[u32], Vec<&[u32]>);
    /// Numbers that are read of an item besides: the opponent's log-probs, rewards.
    fn numbers(&self, _i: usize) -> Vec<f64> {
        Vec::new()
    }
    /// Where an item comes from.
    fn place(&self, i: usize) -> String;
    /// A step over `items` begins; `progress` is the share of training that is over.
    fn begin(&mut self, items: &[usize], progress: f64);
    /// Summed log-prob per response (in the order of `items` and their responses) -> the slope of
    /// the step's loss to each response's summed log-prob. Adds the step's figures up.
    fn slopes(&mut self, items: &[usize], sums: &[f64]) -> Result<Vec<f64>>;
    /// The step's loss, pair figures and extra figures.
    fn finish(&mut self) -> (f64, Option<PairMetrics>, Vec<(String, f64)>);
}
