//! Anybody's pairs from a file: real and generated, chosen and rejected, or what `randori generate`
//! and `randori score` wrote, whose token ids are then taken as they are: text is never tokenised
//! again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use randori_data::{
    BadRows, Choice, Columns, Counts, Encoded, Left, Place, Policy, ReadOptions, Record, Rejected,
};
use randori_sdk::seam::LossFn;

use crate::artefacts::PairRow;
use crate::aside::Aside;
use crate::corpus::{self, Part};
use crate::data_rows;
use crate::figures::counted;
use crate::ids::{self, Drawn, Ids, Kind};
use crate::recipe::Recipe;
use crate::request::Split;
use crate::session::Setting;
use crate::stages::rows_of;

/// Pairs of the recipe's own data.
pub struct OfData {
    /// What is trained on.
    pub train: Vec<PairRow>,
    /// What is measured on.
    pub validation: Option<Vec<PairRow>>,
    /// What was kept aside of the training data.
    pub aside: Option<Aside>,
}

/// Pairs under the recipe's limits and rules.
pub struct Pairs {
    /// In the file's order.
    pub rows: Vec<PairRow>,
    /// They came scored (`randori score`): the reference's log-probs are there.
    pub scored: bool,
}

/// Looks at the first rows of a file of pairs: they are pairs. An empty file is left to [`read`].
///
/// # Errors
/// A file that cannot be read, or the first row that is no pair.
pub fn look(recipe: &Recipe, file: &Path) -> Result<()> {
    let there = std::fs::metadata(file).with_context(|| file.display().to_string())?;
    ensure!(
        !there.is_dir(),
        "--pairs {}: a folder is there, and one file is read; name the file",
        file.display()
    );
    if !there.is_file() || there.len() == 0 {
        return Ok(());
    }
    match ids::first(file)? {
        Kind::Text => refuse_single(&data_rows::first_rows(recipe, file)?),
        Kind::Pair | Kind::Answer => Ok(()),
    }
}

/// Looks at the first rows of the recipe's own data, as far as files here hold it: they are pairs.
///
/// # Errors
/// As [`look`].
pub fn look_at_data(recipe: &Recipe) -> Result<()> {
    for key in ["data.train", "data.validation"] {
        let files = data_rows::named(recipe, key).iter();
        for file in files
            .map(|text| recipe.path(text))
            .filter(|file| file.is_file())
        {
            refuse_single(&data_rows::first_rows(recipe, &file)?)
                .with_context(|| format!("{}: {key}", recipe.place(key)))?;
        }
    }
    Ok(())
}

/// Reads the pairs of the recipe's own data, which are trained on with `loss`.
///
/// # Errors
/// Whatever is wrong with the data; a row that is no pair.
pub fn of_data(setting: &Setting, loss: &dyn LossFn) -> Result<OfData> {
    let Setting {
        recipe, tokenizer, ..
    } = setting;
    let rules = corpus::policy(recipe, Some(loss));
    let read = |split| {
        let part = corpus::part(recipe, tokenizer, split, setting.bounds, Some(&rules))?;
        match part.examples.iter().find(|e| e.rejected.is_none()) {
            Some(alone) => Err(single(&alone.place)),
            None => Ok(part),
        }
    };
    let train = read(Split::Train)?;
    train.say(&*setting.watch, "pairs");
    setting.say_identical(&train.counts, loss);
    let validation = train.is_validated(recipe);
    let validation = validation.then(|| read(Split::Validation)).transpose()?;
    Ok(OfData {
        train: rows_of(train.examples, 0),
        validation: validation.map(|part| rows_of(part.examples, 0)),
        aside: train.aside,
    })
}

/// An error about a row with one response.
fn single(place: &Place) -> anyhow::Error {
    anyhow::anyhow!(
        "{place}: not a pair: it needs two responses (`real` and `generated`, or `chosen` and \
         `rejected`)"
    )
}

