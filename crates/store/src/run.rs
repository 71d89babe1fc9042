//! An open run folder: begins or resumes a run, restores finished stages, records new ones.

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
    time::Instant,
};

use randori_core::{Journal, Keeps, Stage};
use serde::Serialize;

use crate::{
    Artefact, Board, Desk, Disk, Done, Error, Lock, Manifest, Result, RunSpec,
    clear::{clear, files_of},
    desk::{CHECKPOINT, metrics_file},
    disk::{is_hidden, list},
    hash, json,
    kept::load_done,
    manifest::FILE,
};

/// Name of iteration `t`'s folder: `iter-0`.
pub fn place_of(t: usize) -> String {
    format!("iter-{t}")
}

/// What to do with a run that exists already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Open {
    /// Resume it; refuse if the recipe or an input has changed, except for keys that may
    /// ([`RunSpec::free`], [`RunSpec::noted`]).
    #[default]
    Resume,
    /// Remove what earlier runs wrote (and nothing else) and begin again.
    Fresh,
}

/// An open run folder, locked against other processes.
#[derive(Debug)]
pub struct Run {
    dir: PathBuf,
    disk: Disk,
    manifest: Manifest,
    board: Option<Board>,
    left: Vec<PathBuf>,
    _lock: Lock,
}

impl Run {
    /// Begins a run in `dir`, or resumes the one that is there.
    pub fn open(dir: &Path, spec: &RunSpec, how: Open) -> Result<Run> {
        Run::open_on(Disk::new(), dir, spec, how)
    }

    /// [`Run::open`] on a disk that may have a gate, for fault injection.
    pub fn open_on(disk: Disk, dir: &Path, spec: &RunSpec, how: Open) -> Result<Run> {
        refuse_foreign(dir)?;
        disk.folder(dir)?;
        let lock = Lock::take(dir)?;
        let mut left = Vec::new();
        let manifest = match (Manifest::read(dir)?, how) {
            (None, _) => begin(&disk, dir, spec)?,
            (Some(old), how) if how == Open::Fresh || old.clearing => {
                left = clear(&disk, dir, old)?;
                begin(&disk, dir, spec)?
            }
            (Some(_), _) => resume(&disk, dir, spec)?,
        };
        let run = Run {
            dir: dir.to_owned(),
            disk,
            manifest,
            board: None,
            left,
            _lock: lock,
        };
        run.sweep()?;
        Ok(run)
    }

    /// The run folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Files that a fresh start found in the old run's folders and left there, since no stage wrote
    /// them.
    pub fn left(&self) -> &[PathBuf] {
        &self.left
    }

    /// The current manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Path of a place, e.g. of [`place_of`]`(0)`; it may not exist yet.
    pub fn place(&self, place: &str) -> PathBuf {
        self.dir.join(place)
    }

    /// Whether a stage is finished.
    pub fn done(&self, place: &str, stage: &str) -> bool {
        self.manifest.done(place, stage).is_some()
    }

    /// Loads the artefact of a finished stage, after verifying its hash.
    pub fn load<A: Artefact>(&self, place: &str, stage: &str) -> Result<A> {
        load_done(&self.dir, &self.manifest, place, stage)
    }

    /// Runs a stage, saves its artefact, marks the stage finished, and returns the artefact as read
    /// back from disk. A finished stage is made anew; the stages after it are the caller's
    /// business.
    pub fn record<A: Artefact, E: From<Error>>(
        &mut self,
        place: &str,
        stage: &str,
        make: impl FnOnce(&mut Desk) -> std::result::Result<A, E>,
    ) -> std::result::Result<A, E> {
        let begun = Instant::now();
        let file = A::file_name(stage);
        self.begin_stage(place, stage, &file)?;
        let kept = self.describe_saved();
        let mut desk = Desk::new(
            &self.disk,
            &self.dir,
            place,
            stage,
            kept.clone(),
            self.board.clone(),
        );
        let made = make(&mut desk)?;
        desk.sync()?;
        self.disk
            .replace(&self.place(place).join(&file), |fresh| made.save(fresh))
            .map_err(|error| error.keeping(|| desk.describe_saved()))?;
        drop(made);
        self.finish_stage(place, stage, file, desk.written(), begun)
            .map_err(|error| error.keeping(|| kept))?;
        Ok(self.load(place, stage)?)
    }

