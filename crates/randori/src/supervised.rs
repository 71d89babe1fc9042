//! Supervised fine-tuning: the stage before a game, and the baseline beside it (the paper's "one
//! more SFT epoch", here with the game's own number of trained tokens and its settings chosen on
//! the validation split).

use anyhow::Result;
use randori_engine::Player;
use randori_engine::train::{Example, TrainSettings};
use randori_store::{Json, Run, Workspace};
use serde::{Deserialize, Serialize};

use crate::artefacts::Learnt;
use crate::corpus::Part;
use crate::game::PROMPTS;
use crate::measure::{self, HeldOutAnswer};
use crate::recipe::ChosenBy;
use crate::record::Recorder;
use crate::report::Baseline;
use crate::session::Session;
use crate::settings;
use crate::stages::{rows_beside, write_rows};
use crate::training::run_training;

/// Trains on the real responses, with the dropout that the player's adapter says; resumable through
/// its workspace.
pub fn fine_tune(
    session: &Session,
    player: Player,
    examples: &Part,
    settings: TrainSettings,
    workspace: &mut Workspace,
    label: &str,
) -> Result<Player> {
    let settings = TrainSettings {
        dropout: player.lora.as_ref().is_some_and(|own| own.dropout > 0.0),
        ..settings
    };
    let examples: Vec<Example> = examples
        .examples
        .iter()
        .map(|e| Example {
            prompt: &e.prompt,
            response: &e.response,
            place: &e.place,
        })
        .collect();
    run_training(
        session,
        player,
        settings,
        workspace,
        label,
        |trainer, on_step| trainer.train_sft(&examples, on_step),
    )
}

/// One setting of the baseline.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// Learning rate.
    pub lr: f64,
    /// Passes over the data; 0: as many as the budget pays for.
    pub epochs: usize,
}

/// What the baseline is given.
pub struct Contest<'a> {
    /// What is trained on.
    pub train: &'a Part,
    /// What settings are chosen on.
    pub validation: &'a Part,
    /// What is measured on.
    pub held_out: &'a Part,
    /// Where both begin.
    pub start: &'a Learnt,
    /// The start's held-out answers: the baseline's "opponent".
    pub start_answers: &'a [HeldOutAnswer],
    /// Tokens the game was trained on.
    pub budget: usize,
    /// The game's seed.
    pub seed: u64,
}

