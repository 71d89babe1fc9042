//! The recipe's data as rows: which key names them, what is looked at before all are read, and how
//! they are read.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use randori_data::{BadRows, Error, Left, Message, ReadOptions, Reader, Record};

use crate::aside::{Aside, aside};
use crate::builtin;
use crate::hub_data;
use crate::recipe::{DataFormat, DataTurns, OnBadRow, OnCalculator, Recipe, RecipeError};
use crate::request::Split;

/// The recipe's keys that name data.
pub const KEYS: [&str; 3] = ["data.train", "data.validation", "data.held_out"];
/// Rows of a file that are looked at before all are read.
const LOOKED_AT: usize = 8;
/// Rows of which one at least must be an example where bad ones may be left out.
pub const TRIED: usize = 64;

/// What becomes of rows that are no example.
pub fn bad_rows(recipe: &Recipe) -> BadRows {
    match recipe.data.bad_rows {
        OnBadRow::Error => BadRows::Error,
        OnBadRow::Drop => BadRows::Drop,
    }
}

/// An error over one row, which the recipe may have left out, says how, if `others` are examples.
pub fn bad_row(error: Error, on: BadRows, others: impl FnOnce() -> bool) -> anyhow::Error {
    let of_a_row = matches!(error, Error::Example { .. } | Error::Refused { .. });
    match of_a_row && on == BadRows::Error && others() {
        true => anyhow::anyhow!("{error}; data.bad_rows = \"drop\" leaves such rows out"),
        false => error.into(),
    }
}

/// Whether one of a file's first rows is an example.
pub fn has_examples(path: &Path, options: &ReadOptions) -> bool {
    let options = ReadOptions {
        bad_rows: BadRows::Error,
        ..options.clone()
    };
    let reader = Reader::open(path, &options);
    reader.is_ok_and(|reader| reader.take(TRIED).any(|row| row.is_ok()))
}

/// The key a split's data comes from: held-out data falls back to validation, validation to what is
/// kept aside of training.
pub fn key(recipe: &Recipe, split: Split) -> &'static str {
    let d = &recipe.data;
    match split {
        Split::Train => "data.train",
        Split::HeldOut if !d.held_out.0.is_empty() => "data.held_out",
        _ if !d.validation.sets().is_empty() => "data.validation",
        _ => "data.train",
    }
}

/// What a key names.
pub fn named<'a>(recipe: &'a Recipe, key: &str) -> &'a [String] {
    let d = &recipe.data;
    match key {
        "data.held_out" => &d.held_out.0,
        "data.validation" => d.validation.sets(),
        _ => &d.train.0,
    }
}

/// An error about a key that names no data, and has to.
pub fn unnamed(recipe: &Recipe, key: &str) -> RecipeError {
    match recipe.gives(key) {
        true => recipe.refuse(key, "must name at least one file, got none"),
        false => recipe.missing(
            key,
            "a data file, a folder of them, org/name on the hub, or builtin:demo",
        ),
    }
}

/// Looks at the first rows of each file that a key names: they have the shape of examples. Data
/// sets of the hub are passed over: whoever fetches them looks. Answers the files that are not
/// there. `text`: rows without a prompt are examples too.
///
/// # Errors
/// A folder in which it is not clear which files are meant, a file that cannot be read, or a row
/// that is no example, at its place.
pub fn look(recipe: &Recipe, key: &str, text: bool) -> Result<Vec<PathBuf>> {
    let with_text = text;
    let place = || format!("{}: {key}", recipe.place(key));
    let mut absent = Vec::new();
    for text in named(recipe, key) {
        if let Some(name) = text.strip_prefix("builtin:") {
            let known = builtin::data(name, Split::Train).is_some();
            known
                .then_some(())
                .ok_or_else(|| builtin::unknown(text))
                .with_context(place)?;
        } else if !hub_data::is_of_hub(recipe, text) {
            let path = recipe.path(text);
            match std::fs::metadata(&path) {
                Ok(there) if there.is_file() || there.is_dir() => {
                    let files = hub_data::files(recipe, text, key).with_context(place)?;
                    let of_first = files.first().map(|(_, file)| first_rows(recipe, file));
                    let rows = of_first.transpose().with_context(place)?;
                    let bare = rows.iter().flatten().find(|row| row.prompt.is_empty());
                    if let Some(row) = bare.filter(|_| !with_text) {
                        return Err(without_prompt(&row.place)).with_context(place);
                    }
                }
                Ok(_) => {} // whoever reads it says what it may be
                Err(_) => absent.push(path),
            }
        }
    }
    Ok(absent)
}