    /// Restores a finished stage, or runs and records it.
    pub fn stage<A: Artefact, E: From<Error>>(
        &mut self,
        place: &str,
        stage: &str,
        make: impl FnOnce(&mut Desk) -> std::result::Result<A, E>,
    ) -> std::result::Result<A, E> {
        match self.done(place, stage) {
            true => Ok(self.load(place, stage)?),
            false => self.record(place, stage, make),
        }
    }

    /// Writes a file beside the manifest (`report.html`), atomically.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.claim(name)?;
        let kept = self.describe_saved();
        self.disk
            .write(&self.dir.join(name), bytes)
            .map_err(|error| error.keeping(|| kept))
    }

    /// Writes a file beside the manifest as indented JSON (`summary.json`), atomically.
    pub fn write_json<T: Serialize>(&mut self, name: &str, value: &T) -> Result<()> {
        self.claim(name)?;
        let kept = self.describe_saved();
        json::write_json(&self.disk, &self.dir.join(name), value)
            .map_err(|error| error.keeping(|| kept))
    }

    /// Opens the run's TensorBoard events: rewritten from the run folder, then appended to by every
    /// row that a stage logs. The handle is for points outside stages ([`Board::eval`]).
    pub fn board(&mut self) -> Result<Board> {
        if let Some(board) = &self.board {
            return Ok(board.clone());
        }
        self.claim(Board::FILE)?;
        let board = Board::open(&self.dir, &self.manifest)?;
        Ok(self.board.insert(board).clone())
    }

    /// Says what is saved so far, for errors.
    fn describe_saved(&self) -> String {
        match self.manifest.stages.last() {
            Some(done) => format!("everything up to {}/{}", done.place, done.stage),
            None => "what was there before".into(),
        }
    }

    fn begin_stage(&mut self, place: &str, stage: &str, file: &str) -> Result<()> {
        check_place(place)?;
        check_place(stage)?;
        let known = self.manifest.places.iter().any(|p| p == place);
        let done = self.done(place, stage);
        if !known {
            self.manifest.places.push(place.to_owned());
        }
        if done {
            self.manifest
                .stages
                .retain(|done| (done.place.as_str(), done.stage.as_str()) != (place, stage));
        }
        let names = [file.to_owned(), metrics_file(stage)];
        let names = names.map(|name| format!("{place}/{name}"));
        let claimed = names
            .into_iter()
            .map(|name| self.manifest.written.insert(name));
        let claims = claimed.filter(|new| *new).count() > 0;
        let kept = self.describe_saved();
        let noted = match known && !done && !claims {
            true => Ok(()),
            false => self.manifest.write(&self.disk, &self.dir),
        };
        noted
            .and_then(|()| self.disk.folder(&self.place(place)))
            .map_err(|error| error.keeping(|| kept))
    }

    fn finish_stage(
        &mut self,
        place: &str,
        stage: &str,
        file: String,
        beside: &[String],
        begun: Instant,
    ) -> Result<()> {
        let hash = hash(&self.place(place).join(&file))?;
        let besides = self.hashes_beside(place, stage, beside)?;
        let written = &mut self.manifest.written;
        written.remove(&format!("{place}/{file}"));
        written.extend(files_of(&self.dir, place, &file)?);
        written.extend(beside.iter().map(|name| format!("{place}/{name}")));
        self.manifest.stages.push(Done {
            place: place.to_owned(),
            stage: stage.to_owned(),
            file,
            sha256: hash.sha256,
            bytes: hash.bytes,
            seconds: begun.elapsed().as_secs_f64(),
            beside: besides,
        });
        if let Err(error) = self.manifest.write(&self.disk, &self.dir) {
            self.manifest.stages.pop();
            return Err(error);
        }
        self.drop_checkpoint(place, stage)
    }

    /// Hashes of what a stage wrote besides its artefact, by name; its log, if it has one, is whole
    /// by now.
    fn hashes_beside(
        &self,
        place: &str,
        stage: &str,
        written: &[String],
    ) -> Result<BTreeMap<String, String>> {
        let log = metrics_file(stage);
        let log = self.place(place).join(&log).exists().then_some(log);
        let names = written.iter().cloned().chain(log);
        names
            .map(|name| {
                let hash = hash(&self.place(place).join(&name))?;
                Ok((name, hash.sha256))
            })
            .collect()
    }

    /// Removes what killed processes left: half-written files, and checkpoints of stages that have
    /// finished since.
    fn sweep(&self) -> Result<()> {
        let mut folders = vec![self.dir.clone()];
        folders.extend(
            self.manifest
                .places
                .iter()
                .map(|place| self.place(place))
                .filter(|dir| dir.is_dir()),
        );
        for folder in folders {
            for entry in list(&folder)?.iter().filter(|entry| is_hidden(entry)) {
                self.disk.remove(entry)?;
            }
        }
        self.manifest
            .stages
            .iter()
            .try_for_each(|done| self.drop_checkpoint(&done.place, &done.stage))
    }

    fn drop_checkpoint(&self, place: &str, stage: &str) -> Result<()> {
        let checkpoints = self.place(place).join(CHECKPOINT);
        if !checkpoints.is_dir() {
            return Ok(());
        }
        self.disk.remove(&checkpoints.join(stage))?;
        match list(&checkpoints)?.is_empty() {
            true => self.disk.remove(&checkpoints),
            false => Ok(()),
        }
    }

    /// Records a file beside the manifest as written by us.
    fn claim(&mut self, name: &str) -> Result<()> {
        check_place(name)?;
        if self.manifest.files.iter().any(|file| file == name) {
            return Ok(());
        }
        self.manifest.files.push(name.to_owned());
        self.manifest.write(&self.disk, &self.dir)
    }
}