/// Refuses a row with one response.
fn refuse_single(records: &[Record]) -> Result<()> {
    match records.iter().find(|record| record.rejected.is_none()) {
        None => Ok(()),
        Some(alone) => Err(single(&alone.place)),
    }
}

/// Reads a file of pairs. `loss` is the one they are trained with, `None` where nobody trains.
pub fn read(setting: &Setting, file: &Path, loss: Option<&dyn LossFn>) -> Result<Pairs> {
    let mut rules = corpus::policy(&setting.recipe, loss);
    let answers = match ids::read(file)? {
        Ids::Pairs(rows) => return of_ids(setting, file, rows, &rules, loss),
        Ids::Answers(answers) => Some(answers),
        Ids::Text => None,
    };
    if answers.is_some() {
        say_columns_unread(setting, file);
    }
    let mut options = data_rows::read_options(&setting.recipe);
    if answers.is_some() {
        // token ids stand beside the rows by number: none may be missing
        options.bad_rows = BadRows::Error;
        options.columns = Columns::default();
        rules.bad_rows = BadRows::Error;
    }
    let (mut records, mut left) = rows_of_pairs(file, &options, answers.is_some())?;
    refuse_single(&records)?;
    if let Some(answers) = &answers {
        ensure!(
            answers.len() == records.len(),
            "{}: {} with token ids, but {}",
            file.display(),
            counted(answers.len(), "answer"),
            counted(records.len(), "pair")
        );
        left.unread.clear(); // read as answers
        records.iter_mut().for_each(|r| r.rejected = None);
    }
    if let Some(limit) = setting.recipe.data.limit {
        records.truncate(limit);
    }
    if let Some(answers) = &answers {
        refuse_other_tokens(setting, file, answers)?;
    }
    let part = corpus::encode(
        &setting.recipe,
        &setting.tokenizer,
        &records,
        left,
        setting.bounds,
        &format!("--pairs {}", file.display()),
        &rules,
    )?;
    let (examples, counts) = match answers {
        None => (part.examples, part.counts),
        Some(answers) => with_answers(setting, part, &answers, &rules)?,
    };
    some_left(file, examples.len(), &counts)?;
    setting.watch.say(format!("  {:<38} {counts}", "pairs"));
    if let Some(loss) = loss {
        setting.say_identical(&counts, loss);
    }
    Ok(Pairs {
        rows: rows_of(examples, 0),
        scored: false,
    })
}

/// Token ids are known by the names that our own files give them.
fn say_columns_unread(setting: &Setting, file: &Path) {
    if !setting.recipe.data.columns.0.is_empty() {
        setting.watch.note(format!(
            "{}: data.columns is not read for --pairs {}: its rows carry token ids, whose columns \
             keep their own names",
            setting.recipe.place("data.columns"),
            file.display()
        ));
    }
}

/// Pairs that came as token ids.
fn of_ids(
    setting: &Setting,
    file: &Path,
    rows: Vec<PairRow>,
    rules: &Policy,
    loss: Option<&dyn LossFn>,
) -> Result<Pairs> {
    say_columns_unread(setting, file);
    let (rows, counts) = with_ids(setting, file, rows, rules)?;
    let scored = rows
        .iter()
        .all(|r| r.ref_real.is_some() && r.ref_generated.is_some());
    let how = if scored { "scored" } else { "not scored" };
    setting
        .watch
        .say(format!("  {:<38} {counts}; {how}", "pairs"));
    if let Some(loss) = loss {
        setting.say_identical(&counts, loss);
    }
    Ok(Pairs { rows, scored })
}

/// The rows of a file; `whole`: beside token ids none may be left out, whatever the recipe says.
fn rows_of_pairs(file: &Path, options: &ReadOptions, whole: bool) -> Result<(Vec<Record>, Left)> {
    let read = randori_data::read(file, options);
    read.map_err(|error| match whole {
        true => anyhow::Error::from(error),
        false => data_rows::bad_row(error, options.bad_rows, || {
            data_rows::has_examples(file, options)
        }),
    })
}

