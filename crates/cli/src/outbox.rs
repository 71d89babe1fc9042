//! What a verb writes outside a run folder: a player in the form other tools read, whole or not at all.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use randori_engine::Player;
use randori_engine::weights::Dtype;
use randori_export::{AsHeld, Companion, FolderOptions, Merged, Whole};
use randori_store::{Disk, OutFiles, OutFolder};

use crate::session::Session;
use crate::settings;

const CARD: &str = "README.md";
const TAG: &str = "randori";

/// A folder that may be written at `out`: what is there was written by us, or nothing is.
pub fn folder(out: &Path) -> Result<OutFolder> {
    OutFolder::open(Disk::new(), out).context("--out")
}

/// A file that may be written at `out`, and others `beside` it.
pub fn files(out: &Path, beside: &[PathBuf]) -> Result<OutFiles> {
    OutFiles::open(Disk::new(), out, beside).context("--out")
}

/// Refuses to write a file of results where a folder stands.
pub fn refuse_folder(out: &Path) -> Result<()> {
    match out.is_dir() {
        true => bail!(
            "--out {}: a file is written, and a folder is there; name a new place",
            out.display()
        ),
        false => Ok(()),
    }
}

/// The card of a folder that no run folder tells more about.
fn short_card(session: &Session, player: &Player) -> String {
    let library = match player.lora {
        Some(_) => "peft",
        None => "transformers",
    };
    format!(
        "---\nbase_model: {}\nlibrary_name: {library}\ntags:\n- \"{TAG}\"\n---\n\n# {}\n\nTrained from {} with randori {}.\n\n```toml\n{}```\n",
        serde_json::Value::from(session.base_name.as_str()),
        session.recipe.run.name,
        session.base_name,
        env!("CARGO_PKG_VERSION"),
        session.recipe.resolved(),
    )
}

/// Writes a PEFT adapter folder, or in full training a Hugging Face model folder, at `out`, for
/// which `to` was opened.
pub fn player(session: &Session, player: &Player, out: &Path, to: &OutFolder) -> Result<()> {
    make_parent(out)?;
    match player.lora {
        Some(_) => adapter(session, player, to),
        None => {
            let dtype = settings::load_options(&session.recipe).dtype;
            model(session, player, dtype, to)
        }
    }
}

/// A PEFT adapter folder.
fn adapter(session: &Session, player: &Player, out: &OutFolder) -> Result<()> {
    out.write(|fresh| {
        randori_export::adapter(player, fresh, &session.base_name)?;
        Ok(std::fs::write(
            fresh.join(CARD),
            short_card(session, player),
        )?)
    })?;
    Ok(())
}

/// A Hugging Face model folder, adapters merged in f32 and rounded once.
fn model(session: &Session, player: &Player, dtype: Dtype, out: &OutFolder) -> Result<()> {
    let files = session.tokenizer.files()?;
    let mut companions: Vec<Companion> = files
        .into_iter()
        .map(|(name, bytes)| Companion::File(name, bytes))
        .collect();
    let card = short_card(session, player).into_bytes();
    companions.push(Companion::File(CARD.into(), card));
    let options = FolderOptions {
        dtype,
        ..FolderOptions::default()
    };
    let mut bar = session.console.stage("writing", 0, "MB");
    let whole = Whole { player, onto: None };
    let mut progress = |done, of| {
        bar.of((of / 1_000_000) as usize);
        bar.set((done / 1_000_000) as usize, 0);
    };
    let mut unheard = |_: &str, _: &Merged, _: &AsHeld| Ok(());
    out.write(|fresh| {
        randori_export::folder(
            &whole,
            &companions,
            fresh,
            &options,
            &mut unheard,
            &mut progress,
        )?;
        Ok(())
    })?;
    bar.finish();
    Ok(())
}

/// Makes the folder that `out` is to lie in.
pub fn make_parent(out: &Path) -> Result<()> {
    match out.parent().filter(|p| !p.as_os_str().is_empty()) {
        Some(above) => Ok(Disk::new().folder(above)?),
        None => Ok(()),
    }
}
