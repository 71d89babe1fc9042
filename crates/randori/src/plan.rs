//! A recipe's memory, stage by stage: recipe keys become the arguments of `randori_engine::fit`.
//! `randori fit` shows it, and `randori run` sizes its micro-batches with it.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use randori_engine::fit::{CONTEXT, Decoding, Learns, Packing, Peak, Planner, ROUNDING, largest};
use randori_engine::weights::{Described, Holding, LoadOptions, describe};
use randori_engine::{Trace, trace, trainable_in_full};
use randori_lora::LoraSpec;
use randori_sdk::seam::{Architecture, LossFn};

use randori_host::Host;

use crate::aim::Aim;
use crate::artefacts::Learnt;
use crate::losses;
use crate::model_files::Bounds;
use crate::model_files::{architecture, source};
use crate::recipe::{AdapterKind, ComputeDevice, Recipe};
use crate::settings;
use crate::started;

/// What a process has before it opens a model: program, plugins, data.
pub const PROCESS: u64 = 32 << 20;
/// Sizes beyond this are not looked for.
pub const MOST: usize = 1 << 20;

/// What stays the same whatever the recipe's switches.
pub struct Model {
    pub described: Described,
    pub arch: Arc<dyn Architecture>,
    pub trace: Trace,
    /// Settings of the adapter that the game starts from, where it is given.
    pub given: Option<Arc<LoraSpec>>,
    /// Where that lies.
    pub stack: Vec<PathBuf>,
    /// The loss, of which only what it asks for counts.
    pub loss: Arc<dyn LossFn>,
    pub threads: usize,
}

impl Model {
    /// Reads the model's configuration (its index, where it is at hand) and the settings of the
    /// adapter that the game starts from: `adapter`, or else the recipe's own.
    pub fn of(recipe: &Recipe, adapter: Vec<PathBuf>, host: &Host) -> Result<Model> {
        let at_source = || format!("{}: model.source", recipe.place("model.source"));
        let described = describe(source(recipe)?, host.families()?).with_context(at_source)?;
        let arch = architecture(recipe, host, described.config())?;
        let trace = trace(&*arch).with_context(at_source)?;
        let named = started::stack(recipe, &adapter);
        let given = match named.is_empty() {
            true => None,
            // copies of base weights count as the base's own, which they are but for a changed
            // vocabulary
            false => Learnt::read_stack(&named)?.lora.map(|spec| {
                Arc::new(LoraSpec {
                    replaced: Vec::new(),
                    ..(*spec).clone()
                })
            }),
        };
        Ok(Model {
            loss: losses::loss(recipe, host, 0)?,
            described,
            arch,
            trace,
            given,
            stack: named,
            threads: std::thread::available_parallelism().map_or(1, |n| n.get()),
        })
    }

    /// Refuses an adapter to start from that is not what the recipe says, as training does.
    pub fn check_start(&self, recipe: &Recipe) -> Result<()> {
        match &self.given {
            Some(own) if recipe.adapter.kind != AdapterKind::Full => {
                started::refuse_another(recipe, own, &self.trace, &self.stack)
            }
            _ => Ok(()),
        }
    }
}

/// A recipe with its figures.
pub struct Plan {
    pub recipe: Recipe,
    /// The verb whose stages are planned.
    pub aim: Aim,
    pub options: LoadOptions,
    pub game: Planner,
    pub sft: Planner,
    /// Whether the opponent scores.
    pub scores: bool,
    /// Whether the loss wants a step's pairs all at once.
    pub coupled: bool,
    pub threads: usize,
    /// Whether the figures are of a GPU's memory.
    pub card: bool,
    /// Tokens that the model takes, prompt and response together.
    window: usize,
}