/// Rows of token ids under the recipe's limits and rules. Log-probs may stand beside the ids, so
/// nothing is shortened: what is too long is dropped or refused.
fn with_ids(
    setting: &Setting,
    file: &Path,
    mut rows: Vec<PairRow>,
    rules: &Policy,
) -> Result<(Vec<PairRow>, Counts)> {
    let (data, window) = (&setting.recipe.data, setting.bounds.window);
    if let Some(limit) = data.limit {
        // of each iteration: a game's pairs hold an example once for every iteration of the window
        let mut seen: BTreeMap<usize, usize> = BTreeMap::new();
        rows.retain(|row| {
            let nth = seen.entry(row.iteration).or_default();
            *nth += 1;
            *nth <= limit
        });
    }
    let mut counts = Counts {
        read: rows.len(),
        ..Counts::default()
    };
    let mut pairs = Vec::with_capacity(rows.len());
    for (record, row) in rows.iter().enumerate() {
        let ids = row.prompt.iter().chain(&row.real).chain(&row.generated);
        known(setting, &row.place, ids)?;
        let longest = data.max_prompt_tokens.min(window.saturating_sub(1));
        if row.prompt.len() > longest {
            let said = format!(
                "the prompt has {}, at most {longest} are allowed",
                counted(row.prompt.len(), "token")
            );
            unless_dropped(setting, rules.too_long, "data.too_long", row, &said)?;
            counts.prompt_too_long += 1;
            continue;
        }
        let longest = data.max_response_tokens;
        let cut = row.real.len() > longest;
        if cut {
            let said = format!(
                "the real response has {}, at most {longest} are allowed",
                counted(row.real.len(), "token")
            );
            unless_dropped(setting, rules.cut_real, "data.cut_real", row, &said)?;
        }
        let tokens = row.prompt.len() + row.real.len().max(row.generated.len());
        ensure!(
            cut || tokens <= window,
            "{}: prompt and response have {tokens} tokens, the model's window is {window}",
            row.place
        );
        // the file does not say whether the answer was cut: one that was has no end of turn
        let ends = |id: &u32| setting.tokenizer.stop_ids().contains(id);
        pairs.push(Encoded {
            prompt: row.prompt.clone(),
            response: row.real.clone(),
            cut,
            rejected: Some(Rejected {
                ids: row.generated.clone(),
                cut: !row.generated.last().is_some_and(ends),
            }),
            rewards: row.rewards,
            place: place(row, file, record),
            record,
        });
    }
    let kept = randori_data::screen(pairs, &setting.tokenizer, rules, &mut counts)?;
    some_left(file, kept.len(), &counts)?;
    let kept: BTreeSet<usize> = kept.iter().map(|e| e.record).collect();
    let rows = rows.into_iter().enumerate();
    let rows = rows.filter(|(record, _)| kept.contains(record));
    Ok((rows.map(|(_, row)| row).collect(), counts))
}

/// Refuses a file of which no pair is `left`.
fn some_left(file: &Path, left: usize, counts: &Counts) -> Result<()> {
    let at = format!("--pairs {}", file.display());
    match left {
        0 if counts.read == 0 => anyhow::bail!("{at}: there is no pair in it"),
        0 => {
            let error = randori_data::Error::NothingLeft(Box::new(counts.clone()));
            Err(anyhow::Error::new(error).context(at))
        }
        _ => Ok(()),
    }
}

