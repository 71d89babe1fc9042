//! `randori train`: one iteration's training on anybody's pairs, the recipe's own or those of a
//! file, with the start as the reference. With the logistic loss on chosen and rejected responses
//! this is DPO.

use std::path::Path;

use anyhow::Result;
use randori_core::{Iteration, PairLogps, Signals};
use randori_engine::Player;
use randori_sdk::seam::LossFn;
use randori_store::{JsonLines, Manifest, Open, Workspace};

use crate::artefacts::{Learnt, PairRow, Pairs};
use crate::check::Uses;
use crate::figures::counted;
use crate::inputs::{self, Hashes};
use crate::provenance::Provenance;
use crate::record::{PAIRS, Recorder};
use crate::request::Request;
use crate::session::{Opened, Session, Setting, short};
use crate::stages::scored;
use crate::training::run_training;
use crate::{check, folder, outbox, pairs, settings};

/// Trains (resumable, in `runs/NAME-train`) and writes the player to `out`. The pairs are those of
/// `file`, all of them, or else of the recipe's data, and then measured on its validation data.
pub fn train(
    request: &Request,
    file: Option<&Path>,
    iteration: usize,
    out: &Path,
    fresh: bool,
) -> Result<()> {
    let (mut recipe, adapter) = folder::player(request)?;
    let dir = request.runs.join(format!("{}-train", recipe.run.name));
    let reads = check::reads(&recipe, request, &adapter, file);
    let to = outbox::player_folder(out, &dir, fresh, &reads)?;
    folder::refuse_if_held(&dir)?;
    let uses = file.map_or(Uses::OF_PAIRS, |file| Uses::paired(request, file));
    let host = check::recipe(&recipe, request, &adapter, &uses)?;
    folder::settle(&mut recipe, &dir, fresh)?;
    check::model(&recipe, &host, &adapter)?;
    if file.is_none() {
        folder::settle_data(&mut recipe, &dir, fresh)?;
    }
    folder::refuse_other_recipe(&dir, &recipe, &host, recipe.run.seed, fresh)?;
    let opened = Opened::of(request, recipe, host)?;
    opened.check_adapter(&adapter)?;
    let loss = opened.setting.loss(iteration)?;
    let given = Given::read(&opened.setting, file, &*loss)?;
    pairs::check_rewards(&given.rows, loss.as_ref(), &opened.setting)?;
    let now = opened.setting.rules().iteration(iteration);
    settings::check_game_rates(&opened.setting.recipe, &now, given.rows.len())?;
    let session = opened.load(adapter)?;
    session.check_start()?;
    let seed = session.recipe.run.seed;
    let settings = settings::game(&session.recipe, &now, seed, given.rows.len());
    settings::say_unwarmed(&*session.watch, &session.recipe, "train.warmup", &settings);
    let how = if fresh { Open::Fresh } else { Open::Resume };
    let mut run = session.run(&dir, seed, given.hashes, how)?;
    let start = session.start(seed)?;
    let place = format!("iteration-{iteration}");
    let JsonLines(pairs) = run.stage(&place, "pairs", |workspace| {
        // by whoever ran `randori score`: that player is the reference; or nobody asks for it
        match given.scored || !loss.needs_ref() {
            true => Ok(JsonLines(given.rows)),
            false => referenced(&session, &start, given.rows, workspace),
        }
    })?;
    let made = made(&session, run.manifest(), file, &now, pairs.len())?;
    let learnt: Learnt = run.stage(&place, "policy", |workspace| {
        let player = run_training(
            &session,
            start.clone(),
            settings,
            workspace,
            "policy",
            |trainer, on_step| trainer.train_pairs(&pairs, loss.as_ref(), on_step),
        )?;
        anyhow::Ok(Learnt::of(&player, &session.base_name, made))
    })?;
    if let Some(validation) = given.validation {
        let player = learnt.player(&session.base);
        let said = measured(&session, [&start, &player], validation, now.beta)?;
        result!(session.watch, "{said}");
    }
    outbox::player(&session, &learnt, out, &to)?;
    result!(
        session.watch,
        "{}: trained on {}; metrics in {}",
        out.display(),
        counted(pairs.len(), "pair"),
        dir.join(place).display()
    );
    Ok(())
}

/// What is trained on.
struct Given {
    rows: Vec<PairRow>,
    /// The reference's log-probs are there.
    scored: bool,
    /// Pairs that are measured on.
    validation: Option<Vec<PairRow>>,
    /// Of the files that all of it was read from, for the manifest.
    hashes: Hashes,
}

impl Given {
    fn read(setting: &Setting, file: Option<&Path>, loss: &dyn LossFn) -> Result<Given> {
        if let Some(file) = file {
            let pairs = pairs::read(setting, file, Some(loss))?;
            let hash = randori_store::hash(file)?.sha256;
            return Ok(Given {
                rows: pairs.rows,
                scored: pairs.scored,
                validation: None,
                hashes: [(PAIRS.to_string(), hash)].into(),
            });
        }
        let pairs = pairs::of_data(setting, loss)?;
        Ok(Given {
            rows: pairs.train,
            scored: false,
            validation: pairs.validation,
            hashes: inputs::data(&setting.recipe, pairs.aside.as_ref())?,
        })
    }
}

/// The pairs with the start's log-probs; a stage that was killed goes on.
fn referenced(
    session: &Session,
    start: &Player,
    rows: Vec<PairRow>,
    workspace: &mut Workspace,
) -> Result<Pairs> {
    let (chunks, mut log) = workspace.items("scores")?;
    let label = "reference log-probs";
    scored(session, start, rows, chunks, label, &mut |chunk| {
        log.push(chunk)?;
        Ok(log.sync()?)
    })
}

/// How well a player tells the better answer of each pair from the other, measured against the
/// start as in a game: in words.
fn measured(
    session: &Session,
    [start, player]: [&Player; 2],
    rows: Vec<PairRow>,
    beta: f64,
) -> Result<String> {
    let label = "validation: reference log-probs";
    let JsonLines(rows) = scored(session, start, rows, Vec::new(), label, &mut |_| Ok(()))?;
    let label = "validation: log-probs";
    let own = scored(
        session,
        player,
        rows.clone(),
        Vec::new(),
        label,
        &mut |_| Ok(()),
    )?;
    let both = rows.iter().zip(&own.0);
    let pairs: Vec<PairLogps> = both
        .map(|(start, own)| PairLogps {
            policy_real: own.ref_real.unwrap_or(f64::NAN),
            policy_generated: own.ref_generated.unwrap_or(f64::NAN),
            opponent_real: start.ref_real.unwrap_or(f64::NAN),
            opponent_generated: start.ref_generated.unwrap_or(f64::NAN),
            real_tokens: own.real.len(),
            generated_tokens: own.generated.len(),
        })
        .collect();
    let Signals {
        margin, accuracy, ..
    } = Signals::of(&pairs, beta);
    Ok(format!(
        "validation: margin {margin:.4}, accuracy {accuracy:.3} on {}, against the start",
        counted(pairs.len(), "pair")
    ))
}

/// What made the start, and this training of it on so many pairs, those of `file` or of the
/// recipe's data.
fn made(
    session: &Session,
    run: &Manifest,
    file: Option<&Path>,
    now: &Iteration,
    pairs: usize,
) -> Result<Provenance> {
    let name = file.map(|file| short(&file.to_string_lossy()));
    let recorder = Recorder::new(session, run, session.recipe.run.seed);
    let record = recorder.pairs(session, now, pairs, name.as_deref());
    Ok(Learnt::provenance_of(&session.stack())?.and(record))
}
