//! An open run folder: begins or resumes a run, restores finished stages, records new ones.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Instant,
};

use randori_core::{Journal, Stage, Stores};
use serde::Serialize;

use crate::{
    Artefact, Board, Disk, Done, Error, Lock, Manifest, Result, RunSpec, Workspace,
    clear::{clear, files_of},
    disk::{is_hidden, list},
    hash, json,
    kept::load_done,
    layout::{CHECKPOINT, check_name, iteration_folder, latest_in, metrics_file},
    manifest::FILE,
};

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
        disk.make_folder(dir)?;
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

    /// Path of a folder inside the run, e.g. [`iteration_folder`]`(0)`; it may not exist yet.
    pub fn folder(&self, folder: &str) -> PathBuf {
        self.dir.join(folder)
    }

    /// Whether a stage is finished.
    pub fn done(&self, folder: &str, stage: &str) -> bool {
        self.manifest.done(folder, stage).is_some()
    }

    /// Loads the artefact of a finished stage, after verifying its hash.
    pub fn load<A: Artefact>(&self, folder: &str, stage: &str) -> Result<A> {
        load_done(&self.dir, &self.manifest, folder, stage)
    }

    /// Runs a stage, saves its artefact, marks the stage finished, and returns the artefact as read
    /// back from disk. A finished stage is made anew; the stages after it are the caller's
    /// business.
    pub fn record<A: Artefact, E: From<Error>>(
        &mut self,
        folder: &str,
        stage: &str,
        make: impl FnOnce(&mut Workspace) -> std::result::Result<A, E>,
    ) -> std::result::Result<A, E> {
        let begun = Instant::now();
        let file = A::file_name(stage);
        self.begin_stage(folder, stage, &file)?;
        let kept = self.describe_saved();
        let mut workspace = Workspace::new(
            &self.disk,
            &self.dir,
            folder,
            stage,
            kept.clone(),
            self.board.clone(),
        );
        let made = make(&mut workspace)?;
        workspace.sync()?;
        self.disk
            .replace(&self.folder(folder).join(&file), |fresh| made.save(fresh))
            .map_err(|error| error.keeping(|| workspace.describe_saved()))?;
        drop(made);
        self.finish_stage(folder, stage, file, workspace.written(), begun)
            .map_err(|error| error.keeping(|| kept))?;
        Ok(self.load(folder, stage)?)
    }

    /// Restores a finished stage, or runs and records it.
    pub fn stage<A: Artefact, E: From<Error>>(
        &mut self,
        folder: &str,
        stage: &str,
        make: impl FnOnce(&mut Workspace) -> std::result::Result<A, E>,
    ) -> std::result::Result<A, E> {
        match self.done(folder, stage) {
            true => Ok(self.load(folder, stage)?),
            false => self.record(folder, stage, make),
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
        finished(&self.manifest).unwrap_or_else(|| "what was there before".into())
    }

    fn begin_stage(&mut self, folder: &str, stage: &str, file: &str) -> Result<()> {
        check_name(folder)?;
        check_name(stage)?;
        let known = self.manifest.folders.iter().any(|p| p == folder);
        let done = self.done(folder, stage);
        if !known {
            self.manifest.folders.push(folder.to_owned());
        }
        if done {
            self.manifest
                .stages
                .retain(|done| (done.folder.as_str(), done.stage.as_str()) != (folder, stage));
        }
        let names = [file.to_owned(), metrics_file(stage)];
        let names = names.map(|name| format!("{folder}/{name}"));
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
            .and_then(|()| self.disk.make_folder(&self.folder(folder)))
            .map_err(|error| error.keeping(|| kept))
    }

    fn finish_stage(
        &mut self,
        folder: &str,
        stage: &str,
        file: String,
        beside: &[String],
        begun: Instant,
    ) -> Result<()> {
        let hash = hash(&self.folder(folder).join(&file))?;
        let besides = self.hashes_beside(folder, stage, beside)?;
        let written = &mut self.manifest.written;
        written.remove(&format!("{folder}/{file}"));
        written.extend(files_of(&self.dir, folder, &file)?);
        written.extend(beside.iter().map(|name| format!("{folder}/{name}")));
        self.manifest.stages.push(Done {
            folder: folder.to_owned(),
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
        self.drop_checkpoint(folder, stage)
    }

    /// Hashes of what a stage wrote besides its artefact, by name; its log, if it has one, is whole
    /// by now.
    fn hashes_beside(
        &self,
        folder: &str,
        stage: &str,
        written: &[String],
    ) -> Result<BTreeMap<String, String>> {
        let log = metrics_file(stage);
        let log = self.folder(folder).join(&log).exists().then_some(log);
        let names = written.iter().cloned().chain(log);
        names
            .map(|name| {
                let hash = hash(&self.folder(folder).join(&name))?;
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
                .folders
                .iter()
                .map(|folder| self.folder(folder))
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
            .try_for_each(|done| self.drop_checkpoint(&done.folder, &done.stage))
    }

    fn drop_checkpoint(&self, folder: &str, stage: &str) -> Result<()> {
        let checkpoints = self.folder(folder).join(CHECKPOINT);
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
        check_name(name)?;
        if self.manifest.files.iter().any(|file| file == name) {
            return Ok(());
        }
        self.manifest.files.push(name.to_owned());
        self.manifest.write(&self.disk, &self.dir)
    }
}

impl Journal for Run {
    type Workspace = Workspace;
    type Error = Error;

    fn finished(&self, t: usize, stage: Stage) -> bool {
        self.done(&iteration_folder(t), stage.name())
    }
}

impl<A: Artefact> Stores<A> for Run {
    fn restore(&mut self, t: usize, stage: Stage) -> Result<A> {
        self.load(&iteration_folder(t), stage.name())
    }

    fn record<E: From<Error>>(
        &mut self,
        t: usize,
        stage: Stage,
        make: impl FnOnce(&mut Workspace) -> std::result::Result<A, E>,
    ) -> std::result::Result<A, E> {
        Run::record(self, &iteration_folder(t), stage.name(), make)
    }
}

/// Says what is saved in a run folder, without a lock, such as `everything up to iter-1/pairs, and
/// iter-1/policy up to step 40`; `None` where that is nothing. A process that is killed now goes on
/// from there.
///
/// # Errors
/// A folder that cannot be read.
pub fn saved(dir: &Path) -> Result<Option<String>> {
    let Some(manifest) = Manifest::read(dir)? else {
        return Ok(None);
    };
    let mut parts: Vec<String> = finished(&manifest).into_iter().collect();
    for folder in &manifest.folders {
        let checkpoints = dir.join(folder).join(CHECKPOINT);
        let works = match checkpoints.is_dir() {
            true => list(&checkpoints)?,
            false => Vec::new(),
        };
        for work in works {
            let stage = work.file_name().unwrap_or_default().to_string_lossy();
            if manifest.done(folder, &stage).is_none() {
                parts.extend(begun(&work)?.map(|far| format!("{folder}/{stage} {far}")));
            }
        }
    }
    Ok((!parts.is_empty()).then(|| parts.join(", and ")))
}

/// The stages that are finished, in words; `None` where there are none.
fn finished(manifest: &Manifest) -> Option<String> {
    let last = manifest.stages.last()?;
    Some(format!("everything up to {}/{}", last.folder, last.stage))
}

/// How far the stage has come whose unfinished work is in this folder; `None` where nothing of it
/// is saved.
fn begun(work: &Path) -> Result<Option<String>> {
    if let Some(last) = latest_in(work)? {
        return Ok(Some(format!("up to step {}", last.step)));
    }
    let holds = |path: &PathBuf| {
        let written = path.metadata().is_ok_and(|m| m.is_file() && m.len() > 0);
        written && !is_hidden(path)
    };
    let part = work.is_dir() && list(work)?.iter().any(holds);
    Ok(part.then(|| "in part".into()))
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
        Some(done) => format!("after {}/{}", done.folder, done.stage),
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
pub fn refuse_foreign(dir: &Path) -> Result<()> {
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