/// The error about a row that is too long, unless the rule leaves it out.
fn unless_dropped(
    setting: &Setting,
    rule: Choice,
    key: &str,
    row: &PairRow,
    said: &str,
) -> Result<()> {
    match rule {
        Choice::Drop => Ok(()),
        Choice::Error => anyhow::bail!("{}: {said}", row.place),
        Choice::Keep => {
            let rule = format!(
                "is \"keep\", but pairs of token ids are not shortened: take \"drop\" or \"error\" ({}: {said})",
                row.place
            );
            Err(setting.recipe.refuse(key, rule).into())
        }
    }
}

/// Where a row's example was read, by its own word; else its line in the file of pairs.
fn place(row: &PairRow, file: &Path, record: usize) -> Place {
    let own = row.place.rsplit_once(':');
    let own = own.and_then(|(file, line)| Some((file.to_string(), line.parse::<usize>().ok()?)));
    let (file, line) = own.unwrap_or_else(|| (file.display().to_string(), record + 1));
    Place { file, line }
}

/// Refuses token ids of another model's file that this model has no row for.
fn known<'a>(setting: &Setting, place: &str, ids: impl Iterator<Item = &'a u32>) -> Result<()> {
    let vocabulary = setting.bounds.vocabulary;
    setting
        .tokenizer
        .below(vocabulary, ids)
        .map_err(|rule| anyhow::anyhow!("{place}: {rule}"))
}

/// Token ids mean what they meant when they were drawn only with the same tokenizer: their text
/// must be the text that stands beside them.
fn refuse_other_tokens(setting: &Setting, file: &Path, answers: &[Drawn]) -> Result<()> {
    let other = |answer: &&Drawn| setting.tokenizer.decode(&answer.tokens) != answer.generated;
    match answers.iter().find(other) {
        None => Ok(()),
        Some(answer) => anyhow::bail!(
            "{}: the tokens of the answer to {} are not those of {:?} in this tokenizer: they were generated with another",
            file.display(),
            answer.place,
            answer.generated
        ),
    }
}

/// Puts the sampler's own token ids beside the real responses.
fn with_answers(
    setting: &Setting,
    part: Part,
    answers: &[Drawn],
    rules: &Policy,
) -> Result<(Vec<Encoded>, Counts)> {
    // real responses were looked at before, those that are gone since among them
    let (empty_real, cut_real) = (part.counts.empty_real, part.counts.cut_real);
    let mut counts = Counts {
        kept: 0,
        prompt_tokens: 0,
        real_tokens: 0,
        ..part.counts
    };
    for answer in answers {
        known(setting, &answer.place, answer.tokens.iter())?;
    }
    let pair = |e: Encoded| {
        let answer = answers.get(e.record)?;
        Some(Encoded {
            rejected: Some(Rejected {
                ids: answer.tokens.clone(),
                cut: answer.truncated,
            }),
            rewards: None, // nobody has given the answer one
            ..e
        })
    };
    let pairs = part.examples.into_iter().filter_map(pair).collect();
    let kept = randori_data::screen(pairs, &setting.tokenizer, rules, &mut counts)?;
    (counts.empty_real, counts.cut_real) = (empty_real, cut_real);
    Ok((kept, counts))
}

/// Holds the pairs' rewards against what the loss asks for, and says so where some have none and
/// the loss gets none.
///
/// # Errors
/// A loss that needs rewards, and the first pair without.
pub fn check_rewards(rows: &[PairRow], loss: &dyn LossFn, setting: &Setting) -> Result<()> {
    let Some(first) = rows.iter().find(|row| row.rewards.is_none()) else {
        return Ok(());
    };
    if loss.needs_reward() {
        let rule = format!(
            "is {:?}, which needs a reward of each response, and the pair from {} has none",
            loss.name(),
            first.place
        );
        return Err(setting.recipe.refuse("loss.name", rule).into());
    }
    let with = rows.iter().filter(|row| row.rewards.is_some()).count();
    if with > 0 {
        setting.watch.say(format!(
            "  {:<38} {with} of {} pairs have some; the loss gets none, as all must have them",
            "rewards",
            rows.len()
        ));
    }
    Ok(())
}
