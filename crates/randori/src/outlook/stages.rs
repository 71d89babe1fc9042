//! The stages of a run in the order and by the names in which it goes through them, each with its
//! work.

use std::path::PathBuf;

use anyhow::Result;
use randori_core::{Rules, Stage};
use randori_store::{Manifest, iteration_folder};

use super::rest::{Ahead, Kind};
use crate::corpus::Part;
use crate::game::{game_label, label};
use crate::recipe::ChosenBy;
use crate::session::Setting;

/// Time of a token that is drawn beside one of a prompt's, some five: passes of few rows wait for
/// the weights.
const DRAWN: f64 = 5.0;

/// The data of a run.
pub struct Data<'a> {
    /// What is trained on.
    pub train: &'a Part,
    /// What is measured on.
    pub held_out: &'a Part,
    /// What the baseline's settings are chosen on; `None`: there is no baseline.
    pub validation: Option<&'a Part>,
}

/// The stages that are not finished in the folders of these `games` (seed and folder each), in
/// order.
///
/// # Errors
/// A manifest that cannot be read; a loss that there is not.
pub fn planned(
    setting: &Setting,
    data: &Data,
    games: &[(u64, PathBuf)],
    fresh: bool,
) -> Result<Vec<Ahead>> {
    let r = &setting.recipe;
    let drawn = r.generate.max_new_tokens;
    let measured = r.eval.max_new_tokens.unwrap_or(drawn);
    let mut plan = Plan {
        setting,
        rules: setting.rules(),
        train: Sizes::of(data.train, drawn),
        held_out: Sizes::of(data.held_out, measured),
        validation: data.validation.map(|part| Sizes::of(part, measured)),
        ahead: Vec::new(),
    };
    for (i, (seed, folder)) in games.iter().enumerate() {
        let kept = match fresh {
            true => None,
            false => Manifest::read(folder)?,
        };
        let name = game_label(*seed, games.len());
        plan.game(&name, &kept.unwrap_or_default())?;
        plan.baseline(&name, i == 0);
    }
    Ok(plan.ahead)
}

/// Examples, and their mean tokens.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    /// How many there are.
    pub(super) examples: usize,
    prompt: f64,
    real: f64,
    /// Of a generated answer: nobody knows yet, so as of a real one.
    drawn: f64,
}

impl Sizes {
    /// Of a part, whose answers are cut at `most` tokens.
    pub(super) fn of(part: &Part, most: usize) -> Sizes {
        let examples = part.examples.len();
        let mean = |sum: usize| sum as f64 / examples.max(1) as f64;
        let real = mean(part.examples.iter().map(|e| e.response.len()).sum());
        Sizes {
            examples,
            prompt: mean(part.examples.iter().map(|e| e.prompt.len()).sum()),
            real,
            drawn: real.min(most as f64),
        }
    }

    /// `n` answers.
    pub(super) fn answers(&self, n: usize) -> f64 {
        n as f64 * (self.prompt + DRAWN * self.drawn)
    }

    /// Passes over `n` real responses.
    fn alone(&self, n: usize) -> f64 {
        n as f64 * (self.prompt + self.real)
    }

    /// Passes over `n` pairs.
    pub(super) fn pairs(&self, n: usize) -> f64 {
        n as f64 * (self.prompt + self.real + self.drawn)
    }
}

struct Plan<'a> {
    setting: &'a Setting,
    rules: Rules,
    train: Sizes,
    held_out: Sizes,
    validation: Option<Sizes>,
    ahead: Vec<Ahead>,
}