impl Journal for Run {
    type Desk = Desk;
    type Error = Error;

    fn finished(&self, t: usize, stage: Stage) -> bool {
        self.done(&place_of(t), stage.name())
    }
}

impl<A: Artefact> Keeps<A> for Run {
    fn restore(&mut self, t: usize, stage: Stage) -> Result<A> {
        self.load(&place_of(t), stage.name())
    }

    fn record<E: From<Error>>(
        &mut self,
        t: usize,
        stage: Stage,
        make: impl FnOnce(&mut Desk) -> std::result::Result<A, E>,
    ) -> std::result::Result<A, E> {
        Run::record(self, &place_of(t), stage.name(), make)
    }
}

fn begin(disk: &Disk, dir: &Path, spec: &RunSpec) -> Result<Manifest> {
    let manifest = Manifest::new(spec);
    manifest.write(disk, dir)?;
    write_recipe(disk, dir, spec)?;
    Ok(manifest)
}

fn resume(disk: &Disk, dir: &Path, spec: &RunSpec) -> Result<Manifest> {
    let mut manifest = Manifest::resumable(dir)?.unwrap_or_default();
    let (noted, changes) = manifest.changes(spec);
    if !changes.is_empty() {
        return Err(Error::Changed {
            dir: dir.to_owned(),
            changes,
        });
    }
    let before = manifest.clone();
    let when = match manifest.stages.last() {
        Some(done) => format!("after {}/{}", done.place, done.stage),
        None => "before any stage was finished".into(),
    };
    let noted = noted.into_iter().map(|change| format!("{change} ({when})"));
    manifest.accepted.extend(noted);
    manifest.recipe = spec.recipe.clone();
    manifest.hashes = spec.hashes.clone();
    manifest.versions = spec.versions.clone();
    if manifest != before {
        manifest.write(disk, dir)?;
    }
    write_recipe(disk, dir, spec)?;
    Ok(manifest)
}

fn write_recipe(disk: &Disk, dir: &Path, spec: &RunSpec) -> Result<()> {
    let path = dir.join("recipe.toml");
    match std::fs::read(&path) {
        Ok(bytes) if bytes == spec.recipe_text.as_bytes() => Ok(()),
        _ => disk.write(&path, spec.recipe_text.as_bytes()),
    }
}

/// Refuses a folder that is not a run's: one without a manifest that holds anything but what a run
/// leaves if killed before it wrote one.
fn refuse_foreign(dir: &Path) -> Result<()> {
    if !dir.exists() || dir.join(FILE).exists() {
        return Ok(());
    }
    let foreign = list(dir)?
        .into_iter()
        .find(|entry| !is_hidden(entry) && !entry.ends_with(".lock"));
    match foreign {
        None => Ok(()),
        Some(entry) => Err(Error::NotARun {
            dir: dir.to_owned(),
            found: entry
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
        }),
    }
}

pub(crate) fn check_place(name: &str) -> Result<()> {
    let plain = |part: &str| {
        !part.starts_with('.')
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    let inside = Path::new(name).components().all(|part| match part {
        Component::Normal(part) => part.to_str().is_some_and(plain),
        _ => false,
    });
    match inside && !name.is_empty() && name != FILE {
        true => Ok(()),
        false => Err(Error::BadPlace(name.to_owned())),
    }
}