impl Plan {
    pub fn of(model: &Model, recipe: Recipe) -> Result<Plan> {
        let options = settings::load_options(&recipe);
        let at = || format!("{}: model.source", recipe.place("model.source"));
        let held = model
            .described
            .held(&model.trace, &options, &*model.arch)
            .with_context(at)?;
        let spec = match model.given.as_deref() {
            Some(given) => started::trained_on(&recipe, given),
            None => settings::lora(&recipe)?,
        };
        let spec = &spec;
        if model.given.is_none() && recipe.adapter.kind != AdapterKind::Full {
            let stored = |name: &str| held.iter().find(|weight| weight.name == name);
            let quantised = |name: &str| stored(name).is_some_and(|w| w.held != Holding::Dense);
            randori_engine::matched(&model.trace, spec)
                .and_then(|found| trainable_in_full(&model.trace, &found, &quantised))
                .with_context(|| format!("{}: [adapter]", recipe.place("adapter.targets")))?;
        }
        let card = recipe.model.device == ComputeDevice::Cuda;
        let planner = |dropout, optimizer: randori_engine::train::Optimizer| {
            let learns = match recipe.adapter.kind {
                AdapterKind::Full => Learns::Full,
                _ => Learns::Lora(spec, dropout),
            };
            let planner = Planner::new(
                model.arch.clone(),
                model.trace.clone(),
                held.clone(),
                learns,
                optimizer,
                model.threads,
            )
            .with_context(|| format!("{}: [adapter]", recipe.place("adapter.targets")))?;
            let at = || format!("{}: model.dtype", recipe.place("model.dtype"));
            anyhow::Ok(match card {
                true => {
                    let planner = planner.on_card(options.dtype).with_context(at)?;
                    planner
                        .offload_inputs(recipe.train.offload_inputs)
                        .offload_optimizer(recipe.train.offload_optimizer)
                }
                false => planner,
            })
        };
        let game = planner(false, settings::every_iteration(&recipe).optimizer)?;
        let sft = planner(true, settings::sft(&recipe, 0, 0).optimizer)?;
        Ok(Plan {
            recipe,
            aim: Aim::default(),
            options,
            game,
            sft,
            scores: model.loss.needs_ref(),
            coupled: model.loss.coupled(),
            threads: model.threads,
            card,
            window: Bounds::of(model.described.config()).window,
        })
    }

    /// The plan with the stages of another verb.
    pub fn meant_for(self, aim: Aim) -> Plan {
        Plan { aim, ..self }
    }

    /// What is taken besides the figures: a process, or the context that it has on a card.
    pub fn besides(&self) -> u64 {
        if self.card { CONTEXT } else { PROCESS }
    }

    /// With what a card's pool of memory takes for itself.
    fn rounded(&self, peak: Peak) -> Peak {
        let more = if self.card { ROUNDING } else { 0.0 };
        Peak {
            work: peak.work + (more * peak.total() as f64) as u64,
            ..peak
        }
    }

    /// The machine's own memory beside a card: while the base loads, and afterwards, what is pinned
    /// included.
    pub fn beside_card(&self) -> Result<(u64, u64)> {
        let of = |planner: &Planner, players| planner.beside_card(players);
        let (loading, game) = of(&self.game, self.players() + 1);
        let mut training = if self.has_pairs() { game } else { 0 };
        if self.is_supervised() {
            training = training.max(of(&self.sft, 2).1);
        }
        // a row of logits as a list, and two of its samplers, for every sequence
        let decoding = self.decoding(self.recipe.generate.batch, false);
        let rows = match self.aim {
            Aim::Spin => 3 * 4 * (decoding.slots * self.game.trace().vocab) as u64,
            Aim::Sft | Aim::Dpo => 0,
        };
        let pinned = self.pinned()?;
        Ok((loading + PROCESS, training + rows + pinned + PROCESS))
    }

    /// What of that memory is pinned for block inputs, from the first step on.
    pub fn pinned(&self) -> Result<u64> {
        let pairs = self.pairs(self.recipe.train.batch);
        let game = match self.has_pairs() {
            true => self.game.pinned_bytes(&pairs)?,
            false => 0,
        };
        let sft = match self.is_supervised() {
            true => self.sft.pinned_bytes(&self.supervised())?,
            false => 0,
        };
        Ok(game.max(sft))
    }

    /// Players in memory besides one that is being trained: the start, and the opponent once it is
    /// another.
    pub fn players(&self) -> usize {
        1 + usize::from(self.aim == Aim::Spin && self.recipe.game.iterations > 1)
    }