/// Trains the baseline and measures it. `chosen`: the setting found with an earlier seed; without
/// it, every setting of the recipe's grid is tried on the validation split.
pub fn baseline(
    session: &Session,
    run: &mut Run,
    of: &Contest,
    chosen: Option<Setting>,
    label: &str,
) -> Result<(Baseline, Setting)> {
    let place = format!("continued-sft/{}-tokens", of.budget);
    let grid: Vec<Setting> = match chosen {
        Some(one) => vec![one],
        None => grid(session),
    };
    let recorder = Recorder::new(session, run.manifest(), of.seed);
    let mut best: Option<(f64, Setting, Learnt, Steps)> = None;
    for setting in &grid {
        let steps = Steps::new(session, of, setting.epochs);
        let cell = format!("{place}/lr-{:e}-epochs-{}", setting.lr, setting.epochs);
        let name = format!(
            "{label}SFT lr {:e}, {:.1} epochs",
            setting.lr,
            steps.epochs()
        );
        let learnt: Learnt = run.stage(&cell, "policy", |workspace| {
            let settings = settings::continued_sft(
                &session.recipe,
                of.seed,
                setting.lr,
                steps.whole_epochs(),
                steps.max,
                of.train.examples.len(),
            );
            settings::say_unwarmed(&*session.watch, &session.recipe, "train.warmup", &settings);
            let record = recorder.supervised(&settings, of.train.examples.len());
            let player = of.start.player(&session.base);
            let player = fine_tune(session, player, of.train, settings, workspace, &name)?;
            let made = of.start.provenance.and(record);
            anyhow::Ok(Learnt::of(&player, &session.base_name, made))
        })?;
        let score = match grid.len() {
            1 => 0.0,
            _ => {
                run.stage(&cell, "validation", |_| {
                    anyhow::Ok(Json(validated(session, &learnt, of, &name)?))
                })?
                .0
            }
        };
        if best.as_ref().is_none_or(|b| score > b.0) {
            best = Some((score, *setting, learnt, steps));
        }
    }
    let Some((_, setting, learnt, steps)) = best else {
        return Err(session
            .recipe
            .refuse("compare.lrs", "must have at least one value, got []")
            .into());
    };
    let stage = format!("held-out-lr-{:e}-epochs-{}", setting.lr, setting.epochs);
    let name = format!("{label}continued SFT");
    let signals = run.stage(&place, &stage, |workspace| {
        let player = learnt.player(&session.base);
        let own = measure::answer(session, &player, of.held_out, &name)?;
        let policy = measure::logps(session, &player, of.held_out, of.start_answers, &name)?;
        let start = of.start.player(&session.base);
        let opponent = measure::logps(
            session,
            &start,
            of.held_out,
            of.start_answers,
            &format!("{label}start"),
        )?;
        let beta = session.rules().iteration(0).beta;
        let pairs = measure::pairs(of.held_out, &policy, &opponent, of.start_answers);
        let prompts = measure::prompts(&own, &pairs, beta);
        workspace.write(PROMPTS, |path| write_rows(path, &prompts))?;
        anyhow::Ok(measure::signals(session, &own, &pairs, beta))
    })?;
    let prompts = rows_beside(run.dir(), &place, &stage, PROMPTS)?;
    let measures = measure::measures(&signals, false);
    let tokens = steps.max * steps.tokens_per_step;
    Ok((
        Baseline {
            measures,
            lr: setting.lr,
            epochs: steps.epochs(),
            tokens,
            prompts,
        },
        setting,
    ))
}

/// Every pair of the recipe's learning rates and epochs.
fn grid(session: &Session) -> Vec<Setting> {
    let c = &session.recipe.compare;
    c.lrs
        .iter()
        .flat_map(|&lr| c.epochs.iter().map(move |&epochs| Setting { lr, epochs }))
        .collect()
}

/// How many steps the budget pays for.
struct Steps {
    per_epoch: usize,
    tokens_per_step: usize,
    max: usize,
}

impl Steps {
    fn new(session: &Session, of: &Contest, epochs: usize) -> Steps {
        let per_epoch = of
            .train
            .examples
            .len()
            .div_ceil(session.recipe.train.batch)
            .max(1);
        // as the engine counts them: the last response token predicts nothing and is not computed
        let tokens: usize = of
            .train
            .examples
            .iter()
            .map(|e| e.prompt.len() + e.response.len().saturating_sub(1))
            .sum();
        let tokens_per_step = tokens.div_ceil(per_epoch).max(1);
        let paid = (of.budget / tokens_per_step).max(1);
        let wanted = if epochs == 0 {
            paid
        } else {
            epochs * per_epoch
        };
        Steps {
            per_epoch,
            tokens_per_step,
            max: wanted.min(paid),
        }
    }
    fn whole_epochs(&self) -> usize {
        self.max.div_ceil(self.per_epoch)
    }
    fn epochs(&self) -> f64 {
        self.max as f64 / self.per_epoch as f64
    }
}

/// How good a setting is on the validation split; more is better.
fn validated(session: &Session, learnt: &Learnt, of: &Contest, label: &str) -> Result<f64> {
    let player = learnt.player(&session.base);
    let checked = settings::answer_check(&session.recipe)?.is_some();
    let by_answers = session.recipe.compare.choose == ChosenBy::ExactMatch && checked;
    if by_answers {
        let answered = measure::answer(
            session,
            &player,
            of.validation,
            &format!("{label}, validation"),
        )?;
        return Ok(
            answered.exact_match.iter().sum::<f64>() / answered.exact_match.len().max(1) as f64
        );
    }
    measure::nll(
        session,
        &player,
        of.validation,
        &format!("{label}, validation"),
    )
    .map(|nll| -nll)
}
