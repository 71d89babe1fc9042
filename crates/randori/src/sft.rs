//! `randori sft`: supervised fine-tuning on the recipe's training data, from a model or from random
//! weights.

use std::path::{Path, PathBuf};

use anyhow::Result;
use randori_store::Open;

use crate::artefacts::Learnt;
use crate::check::Uses;
use crate::corpus::part;
use crate::record::Recorder;
use crate::request::{Request, Split};
use crate::session::Opened;
use crate::{check, folder, inputs, measure, outbox, settings, supervised};

/// Trains (resumable, in `runs/NAME-sft`) and writes the player to `out`, by default in that
/// folder; returns where it is.
pub fn sft(request: &Request, out: Option<&Path>, fresh: bool) -> Result<PathBuf> {
    let (mut recipe, adapter) = folder::player(request)?;
    let dir = request.runs.join(format!("{}-sft", recipe.run.name));
    let out = out.map_or_else(|| dir.join("out"), Path::to_path_buf);
    let reads = check::reads(&recipe, request, &adapter, None);
    let to = outbox::player_folder(&out, &dir, fresh, &reads)?;
    folder::refuse_if_held(&dir)?;
    let host = check::recipe(&recipe, request, &adapter, &Uses::SUPERVISED)?;
    folder::settle(&mut recipe, &dir, fresh)?;
    check::model(&recipe, &host, &adapter)?;
    folder::settle_data(&mut recipe, &dir, fresh)?;
    folder::refuse_other_recipe(&dir, &recipe, &host, recipe.run.seed, fresh)?;
    let opened = Opened::of(request, recipe, host)?;
    opened.check_adapter(&adapter)?;
    let at_hand = &opened.setting;
    let (recipe, tokenizer) = (&at_hand.recipe, &at_hand.tokenizer);
    let train = part(recipe, tokenizer, Split::Train, at_hand.bounds, None)?;
    settings::check_rates(recipe, train.examples.len(), true)?;
    let session = opened.load(adapter)?;
    session.check_start()?;
    let (recipe, tokenizer) = (&session.recipe, &session.tokenizer);
    train.say(&*session.watch, "training data");
    let validation = train
        .is_validated(recipe)
        .then(|| part(recipe, tokenizer, Split::Validation, session.bounds, None))
        .transpose()?;
    let seed = recipe.run.seed;
    let how = if fresh { Open::Fresh } else { Open::Resume };
    let data = inputs::data(recipe, train.aside.as_ref())?;
    let mut run = session.run(&dir, seed, data, how)?;
    let made = Learnt::provenance_of(&session.stack())?;
    let recorder = Recorder::new(&session, run.manifest(), seed);
    let learnt: Learnt = run.stage("sft", "policy", |workspace| {
        let settings = settings::sft(recipe, seed, train.examples.len());
        settings::say_unwarmed(&*session.watch, recipe, "sft.warmup", &settings);
        let record = recorder.supervised(&settings, train.examples.len());
        let player = supervised::fine_tune(
            &session,
            session.start(seed)?,
            &train,
            settings,
            workspace,
            "supervised",
        )?;
        anyhow::Ok(Learnt::of(&player, &session.base_name, made.and(record)))
    })?;
    if let Some(validation) = validation {
        let nll = measure::nll(
            &session,
            &learnt.player(&session.base),
            &validation,
            "validation",
        )?;
        result!(session.watch, "validation NLL {nll:.4} nats a token");
    }
    outbox::player(&session, &learnt, &out, &to)?;
    result!(
        session.watch,
        "{}: metrics in {}",
        out.display(),
        dir.join("sft").display()
    );
    Ok(out)
}
