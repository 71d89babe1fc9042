//! Anybody's pairs from a file: real and generated, or chosen and rejected.

use std::path::Path;

use anyhow::Result;

use crate::artefacts::PairRow;
use crate::corpus;
use crate::game::rows_of;
use crate::session::Session;

/// Reads and encodes a file of pairs under the recipe's limits and rules; log-probs are not there yet.
pub fn read(session: &Session, file: &Path) -> Result<Vec<PairRow>> {
    let mut records = randori_data::read(file, &corpus::read_options(&session.recipe))?;
    if let Some(alone) = records.iter().find(|r| r.rejected.is_none()) {
        anyhow::bail!(
            "{}: not a pair: it needs two responses (`real` and `generated`, or `chosen` and `rejected`)",
            alone.place
        );
    }
    if let Some(limit) = session.recipe.data.limit {
        records.truncate(limit);
    }
    let part = corpus::encode(
        &session.recipe,
        &session.tokenizer,
        &records,
        session.window,
        "data.train",
    )?;
    session
        .console
        .say(format!("  {:<26} {}", "pairs", part.counts));
    Ok(rows_of(part.examples, 0))
}
