//! Training on pairs: log-probs to the loss plugin's rows, its slopes back, and the reported
//! rewards.

use std::collections::BTreeMap;

use randori_kernels::{Error, Result};
use randori_sdk::seam::{GENERATED, LossFn, REAL, Rows};

use super::{
    metrics::{Control, PairMetrics, Rewards, StepMetrics},
    trainer::{Task, Trainer},
};

/// Two f32 passes over one response, in micro-batches of other sizes, agree to about this share of
/// its log-prob. A margin within it is a tie: at step 0, where policy and opponent are one, the
/// accuracy is 0 and not a coin's.
const ROUNDING: f64 = 1e-6;

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
        self.train(&mut PairTask::new(&pairs, loss, beta)?, on_step)
    }
}

/// A training on pairs with a loss.
struct PairTask<'a> {
    pairs: &'a [PairRef<'a>],
    loss: &'a dyn LossFn,
    beta: f64,
    /// Whether all pairs have rewards.
    rewarded: bool,
    /// Pairs in the step.
    count: usize,
    progress: f64,
    sum: f64,
    figures: PairMetrics,
    extra: BTreeMap<String, f64>,
}

impl<'a> PairTask<'a> {
    fn new(pairs: &'a [PairRef<'a>], loss: &'a dyn LossFn, beta: f64) -> Result<Self> {
        if pairs.is_empty() {
            return Err(Error::rule("there are no pairs to train on"));
        }
        for pair in pairs {
            let place = pair.place;
            if pair.prompt.is_empty() {
                return Err(Error::rule(format!("{place}: the pair's prompt is empty")));
            }
            let of_opponent = [("real", pair.ref_real), ("generated", pair.ref_generated)];
            for (name, value) in of_opponent.into_iter().filter(|_| loss.needs_ref()) {
                if !value.is_finite() {
                    return Err(Error::rule(format!(
                        "{place}: the opponent's log-prob of the {name} response is {value}"
                    )));
                }
            }
            if let Some(reward) = pair.rewards.iter().flatten().find(|r| !r.is_finite()) {
                return Err(Error::rule(format!("{place}: a reward is {reward}")));
            }
        }
        let without = pairs.iter().find(|pair| pair.rewards.is_none());
        if let Some(pair) = without.filter(|_| loss.needs_reward()) {
            return Err(Error::rule(format!(
                "{}: the loss {} needs a reward of each response, and this pair has none",
                pair.place,
                loss.name()
            )));
        }
        let figures = PairMetrics::default();
        Ok(PairTask {
            pairs,
            loss,
            beta,
            rewarded: without.is_none(),
            count: 1,
            progress: 0.0,
            sum: 0.0,
            figures,
            extra: BTreeMap::new(),
        })
    }

    /// Adds one pair's share of the step's means.
    fn count_pair(&mut self, pair: &PairRef, real: f64, generated: f64) {
        let share = 1.0 / self.count as f64;
        let f = &mut self.figures;
        if let Some(rewards) = &mut f.rewards {
            let (reward_real, reward_generated) = (
                self.beta * (real - pair.ref_real),
                self.beta * (generated - pair.ref_generated),
            );
            let margin = reward_real - reward_generated;
            rewards.real += share * reward_real;
            rewards.generated += share * reward_generated;
            rewards.margins += share * margin;
            let noise = ROUNDING * self.beta * (real.abs() + generated.abs());
            rewards.accuracies += if margin > noise { share } else { 0.0 };
        }
        f.logps_real += share * real;
        f.logps_generated += share * generated;
    }
}

