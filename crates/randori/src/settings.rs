//! From the recipe to the settings of core and engine: names change here and nowhere else.

use anyhow::{Context, Result};
use randori_core::{Iteration, OpponentRule, PerIteration, Rules, StopRule};
use randori_engine::train::{self, TrainSettings};
use randori_engine::{Compute, weights};
use randori_eval::Check;
use randori_lora::{LoraSpec, Targets};

use crate::recipe::{
    AdapterKind, ComputeDevice, Dtype, OptimizerKind, QuantKind, Recipe, ScheduleKind, most,
};
use crate::watch::Watch;

/// The rules of the game; `beta` of each iteration, for losses that have one. Learning rate, beta
/// and epochs of an iteration are [`Rules::iteration`]'s everywhere.
pub fn rules(recipe: &Recipe, beta: PerIteration<f64>) -> Rules {
    Rules {
        iterations: recipe.game.iterations,
        window: recipe.game.window,
        opponent: OpponentRule::Previous,
        learning_rate: recipe.train.lr.clone(),
        beta,
        epochs: recipe.train.epochs.clone(),
        stop: StopRule {
            patience: recipe.game.stop_patience,
            noise: recipe.game.stop_noise,
            margin: recipe.game.stop_margin,
        },
    }
}

/// The same, for a game that is played.
///
/// # Errors
/// A rule that makes no sense, at its place in the recipe.
pub fn checked_rules(recipe: &Recipe, beta: PerIteration<f64>) -> Result<Rules> {
    let rules = rules(recipe, beta);
    rules
        .check()
        .map_err(|bad| recipe.refuse(bad.name, format!("{}, got {}", bad.rule, bad.value)))?;
    Ok(rules)
}

/// Training of an iteration on so many pairs.
pub fn game(recipe: &Recipe, now: &Iteration, seed: u64, pairs: usize) -> TrainSettings {
    let settings = TrainSettings {
        learning_rate: now.learning_rate,
        epochs: now.epochs,
        seed: mixed(seed, now.t as u64),
        beta: now.beta,
        ..every_iteration(recipe)
    };
    warmed(recipe, "train.warmup", settings, pairs)
}

/// What of `[train]` is the same in every iteration.
pub fn every_iteration(recipe: &Recipe) -> TrainSettings {
    TrainSettings {
        optimizer: optimizer(recipe, recipe.train.optimizer, recipe.train.weight_decay),
        schedule: schedule(recipe.train.schedule, recipe.train.warmup),
        batch: recipe.train.batch,
        dropout: false, // paper: off in both players
        ..common(recipe)
    }
}

/// The supervised stage before the game, on so many examples; whether there is dropout is the
/// adapter's to say.
pub fn sft(recipe: &Recipe, seed: u64, examples: usize) -> TrainSettings {
    let settings = TrainSettings {
        optimizer: optimizer(recipe, recipe.sft.optimizer, recipe.sft.weight_decay),
        learning_rate: recipe.sft.lr,
        schedule: schedule(recipe.sft.schedule, recipe.sft.warmup),
        batch: recipe.sft.batch,
        epochs: recipe.sft.epochs.max(1),
        seed: mixed(seed, u64::MAX),
        ..common(recipe)
    };
    warmed(recipe, "sft.warmup", settings, examples)
}

/// The baseline: supervised training on, with the game's optimiser, batch and schedule.
pub fn continued_sft(
    recipe: &Recipe,
    seed: u64,
    lr: f64,
    epochs: usize,
    max_steps: usize,
    examples: usize,
) -> TrainSettings {
    let settings = TrainSettings {
        learning_rate: lr,
        epochs,
        max_steps: Some(max_steps),
        seed: mixed(seed, u64::MAX - 1),
        ..every_iteration(recipe)
    };
    warmed(recipe, "train.warmup", settings, examples)
}

/// The settings of a training over `n` items. Where its steps are so few that all of them are
/// warm-up at rate 0, and nobody asked for that, there is no warm-up.
fn warmed(recipe: &Recipe, key: &str, mut settings: TrainSettings, n: usize) -> TrainSettings {
    if settings.check_rates(n, "items").is_err() && !recipe.says(key) {
        settings.schedule.warmup_ratio = 0.0;
    }
    settings
}

/// Says where a training has no warm-up though the recipe's default is one.
pub fn say_unwarmed(watch: &dyn Watch, recipe: &Recipe, key: &str, settings: &TrainSettings) {
    let usual = match key {
        "sft.warmup" => recipe.sft.warmup,
        _ => recipe.train.warmup,
    };
    if usual > 0.0 && settings.schedule.warmup_ratio == 0.0 {
        watch.note(format!(
            "no warm-up: with {key} = {usual}, the default, so few steps would all have rate 0"
        ));
    }
}

