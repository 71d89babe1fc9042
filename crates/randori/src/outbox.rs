//! What a verb writes outside a run folder: a player in the form other tools read, whole or not at
//! all.

use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use randori_export::{Companion, FolderOptions, InMemory, Merged, RoundTrip};
use randori_store::{Disk, Manifest, OutFiles, OutFolder};

use crate::artefacts::Learnt;
use crate::card::{self, Card, Form};
use crate::session::Session;
use crate::settings;

/// A folder that may be written at `out`: what is there was written by us, or nothing is.
pub fn folder(out: &Path) -> Result<OutFolder> {
    OutFolder::open(Disk::new(), out).context("--out")
}

/// A folder that may be written at `out` for the player of a run in `dir`, which is not begun
/// either where a rule is broken. `reads` is what the command reads.
///
/// # Errors
/// As [`refuse_run`], [`refuse_run_folder`], [`refuse_place`] and [`folder`], in this order.
pub fn player_folder(out: &Path, dir: &Path, fresh: bool, reads: &Reads) -> Result<OutFolder> {
    refuse_run(out, dir)?;
    refuse_run_folder(dir, fresh, reads)?;
    match resolved(out).starts_with(resolved(dir)) {
        true => refuse_taken(out, &reads.besides_data())?,
        false => refuse_taken(out, &reads.all)?,
    }
    refuse_parent(out, Some(dir))?;
    folder(out)
}

/// What a command reads, as far as paths tell.
pub struct Reads {
    /// Files, and folders with all in them.
    pub all: Vec<PathBuf>,
    /// Those of them that are folders of data: a run that lies there is not read.
    pub data: Vec<PathBuf>,
}

impl Reads {
    fn besides_data(&self) -> Vec<PathBuf> {
        let all = self.all.iter();
        all.filter(|read| !self.data.contains(read))
            .cloned()
            .collect()
    }
}

/// A file that may be written at `out`, and others `beside` it.
pub fn files(out: &Path, beside: &[PathBuf]) -> Result<OutFiles> {
    OutFiles::open(Disk::new(), out, beside).context("--out")
}

