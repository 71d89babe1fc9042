//! `randori plugins check`: an architecture held against a checkpoint, against itself, and against
//! every form in which its models are written.
//!
//! What is compared are summed log-probs of a few tokens, whose numbers have no meaning: an
//! architecture computes the same function of them or it does not. Weights are held in f32.

mod forms;
mod gradients;
mod row;
mod subject;

use std::path::Path;

use anyhow::{Result, bail};
use randori_host::Host;

use crate::recipe::Recipe;
use crate::request::Request;
use crate::session;
use crate::watch::Watch;
use row::{Row, Verdict};
use subject::Subject;

/// Prints a table of what was checked of the architecture `name`, on the model at `against`: a
/// Hugging Face folder, a GGUF file, or a configuration (`config.json`, or a folder with nothing
/// else), for which weights are made up.
///
/// # Errors
/// A model that the architecture cannot load; after the table, a check that failed.
pub fn check_plugin(request: &Request, name: &str, against: &Path) -> Result<()> {
    let recipe = Recipe::without_file(&request.set)?;
    let host = session::host(&recipe, request)?;
    let scratch = tempfile::tempdir()?;
    let watch = &*request.watch;
    let subject = Subject::open(&host, name, against, scratch.path(), watch)?;
    watch.result(format!("{}\n", subject.described()));
    let mut failed = 0;
    let mut put = |row: Row| {
        failed += usize::from(matches!(row.verdict, Verdict::Fails));
        watch.result(format!("{}\n", row.shown()));
    };
    for row in subject.checks() {
        put(row);
    }
    for row in written(&host, &subject, scratch.path(), watch)? {
        put(row);
    }
    match failed {
        0 => Ok(()),
        1 => bail!("{name}: 1 check failed"),
        n => bail!("{name}: {n} checks failed"),
    }
}

/// The checks of an adapted player: its gradients, and what is read back of what is written.
fn written(host: &Host, subject: &Subject, scratch: &Path, watch: &dyn Watch) -> Result<Vec<Row>> {
    let adapted = match subject.adapted() {
        Ok(adapted) => adapted,
        Err(e) => return Ok(vec![Row::of("LoRA", false, crate::one_line(&e))]),
    };
    let mut bar = watch.stage("gradients and files", 0, "checks");
    let gradients = Row::checked("gradients", gradients::check(subject, &adapted));
    let mut rows = vec![gradients];
    rows.extend(forms::check(
        host,
        subject,
        &adapted,
        scratch,
        &mut |done, of| {
            bar.of(of);
            bar.set(done, 0);
        },
    ));
    bar.finish();
    Ok(rows)
}
