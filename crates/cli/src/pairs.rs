//! Anybody's pairs from a file: real and generated, chosen and rejected, or what `randori generate` and `randori
//! score` wrote, whose token ids are then taken as they are: text is never tokenised again.

use std::path::Path;

use anyhow::Result;
use randori_data::{Counts, Encoded, Rejected};

use crate::artefacts::{Answer, PairRow};
use crate::corpus;
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
    let mut records = randori_data::read(file, &corpus::read_options(&session.recipe))?;
    if let Some(alone) = records.iter().find(|r| r.rejected.is_none()) {
        anyhow::bail!(
            "{}: not a pair: it needs two responses (`real` and `generated`, or `chosen` and `rejected`)",
            alone.place
        );
    }
    let answers = randori_store::read_rows::<Answer>(file)
        .ok()
        .filter(|a| a.len() == records.len());
    if answers.is_some() {
        records.iter_mut().for_each(|r| r.rejected = None);
    }
    if let Some(limit) = session.recipe.data.limit {
        records.truncate(limit);
    }
    let part = corpus::encode(
        &session.recipe,
        &session.tokenizer,
        &records,
        session.bounds,
        "data.train",
    )?;
    let (examples, counts) = match answers {
        None => (part.examples, part.counts),
        Some(answers) => with_answers(session, part.examples, &answers)?,
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
    examples: Vec<Encoded>,
    answers: &[Answer],
) -> Result<(Vec<Encoded>, Counts)> {
    let mut counts = Counts {
        read: answers.len(),
        ..Counts::default()
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
    let pairs = examples.into_iter().filter_map(pair).collect();
    let kept = randori_data::screen(
        pairs,
        &session.tokenizer,
        &corpus::policy(&session.recipe),
        &mut counts,
    )?;
    Ok((kept, counts))
}
