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

const CARD: &str = "README.md";
/// Stands in the card of every folder and in the metadata of every GGUF that we write.
const TAG: &str = "randori";
/// A GGUF's own keys come first.
const HEAD: u64 = 1 << 12;

/// What lies at `out` is ours to replace only if it is an earlier result of ours of the same kind, a file or a folder:
/// never somebody's model.
pub fn refuse_taken(out: &Path, file: bool) -> Result<()> {
    if !out.exists() {
        return Ok(());
    }
    let ours = match (out.is_dir(), file) {
        (true, false) => {
            let card = std::fs::read_to_string(out.join(CARD)).unwrap_or_default();
            std::fs::read_dir(out)?.next().is_none() || card.contains(&format!("- \"{TAG}\""))
        }
        (false, true) => {
            let mut head = Vec::new();
            File::open(out)?.take(HEAD).read_to_end(&mut head)?;
            let has = |text: &str| head.windows(text.len()).any(|w| w == text.as_bytes());
            head.starts_with(b"GGUF") && has("general.tags") && has(TAG)
        }
        _ => false,
    };
    match ours {
        true => Ok(()),
        false => bail!(
            "--out {}: something else is there; name a new place",
            out.display()
        ),
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
        randori_export::adapter(player, fresh, &session.base_name)?;
        Ok(std::fs::write(
            fresh.join(CARD),
            short_card(session, player),
        )?)
    })?;
    Ok(())
}

/// A Hugging Face model folder, adapters merged in f32 and rounded once.
pub fn model(session: &Session, player: &Player, dtype: Dtype, out: &Path) -> Result<Report> {
    make_parent(out)?;
    let files = session.tokenizer.files()?;
    let mut companions: Vec<Companion> = files
        .into_iter()
        .map(|(name, bytes)| Companion::File(name, bytes))
        .collect();
    let card = short_card(session, player).into_bytes();
    companions.push(Companion::File(CARD.into(), card));
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
