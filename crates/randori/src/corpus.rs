//! The recipe's data: files to token ids, split by split, with what was dropped and why.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use randori_data::{
    BadRows, Choice, Counts, Encoded, Error, Left, Limits, Message, Policy, ReadOptions, Reader,
    Record, Tokenizer,
};
use randori_sdk::seam::LossFn;

use crate::aside::{Aside, aside};
use crate::builtin;
use crate::hub_data;
use crate::model_files::Bounds;
use crate::recipe::{
    DataFormat, DataTurns, OnBad, OnBadRow, OnCalculator, OnIdentical, Recipe, RecipeError,
};
use crate::request::Split;
use crate::watch::Watch;

/// The recipe's keys that name data.
pub const KEYS: [&str; 3] = ["data.train", "data.validation", "data.held_out"];
/// Rows of a file that are looked at before all are read.
const LOOKED_AT: usize = 8;
/// Rows of which one at least must be an example where bad ones may be left out.
const TRIED: usize = 64;

/// One split as token ids.
pub struct Part {
    /// Usable examples, in order.
    pub examples: Vec<Encoded>,
    /// Their prompts as conversations.
    pub prompts: Vec<Vec<Message>>,
    /// What their rows give the chat template besides.
    pub contexts: Vec<randori_data::Context>,
    /// What happened to the others.
    pub counts: Counts,
    /// What was kept aside of the training data as validation, if it was to be.
    pub aside: Option<Aside>,
}

impl Part {
    /// Says what became of the split's examples, which are called `what`.
    pub fn say(&self, watch: &dyn Watch, what: &str) {
        watch.say(format!("  {what:<38} {}", self.counts));
        if let Some(aside) = &self.aside {
            watch.note(aside.note());
        }
    }

    /// Refuses plain texts, which only supervised training can use.
    ///
    /// # Errors
    /// The place of the first.
    pub fn check_prompts(&self) -> Result<()> {
        let plain = self.prompts.iter().position(Vec::is_empty);
        match plain.and_then(|i| self.examples.get(i)) {
            None => Ok(()),
            Some(example) => anyhow::bail!(
                "{}: `text` alone has no prompt that a player could answer: only `randori sft` \
                 trains on it; for anything else, part it into a prompt and a response",
                example.place
            ),
        }
    }

    /// Whether the recipe has validation data; asked of its training data.
    pub fn is_validated(&self, recipe: &Recipe) -> bool {
        let kept = self.aside.as_ref().is_some_and(|aside| aside.kept > 0);
        kept || !recipe.data.validation.sets().is_empty()
    }
}

/// Reads, encodes and screens one split. The generated side of pairs in the files is left alone
/// unless `pairs`, the rules for pairs, is there: the game generates its own.
pub fn part(
    recipe: &Recipe,
    tokenizer: &Tokenizer,
    split: Split,
    bounds: Bounds,
    pairs: Option<&Policy>,
) -> Result<Part> {
    let (mut records, left, aside) = records(recipe, split)?;
    if pairs.is_none() {
        records.iter_mut().for_each(|r| r.rejected = None);
    }
    let key = key(recipe, split);
    let rules = pairs.copied().unwrap_or_else(|| policy(recipe, None));
    let at = format!("{}: {key}", recipe.place(key));
    let part = encode(recipe, tokenizer, &records, left, bounds, &at, &rules)?;
    Ok(Part { aside, ..part })
}

/// A few of the training examples, from the beginning of the first file.
pub fn few(
    recipe: &Recipe,
    tokenizer: &Tokenizer,
    bounds: Bounds,
    count: usize,
) -> Result<Vec<Encoded>> {
    let key = "data.train";
    let Some(file) = recipe.data.train.0.first() else {
        anyhow::bail!(unnamed(recipe, key));
    };
    let options = ReadOptions {
        limit: Some(8 * count), // some may be dropped
        ..read_options(recipe)
    };
    let (mut records, left) = read_with(recipe, file, key, &options)?;
    with_system(recipe, &mut records);
    records.iter_mut().for_each(|r| r.rejected = None);
    let rules = policy(recipe, None);
    let at = format!("{}: {key}", recipe.place(key));
    let mut part = encode(recipe, tokenizer, &records, left, bounds, &at, &rules)?;
    part.examples.truncate(count);
    Ok(part.examples)
}

/// Training examples of rows that lie evenly among all.
pub struct Sample {
    /// What of them can be used.
    pub examples: Vec<Encoded>,
    /// How many rows were looked at.
    pub looked_at: usize,
    /// How many there are.
    pub rows: usize,
}

