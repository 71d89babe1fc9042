//! The record of a training, for the provenance of the player that it makes.

use randori_core::Iteration;
use randori_engine::train::TrainSettings;
use randori_sdk::seam::Value as OptionValue;
use randori_store::Manifest;
use serde_json::{Map, Value};

use crate::hub_data;
use crate::losses;
use crate::provenance::{Input, Origin, Training};
use crate::recipe::Recipe;
use crate::session::{Session, short};

/// The loss of supervised fine-tuning.
const LIKELIHOOD: &str = "negative log-likelihood";
/// Key of the files of a base in a manifest.
const BASE: &str = "model.source";
/// Key of a file of pairs in a manifest.
pub const PAIRS: &str = "--pairs";

/// What all trainings of a run have in common.
#[derive(Clone)]
pub struct Recorder {
    common: Training,
    /// The recipe's training data.
    data: Vec<Input>,
    /// A file of pairs that the command was given.
    pairs: Option<String>,
}

impl Recorder {
    /// For the run with `seed` that this manifest is of.
    pub fn new(session: &Session, manifest: &Manifest, seed: u64) -> Recorder {
        let recipe = &session.recipe;
        let base = shown(recipe, &session.base_name);
        let of_base = |(name, id): (&String, &String)| {
            let part = name.strip_prefix(BASE)?;
            let name = match part.strip_prefix(' ') {
                Some(part) => part.to_string(),
                None if part.is_empty() => base.clone(),
                None => return None,
            };
            Some(Input {
                name,
                id: id.clone(),
            })
        };
        Recorder {
            data: data(recipe, manifest),
            pairs: manifest.hashes.get(PAIRS).cloned(),
            common: Training {
                randori: env!("CARGO_PKG_VERSION").into(),
                run: recipe.run.name.clone(),
                seed,
                iteration: None,
                base_files: manifest.hashes.iter().filter_map(of_base).collect(),
                base,
                data: Vec::new(),
                examples: 0,
                loss: String::new(),
                loss_options: Map::new(),
                learning_rate: 0.0,
                epochs: 0,
                max_steps: None,
            },
        }
    }

    /// Supervised fine-tuning on so many examples.
    pub fn supervised(&self, settings: &TrainSettings, examples: usize) -> Origin {
        Origin::Sft(Training {
            data: self.data.clone(),
            examples,
            loss: LIKELIHOOD.into(),
            learning_rate: settings.learning_rate,
            epochs: settings.epochs,
            max_steps: settings.max_steps,
            ..self.common.clone()
        })
    }

    /// An iteration of the game on so many pairs.
    pub fn iteration(&self, session: &Session, now: &Iteration, pairs: usize) -> Origin {
        Origin::Game(Training {
            data: self.data.clone(),
            ..self.on_pairs(session, now, pairs)
        })
    }

    /// Training on so many pairs of the command's file, which is called `file`, or else of the
    /// recipe's data.
    pub fn pairs(
        &self,
        session: &Session,
        now: &Iteration,
        pairs: usize,
        file: Option<&str>,
    ) -> Origin {
        let of_file = |name: &str| {
            let file = self.pairs.iter().map(|id| Input {
                name: name.to_string(),
                id: id.clone(),
            });
            file.collect()
        };
        Origin::Pairs(Training {
            data: file.map_or_else(|| self.data.clone(), of_file),
            ..self.on_pairs(session, now, pairs)
        })
    }

    fn on_pairs(&self, session: &Session, now: &Iteration, pairs: usize) -> Training {
        let options = losses::options(&session.recipe, &session.host, now.t).into_iter();
        Training {
            iteration: Some(now.t),
            examples: pairs,
            loss: session.recipe.loss.name.clone(),
            loss_options: options.map(|(name, v)| (name, json(v))).collect(),
            learning_rate: now.learning_rate,
            epochs: now.epochs,
            ..self.common.clone()
        }
    }
}

/// The training data of a run: what the recipe names, by the files that it stands for.
fn data(recipe: &Recipe, manifest: &Manifest) -> Vec<Input> {
    let mut all = Vec::new();
    for text in &recipe.data.train.0 {
        let key = format!("data.train {text}");
        for (name, id) in &manifest.hashes {
            // `data.train data` is no part of `data.train data.jsonl`
            let rest = name.strip_prefix(&key);
            let Some(rest) = rest.filter(|rest| rest.is_empty() || rest.starts_with(' ')) else {
                continue;
            };
            all.push(Input {
                name: shown(recipe, text) + rest,
                id: id.clone(),
            });
        }
    }
    all
}

/// What a stranger knows a model or a data set by: a name of the hub or of a built-in as it is, a
/// path without its folders.
fn shown(recipe: &Recipe, text: &str) -> String {
    if let Some(configuration) = text.strip_prefix("random:") {
        return format!("random:{}", short(configuration));
    }
    match text.starts_with("builtin:") || hub_data::is_of_hub(recipe, text) {
        true => text.to_string(),
        false => short(text),
    }
}

fn json(value: OptionValue) -> Value {
    match value {
        OptionValue::Float(v) => v.into(),
        OptionValue::Int(v) => v.into(),
        OptionValue::Bool(v) => v.into(),
        OptionValue::Str(v) => v.into(),
    }
}
