//! Anybody's pairs from a file: real and generated, chosen and rejected, or what `randori generate` and `randori
//! score` wrote, whose token ids are then taken as they are: text is never tokenised again.

use std::path::Path;

use anyhow::{Result, ensure};
use randori_data::{BadRows, Counts, Encoded, ReadOptions, Rejected};

use crate::artefacts::{Answer, PairRow};
use crate::corpus::{self, Part};
use crate::session::Session;
use crate::stages::rows_of;

/// Pairs under the recipe's limits and rules.
pub struct Pairs {
    /// In the file's order.
    pub rows: Vec<PairRow>,
    /// They came scored (`randori score`): the reference's log-probs are there.
    pub scored: bool,
}

/// Reads a file of pairs.
pub fn read(session: &Session, file: &Path) -> Result<Pairs> {
    if let Ok(rows) = randori_store::read_rows::<PairRow>(file) {
        for row in &rows {
            let ids = row.prompt.iter().chain(&row.real).chain(&row.generated);
            known(session, &row.place, ids)?;
        }
        session
            .console
            .say(format!("  {:<38} {} scored", "pairs", rows.len()));
        return Ok(Pairs { rows, scored: true });
    }
    let answers = randori_store::read_rows::<Answer>(file).ok();
    let mut options = corpus::read_options(&session.recipe);
    if answers.is_some() {
        // token ids stand beside the rows by number: none may be missing
        options = ReadOptions {
            bad_rows: BadRows::Error,
            ..options
        };
    }
    let (mut records, mut left) = randori_data::read(file, &options)?;
    if let Some(alone) = records.iter().find(|r| r.rejected.is_none()) {
        anyhow::bail!(
            "{}: not a pair: it needs two responses (`real` and `generated`, or `chosen` and `rejected`)",
            alone.place
        );
    }
    if let Some(answers) = &answers {
        ensure!(
            answers.len() == records.len(),
            "{}: {} answers with token ids, but {} pairs",
            file.display(),
            answers.len(),
            records.len()
        );
        left.unread.clear(); // read as answers
        records.iter_mut().for_each(|r| r.rejected = None);
    }
    if let Some(limit) = session.recipe.data.limit {
        records.truncate(limit);
    }
    let part = corpus::encode(
        &session.recipe,
        &session.tokenizer,
        &records,
        left,
        session.bounds,
        "data.train",
    )?;
    let (examples, counts) = match answers {
        None => (part.examples, part.counts),
        Some(answers) => with_answers(session, part, &answers)?,
    };
    session.console.say(format!("  {:<38} {counts}", "pairs"));
    Ok(Pairs {
        rows: rows_of(examples, 0),
        scored: false,
    })
}

/// Refuses token ids of another model's file that this model has no row for.
fn known<'a>(session: &Session, place: &str, ids: impl Iterator<Item = &'a u32>) -> Result<()> {
    let vocabulary = session.bounds.vocabulary;
    session
        .tokenizer
        .below(vocabulary, ids)
        .map_err(|rule| anyhow::anyhow!("{place}: {rule}"))
}

/// Puts the sampler's own token ids beside the real responses.
fn with_answers(
    session: &Session,
    part: Part,
    answers: &[Answer],
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
        known(session, &answer.place, answer.tokens.iter())?;
    }
    let pair = |e: Encoded| {
        let answer = answers.get(e.record)?;
        Some(Encoded {
            rejected: Some(Rejected {
                ids: answer.tokens.clone(),
                cut: answer.truncated,
            }),
            ..e
        })
    };
    let pairs = part.examples.into_iter().filter_map(pair).collect();
    let kept = randori_data::screen(
        pairs,
        &session.tokenizer,
        &corpus::policy(&session.recipe),
        &mut counts,
    )?;
    (counts.empty_real, counts.cut_real) = (empty_real, cut_real);
    Ok((kept, counts))
}
