//! What a verb writes outside a run folder: a player in the form other tools read, whole or not at all.

use std::path::Path;

use anyhow::{Result, bail};
use randori_engine::Player;
use randori_engine::weights::Dtype;
use randori_export::{Companion, FolderOptions, Report};
use randori_store::Disk;

use crate::session::Session;
use crate::settings;

/// An existing folder with things in it is not ours to replace, unless it is an earlier result of the same kind.
pub fn refuse_taken(out: &Path) -> Result<()> {
    if !out.exists() {
        return Ok(());
    }
    let ours = ["adapter_config.json", "config.json"];
    let empty = out.is_dir() && std::fs::read_dir(out)?.next().is_none();
    if empty || ours.iter().any(|file| out.join(file).is_file()) {
        return Ok(());
    }
    bail!(
        "--out {}: something else is there; name a new folder",
        out.display()
    )
}

/// A PEFT adapter folder, or in full training a Hugging Face model folder.
pub fn player(session: &Session, player: &Player, out: &Path) -> Result<()> {
    match player.lora {
        Some(_) => adapter(session, player, out),
        None => model(
            session,
            player,
            settings::load_options(&session.recipe).dtype,
            out,
        )
        .map(drop),
    }
}

/// A PEFT adapter folder.
pub fn adapter(session: &Session, player: &Player, out: &Path) -> Result<()> {
    make_parent(out)?;
    Disk::new().replace(out, |fresh| {
        Ok(randori_export::adapter(player, fresh, &session.base_name)?)
    })?;
    Ok(())
}

/// A Hugging Face model folder, adapters merged in f32 and rounded once.
pub fn model(session: &Session, player: &Player, dtype: Dtype, out: &Path) -> Result<Report> {
    make_parent(out)?;
    let files = session.tokenizer.files()?;
    let companions: Vec<Companion> = files
        .into_iter()
        .map(|(name, bytes)| Companion::File(name, bytes))
        .collect();
    let options = FolderOptions {
        dtype,
        replace: true,
        ..FolderOptions::default()
    };
    let mut bar = session.console.stage("writing", 0, "MB");
    let report = randori_export::folder(player, &companions, out, &options, &mut |done, of| {
        bar.of((of / 1_000_000) as usize);
        bar.set((done / 1_000_000) as usize, 0);
    })?;
    bar.finish();
    Ok(report)
}

fn make_parent(out: &Path) -> Result<()> {
    match out.parent().filter(|p| !p.as_os_str().is_empty()) {
        Some(above) => Ok(Disk::new().folder(above)?),
        None => Ok(()),
    }
}