    /// The longest prompt: a response needs at least one token of the window.
    pub fn prompt(&self) -> usize {
        let longest = self.window.saturating_sub(1);
        self.recipe.data.max_prompt_tokens.min(longest)
    }

    /// The longest response of either player, whose prompts may be short.
    pub fn responses(&self) -> [usize; 2] {
        let longest = self.window.saturating_sub(1);
        let recipe = &self.recipe;
        [
            recipe.data.max_response_tokens.min(longest),
            recipe.generate.max_new_tokens.min(longest),
        ]
    }

    pub fn pairs(&self, batch: usize) -> Packing {
        let tokens = self.recipe.micro_batch_tokens();
        Packing::fullest(self.prompt(), &self.responses(), batch, tokens)
    }

    pub fn supervised(&self) -> Packing {
        let responses = &self.responses()[..1];
        let (batch, tokens) = (self.recipe.sft.batch, self.recipe.micro_batch_tokens());
        Packing::fullest(self.prompt(), responses, batch, tokens)
    }

    /// Answers of the game, or of the measures.
    pub fn decoding(&self, slots: usize, measured: bool) -> Decoding {
        let r = &self.recipe;
        let measures = r.eval.max_new_tokens.filter(|_| measured);
        let prompts = if measured {
            r.eval.limit.unwrap_or(usize::MAX)
        } else {
            r.generate.chunk
        };
        let response = measures.unwrap_or(r.generate.max_new_tokens);
        Decoding {
            slots: slots.min(prompts),
            prompt: self.prompt(),
            // cut at the window, as generation cuts it
            response: response.min(self.window.saturating_sub(self.prompt())),
            refilled: prompts > slots,
        }
    }

    pub fn train(&self, packing: &Packing) -> Result<Peak> {
        let checkpoint = self.recipe.train.checkpoint;
        let players = self.players() + 1;
        let mut peak = self.game.training_peak(packing, checkpoint, players)?;
        if self.passes_twice(packing) {
            // without a tape there is more room: what training takes is the most
            let mut ahead = self.game.scoring_peak(packing, players)?;
            ahead.moments = peak.moments;
            if ahead.total() > peak.total() {
                peak = ahead;
            }
        }
        Ok(self.rounded(peak))
    }

    /// Whether a step needs its log-probs before its gradients: one forward pass more.
    pub fn passes_twice(&self, packing: &Packing) -> bool {
        self.coupled && packing.several
    }

    /// Whether there is a supervised stage: alone, before the game or beside it.
    pub fn is_supervised(&self) -> bool {
        match self.aim {
            Aim::Sft => true,
            Aim::Spin => self.recipe.sft.epochs > 0 || self.recipe.compare.continued_sft,
            Aim::Dpo => false,
        }
    }

    /// Whether pairs are trained on.
    pub fn has_pairs(&self) -> bool {
        self.aim != Aim::Sft
    }

    /// What trainings and scoring take with responses so long and micro-batches of so many tokens.
    pub fn at_once(&self, responses: &[usize; 2], tokens: usize) -> Result<u64> {
        let (r, prompt) = (&self.recipe, self.prompt());
        let of = |responses: &[usize], batch| Packing::fullest(prompt, responses, batch, tokens);
        let mut most = 0;
        if self.has_pairs() {
            most = self.train(&of(responses, r.train.batch))?.total();
            most = most.max(self.score(&of(responses, usize::MAX))?.total());
        }
        if self.is_supervised() {
            let packing = of(&responses[..1], r.sft.batch);
            most = most.max(self.sft(&packing)?.total());
        }
        Ok(most)
    }

    /// Responses alone, as the likelihood of validation data is measured.
    pub fn alone(&self) -> Packing {
        let tokens = self.recipe.micro_batch_tokens();
        Packing::fullest(self.prompt(), &self.responses()[..1], usize::MAX, tokens)
    }

    pub fn sft(&self, packing: &Packing) -> Result<Peak> {
        let checkpoint = self.recipe.train.checkpoint;
        Ok(self.rounded(self.sft.training_peak(packing, checkpoint, 2)?))
    }

