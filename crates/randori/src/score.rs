//! `randori score`: one stage by hand, the log-probs of both responses of every pair under a
//! player.

use std::path::Path;

use anyhow::Result;

use crate::artefacts::PairRow;
use crate::check::{self, Uses};
use crate::figures::counted;
use crate::request::Request;
use crate::session::Opened;
use crate::stages::{scored, write_rows};
use crate::{folder, outbox, pairs};

/// Writes `out` once all pairs are scored.
pub fn score(request: &Request, file: &Path, out: &Path) -> Result<()> {
    let (recipe, adapter) = folder::player(request)?;
    let uses = Uses::PLAYER
        .pairs(file)
        .writes(out, outbox::are_rows::<PairRow>);
    let host = check::recipe(&recipe, request, &adapter, &uses)?;
    let opened = Opened::of(request, recipe, host)?;
    // no loss is asked: whoever trains on the file leaves out what theirs cannot use
    let rows = pairs::read(&opened.setting, file, None)?.rows;
    let session = opened.load(adapter)?;
    let player = session.player()?;
    let rows = scored(
        &session,
        &player,
        rows,
        Vec::new(),
        "log-probs",
        &mut |_| Ok(()),
    )?
    .0;
    outbox::write_results(out, |path| Ok(write_rows(path, &rows)?))?;
    let n = rows.len().max(1) as f64;
    let mean = |of: &dyn Fn(&PairRow) -> Option<f64>| rows.iter().filter_map(of).sum::<f64>() / n;
    result!(
        session.watch,
        "{}: {}, log p(real) {:.3}, log p(generated) {:.3} on average",
        out.display(),
        counted(rows.len(), "pair"),
        mean(&|r| r.ref_real),
        mean(&|r| r.ref_generated)
    );
    Ok(())
}
