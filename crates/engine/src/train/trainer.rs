//! The loop over steps and micro-batches: gradients summed over a step, clipped, applied.

use std::ops::Range;

use candle_core::Device;

use super::{
    Control, StepMetrics, Task, TrainSettings,
    apply::{Kept, on_card, placed},
    moments::Moments,
    optim::{Update, global_norm},
};
use crate::{
    Error, Packed, Player, Result,
    player::{Grads, PassOptions},
    rng::{self, Stream},
    score,
};

/// A player in training: its parameters, the optimiser's moments and the step reached.
pub struct Trainer {
    pub(super) player: Player,
    pub(super) settings: TrainSettings,
    pub(super) moments: Kept,
    /// Steps done.
    pub(super) step: usize,
    /// Rows computed.
    pub(super) num_tokens: u64,
    /// Rows at a time: the settings', or fewer since memory ran out.
    pub(super) micro_batch_tokens: usize,
    /// What the steps so far were done on.
    pub(super) subject: Option<String>,
}

impl Trainer {
    /// Starts at step 0 from the player's parameters.
    ///
    /// # Errors
    /// Settings that cannot be meant, a player without parameters, or no memory on a GPU for them and their moments.
    pub fn new(player: Player, settings: TrainSettings) -> Result<Self> {
        Trainer::begin(player, settings, Moments::default())
    }

    /// The same with moments of steps before.
    pub(super) fn begin(player: Player, settings: TrainSettings, moments: Moments) -> Result<Self> {
        settings.check()?;
        if player.params.is_empty() {
            return Err(Error::rule(
                "the player has no trainable parameters; give it an adapter or train it in full",
            ));
        }
        let (player, moments) = placed(player, &settings, moments)?;
        Ok(Trainer {
            player,
            micro_batch_tokens: settings.micro_batch_tokens,
            settings,
            moments,
            step: 0,
            num_tokens: 0,
            subject: None,
        })
    }

    /// The policy as it stands, in the machine's memory; later steps do not change it.
    ///
    /// # Errors
    /// A GPU that fails.
    pub fn player(&self) -> Result<Player> {
        let mut player = self.player.clone();
        player.params = self.moments.near(&self.player.params)?;
        Ok(player)
    }

    /// The same; frees the optimiser's moments.
    ///
    /// # Errors
    /// As there.
    pub fn into_player(self) -> Result<Player> {
        self.player()
    }

    /// Steps done.
    pub fn step(&self) -> usize {
        self.step
    }

    /// What it was made with.
    pub fn settings(&self) -> &TrainSettings {
        &self.settings
    }

    /// Rows at a time now: fewer than its settings say once memory has run out.
    pub fn micro_batch_tokens(&self) -> usize {
        self.micro_batch_tokens
    }

    /// Runs the steps that are left.
    pub(super) fn train(
        &mut self,
        task: &mut dyn Task,
        on_step: &mut dyn FnMut(&StepMetrics, &Trainer) -> Result<Control>,
    ) -> Result<()> {
        let subject = fingerprint(task);
        if let Some(before) = self
            .subject
            .as_ref()
            .filter(|before| self.step > 0 && **before != subject)
        {
            return Err(Error::rule(format!(
                "the training stands at step {} of other data or another loss: it had {before}, it now gets {subject}",
                self.step
            )));
        }
        self.subject = Some(subject);
        let (n, batch) = (task.len(), self.settings.batch);
        let (per_epoch, total) = (
            self.settings.steps_per_epoch(n),
            self.settings.total_steps(n),
        );
        let mut order = (usize::MAX, Vec::new());
        while self.step < total {
            let (epoch, k) = (self.step / per_epoch, self.step % per_epoch);
            if order.0 != epoch {
                order = (epoch, self.order(epoch, n));
            }
            let items = &order.1[k * batch..n.min((k + 1) * batch)];
            let mut metrics = self.one_step(task, items, total)?;
            metrics.epoch = epoch as f64 + (k + 1) as f64 / per_epoch as f64;
            if on_step(&metrics, self)? == Control::Stop {
                break;
            }
        }
        Ok(())
    }

    fn order(&self, epoch: usize, n: usize) -> Vec<usize> {
        match self.settings.shuffle {
            true => rng::permutation(self.settings.seed, epoch as u64, n),
            false => (0..n).collect(),
        }
    }

    /// One update; on an error nothing has changed.
    fn one_step(
        &mut self,
        task: &mut dyn Task,
        items: &[usize],
        total: usize,
    ) -> Result<StepMetrics> {
        let number = self.step + 1;
        let at_step = |e: Error| match e {
            Error::Rule(sentence) => Error::Rule(format!("step {number} of {total}: {sentence}")),
            Error::OutOfMemory(sentence) => {
                Error::OutOfMemory(format!("step {number} of {total}: {sentence}"))
            }
            other => other,
        };
        let (grads, tokens) = self.repeated(task, items, total).map_err(at_step)?;
        let (loss, pairs, extra) = task.finish();
        let grad_norm = global_norm(&grads)?;
        if !grad_norm.is_finite() {
            drop(grads);
            return Err(at_step(self.culprit(task, items, grad_norm)));
        }
        let settings = &self.settings;
        let floor = settings.min_learning_rate.unwrap_or(0.0);
        let learning_rate = settings
            .schedule
            .rate(settings.learning_rate, floor, self.step, total);
        // as torch's clip_grad_norm_
        let scale = settings
            .clip
            .map_or(1.0, |clip| (clip / (grad_norm + 1e-6)).min(1.0));
        let update = Update {
            rate: learning_rate,
            scale,
            count: self.step + 1,
            decay: true,
        };
        self.update(grads, &update)?;
        self.step += 1;
        self.num_tokens += tokens;
        Ok(StepMetrics {
            step: self.step,
            total_steps: total,
            epoch: 0.0,
            loss,
            grad_norm,
            learning_rate,
            num_tokens: self.num_tokens,
            pairs,
            extra,
        })
    }