impl Plan<'_> {
    fn add(&mut self, label: String, kind: Kind, tokens: f64) {
        self.ahead.push(Ahead {
            label,
            kind,
            tokens,
        });
    }

    /// A player's answers to the held-out prompts.
    fn measured(&mut self, label: &str) {
        let seeds = self.setting.recipe.eval.seeds.len();
        let tokens = self.held_out.answers(self.held_out.examples * seeds);
        self.add(format!("{label}: answers"), Kind::Answers, tokens);
    }

    /// Its log-probs on the held-out pairs.
    fn likelihood(&mut self, label: &str) {
        let tokens = self.held_out.pairs(self.held_out.examples);
        self.add(format!("{label}: likelihood"), Kind::Scores, tokens);
    }

    /// Pairs of iteration `t`'s window.
    fn window(&self, t: usize) -> usize {
        self.train.examples * (t + 1).min(self.rules.window)
    }

    /// Tokens that iteration `t` trains on.
    fn trained(&self, t: usize) -> f64 {
        self.train.pairs(self.window(t)) * self.rules.iteration(t).epochs as f64
    }

    fn game(&mut self, name: &str, kept: &Manifest) -> Result<()> {
        let epochs = self.setting.recipe.sft.epochs;
        let done = |folder: &str, stage: &str| kept.done(folder, stage).is_some();
        if epochs > 0 && !done("start", "policy") {
            let tokens = self.train.alone(self.train.examples * epochs);
            self.add(format!("{name}supervised"), Kind::Steps, tokens);
        }
        if !done("start", "eval") {
            self.measured(&format!("{name}start"));
            self.likelihood(&format!("{name}start"));
        }
        let is_done = |t: usize, stage: Stage| done(&iteration_folder(t), stage.name());
        let whole = |t: &usize| Stage::ALL.iter().all(|stage| is_done(*t, *stage));
        let first = (0..self.rules.iterations).take_while(whole).count();
        for t in first..self.rules.iterations {
            if !is_done(t, Stage::Generated) {
                let tokens = self.train.answers(self.train.examples);
                self.add(label(name, t, "generated"), Kind::Answers, tokens);
            }
            if !is_done(t, Stage::Pairs) && self.setting.loss(t)?.needs_ref() {
                let tokens = self.train.pairs(self.window(t));
                self.add(label(name, t, "opponent's log-probs"), Kind::Scores, tokens);
            }
            if !is_done(t, Stage::Policy) {
                self.add(label(name, t, "policy"), Kind::Steps, self.trained(t));
            }
            if !is_done(t, Stage::Eval) {
                if t == first && t > 0 {
                    self.measured(&label(name, t, "the opponent's")); // of an earlier process
                }
                self.measured(&label(name, t, "held out"));
                self.likelihood(&label(name, t, "held out"));
                self.likelihood(&label(name, t, "opponent"));
            }
        }
        Ok(())
    }

    /// Continued SFT: every setting of the grid in the first game, the chosen one in the others.
    fn baseline(&mut self, name: &str, is_first: bool) {
        let Some(validation) = self.validation else {
            return;
        };
        let recipe = &self.setting.recipe;
        let budget: f64 = (0..self.rules.iterations).map(|t| self.trained(t)).sum();
        let cost = |epochs: usize| match epochs {
            0 => budget,
            _ => budget.min(self.train.alone(self.train.examples * epochs)),
        };
        let compare = &recipe.compare;
        let of_rate = |lr: &f64| {
            let label = format!("{name}SFT lr {lr:e}, ");
            let each = compare.epochs.iter();
            each.map(|&epochs| (label.clone(), cost(epochs)))
                .collect::<Vec<_>>()
        };
        let grid: Vec<(String, f64)> = match is_first {
            true => compare.lrs.iter().flat_map(of_rate).collect(),
            false => vec![(format!("{name}SFT lr "), budget)],
        };
        let by_answers = compare.choose == ChosenBy::ExactMatch && recipe.eval.answer != "none";
        let (kind, chosen) = match by_answers {
            true => {
                let answers = validation.examples * recipe.eval.seeds.len();
                (Kind::Answers, validation.answers(answers))
            }
            false => (Kind::Scores, validation.alone(validation.examples)),
        };
        let is_choice = grid.len() > 1;
        for (label, tokens) in grid {
            self.add(label.clone(), Kind::Steps, tokens);
            if is_choice {
                self.add(label, kind, chosen);
            }
        }
        self.measured(&format!("{name}continued SFT"));
        self.likelihood(&format!("{name}continued SFT"));
        self.likelihood(&format!("{name}start"));
    }
}
