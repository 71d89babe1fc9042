//! The loop over steps and micro-batches: gradients summed over a step, clipped, applied.

use std::ops::Range;

use candle_core::Device;
use randori_kernels::{Error, Result};

use super::{
    metrics::{Control, PairMetrics, StepMetrics},
    moments::Moments,
    norm::global_norm,
    optim::OptimizerStep,
    settings::TrainSettings,
    state::{OptimizerState, optimises_on_gpu},
};
use crate::{
    params::Grads,
    plan::Packed,
    player::{PassOptions, Player},
    rng::{self, Stream},
    score,
};

/// What a kind of training adds to the loop over steps and micro-batches.
pub(super) trait Task {
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

/// A player in training: its parameters, the optimiser's moments and the step reached.
pub struct Trainer {
    pub(super) player: Player,
    /// The tokens beyond which a sequence is rotated otherwise.
    border: Option<usize>,
    pub(super) settings: TrainSettings,
    pub(super) state: OptimizerState,
    /// Steps done.
    pub(super) step: usize,
    /// Rows computed.
    pub(super) num_tokens: u64,
    /// Rows at a time: the settings', or fewer since memory ran out.
    pub(super) micro_batch_tokens: usize,
    /// What the steps so far were done on.
    pub(super) subject: Option<String>,
    /// Steps in a row, up to this one, in which every slope of the loss was 0.
    pub(super) quiet: usize,
}

/// A step under way.
struct Step<'a> {
    items: &'a [usize],
    /// Rows of each item.
    sizes: Vec<usize>,
    /// Steps of the whole training.
    total: usize,
    /// Slopes to all responses, where a coupled loss has told them.
    slopes: Option<Vec<f64>>,
    /// The items of the micro-batch that is being computed.
    at: Range<usize>,
}

/// What a step's passes come to.
struct Sums {
    grads: Grads,
    /// Rows computed; a pass that is repeated counts once.
    rows: u64,
    /// Whether every slope of the loss was 0: nobody asks for a change.
    quiet: bool,
}

impl Trainer {
    /// Starts at step 0 from the player's parameters.
    ///
    /// # Errors
    /// Settings that cannot be meant, a player without parameters, or no memory on a GPU for them
    /// and their moments.
    pub fn new(player: Player, settings: TrainSettings) -> Result<Self> {
        Trainer::begin(player, settings, Moments::default())
    }

    /// Goes on with the moments of earlier steps.
    pub(super) fn begin(player: Player, settings: TrainSettings, moments: Moments) -> Result<Self> {
        settings.check()?;
        if player.params.is_empty() {
            return Err(Error::rule(
                "the player has no trainable parameters; give it an adapter or train it in full",
            ));
        }
        let mut player = player;
        let state = OptimizerState::new(&mut player, &settings, moments)?;
        Ok(Trainer {
            border: player.border(),
            player,
            micro_batch_tokens: settings.micro_batch_tokens,
            settings,
            state,
            step: 0,
            num_tokens: 0,
            subject: None,
            quiet: 0,
        })
    }

    /// The policy as it stands, in the machine's memory; later steps do not change it.
    ///
    /// # Errors
    /// A GPU that fails.
    pub fn player(&self) -> Result<Player> {
        let mut player = self.player.clone();
        player.params = self.state.download_params(&self.player.params)?;
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
        if self.step == 0 {
            self.settings.check_rates(n, task.noun())?;
        }
        let mut order = (usize::MAX, Vec::new());
        while self.step < total && !self.converged(per_epoch) {
            let (epoch, k) = (self.step / per_epoch, self.step % per_epoch);
            if order.0 != epoch {
                order = (epoch, self.order(epoch, n));
            }
            let items = &order.1[k * batch..n.min((k + 1) * batch)];
            let mut metrics = self.one_step(task, items, total)?;
            metrics.converged = self.converged(per_epoch);
            metrics.epoch = epoch as f64 + (k + 1) as f64 / per_epoch as f64;
            if on_step(&metrics, self)? == Control::Stop {
                break;
            }
        }
        Ok(())
    }

