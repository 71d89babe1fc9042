//! Records as token ids under limits, and what is done with examples that teach nothing or the wrong thing.

use std::collections::BTreeSet;

use crate::tokenizer::REASONING;
use crate::unread::unread;
use crate::{BadRows, Counts, Error, Message, Opened, Place, Record, Result, Tokenizer};
use rayon::prelude::*;

/// Lengths in tokens that an example may have, and the tokens. The default has no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of the prompt.
    pub max_prompt: usize,
    /// Of a response, its end-of-turn included.
    pub max_response: usize,
    /// Of prompt and response together: the model's window.
    pub max_total: usize,
    /// Token ids that the model has a row for: those below this.
    pub vocabulary: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_prompt: usize::MAX,
            max_response: usize::MAX,
            max_total: usize::MAX,
            vocabulary: usize::MAX,
        }
    }
}

/// What to do with an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Use it.
    Keep,
    /// Leave it out and count it.
    Drop,
    /// Stop with an error that names it.
    Error,
}

impl std::str::FromStr for Choice {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        match name {
            "keep" => Ok(Self::Keep),
            "drop" => Ok(Self::Drop),
            "error" => Ok(Self::Error),
            other => Err(format!("`{other}` is none of keep, drop, error")),
        }
    }
}

/// What to do with each kind of doubtful example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// A response with nothing in it but its end.
    pub empty: Choice,
    /// A pair of the same tokens: its gradient is zero.
    pub identical: Choice,
    /// A generated (rejected) response cut at a limit. Kept ones have no end-of-turn.
    pub cut: Choice,
    /// A real response cut at a limit. A real response that never ends tells the two players apart by that alone.
    pub cut_real: Choice,
    /// A prompt over its limit; `Keep` cuts it on the left (after a beginning-of-text token).
    pub too_long: Choice,
    /// A conversation that the chat template refuses (two turns of one role, say).
    pub bad_rows: BadRows,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            empty: Choice::Drop,
            identical: Choice::Drop,
            cut: Choice::Keep,
            cut_real: Choice::Drop,
            too_long: Choice::Drop,
            bad_rows: BadRows::Error,
        }
    }
}

/// A rejected or generated response as token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Its ids, with the end-of-turn token unless it was cut.
    pub ids: Vec<u32>,
    /// Whether it was cut at a limit.
    pub cut: bool,
}

/// An example as token ids.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    /// The prompt's ids.
    pub prompt: Vec<u32>,
    /// The real response's ids, with the end-of-turn token unless it was cut.
    pub response: Vec<u32>,
    /// Whether the real response was cut at a limit.
    pub cut: bool,
    /// The other response of a pair.
    pub rejected: Option<Rejected>,
    /// What the file says the two responses of a pair are worth, the real one's first.
    pub rewards: Option<[f64; 2]>,
    /// Where the example was read.
    pub place: Place,
    /// Which of the records it is, from 0: for its text.
    pub record: usize,
}

/// Tokenises records, applies the limits, then [`screen`]s them. The order is kept.
///
/// # Errors
/// What the tokenizer and its template refuse, with the example's place; what a policy of `Error` says; and
/// [`Error::NothingLeft`] when records came in and none is left.
pub fn encode(
    records: &[Record],
    tokenizer: &Tokenizer,
    limits: &Limits,
    policy: &Policy,
) -> Result<(Vec<Encoded>, Counts)> {
    let mut counts = Counts {
        read: records.len(),
        ..Counts::default()
    };
    let fitted = records
        .par_iter()
        .enumerate()
        .map(|(index, record)| fit(record, index, tokenizer, limits, policy))
        .collect::<Vec<_>>();
    let mut examples = Vec::with_capacity(fitted.len());
    for fitted in fitted {
        let fitted = match fitted {
            Err(refused @ Error::Refused { .. }) if policy.bad_rows == BadRows::Drop => {
                counts.left.bad_rows += 1;
                counts.left.first_bad.get_or_insert(refused.to_string());
                continue;
            }
            other => other?,
        };
        let Some(fitted) = fitted else {
            counts.prompt_too_long += 1;
            continue;
        };
        for key in fitted.unread {
            *counts.unread.entry(key).or_default() += 1;
        }
        counts.prompt_shortened += usize::from(fitted.shortened);
        fitted.opened.iter().for_each(|what| counts.opened(*what));
        examples.push(fitted.example);
    }
    let examples = screen(examples, tokenizer, policy, &mut counts)?;
    if examples.is_empty() && !records.is_empty() {
        return Err(Error::NothingLeft(Box::new(counts)));
    }
    Ok((examples, counts))
}

/// An example within the limits.
struct Fitted {
    example: Encoded,
    /// Its prompt was shortened.
    shortened: bool,
    /// What open reasoning did to its answers.
    opened: Vec<Opened>,
    /// Keys that the chat template leaves out.
    unread: BTreeSet<String>,
}