    pub fn score(&self, packing: &Packing) -> Result<Peak> {
        Ok(self.rounded(self.game.scoring_peak(packing, self.players())?))
    }

    /// Generation at so many slots, of the game or of the measures (which have the trained player
    /// besides).
    pub fn generate(&self, slots: usize, measured: bool) -> Result<Peak> {
        let players = self.players() + usize::from(measured);
        let decoding = self.decoding(slots, measured);
        Ok(self.rounded(self.game.generation_peak(&decoding, players)?))
    }

    /// Every stage's name, what decides its size, and its memory.
    pub fn stages(&self) -> Result<Vec<(&'static str, String, Peak)>> {
        let r = &self.recipe;
        let (step, scored) = (self.pairs(r.train.batch), self.pairs(usize::MAX));
        let slots = r.generate.batch;
        let at = |d: Decoding| {
            let ending = if d.slots == 1 { "" } else { "s" };
            format!(
                "{} slot{ending} of {} + {} tokens",
                d.slots, d.prompt, d.response
            )
        };
        let rows = |p: &Packing| match p.rows {
            1 => "1 row at a time".to_owned(),
            rows => format!("{rows} rows at a time"),
        };
        let mut stages = vec![(
            "load",
            "one tensor at a time".to_string(),
            self.rounded(self.game.loading_peak()),
        )];
        if self.is_supervised() {
            let packing = self.supervised();
            let peak = self.sft(&packing)?;
            // a game without a supervised stage has it for the baseline alone
            let whose = match self.aim == Aim::Spin && r.sft.epochs == 0 {
                true => ", of continued SFT",
                false => "",
            };
            stages.push(("sft", rows(&packing) + whose, peak));
        }
        if self.aim == Aim::Sft {
            let packing = self.alone();
            let peak = self.game.scoring_peak(&packing, 2)?;
            let what = format!("{}, of validation data", rows(&packing));
            stages.push(("score", what, self.rounded(peak)));
            return Ok(stages);
        }
        if self.aim == Aim::Spin {
            let peak = self.generate(slots, false)?;
            stages.push(("generate", at(self.decoding(slots, false)), peak));
        }
        if self.scores {
            stages.push(("score", rows(&scored), self.score(&scored)?));
        }
        let switch = match (r.train.checkpoint, r.train.offload_inputs) {
            (false, _) => "no checkpointing",
            (true, false) => "checkpointed",
            (true, true) => "checkpointed, inputs offloaded",
        };
        let twice = match self.passes_twice(&step) {
            true => ", log-probs of the whole step first",
            false => "",
        };
        stages.push((
            "train",
            format!("{}, {switch}{twice}", rows(&step)),
            self.train(&step)?,
        ));
        if self.aim == Aim::Spin {
            let peak = self.generate(slots, true)?;
            stages.push(("eval", at(self.decoding(slots, true)), peak));
        }
        Ok(stages)
    }

    /// The largest stage's memory, with what is taken besides.
    pub fn peak(&self) -> Result<u64> {
        let stages = self.stages()?.into_iter().map(|(_, _, peak)| peak.total());
        Ok(self.besides() + stages.max().unwrap_or(0))
    }
}

pub fn bytes(peak: Result<Peak>) -> randori_engine::Result<u64> {
    whole(peak.map(|p| p.total()))
}

/// A figure as the search for the largest takes it.
fn whole(figure: Result<u64>) -> randori_engine::Result<u64> {
    figure.map_err(|e| randori_engine::Error::Rule(format!("{e:#}")))
}

/// The largest micro-batch with which trainings and scoring fit; a pair that is larger stands
/// alone, whatever is set.
pub fn micro_batch(plan: &Plan, free: u64) -> Result<Option<usize>> {
    let responses = plan.responses();
    let found = largest(free, MOST, &mut |n| whole(plan.at_once(&responses, n)))?;
    Ok(found)
}

/// The most slots with which answers and measures fit.
pub fn slots(plan: &Plan, free: u64) -> Result<Option<usize>> {
    Ok(largest(free, MOST, &mut |n| {
        let game = bytes(plan.generate(n, false))?;
        Ok(game.max(bytes(plan.generate(n, true))?))
    })?)
}