/// Refuses a recipe of which some training over `examples` examples (or the pairs made of them)
/// would have the rate 0 at every step. It may be called before anything is loaded: fewer examples
/// are no more steps.
///
/// # Errors
/// The numbers, at the warm-up's place in the recipe.
pub fn check_rates(recipe: &Recipe, examples: usize, supervised: bool) -> Result<()> {
    let at = |key: &str| format!("{}: {key}", recipe.place(key));
    if supervised {
        return sft(recipe, 0, examples)
            .check_rates(examples, "examples")
            .with_context(|| at("sft.warmup"));
    }
    let rules = rules(recipe, PerIteration::constant(1.0));
    for t in 0..recipe.game.iterations {
        let pairs = examples * (t + 1).min(recipe.game.window);
        check_game_rates(recipe, &rules.iteration(t), pairs)?;
    }
    let compare = &recipe.compare;
    for &epochs in compare.epochs.iter().filter(|_| compare.continued_sft) {
        // 0: as many as the game's tokens pay for
        let steps = epochs * examples.div_ceil(recipe.train.batch);
        let settings = continued_sft(recipe, 0, 1.0, epochs, steps, examples);
        if epochs > 0 {
            settings
                .check_rates(examples, "examples")
                .with_context(|| at("compare.epochs"))?;
        }
    }
    Ok(())
}

/// The same of an iteration over `pairs` pairs.
///
/// # Errors
/// As there.
pub fn check_game_rates(recipe: &Recipe, now: &Iteration, pairs: usize) -> Result<()> {
    game(recipe, now, 0, pairs)
        .check_rates(pairs, "pairs")
        .with_context(|| format!("{}: train.warmup", recipe.place("train.warmup")))
}

/// How `eval.answer` says that answers are checked; `None`: they are not.
///
/// # Errors
/// A rule that there is not.
pub fn answer_check(recipe: &Recipe) -> Result<Option<Check>> {
    match recipe.eval.answer.as_str() {
        "none" => Ok(None),
        rule => rule.parse().map(Some).map_err(|e: randori_eval::Error| {
            anyhow::Error::new(e).context(recipe.place("eval.answer"))
        }),
    }
}

fn common(recipe: &Recipe) -> TrainSettings {
    TrainSettings {
        min_learning_rate: None,
        clip: Some(recipe.train.clip).filter(|c| *c > 0.0),
        max_steps: None,
        micro_batch_tokens: recipe.micro_batch_tokens(),
        checkpoint: recipe.train.checkpoint,
        offload_optimizer: recipe.train.offload_optimizer,
        offload_inputs: recipe.train.offload_inputs,
        shuffle: true,
        beta: 1.0,
        ..TrainSettings::default()
    }
}

fn optimizer(recipe: &Recipe, kind: OptimizerKind, weight_decay: f64) -> train::Optimizer {
    let t = &recipe.train;
    let adamw = train::AdamW {
        beta1: t.beta1,
        beta2: t.beta2,
        eps: t.eps,
        weight_decay,
    };
    match kind {
        OptimizerKind::AdamW => train::Optimizer::AdamW(adamw),
        OptimizerKind::AdamW8 => train::Optimizer::AdamW8(adamw),
        OptimizerKind::RmsProp => train::Optimizer::RmsProp(train::RmsProp {
            alpha: t.alpha,
            eps: t.eps,
            weight_decay,
            momentum: t.momentum,
        }),
    }
}

fn schedule(kind: ScheduleKind, warmup_ratio: f64) -> train::Schedule {
    let kind = match kind {
        ScheduleKind::Linear => train::ScheduleKind::Linear,
        ScheduleKind::Cosine => train::ScheduleKind::Cosine,
        ScheduleKind::Constant => train::ScheduleKind::Constant,
    };
    train::Schedule { kind, warmup_ratio }
}

/// Another seed for each iteration, so that no two share an order.
fn mixed(seed: u64, t: u64) -> u64 {
    seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(t)
}

