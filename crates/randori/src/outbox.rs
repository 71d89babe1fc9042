//! What a verb writes outside a run folder: a player in the form other tools read, whole or not at
//! all.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use randori_export::{Companion, FolderOptions, InMemory, Merged, RoundTrip};
use randori_store::{Disk, OutFiles, OutFolder};

use crate::artefacts::Learnt;
use crate::card::{self, Card, Form};
use crate::session::Session;
use crate::settings;

/// A folder that may be written at `out`: what is there was written by us, or nothing is.
pub fn folder(out: &Path) -> Result<OutFolder> {
    OutFolder::open(Disk::new(), out).context("--out")
}

/// A file that may be written at `out`, and others `beside` it.
pub fn files(out: &Path, beside: &[PathBuf]) -> Result<OutFiles> {
    OutFiles::open(Disk::new(), out, beside).context("--out")
}

/// Refuses to write a player at `out` where it and the run in which it is trained (`dir`, which may
/// not be there yet) would lie in each other's way: asked before anything is trained. `dir/out` is
/// nobody else's.
pub fn refuse_run(out: &Path, dir: &Path) -> Result<()> {
    let (place, run) = (resolved(out), resolved(dir));
    let apart = !place.starts_with(&run) && !run.starts_with(&place);
    match apart || place.starts_with(run.join("out")) {
        true => Ok(()),
        false => bail!(
            "--out {}: the run itself is kept in {}; name a place outside it that does not hold it",
            out.display(),
            dir.display()
        ),
    }
}

/// A path from the root, links followed as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let there = |above: &Path| {
        let rest = whole.strip_prefix(above).ok()?;
        Some(above.canonicalize().ok()?.join(rest))
    };
    whole.ancestors().find_map(there).unwrap_or(whole)
}

/// Refuses to write a file of results over a folder, over one of the command's own inputs
/// (`inputs`), or inside a run folder, whose files are the run's.
fn refuse_results(out: &Path, inputs: &[PathBuf]) -> Result<()> {
    let shown = out.display();
    if out.is_dir() {
        bail!("--out {shown}: a file is written, and a folder is there; name a new place");
    }
    let Ok(whole) = out.canonicalize() else {
        return Ok(());
    };
    let same = |input: &&PathBuf| input.canonicalize().is_ok_and(|input| input == whole);
    if let Some(input) = inputs.iter().find(same) {
        bail!(
            "--out {shown}: {} is read by this command and would be lost; name a new place",
            input.display()
        );
    }
    for folder in whole.ancestors().skip(1) {
        if let Ok(Some(_)) = randori_store::Manifest::read(folder) {
            bail!(
                "--out {shown}: it is a file of the run {}; name a new place",
                folder.display()
            );
        }
    }
    Ok(())
}

/// Refuses to write results over a file that the verb reads (`inputs`), or over one with something
/// else than earlier results of the verb, of which `earlier` decides.
pub fn refuse_loss(out: &Path, inputs: &[PathBuf], earlier: fn(&Path) -> bool) -> Result<()> {
    refuse_results(out, inputs)?;
    let kept = std::fs::metadata(out).is_ok_and(|there| there.is_file() && there.len() > 0);
    match kept && !earlier(out) {
        true => bail!(
            "--out {}: something else is there, not earlier results of this verb, and would be lost; name a new place",
            out.display()
        ),
        false => Ok(()),
    }
}

/// Whether a file has one `T` on each line, as [`write_rows`](crate::stages::write_rows) writes
/// them.
pub fn are_rows<T: serde::de::DeserializeOwned>(path: &Path) -> bool {
    use std::io::BufRead;
    std::fs::File::open(path).is_ok_and(|file| {
        let mut lines = std::io::BufReader::new(file).lines();
        lines.all(|line| line.is_ok_and(|line| serde_json::from_str::<T>(&line).is_ok()))
    })
}

/// Writes a file of results, whole or not at all. A link stays one, and what it names is replaced;
/// a pipe or a device is written to as it is.
pub fn write_results(
    out: &Path,
    fill: impl FnOnce(&Path) -> Result<(), randori_store::BoxError>,
) -> Result<()> {
    let place = out.canonicalize().unwrap_or_else(|_| out.to_owned());
    if place.exists() && !place.is_file() {
        return fill(&place).map_err(|e| anyhow::anyhow!("--out {}: {e}", out.display()));
    }
    Ok(Disk::new().replace(&place, fill)?)
}

/// Writes what was learnt in a training as a PEFT adapter folder, or in full training as a Hugging
/// Face model folder, at `out`, for which `to` was opened.
pub fn player(session: &Session, learnt: &Learnt, out: &Path, to: &OutFolder) -> Result<()> {
    make_parent(out)?;
    match learnt.lora {
        Some(_) => to.write(|fresh| {
            learnt.write(fresh)?;
            let card = card_of(session, learnt, out, Form::Adapter, "A PEFT adapter".into())?;
            Ok(std::fs::write(fresh.join(card::FILE), card)?)
        })?,
        None => model(session, learnt, out, to)?,
    }
    Ok(())
}

/// The card of what was trained with the session's own recipe.
fn card_of(
    session: &Session,
    learnt: &Learnt,
    out: &Path,
    form: Form,
    how: String,
) -> Result<String> {
    let card = Card {
        recipe: &session.recipe,
        learnt,
        game: None,
        form,
        out,
        how,
        fidelity: None,
        remarks: Vec::new(),
        is_recipe_of_training: true,
    };
    card.text()
}

/// A Hugging Face model folder, adapters merged in f32 and rounded once.
fn model(session: &Session, learnt: &Learnt, path: &Path, out: &OutFolder) -> Result<()> {
    let dtype = settings::load_options(&session.recipe).dtype;
    let files = session.tokenizer.files()?;
    let companions: Vec<Companion> = files
        .into_iter()
        .map(|(name, bytes)| Companion::File(name, bytes))
        .collect();
    let options = FolderOptions {
        dtype,
        ..FolderOptions::default()
    };
    let mut bar = session.watch.stage("writing", 0, "MB");
    let player = &learnt.player(&session.base);
    let whole = InMemory { player, onto: None };
    let mut progress = |done, of| {
        bar.of((of / 1_000_000) as usize);
        bar.set((done / 1_000_000) as usize, 0);
    };
    let mut unheard = |_: &str, _: &Merged, _: &RoundTrip| Ok(());
    let how = format!("A Hugging Face folder in {}", dtype.tag().to_lowercase());
    let card = card_of(session, learnt, path, Form::Folder, how)?;
    out.write(|fresh| {
        randori_export::folder(
            &whole,
            &companions,
            fresh,
            &options,
            &mut unheard,
            &mut progress,
        )?;
        learnt.provenance.write(fresh)?;
        Ok(std::fs::write(fresh.join(card::FILE), card)?)
    })?;
    bar.finish();
    Ok(())
}

/// Makes the folder that `out` is to lie in.
pub fn make_parent(out: &Path) -> Result<()> {
    match out.parent().filter(|p| !p.as_os_str().is_empty()) {
        Some(above) => Ok(Disk::new().make_folder(above)?),
        None => Ok(()),
    }
}
