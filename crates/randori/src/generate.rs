//! `randori generate`: one stage by hand, an answer to every prompt of a split as a JSONL file of
//! pairs.

use std::path::Path;

use anyhow::Result;

use crate::artefacts::Answer;
use crate::check::{self, Uses};
use crate::corpus::part;
use crate::figures::counted;
use crate::folder;
use crate::outbox;
use crate::request::{Request, Split};
use crate::session::Opened;
use crate::stages::{Draws, answers, write_rows};

/// Writes `out` once all answers are there.
pub fn generate(request: &Request, split: Split, iteration: usize, out: &Path) -> Result<()> {
    let (recipe, adapter) = folder::player(request)?;
    let keys = check::keys(&recipe, split)?;
    let uses = Uses::TALKER
        .data(&keys)
        .writes(out, outbox::are_rows::<Answer>);
    let host = check::recipe(&recipe, request, &adapter, &uses)?;
    let opened = Opened::of(request, recipe, host)?;
    let at_hand = &opened.setting;
    let (recipe, tokenizer) = (&at_hand.recipe, &at_hand.tokenizer);
    let part = part(recipe, tokenizer, split, at_hand.bounds, None)?;
    part.check_prompts()?;
    let session = opened.load(adapter)?;
    part.say(&*session.watch, "prompts");
    let samplers = session.samplers(&session.recipe.generate.sampling)?;
    let seed = folder::game_seed(request, &session.recipe)?;
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
        "{}: {}, {cut} cut at the limit, {same} equal to the human one",
        out.display(),
        counted(answers.len(), "answer")
    );
    Ok(())
}