    /// The step's gradients, with micro-batches half as large as often as memory runs out. Gradients are summed over the
    /// step and a slope depends on its own item alone, so that a step's result changes by rounding only (and by other
    /// draws of dropout, where it is used).
    fn repeated(
        &mut self,
        task: &mut dyn Task,
        items: &[usize],
        total: usize,
    ) -> Result<(Grads, u64)> {
        let size = |task: &dyn Task, i: usize| {
            let (prompt, responses) = task.item(i);
            score::rows(prompt, &responses)
        };
        let sizes: Vec<usize> = items.iter().map(|&i| size(task, i)).collect();
        loop {
            let mut at = 0..0;
            let out = match self.gradients(task, items, &sizes, total, &mut at) {
                Err(e) if e.is_out_of_memory() => e,
                done => return done,
            };
            let rows: usize = sizes[at.clone()].iter().sum();
            if at.len() < 2 {
                let place = items.get(at.start).map_or("", |&i| task.place(i));
                return Err(Error::OutOfMemory(format!(
                    "{place}: no memory for this item alone, {rows} rows ({out}); keep less (train.checkpoint = true, on a GPU then train.offload_inputs = true), hold the base in less (model.dtype, adapter.kind = \"qlora\") or take shorter items (data.max_prompt_tokens, data.max_response_tokens, generate.max_new_tokens)"
                )));
            }
            // what stands in the settings may be far more than the step has
            self.micro_batch_tokens = self.micro_batch_tokens.min(rows).div_ceil(2);
        }
    }

    /// The step's gradients, summed over its micro-batches, and the rows computed. `at` tells which items are under way.
    fn gradients(
        &self,
        task: &mut dyn Task,
        items: &[usize],
        sizes: &[usize],
        total: usize,
        at: &mut Range<usize>,
    ) -> Result<(Grads, u64)> {
        task.begin(items, self.step as f64 / total as f64);
        let mut grads = Grads::new();
        let mut tokens = 0;
        for (k, range) in score::fill(sizes, self.micro_batch_tokens)?
            .into_iter()
            .enumerate()
        {
            *at = range.clone();
            let dropout_seed = self.settings.dropout.then(|| {
                rng::word(
                    Stream::Dropout,
                    self.settings.seed,
                    [self.step as u64, k as u64, 0, 0],
                )
            });
            tokens += self.micro_batch(task, &items[range], dropout_seed, &mut grads)?;
        }
        if !on_card(&self.player, &self.settings) {
            // the optimiser works here, wherever the passes ran
            for grad in grads.values_mut() {
                *grad = grad.to_device(&Device::Cpu)?;
            }
        }
        Ok((grads, tokens))
    }

    /// Adds one micro-batch's gradients; answers its rows.
    fn micro_batch(
        &self,
        task: &mut dyn Task,
        items: &[usize],
        dropout_seed: Option<u64>,
        grads: &mut Grads,
    ) -> Result<u64> {
        let mut plan = Packed::default();
        for &i in items {
            let (prompt, responses) = task.item(i);
            plan.push(prompt, &responses);
        }
        let options = PassOptions {
            checkpoint: self.settings.checkpoint,
            offload_inputs: self.settings.offload_inputs,
            dropout_seed,
        };
        let mut slopes = |logps: &[f64]| -> Result<Vec<f64>> {
            // d loss / d (log-prob of a token) is that of the response's sum
            let of_response = task.slopes(items, &score::sums(&plan, logps)?)?;
            Ok(plan
                .targets
                .iter()
                .map(|target| of_response[target.seq])
                .collect())
        };
        self.player
            .forward_backward(&plan, &options, &mut slopes, grads)?;
        Ok(plan.ids.len() as u64)
    }

    /// Which of a step's items makes the gradient infinite or NaN: each is tried alone.
    fn culprit(&self, task: &mut dyn Task, items: &[usize], norm: f64) -> Error {
        for &i in items {
            let mut grads = Grads::new();
            let alone = self
                .micro_batch(task, &[i], None, &mut grads)
                .and_then(|_| global_norm(&grads));
            match alone {
                Ok(norm) if norm.is_finite() => {}
                Ok(norm) => {
                    return Error::rule(format!(
                        "{}: the gradient's norm is {norm}",
                        task.place(i)
                    ));
                }
                Err(e) => return e,
            }
        }
        let first = items.first().map_or("", |&i| task.place(i));
        Error::rule(format!(
            "the gradient's norm is {norm}, though of no single pair; the step's first is {first}"
        ))
    }
}

/// Kind, number and token ids of what is trained on (FNV-1a over the ids and lengths): resuming with other data
/// would be neither the old run nor a new one.
fn fingerprint(task: &dyn Task) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut mix = |word: u64| hash = (hash ^ word).wrapping_mul(0x100_0000_01b3);
    for i in 0..task.len() {
        let (prompt, responses) = task.item(i);
        for ids in std::iter::once(prompt).chain(responses) {
            mix(ids.len() as u64);
            ids.iter().for_each(|&id| mix(id as u64));
        }
    }
    format!("{} over {} items ({hash:016x})", task.kind(), task.len())
}
