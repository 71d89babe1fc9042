//! What a verb writes outside a run folder: a player in the form other tools read, whole or not at all.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Result, bail};
use randori_engine::Player;
use randori_engine::weights::Dtype;
use randori_export::{AsHeld, Companion, FolderOptions, Merged, Report, Whole};
use randori_store::Disk;

use crate::session::Session;
use crate::settings;

/// An existing file, or folder with things in it, is not ours to replace, unless it is an earlier result of the same kind.
pub fn refuse_taken(out: &Path) -> Result<()> {
    if !out.exists() {
        return Ok(());
    }
    let ours = ["adapter_config.json", "config.json"];
    let empty = out.is_dir() && std::fs::read_dir(out)?.next().is_none();
    let gguf = || {
        let mut magic = [0; 4];
        let read = File::open(out).and_then(|mut file| file.read_exact(&mut magic));
        read.is_ok() && &magic == b"GGUF"
    };
    if empty || ours.iter().any(|file| out.join(file).is_file()) || (out.is_file() && gguf()) {
        return Ok(());
    }
    bail!(
        "--out {}: something else is there; name a new place",
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
    let whole = Whole { player, onto: None };
    let mut progress = |done, of| {
        bar.of((of / 1_000_000) as usize);
        bar.set((done / 1_000_000) as usize, 0);
    };
    let mut unheard = |_: &str, _: &Merged, _: &AsHeld| Ok(());
    let report = randori_export::folder(
        &whole,
        &companions,
        out,
        &options,
        &mut unheard,
        &mut progress,
    )?;
    bar.finish();
    Ok(report)
}

/// Makes the folder that `out` is to lie in.
pub fn make_parent(out: &Path) -> Result<()> {
    match out.parent().filter(|p| !p.as_os_str().is_empty()) {
        Some(above) => Ok(Disk::new().folder(above)?),
        None => Ok(()),
    }
}
