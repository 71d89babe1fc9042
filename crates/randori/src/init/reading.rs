//! Model and data under a draft, which is changed where they cannot be read as it is.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use randori_data::{Error, Place, Record};
use randori_engine::weights::configuration;

use super::columns::near;
use super::draft::Draft;
use crate::aim::Aim;
use crate::corpus::{Part, part, policy};
use crate::data_rows::first_rows;
use crate::hub_data;
use crate::inspect::looked_at;
use crate::model_files::{hub_id, source};
use crate::one_line::one_line;
use crate::recipe::Recipe;
use crate::request::{Request, Split};
use crate::session::{Setting, host};
use crate::watch::Silent;

/// The largest share of rows that are no example which is left out without being asked.
const BAD: f64 = 0.05;

/// Model and data as a run would read them, without a limit on lengths.
pub struct Reading {
    /// The recipe with its tokenizer.
    pub setting: Setting,
    /// All training examples.
    pub train: Part,
}

/// Reads the draft's model and data, and changes the draft where that makes them readable: no chat
/// template, columns under names of their own, a few rows that are no example, splits, several
/// answers of a conversation.
///
/// # Errors
/// Whatever is wrong with the model or the data as they are.
pub fn read(draft: &mut Draft, request: &Request) -> Result<Reading> {
    let quiet = Request {
        watch: Arc::new(Silent),
        ..request.clone()
    };
    let reading = readable(draft, &quiet)?;
    if draft.aim == Aim::Dpo {
        return Ok(told_as_pairs(draft, reading, &quiet));
    }
    let earlier = reading.train.counts.left.earlier;
    if earlier == 0 {
        return Ok(reading);
    }
    let mut every = Draft {
        every: true,
        ..draft.clone()
    };
    match tried(&mut every, &quiet) {
        Ok(reading) => {
            *draft = every;
            Ok(reading)
        }
        Err(_) => Ok(reading), // the last answers alone can be read, and the others are counted
    }
}

/// The same data with a recipe that says its rows are pairs, where they have one of the two shapes
/// of those: a recipe shows by that what it is for.
fn told_as_pairs(draft: &mut Draft, reading: Reading, quiet: &Request) -> Reading {
    for format in ["preference", "spin"] {
        let mut other = Draft {
            format: Some(format),
            ..draft.clone()
        };
        if let Ok(same) = tried(&mut other, quiet)
            && same.train.examples.len() == reading.train.examples.len()
        {
            *draft = other;
            return same;
        }
    }
    reading
}

/// Reads the draft as it is, or with what makes it readable.
fn readable(draft: &mut Draft, quiet: &Request) -> Result<Reading> {
    let recipe = draft.recipe()?;
    if hub_id(&recipe).is_some() {
        let host = host(&recipe, quiet)?;
        configuration(source(&recipe)?, host.families()?).with_context(|| {
            let model = &draft.model;
            format!("MODEL {model}: no file or folder of this name is here, so the hub is asked")
        })?;
    }
    draft.splits = splits(draft, &recipe);
    let error = match tried(draft, quiet) {
        Ok(reading) => return Ok(reading),
        Err(error) => error,
    };
    let given = !draft.columns.0.is_empty();
    let file = first_file(draft, &recipe).filter(|_| !given);
    let columns = file.and_then(|file| near(&file, draft.aim == Aim::Dpo));
    let mut ways = vec![(draft.columns.clone(), true)];
    if let Some(columns) = columns {
        ways.extend([(columns.clone(), false), (columns, true)]);
    }
    for (columns, drops) in ways {
        let mut other = Draft {
            columns,
            drops,
            ..draft.clone()
        };
        if let Ok(reading) = tried(&mut other, quiet)
            && few_bad(&reading.train)
        {
            *draft = other;
            return Ok(reading);
        }
    }
    match !given && is_of_columns(&error) {
        true => bail!("{}; to init, {}", one_line(&error), flag(draft.aim)),
        false => Err(error),
    }
}