    /// Whether an epoch is over in which no item asked for a change: the loss is satisfied by all
    /// of them.
    fn converged(&self, per_epoch: usize) -> bool {
        self.step > 0 && self.step.is_multiple_of(per_epoch) && self.quiet >= per_epoch
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
        let mut step = Step {
            items,
            sizes: items.iter().map(|&i| self.size(task, i)).collect(),
            total,
            slopes: None,
            at: 0..0,
        };
        let Sums { grads, rows, quiet } = self
            .gradients_within_memory(task, &mut step)
            .map_err(at_step)?;
        let (loss, pairs, extra) = task.finish();
        let grad_norm = global_norm(&grads)?;
        if !grad_norm.is_finite() {
            drop(grads);
            return Err(at_step(self.culprit(task, &step, grad_norm)));
        }
        let settings = &self.settings;
        let learning_rate = settings.rate(self.step, total);
        // as torch's clip_grad_norm_
        let scale = settings
            .clip
            .map_or(1.0, |clip| (clip / (grad_norm + 1e-6)).min(1.0));
        let update = OptimizerStep {
            rate: learning_rate,
            scale,
            count: self.step + 1,
            decay: true,
        };
        let optimizer = self.settings.optimizer;
        self.state
            .update(&optimizer, &mut self.player.params, grads, &update)?;
        self.step += 1;
        self.num_tokens += rows;
        self.quiet = if quiet { self.quiet + 1 } else { 0 };
        Ok(StepMetrics {
            step: self.step,
            total_steps: total,
            epoch: 0.0,
            converged: false,
            loss,
            grad_norm,
            learning_rate,
            num_tokens: self.num_tokens,
            pairs,
            extra,
        })
    }

    /// The step's gradients, with micro-batches half as large as often as memory runs out.
    /// Gradients are summed over the step, dropout goes by item and position, and a slope depends
    /// on its own item alone or, of a coupled loss, is taken from all: so a step's result changes
    /// by rounding only.
    fn gradients_within_memory(&mut self, task: &mut dyn Task, step: &mut Step) -> Result<Sums> {
        loop {
            let out = match self.gradients(task, step) {
                Err(e) if e.is_out_of_memory() => e,
                done => return done,
            };
            let at = step.at.clone();
            let rows: usize = step.sizes[at.clone()].iter().sum();
            if at.len() < 2 {
                let place = step
                    .items
                    .get(at.start)
                    .map_or_else(String::new, |&i| task.place(i));
                return Err(Error::OutOfMemory(format!(
                    "{place}: no memory for this item alone, {rows} rows ({out}); keep less (train.checkpoint = true, on a GPU then train.offload_inputs = true), hold the base in less (model.dtype, adapter.kind = \"qlora\") or take shorter items (data.max_prompt_tokens, data.max_response_tokens, generate.max_new_tokens)"
                )));
            }
            // what stands in the settings may be far more than the step has
            self.micro_batch_tokens = self.micro_batch_tokens.min(rows).div_ceil(2);
        }
    }

    /// The step's gradients, summed over its micro-batches. `step.at` tells which items are under
    /// way.
    fn gradients(&self, task: &mut dyn Task, step: &mut Step) -> Result<Sums> {
        let batches = score::split(&step.sizes, self.micro_batch_tokens)?;
        if step.slopes.is_none() {
            task.begin(step.items, self.step as f64 / step.total as f64);
            if task.coupled() && batches.len() > 1 {
                let logps = self.log_probs(task, step, &batches)?;
                step.slopes = Some(task.slopes(step.items, &logps)?);
            }
        }
        let mut sums = Sums {
            grads: Grads::new(),
            rows: 0,
            quiet: true,
        };
        for batch in batches {
            step.at = batch.clone();
            let seed = self.dropout_seed();
            let (rows, slopes) =
                self.micro_batch(task, step, batch.clone(), seed, &mut sums.grads)?;
            sums.rows += rows;
            sums.quiet &= slopes.iter().all(|&slope| slope == 0.0);
            if batch.len() == step.items.len() {
                step.slopes = Some(slopes).filter(|_| task.coupled());
            }
        }
        if !optimises_on_gpu(&self.player, &self.settings) {
            // the optimiser works here, wherever the passes ran
            for grad in sums.grads.values_mut() {
                *grad = grad.to_device(&Device::Cpu)?;
            }
        }
        Ok(sums)
    }