/// Refuses to write a player at `out` where it and the run in which it is trained (`dir`, which may
/// not be there yet) would lie in each other's way: asked before anything is trained. `dir/out` is
/// nobody else's.
fn refuse_run(out: &Path, dir: &Path) -> Result<()> {
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

/// A path from the root, as the operating system would find it: links followed, also one to what
/// is not there yet.
fn resolved(path: &Path) -> PathBuf {
    let whole = target(path);
    let whole = std::path::absolute(&whole).unwrap_or(whole);
    let mut place = PathBuf::new();
    for part in whole.components() {
        match part {
            Component::ParentDir => _ = place.pop(),
            part => place.push(part),
        }
        if let Ok(real) = place.canonicalize() {
            place = real;
        }
    }
    place
}

/// Where a link to nothing leads; the path itself where it is none.
fn target(path: &Path) -> PathBuf {
    let mut at = path.to_owned();
    for _ in 0..LINKS {
        match std::fs::read_link(&at) {
            Ok(to) if !at.exists() => at = at.parent().unwrap_or(Path::new("")).join(to),
            _ => break,
        }
    }
    at
}

/// Links that are followed one after another, as by Linux.
const LINKS: usize = 40;

/// Refuses a place, of a file or of a folder, where writing would take from the command what it
/// `reads` (files, and folders with all in them) or put something between it; one among the files
/// of a run, whose folder `out` alone is for others; and one in whose folder nothing can be
/// written.
///
/// # Errors
/// The place and what is there.
pub fn refuse_place(out: &Path, reads: &[PathBuf]) -> Result<()> {
    refuse_taken(out, reads)?;
    refuse_parent(out, None)
}

/// [`refuse_place`], wherever its folder is.
fn refuse_taken(out: &Path, reads: &[PathBuf]) -> Result<()> {
    let (shown, place) = (out.display(), resolved(out));
    let reads = || {
        reads
            .iter()
            .filter_map(|r| Some((r, r.canonicalize().ok()?)))
    };
    if let Some((read, _)) = reads().find(|(_, real)| real.starts_with(&place)) {
        bail!(
            "--out {shown}: {} is read by this command and would be lost; name a new place",
            read.display()
        );
    }
    if let Some(run) = run_around(&place).filter(|run| !place.starts_with(run.join("out"))) {
        bail!(
            "--out {shown}: it is a file of the run {}; name a new place",
            run.display()
        );
    }
    match reads().find(|(_, real)| place.starts_with(real)) {
        Some((read, _)) => bail!(
            "--out {shown}: it lies in {}, which is read by this command; name a new place",
            read.display()
        ),
        None => Ok(()),
    }
}

/// Refuses a place whose folder is not there or takes nothing. Of folders that are not there, only
/// those are made that a run makes: the ones around `run`, which is begun besides, and a run's
/// `out`.
///
/// # Errors
/// The place, the folder and why.
pub fn refuse_parent(out: &Path, run: Option<&Path>) -> Result<()> {
    let (shown, place) = (
        out.display(),
        out.canonicalize().unwrap_or_else(|_| target(out)),
    );
    if place.exists() && !place.is_file() && !place.is_dir() {
        return Ok(()); // a pipe or a device is written to as it is
    }
    let parent = folder_of(&place);
    let (above, found) = nearest(parent);
    if let Some(what) = found {
        let above = above.display();
        bail!("--out {shown}: {above} {what}, and nothing can lie in it; name a new place");
    }
    if above != parent && !is_made(parent, run) {
        bail!(
            "--out {shown}: there is no folder {}; make it, or name another place",
            parent.display()
        );
    }
    let inside = match above == parent {
        true => place.clone(),
        false => above.join("out"),
    };
    match Disk::new().check_room(&inside) {
        Ok(()) => Ok(()),
        Err(error) => bail!(
            "--out {shown}: nothing can be written in {}: {error}",
            above.display()
        ),
    }
}

/// The nearest folder on the way up from `folder` that is there, itself first; or else what is in a
/// folder's place, and why nothing can lie in it.
fn nearest(folder: &Path) -> (&Path, Option<&'static str>) {
    for above in folder.ancestors() {
        let above = or_here(above);
        match std::fs::metadata(above) {
            Ok(there) if there.is_dir() => return (above, None),
            Ok(_) => return (above, Some("is no folder")),
            Err(_) if above.is_symlink() => return (above, Some("is a link to nothing")),
            Err(_) => {}
        }
    }
    (Path::new("."), None)
}

/// Whether a folder that is not there is made by a run: see [`refuse_parent`].
fn is_made(folder: &Path, run: Option<&Path>) -> bool {
    let place = resolved(folder);
    let of_others = |run: &Path| place == run.join("out");
    run.map(resolved)
        .is_some_and(|run| run.starts_with(&place) || of_others(&run))
        || run_around(&place).is_some_and(of_others)
}

/// The folder that a file or folder lies in.
fn folder_of(place: &Path) -> &Path {
    or_here(place.parent().unwrap_or(place))
}

fn or_here(folder: &Path) -> &Path {
    match folder.as_os_str().is_empty() {
        true => Path::new("."),
        false => folder,
    }
}

/// Refuses a run's folder in which nothing can be written, or that holds something else.
fn refuse_no_room(dir: &Path) -> Result<()> {
    let (shown, (above, found)) = (dir.display(), nearest(dir));
    if let Some(what) = found {
        let above = above.display();
        bail!(
            "{shown}: {above} {what}, and no run can be kept in it; name another place with --runs"
        );
    }
    if let Err(error) = Disk::new().check_room(&above.join("run")) {
        bail!(
            "{shown}: nothing can be written in {}: {error}; name another place with --runs",
            above.display()
        );
    }
    Ok(randori_store::refuse_foreign(dir)?)
}

/// The innermost run folder that a path lies in.
fn run_around(place: &Path) -> Option<&Path> {
    let mut above = place.ancestors().skip(1);
    above.find(|folder| Manifest::is_in(folder))
}

/// Refuses to begin a run in `dir` where it would lie among the files of another or in a folder
/// that it `reads` (but of data), and to begin one afresh over what it reads; and a folder that
/// takes no run, or in which nothing can be written.
///
/// # Errors
/// Any of these, with both places.
pub fn refuse_run_folder(dir: &Path, fresh: bool, reads: &Reads) -> Result<()> {
    refuse_lost_run(dir, fresh, reads)?;
    refuse_no_room(dir)
}

/// [`refuse_run_folder`], whatever can be written there.
fn refuse_lost_run(dir: &Path, fresh: bool, reads: &Reads) -> Result<()> {
    let (shown, place) = (dir.display(), resolved(dir));
    if Manifest::read(dir)?.is_none() {
        if let Some(run) = run_around(&place) {
            bail!(
                "{shown}: a run would be begun among the files of the run {}; name another place with --runs",
                run.display()
            );
        }
        let holds = |read: &&PathBuf| {
            read.canonicalize()
                .is_ok_and(|real| place.starts_with(real))
        };
        return match reads.besides_data().iter().find(holds) {
            None => Ok(()),
            Some(read) => bail!(
                "{shown}: a run would be begun in {}, which is read by this command; name another place with --runs",
                read.display()
            ),
        };
    }
    // a player that was written there stays, and the recipe comes out as it was
    let kept = [place.join("out"), place.join("recipe.toml")];
    let stays = |real: &Path| kept.iter().any(|kept| real.starts_with(kept));
    let lost = |read: &&PathBuf| {
        let real = read.canonicalize();
        real.is_ok_and(|real| real.starts_with(&place) && !stays(&real))
    };
    match reads.all.iter().find(lost) {
        Some(read) if fresh => bail!(
            "--fresh: {} is read by this command, and lies in {shown}, which would be begun afresh; copy it to another place",
            read.display()
        ),
        _ => Ok(()),
    }
}

/// Refuses to write a file of results over a folder, where [`refuse_place`] does, or over something
/// else than earlier results of the verb, of which `earlier` decides.
pub fn refuse_loss(out: &Path, reads: &[PathBuf], earlier: fn(&Path) -> bool) -> Result<()> {
    if out.is_dir() {
        bail!(
            "--out {}: a file is written, and a folder is there; name a new place",
            out.display()
        );
    }
    refuse_place(out, reads)?;
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

/// Writes a file of results, whole or not at all. A link stays one, and what it names is replaced,
/// or made; a pipe or a device is written to as it is.
pub fn write_results(
    out: &Path,
    fill: impl FnOnce(&Path) -> Result<(), randori_store::BoxError>,
) -> Result<()> {
    let place = out.canonicalize().unwrap_or_else(|_| target(out));
    if place.exists() && !place.is_file() {
        return fill(&place).map_err(|e| anyhow::anyhow!("--out {}: {e}", out.display()));
    }
    make_parent(&place)?;
    Ok(Disk::new().replace(&place, fill)?)
}

/// Writes what was learnt in a training as a PEFT adapter folder, or in full training as a Hugging
/// Face model folder, at `out`, for which `to` was opened.
pub fn player(session: &Session, learnt: &Learnt, out: &Path, to: &OutFolder) -> Result<()> {
    make_parent(out)?;
    match learnt.lora {
        Some(_) => to.write(|fresh| {
            learnt.write_for_peft(fresh, &session.base.arch.dialect())?;
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