impl Task for PairTask<'_> {
    fn kind(&self) -> String {
        let (name, options) = (self.loss.name(), self.loss.options());
        match options.is_empty() {
            true => format!("pairs, loss {name}"),
            false => format!("pairs, loss {name} ({options})"),
        }
    }

    fn noun(&self) -> &'static str {
        "pairs"
    }

    fn coupled(&self) -> bool {
        self.loss.coupled()
    }

    fn len(&self) -> usize {
        self.pairs.len()
    }

    fn item(&self, i: usize) -> (&[u32], Vec<&[u32]>) {
        let pair = &self.pairs[i];
        (pair.prompt, vec![pair.real, pair.generated])
    }

    fn numbers(&self, i: usize) -> Vec<f64> {
        let pair = &self.pairs[i];
        let asked = self.loss.needs_ref();
        let of_opponent = asked.then_some([pair.ref_real, pair.ref_generated]);
        let rewards = pair.rewards.filter(|_| self.rewarded);
        of_opponent.into_iter().chain(rewards).flatten().collect()
    }

    fn place(&self, i: usize) -> String {
        self.pairs[i].place.to_string()
    }

    fn begin(&mut self, items: &[usize], progress: f64) {
        (self.count, self.progress, self.sum) = (items.len().max(1), progress, 0.0);
        self.figures = PairMetrics {
            rewards: self.loss.needs_ref().then(Rewards::default),
            ..PairMetrics::default()
        };
        self.extra.clear();
    }

    fn slopes(&mut self, items: &[usize], sums: &[f64]) -> Result<Vec<f64>> {
        let pairs = self.pairs;
        let mut rows = (vec![], vec![], vec![], vec![], vec![]);
        let needs_ref = self.loss.needs_ref();
        for (group, &i) in items.iter().enumerate() {
            let pair = &pairs[i];
            for (side, role, ref_logp, len) in [
                (0, REAL, pair.ref_real, pair.real.len()),
                (1, GENERATED, pair.ref_generated, pair.generated.len()),
            ] {
                rows.0.push(group as u32);
                rows.1.push(role);
                rows.2.push(if needs_ref { ref_logp } else { f64::NAN });
                rows.3.push(len as u32);
                rows.4.extend(pair.rewards.map(|rewards| rewards[side]));
            }
            let (real, generated) = (sums[2 * group], sums[2 * group + 1]);
            if !(real.is_finite() && generated.is_finite()) {
                return Err(Error::rule(format!(
                    "{}: the policy's log-prob is {real} for the real and {generated} for the generated response",
                    pair.place
                )));
            }
            self.count_pair(pair, real, generated);
        }
        let rows = Rows {
            groups: items.len(),
            group: &rows.0,
            role: &rows.1,
            logp: sums,
            ref_logp: &rows.2,
            len: &rows.3,
            reward: self.rewarded.then_some(&rows.4),
            progress: self.progress,
        };
        let name = self.loss.name();
        let out = self
            .loss
            .eval(&rows)
            .map_err(|e| Error::rule(format!("loss {name}: {e}")))?;
        if out.loss.len() != items.len() || out.d_logp.len() != sums.len() {
            return Err(Error::rule(format!(
                "loss {name} answered {} values and {} slopes for {} pairs of two responses",
                out.loss.len(),
                out.d_logp.len(),
                items.len()
            )));
        }
        for (group, &i) in items.iter().enumerate() {
            let (value, slopes) = (out.loss[group], &out.d_logp[2 * group..2 * group + 2]);
            if !value.is_finite() || slopes.iter().any(|s| !s.is_finite()) {
                let place = pairs[i].place;
                return Err(Error::rule(format!(
                    "{place}: loss {name} is {value}, its slopes are {slopes:?}"
                )));
            }
        }
        // the step's loss is the mean over its pairs, whatever micro-batch they are in
        let count = self.count as f64;
        self.sum += out.loss.iter().sum::<f64>();
        for (name, value) in out.metrics {
            *self.extra.entry(name).or_default() += value * items.len() as f64 / count;
        }
        Ok(out.d_logp.iter().map(|slope| slope / count).collect())
    }

    fn finish(&mut self) -> (f64, Option<PairMetrics>, Vec<(String, f64)>) {
        (
            self.sum / self.count as f64,
            Some(self.figures),
            std::mem::take(&mut self.extra).into_iter().collect(),
        )
    }
}
