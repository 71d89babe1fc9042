//! The recipe's data: files to token ids, split by split, with what was dropped and why.

use anyhow::Result;
use randori_data::{
    BadRows, Choice, Counts, Encoded, Error, Left, Limits, Message, Policy, ReadOptions, Record,
    Tokenizer,
};
use randori_sdk::seam::LossFn;

use crate::aside::Aside;
use crate::data_rows::{
    TRIED, bad_row, bad_rows, key, read_options, read_with, records, unnamed, with_system,
};
use crate::model_files::Bounds;
use crate::recipe::{OnBad, OnIdentical, Recipe};
use crate::request::Split;
use crate::watch::Watch;

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
            Some(example) => Err(crate::data_rows::without_prompt(&example.place)),
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