/// The error about a row that only supervised fine-tuning can use.
pub fn without_prompt(place: &impl std::fmt::Display) -> anyhow::Error {
    anyhow::anyhow!(
        "{place}: `text` alone has no prompt that a player could answer: only `randori sft` \
         trains on it; for anything else, part it into a prompt and a response"
    )
}

/// The first examples of a file.
///
/// # Errors
/// As [`look`].
pub fn first_rows(recipe: &Recipe, path: &Path) -> Result<Vec<Record>> {
    let options = read_options(recipe);
    let bad_rows = options.bad_rows;
    // where bad rows are dropped, those among the first are passed over here, and no more are read
    let looking = ReadOptions {
        bad_rows: BadRows::Error,
        ..options
    };
    let mut rows = Vec::new();
    for row in Reader::open(path, &looking)?.take(LOOKED_AT) {
        match row {
            Ok(row) => rows.push(row),
            Err(Error::Example { .. }) if bad_rows == BadRows::Drop => {}
            Err(error) => {
                return Err(bad_row(error, bad_rows, || has_examples(path, &looking)));
            }
        }
    }
    Ok(rows)
}

/// How many examples a split's files hold, before any is dropped; `None` where they cannot be read.
pub fn count(recipe: &Recipe, split: Split) -> Option<usize> {
    records(recipe, split)
        .ok()
        .map(|(records, ..)| records.len())
}

/// A split's records, what reading left out, and what was kept aside of the training data.
pub fn records(recipe: &Recipe, split: Split) -> Result<(Vec<Record>, Left, Option<Aside>)> {
    let d = &recipe.data;
    let key = key(recipe, split);
    let files = named(recipe, key);
    if files.is_empty() {
        return Err(unnamed(recipe, key).into());
    }
    let (mut records, mut left) = (Vec::new(), Left::default());
    for file in files {
        let (more, besides) = read_with(recipe, file, key, &read_options(recipe))
            .with_context(|| format!("{}: {key}", recipe.place(key)))?;
        records.extend(more);
        left.add(besides);
    }
    let mut kept = None;
    if key == "data.train" {
        kept = divide(recipe, split, &mut records)?;
        if split != Split::Train {
            left = Left::default(); // counted once, with the training data's
        }
    }
    let most = match split {
        Split::Train => d.limit,
        _ => recipe.eval.limit,
    };
    records.truncate(most.unwrap_or(records.len()));
    with_system(recipe, &mut records);
    Ok((records, left, kept))
}

/// Refuses a recipe whose keys give a split no data; whether there is enough of it to keep some
/// aside, reading tells.
///
/// # Errors
/// The keys that would.
pub fn check_split(recipe: &Recipe, split: Split) -> Result<()> {
    let own = split == Split::Train || key(recipe, split) != "data.train";
    match own || recipe.data.kept_aside().is_some() {
        true => Ok(()),
        false => Err(unmeasured(recipe, "").into()),
    }
}

/// The same of all that a run measures on.
///
/// # Errors
/// As [`check_split`].
pub fn check_measured(recipe: &Recipe) -> Result<()> {
    check_split(recipe, Split::HeldOut)?;
    match recipe.compare.continued_sft {
        true => check_split(recipe, Split::Validation),
        false => Ok(()),
    }
}

/// There is nothing to measure on.
fn unmeasured(recipe: &Recipe, why: &str) -> RecipeError {
    let rule = format!(
        "is needed to measure on: give data.held_out, data.validation or data.validation_share{why}"
    );
    recipe.refuse("data.validation", rule)
}