/// The adapter.
pub fn lora(recipe: &Recipe) -> Result<LoraSpec> {
    let a = &recipe.adapter;
    let targets = |names: &[String]| match names {
        [one] if one == "all-linear" => Targets::AllLinear,
        [one] if one.starts_with("regex:") => Targets::Regex(one["regex:".len()..].to_string()),
        names => Targets::Names(names.to_vec()),
    };
    let rank_pattern: Vec<(String, usize)> =
        patterns(recipe, "adapter.rank_pattern", &a.rank_pattern.0)?;
    let beyond = |(_, rank): &&(String, usize)| *rank as f64 > most::RANK;
    if let Some((name, rank)) = rank_pattern.iter().find(beyond) {
        let rule = format!("must hold ranks <= {}, got \"{name}={rank}\"", most::RANK);
        return Err(recipe.refuse("adapter.rank_pattern", rule).into());
    }
    let spec = LoraSpec {
        rank: a.rank,
        alpha: a.alpha,
        rslora: a.rslora,
        dropout: a.dropout.unwrap_or(0.0) as f32,
        targets: targets(&a.targets.0),
        exclude: (!a.exclude.0.is_empty()).then(|| targets(&a.exclude.0)),
        rank_pattern,
        alpha_pattern: patterns(recipe, "adapter.alpha_pattern", &a.alpha_pattern.0)?,
        dora: a.dora,
        modules_to_save: a.modules_to_save.0.clone(),
        replaced: Vec::new(),
        halved: false,
    };
    spec.check()
        .map_err(|e| anyhow::anyhow!("{}: [adapter]: {e}", recipe.place("adapter.targets")))?;
    Ok(spec)
}

/// `PATTERN=NUMBER` each.
fn patterns<T: std::str::FromStr>(
    recipe: &Recipe,
    key: &str,
    texts: &[String],
) -> Result<Vec<(String, T)>> {
    let one = |text: &String| {
        let (pattern, number) = text.rsplit_once('=')?;
        let number = number.trim().parse().ok()?;
        Some((pattern.trim().to_string(), number))
    };
    texts
        .iter()
        .map(|text| {
            one(text).ok_or_else(|| {
                anyhow::Error::new(recipe.refuse(
                    key,
                    format!("must hold entries like \"q_proj=8\", got {text:?}"),
                ))
            })
        })
        .collect()
}

/// How base weights are kept.
pub fn load_options(recipe: &Recipe) -> weights::LoadOptions {
    let quant = match recipe.adapter.quant {
        QuantKind::Nf4 => weights::Quant::Nf4 {
            double: recipe.adapter.double_quant,
        },
        QuantKind::Gguf => weights::Quant::Gguf,
    };
    let dtype = match recipe.model.dtype {
        Dtype::F32 => weights::Dtype::F32,
        Dtype::Bf16 => weights::Dtype::Bf16,
        Dtype::F16 => weights::Dtype::F16,
    };
    let quantised = recipe.adapter.kind == AdapterKind::Qlora;
    weights::LoadOptions {
        quant: quantised.then_some(quant),
        dtype,
    }
}

/// Whether this program can compute where `model.device` says; a GPU is not asked for.
///
/// # Errors
/// A program that cannot use a GPU, or numbers that a GPU does not compute in.
pub fn check_device(recipe: &Recipe) -> Result<()> {
    let why = match (recipe.model.device, recipe.model.dtype) {
        (ComputeDevice::Cpu, _) => return Ok(()),
        (ComputeDevice::Cuda, _) if !cfg!(feature = "cuda") => {
            "this program was built without the feature `cuda`: build it with `cargo build --release --features cuda`, or choose \"cpu\""
        }
        (ComputeDevice::Cuda, Dtype::F16) => {
            "a GPU computes in f32 or bf16; model.dtype is \"f16\""
        }
        (ComputeDevice::Cuda, Dtype::F32 | Dtype::Bf16) => return Ok(()),
    };
    Err(anyhow::anyhow!(why).context(at_device(recipe)))
}

fn at_device(recipe: &Recipe) -> String {
    format!("{}: model.device", recipe.place("model.device"))
}

/// Where `model.device` wants the base and its passes.
///
/// # Errors
/// As [`check_device`]; no GPU.
#[cfg(feature = "cuda")]
pub fn compute(recipe: &Recipe) -> Result<Compute> {
    check_device(recipe)?;
    let float = match (recipe.model.device, recipe.model.dtype) {
        (ComputeDevice::Cpu, _) => return Ok(Compute::default()),
        (ComputeDevice::Cuda, Dtype::F32) => candle_core::DType::F32,
        (ComputeDevice::Cuda, Dtype::Bf16 | Dtype::F16) => candle_core::DType::BF16,
    };
    let compute = Compute::on_gpu(float).with_context(|| at_device(recipe))?;
    Ok(match recipe.adapter.kind {
        AdapterKind::Full => compute.for_full_training(),
        AdapterKind::Lora | AdapterKind::Qlora => compute,
    })
}

/// Where `model.device` wants the base and its passes.
///
/// # Errors
/// As [`check_device`].
#[cfg(not(feature = "cuda"))]
pub fn compute(recipe: &Recipe) -> Result<Compute> {
    check_device(recipe).map(|()| Compute::default())
}