/// Looks at `most` of the training rows, or at all if they are fewer; `pairs` as [`part`] takes it.
///
/// # Errors
/// As [`part`].
pub fn sample(
    recipe: &Recipe,
    tokenizer: &Tokenizer,
    bounds: Bounds,
    pairs: Option<&Policy>,
    most: usize,
) -> Result<Sample> {
    let (all, left, _) = records(recipe, Split::Train)?;
    let rows = all.len();
    let every = rows.div_ceil(most.max(1)).max(1);
    let mut records: Vec<Record> = all.into_iter().step_by(every).collect();
    if pairs.is_none() {
        records.iter_mut().for_each(|r| r.rejected = None);
    }
    let rules = pairs.copied().unwrap_or_else(|| policy(recipe, None));
    let at = format!("{}: data.train", recipe.place("data.train"));
    let part = encode(recipe, tokenizer, &records, left, bounds, &at, &rules)?;
    Ok(Sample {
        examples: part.examples,
        looked_at: records.len(),
        rows,
    })
}

/// Records as token ids under the recipe's limits; `left` is what reading them left out, `at` is
/// where their file is named, for errors, `rules` are for doubtful examples.
pub fn encode(
    recipe: &Recipe,
    tokenizer: &Tokenizer,
    records: &[Record],
    left: Left,
    bounds: Bounds,
    at: &str,
    rules: &Policy,
) -> Result<Part> {
    let limits = Limits {
        max_prompt: recipe.data.max_prompt_tokens,
        max_response: recipe.data.max_response_tokens,
        max_total: bounds.window,
        vocabulary: bounds.vocabulary,
    };
    let encoded = randori_data::encode(records, tokenizer, &limits, rules);
    let (examples, counts) = match encoded {
        Ok((examples, counts)) => (examples, counts.and(left)),
        Err(error) => {
            let error = match error {
                Error::NothingLeft(counts) => none_left(counts.and(left), &limits),
                refused @ Error::Refused { .. } => bad_row(refused, rules.bad_rows, || {
                    let some = &records[..records.len().min(TRIED)];
                    let rules = Policy {
                        bad_rows: BadRows::Drop,
                        ..*rules
                    };
                    randori_data::encode(some, tokenizer, &limits, &rules).is_ok()
                }),
                other => other.into(),
            };
            return Err(error.context(at.to_string()));
        }
    };
    let of = examples.iter().filter_map(|e| records.get(e.record));
    let (prompts, contexts) = of.map(|r| (r.prompt.clone(), r.context.clone())).unzip();
    Ok(Part {
        examples,
        prompts,
        contexts,
        counts,
        aside: None,
    })
}

/// An error about data of which no example is left, with the limits where some were too long.
fn none_left(counts: Counts, limits: &Limits) -> anyhow::Error {
    let long = counts.prompt_too_long + counts.cut_real > 0;
    let error = Error::NothingLeft(Box::new(counts));
    if !long {
        return error.into();
    }
    let all = [
        ("the model's window has", limits.max_total),
        ("data.max_prompt_tokens is", limits.max_prompt),
        ("data.max_response_tokens is", limits.max_response),
    ];
    let reached = |(_, most): &(&str, usize)| *most <= limits.max_total && *most < usize::MAX;
    let each = all.into_iter().filter(reached);
    let each: Vec<String> = each.map(|(what, most)| format!("{what} {most}")).collect();
    anyhow::anyhow!("{error}; in tokens, {}", each.join(", "))
}

/// The recipe's rules for doubtful examples. `loss` is the one that pairs are trained with, which
/// `data.identical = "auto"` asks; without a loss equal responses stay.
pub fn policy(recipe: &Recipe, loss: Option<&dyn LossFn>) -> Policy {
    let choice = |on: OnBad| match on {
        OnBad::Keep => Choice::Keep,
        OnBad::Drop => Choice::Drop,
        OnBad::Error => Choice::Error,
    };
    let d = &recipe.data;
    Policy {
        empty: choice(d.empty),
        identical: match d.identical {
            OnIdentical::Auto => match loss.is_some_and(|loss| loss.equal_pairs_cancel()) {
                true => Choice::Drop,
                false => Choice::Keep,
            },
            OnIdentical::Drop => Choice::Drop,
            OnIdentical::Keep => Choice::Keep,
            OnIdentical::Error => Choice::Error,
        },
        cut: choice(d.cut),
        cut_real: choice(d.cut_real),
        too_long: choice(d.too_long),
        bad_rows: bad_rows(recipe),
    }
}

/// What becomes of rows that are no example.
fn bad_rows(recipe: &Recipe) -> BadRows {
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
/// there.
///
/// # Errors
/// A file that cannot be read, or a row that is no example, at its place.
pub fn look(recipe: &Recipe, key: &str) -> Result<Vec<PathBuf>> {
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
                Ok(there) if there.is_file() => {
                    first_rows(recipe, &path).with_context(place)?;
                }
                Ok(_) => {} // whoever reads it says what it may be
                Err(_) => absent.push(path),
            }
        }
    }
    Ok(absent)
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
fn records(recipe: &Recipe, split: Split) -> Result<(Vec<Record>, Left, Option<Aside>)> {
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
fn with_system(recipe: &Recipe, records: &mut [Record]) {
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

fn read_with(
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
