//! `randori generate`: one stage by hand, an answer to every prompt of a split as a JSONL file of
//! pairs.

use std::path::Path;

use anyhow::Result;

use crate::artefacts::Answer;
use crate::corpus::part;
use crate::outbox;
use crate::request::{Request, Split};
use crate::session::Session;
use crate::stages::{Draws, answers, write_rows};

/// Writes `out` once all answers are there.
pub fn generate(request: &Request, split: Split, iteration: usize, out: &Path) -> Result<()> {
    outbox::refuse_results(out, &[])?;
    let session = Session::open(request)?;
    outbox::refuse_loss(out, request, &session, outbox::are_rows::<Answer>)?;
    let part = part(
        &session.recipe,
        &session.tokenizer,
        split,
        session.bounds,
        None,
    )?;
    part.check_prompts()?;
    part.say(&*session.watch, "prompts");
    let samplers = session.samplers(&session.recipe.generate.sampling)?;
    let seed = session.recipe.run.seed;
    let player = session.player()?;
    let draws = Draws {
        seed,
        t: iteration,
        samplers: &samplers,
    };
    let answers = answers(
        &session,
        &player,
        &part,
        &draws,
        Vec::new(),
        "generated",
        &mut |_| Ok(()),
    )?
    .0;
    outbox::write_results(out, |path| Ok(write_rows(path, &answers)?))?;
    let cut = answers.iter().filter(|a| a.truncated).count();
    let same = answers.iter().filter(|a| a.generated == a.real).count();
    result!(
        session.watch,
        "{}: {} answers, {cut} cut at the limit, {same} equal to the human one",
        out.display(),
        answers.len()
    );
    Ok(())
}