/// Leaves of the training data's records those that are trained on, or for another split those that
/// are kept aside for it; says how many these are where they are to be.
fn divide(recipe: &Recipe, split: Split, records: &mut Vec<Record>) -> Result<Option<Aside>> {
    let divided = recipe.data.kept_aside();
    let divided = divided.map(|share| aside(&records[..], share, recipe.data.turns));
    if split != Split::Train && divided.as_ref().is_none_or(|(_, aside)| aside.kept == 0) {
        let why = divided.map_or_else(String::new, |(_, aside)| format!("; {aside}"));
        return Err(unmeasured(recipe, &why).into());
    }
    let Some((sides, aside)) = divided else {
        return Ok(None);
    };
    let mut sides = sides.into_iter();
    records.retain(|_| sides.next() != Some(split == Split::Train));
    Ok((split == Split::Train).then_some(aside))
}

/// The recipe's system message in front of conversations without one.
pub fn with_system(recipe: &Recipe, records: &mut [Record]) {
    let Some(system) = &recipe.data.system else {
        return;
    };
    for record in records.iter_mut().filter(|r| !r.prompt.is_empty()) {
        if record.prompt.first().is_none_or(|m| m.role() != "system") {
            let message = Message::new("system", system.clone());
            record.prompt.insert(0, message);
        }
    }
}

pub fn read_with(
    recipe: &Recipe,
    file: &str,
    key: &str,
    options: &ReadOptions,
) -> Result<(Vec<Record>, Left)> {
    if let Some(name) = file.strip_prefix("builtin:") {
        let split = match key {
            "data.train" => Split::Train,
            "data.validation" => Split::Validation,
            _ => Split::HeldOut,
        };
        let (shown, bytes) = builtin::data(name, split).ok_or_else(|| builtin::unknown(file))?;
        let read = randori_data::read_bytes(shown, bytes, options);
        return read.map_err(|error| bad_row(error, options.bad_rows, || true));
    }
    let (mut records, mut left) = (Vec::new(), Left::default());
    for (_, path) in hub_data::files(recipe, file, key)? {
        if options.limit.is_some_and(|limit| records.len() >= limit) {
            break; // a few were asked for
        }
        let read = randori_data::read(&path, options);
        let (more, besides) = read
            .map_err(|error| bad_row(error, options.bad_rows, || has_examples(&path, options)))?;
        records.extend(more);
        left.add(besides);
    }
    Ok((records, left))
}

/// How the recipe's files are read.
pub fn read_options(recipe: &Recipe) -> ReadOptions {
    ReadOptions {
        format: match recipe.data.format {
            DataFormat::Auto => randori_data::Format::Auto,
            DataFormat::Messages => randori_data::Format::Messages,
            DataFormat::PromptResponse => randori_data::Format::Prompt,
            DataFormat::Alpaca => randori_data::Format::Alpaca,
            DataFormat::ShareGpt => randori_data::Format::ShareGpt,
            DataFormat::Spin => randori_data::Format::Spin,
            DataFormat::Preference => randori_data::Format::Preference,
            DataFormat::QuestionAnswer => randori_data::Format::Question,
            DataFormat::InputOutput => randori_data::Format::InputOutput,
            DataFormat::Text => randori_data::Format::Text,
        },
        columns: recipe.data.columns.clone(),
        turns: match recipe.data.turns {
            DataTurns::Last => randori_data::Turns::Last,
            DataTurns::Every => randori_data::Turns::Every,
        },
        calculator: match recipe.data.calculator {
            OnCalculator::Keep => randori_data::Calculator::Keep,
            OnCalculator::Remove => randori_data::Calculator::Remove,
        },
        bad_rows: bad_rows(recipe),
        limit: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_have_one_name_in_recipes_errors_and_docs() {
        let docs = include_str!("../../../docs/reference/data.md");
        let (_, table) = docs.split_once("| `data.format` |").unwrap();
        let (table, _) = table.split_once("\n\n").unwrap();
        let rows = table.lines().filter_map(|line| line.strip_prefix("| `"));
        let names: Vec<&str> = rows.filter_map(|row| row.split('`').next()).collect();
        assert_eq!(names.len(), 9, "{names:?}");
        for name in names {
            let recipe = Recipe::without_file(&[format!("data.format={name}")]).unwrap();
            assert_eq!(read_options(&recipe).format.name(), name);
        }
    }
}