    /// Rows of an item.
    fn size(&self, task: &dyn Task, i: usize) -> usize {
        let (prompt, responses) = task.item(i);
        Packed::count_rows(self.border, prompt, &responses)
    }

    /// These items as a micro-batch.
    fn pack(&self, task: &dyn Task, items: &[usize]) -> Packed {
        let mut plan = Packed::with_border(self.border);
        for &i in items {
            let (prompt, responses) = task.item(i);
            plan.push_item(i as u64, prompt, &responses);
        }
        plan
    }

    /// Seed of the step's dropout masks, where there are any.
    fn dropout_seed(&self) -> Option<u64> {
        let at = [self.step as u64, 0, 0, 0];
        let seed = self.settings.seed;
        let used = self.settings.dropout;
        used.then(|| rng::word(Stream::Dropout, seed, at))
    }

    /// Summed log-prob of every response of the step, as the passes with gradients will find them,
    /// but without a tape.
    fn log_probs(
        &self,
        task: &dyn Task,
        step: &mut Step,
        batches: &[Range<usize>],
    ) -> Result<Vec<f64>> {
        let mut logps = Vec::new();
        for batch in batches {
            step.at = batch.clone();
            let plan = self.pack(task, &step.items[batch.clone()]);
            let of_tokens = self.player.logps_dropped(&plan, self.dropout_seed())?;
            logps.extend(score::sum_by_response(&plan, &of_tokens)?);
        }
        Ok(logps)
    }

    /// Adds the gradients of the step's items in `batch`; answers rows, and the loss's slope to
    /// each response.
    fn micro_batch(
        &self,
        task: &mut dyn Task,
        step: &Step,
        batch: Range<usize>,
        dropout_seed: Option<u64>,
        grads: &mut Grads,
    ) -> Result<(u64, Vec<f64>)> {
        let items = &step.items[batch.clone()];
        let plan = self.pack(task, items);
        let options = PassOptions {
            checkpoint: self.settings.checkpoint,
            offload_inputs: self.settings.offload_inputs,
            dropout_seed,
        };
        let known = step.slopes.as_ref().map(|all| {
            let each = all.len() / step.items.len();
            all[each * batch.start..each * batch.end].to_vec()
        });
        let mut of_responses = Vec::new();
        let mut slopes = |logps: &[f64]| -> Result<Vec<f64>> {
            of_responses = match &known {
                Some(known) => known.clone(),
                None => task.slopes(items, &score::sum_by_response(&plan, logps)?)?,
            };
            // d loss / d (log-prob of a token) is that of the response's sum
            Ok(plan
                .targets
                .iter()
                .map(|target| of_responses[target.seq])
                .collect())
        };
        self.player
            .forward_backward(&plan, &options, &mut slopes, grads)?;
        Ok((plan.ids.len() as u64, of_responses))
    }

    /// Which of a step's items makes the gradient infinite or NaN: each is tried alone.
    fn culprit(&self, task: &mut dyn Task, step: &Step, norm: f64) -> Error {
        for (k, &i) in step.items.iter().enumerate() {
            let mut grads = Grads::new();
            let alone = self
                .micro_batch(task, step, k..k + 1, None, &mut grads)
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
        let first = step
            .items
            .first()
            .map_or_else(String::new, |&i| task.place(i));
        Error::rule(format!(
            "the gradient's norm is {norm}, though of no single pair; the step's first is {first}"
        ))
    }
}

/// Kind and number of what is trained on, and all that is read of it (FNV-1a over ids, lengths, the
/// opponent's log-probs, rewards): resuming with other data would be neither the old run nor a new
/// one.
fn fingerprint(task: &dyn Task) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut mix = |word: u64| hash = (hash ^ word).wrapping_mul(0x100_0000_01b3);
    for i in 0..task.len() {
        let (prompt, responses) = task.item(i);
        for ids in std::iter::once(prompt).chain(responses) {
            mix(ids.len() as u64);
            ids.iter().for_each(|&id| mix(id as u64));
        }
        task.numbers(i).into_iter().for_each(|n| mix(n.to_bits()));
    }
    format!("{} over {} items ({hash:016x})", task.kind(), task.len())
}