/// Whether a row is no example because of what its columns are called.
fn is_of_columns(error: &anyhow::Error) -> bool {
    let is = |cause: &(dyn std::error::Error + 'static)| match cause.downcast_ref::<Error>() {
        Some(Error::Example { what, .. }) => {
            what.contains("data.columns") || what.contains("(shape ")
        }
        _ => false,
    };
    error.chain().any(is)
}

/// How the command line says which columns are which.
fn flag(aim: Aim) -> &'static str {
    match aim {
        Aim::Dpo => "--columns prompt=COLUMN,chosen=COLUMN,rejected=COLUMN",
        Aim::Sft | Aim::Spin => "--columns prompt=COLUMN,response=COLUMN",
    }
}

/// Reads the draft as it is, but for a chat template where the model has none.
fn tried(draft: &mut Draft, request: &Request) -> Result<Reading> {
    let setting = match looked_at(draft.recipe()?, &[], request) {
        Err(error) if is_without_template(&error) => {
            draft.plain = true;
            looked_at(draft.recipe()?, &[], request)?
        }
        other => other?,
    };
    let pairs = match draft.aim {
        Aim::Dpo => Some(policy(&setting.recipe, Some(&*setting.loss(0)?))),
        Aim::Sft | Aim::Spin => None,
    };
    let train = part(
        &setting.recipe,
        &setting.tokenizer,
        Split::Train,
        setting.bounds,
        pairs.as_ref(),
    )?;
    match draft.aim {
        Aim::Sft => {}
        Aim::Spin => train
            .check_prompts()
            .context("--kind sft takes such data")?,
        Aim::Dpo => {
            let alone = train.examples.iter().find(|e| e.rejected.is_none());
            if let Some(alone) = alone {
                // rows before it may have been kept aside, and be no better
                let first = first_alone(draft, &setting.recipe);
                bail!(
                    "{}: --kind dpo wants pairs, and this row has one response (two are called \
                     `chosen` and `rejected`, or `real` and `generated`)",
                    first.as_ref().unwrap_or(&alone.place)
                );
            }
        }
    }
    Ok(Reading { setting, train })
}

fn is_without_template(error: &anyhow::Error) -> bool {
    let is = |cause: &(dyn std::error::Error + 'static)| {
        matches!(cause.downcast_ref::<Error>(), Some(Error::NoTemplate))
    };
    error.chain().any(is)
}

/// Whether so few rows are no example that the others are what was meant.
fn few_bad(train: &Part) -> bool {
    let counts = &train.counts;
    counts.left.bad_rows as f64 <= BAD * counts.read as f64
}

/// Whether the data has a split to validate on, and one to measure on, that are not what is
/// trained on.
fn splits(draft: &Draft, recipe: &Recipe) -> [bool; 2] {
    let files = |key: &str| hub_data::files(recipe, &draft.data, key).ok();
    let Some(train) = files("data.train") else {
        return [false; 2];
    };
    let own = |key: &str| files(key).is_some_and(|other| other != train);
    ["data.validation", "data.held_out"].map(own)
}

/// Whether the data's first rows have a second response, which only pairs are trained with.
pub fn paired(draft: &Draft, recipe: &Recipe) -> bool {
    let rows = first_file(draft, recipe).map(|file| first_rows(recipe, &file));
    let paired = |rows: Vec<Record>| rows.iter().any(|row| row.rejected.is_some());
    rows.is_some_and(|rows| rows.is_ok_and(paired))
}

/// Where the first of the data's first rows stands that has one response.
fn first_alone(draft: &Draft, recipe: &Recipe) -> Option<Place> {
    let rows = first_rows(recipe, &first_file(draft, recipe)?).ok()?;
    let mut alone = rows.into_iter().filter(|row| row.rejected.is_none());
    alone.next().map(|row| row.place)
}

/// The first file of the data, whose columns are looked at.
fn first_file(draft: &Draft, recipe: &Recipe) -> Option<PathBuf> {
    let files = hub_data::files(recipe, &draft.data, "data.train").ok()?;
    files.into_iter().next().map(|(_, path)| path)
}