/// An example as token ids; `None` where its prompt is too long and the policy drops it.
fn fit(
    record: &Record,
    index: usize,
    tokenizer: &Tokenizer,
    limits: &Limits,
    policy: &Policy,
) -> Result<Option<Fitted>> {
    let at = |e: Error| e.at(&record.place);
    let mut prompt = tokenizer
        .prompt_in(&record.prompt, &record.context)
        .map_err(at)?;
    // A prompt must leave room for one token of response.
    let longest = limits.max_prompt.min(limits.max_total.saturating_sub(1));
    let shortened = prompt.len() > longest;
    if shortened {
        match policy.too_long {
            Choice::Drop => return Ok(None),
            Choice::Keep => shorten(&mut prompt, longest, tokenizer.bos()),
            Choice::Error => {
                let what = format!(
                    "the prompt has {} tokens, at most {longest} are allowed",
                    prompt.len()
                );
                return Err(Error::example(&record.place, what));
            }
        }
    }
    let room = limits.max_response.min(limits.max_total - prompt.len());
    let mut opened = Vec::new();
    let mut answer = |message: &Message, ended: bool| {
        let response = tokenizer.response_in(&record.prompt, &record.context, message, ended);
        let response = response.map_err(at)?;
        opened.push(response.opened);
        Ok(limited(response.ids, room, !ended))
    };
    let (response, cut) = answer(&record.response, true)?;
    let rejected = match &record.rejected {
        None => None,
        Some(other) => {
            let (ids, cut) = answer(other, !record.rejected_cut)?;
            Some(Rejected { ids, cut })
        }
    };
    let example = Encoded {
        prompt,
        response,
        cut,
        rejected,
        rewards: record.rewards,
        place: record.place.clone(),
        record: index,
    };
    let rejected = example.rejected.iter().flat_map(|r| &r.ids);
    let all = example
        .prompt
        .iter()
        .chain(&example.response)
        .chain(rejected);
    tokenizer
        .below(limits.vocabulary, all)
        .map_err(|rule| Error::example(&record.place, rule))?;
    let mut unread = unread(record, tokenizer).map_err(at)?;
    let counted = |what: &Opened| matches!(what, Opened::Inside | Opened::Dropped);
    if opened.iter().any(counted) {
        unread.retain(|key| !REASONING.contains(&key.as_str()));
    }
    Ok(Some(Fitted {
        example,
        shortened,
        opened,
        unread,
    }))
}

/// Keeps the prompt's end, where the question and the generation prompt are, and its beginning-of-text token.
fn shorten(prompt: &mut Vec<u32>, longest: usize, bos: Option<u32>) {
    let first = prompt
        .first()
        .copied()
        .filter(|id| longest > 1 && Some(*id) == bos);
    let keep = longest - usize::from(first.is_some());
    prompt.drain(..prompt.len() - keep);
    if let Some(bos) = first {
        prompt.insert(0, bos);
    }
}

/// A response cut to the room there is: its end-of-turn goes with what is cut, never stays or comes back.
fn limited(mut ids: Vec<u32>, room: usize, cut: bool) -> (Vec<u32>, bool) {
    let over = ids.len() > room;
    ids.truncate(room);
    (ids, cut || over)
}

/// Counts empty, identical and cut examples and does with them what the policy says; counts what is kept. For
/// examples whose `rejected` came from a sampler as ids, this is the whole check: their text is never re-tokenised.
///
/// # Errors
/// What a policy of `Error` says, with the example's place.
pub fn screen(
    examples: Vec<Encoded>,
    tokenizer: &Tokenizer,
    policy: &Policy,
    counts: &mut Counts,
) -> Result<Vec<Encoded>> {
    let mut kept = Vec::with_capacity(examples.len());
    for example in examples {
        let faults = faults(&example, tokenizer);
        let mut keep = true;
        for fault in faults {
            let (count, choice, what) = match fault {
                Fault::EmptyReal => (
                    &mut counts.empty_real,
                    policy.empty,
                    "the response is empty",
                ),
                Fault::EmptyGenerated => (
                    &mut counts.empty_generated,
                    policy.empty,
                    "the generated (rejected) response is empty",
                ),
                Fault::Identical => (
                    &mut counts.identical,
                    policy.identical,
                    "both responses are the same",
                ),
                Fault::CutReal => (
                    &mut counts.cut_real,
                    policy.cut_real,
                    "the response is longer than allowed",
                ),
                Fault::CutGenerated => (
                    &mut counts.cut_generated,
                    policy.cut,
                    "the generated (rejected) response was cut",
                ),
            };
            *count += 1;
            match choice {
                Choice::Keep => {}
                Choice::Drop => keep = false,
                Choice::Error => return Err(Error::example(&example.place, what)),
            }
        }
        if keep {
            counts.kept += 1;
            counts.prompt_tokens += example.prompt.len();
            counts.real_tokens += example.response.len();
            counts.generated_tokens += example.rejected.as_ref().map_or(0, |r| r.ids.len());
            kept.push(example);
        }
    }
    Ok(kept)
}

#[derive(Clone, Copy)]
enum Fault {
    EmptyReal,
    EmptyGenerated,
    Identical,
    CutReal,
    CutGenerated,
}

fn faults(example: &Encoded, tokenizer: &Tokenizer) -> Vec<Fault> {
    let empty = |ids: &[u32]| tokenizer.decode(ids).trim().is_empty();
    let mut faults = Vec::new();
    if empty(&example.response) {
        faults.push(Fault::EmptyReal);
    }
    if example.cut {
        faults.push(Fault::CutReal);
    }
    if let Some(rejected) = &example.rejected {
        if empty(&rejected.ids) {
            faults.push(Fault::EmptyGenerated);
        }
        if rejected.ids == example.response {
            faults.push(Fault::Identical);
        }
        if rejected.cut {
            faults.push(Fault::CutGenerated);
        }
    }
    faults
}
