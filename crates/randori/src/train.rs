//! `randori train --pairs`: one iteration's training on anybody's pairs, the start as the
//! reference. With the logistic loss on chosen and rejected responses this is DPO.

use std::path::Path;

use anyhow::Result;
use randori_core::Iteration;
use randori_store::{JsonLines, Manifest, Open};

use crate::artefacts::Learnt;
use crate::check::Uses;
use crate::provenance::Provenance;
use crate::record::{PAIRS, Recorder};
use crate::request::Request;
use crate::session::{Opened, Session, short};
use crate::stages::scored;
use crate::training::run_training;
use crate::{check, folder, outbox, pairs, settings};

/// Trains (resumable, in `runs/NAME-train`) and writes the player to `out`.
pub fn train(
    request: &Request,
    file: &Path,
    iteration: usize,
    out: &Path,
    fresh: bool,
) -> Result<()> {
    let (mut recipe, adapter) = folder::player(request)?;
    let dir = request.runs.join(format!("{}-train", recipe.run.name));
    let reads = check::reads(&recipe, request, &adapter, Some(file));
    let to = outbox::player_folder(out, &dir, fresh, &reads)?;
    folder::refuse_if_held(&dir)?;
    let host = check::recipe(&recipe, request, &adapter, &Uses::paired(request, file))?;
    folder::settle(&mut recipe, &dir, fresh)?;
    check::model(&recipe, &host, &adapter)?;
    let opened = Opened::of(request, recipe, host)?;
    opened.check_adapter(&adapter)?;
    let loss = opened.setting.loss(iteration)?;
    let given = pairs::read(&opened.setting, file, Some(&*loss))?;
    pairs::check_rewards(&given.rows, loss.as_ref(), &opened.setting)?;
    let now = opened.setting.rules().iteration(iteration);
    settings::check_game_rates(&opened.setting.recipe, &now, given.rows.len())?;
    let session = opened.load(adapter)?;
    session.check_start()?;
    let seed = session.recipe.run.seed;
    let settings = settings::game(&session.recipe, &now, seed, given.rows.len());
    settings::say_unwarmed(&*session.watch, &session.recipe, "train.warmup", &settings);
    let how = if fresh { Open::Fresh } else { Open::Resume };
    let pairs = [(PAIRS.to_string(), randori_store::hash(file)?.sha256)];
    let mut run = session.run(&dir, seed, pairs.into(), how)?;
    let start = session.start(seed)?;
    let place = format!("iteration-{iteration}");
    let JsonLines(pairs) = run.stage(&place, "pairs", |workspace| {
        // by whoever ran `randori score`: that player is the reference; or nobody asks for it
        if given.scored || !loss.needs_ref() {
            return Ok(JsonLines(given.rows));
        }
        let (chunks, mut log) = workspace.items("scores")?;
        scored(
            &session,
            &start,
            given.rows,
            chunks,
            "reference log-probs",
            &mut |chunk| {
                log.push(chunk)?;
                Ok(log.sync()?)
            },
        )
    })?;
    let made = made(&session, run.manifest(), file, &now, pairs.len())?;
    let learnt: Learnt = run.stage(&place, "policy", |workspace| {
        let player = run_training(
            &session,
            start,
            settings,
            workspace,
            "policy",
            |trainer, on_step| trainer.train_pairs(&pairs, loss.as_ref(), on_step),
        )?;
        anyhow::Ok(Learnt::of(&player, &session.base_name, made))
    })?;
    outbox::player(&session, &learnt, out, &to)?;
    result!(
        session.watch,
        "{}: trained on {} pairs; metrics in {}",
        out.display(),
        pairs.len(),
        dir.join(place).display()
    );
    Ok(())
}

/// What made the start, and this training of it on so many pairs of `file`.
fn made(
    session: &Session,
    run: &Manifest,
    file: &Path,
    now: &Iteration,
    pairs: usize,
) -> Result<Provenance> {
    let name = short(&file.to_string_lossy());
    let recorder = Recorder::new(session, run, session.recipe.run.seed);
    let record = recorder.pairs(session, now, pairs, &name);
    Ok(Learnt::provenance_of(&session.stack())?.and(record))
}
