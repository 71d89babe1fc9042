//! A stage's workspace, its unfinished work: checkpoints, a log of steps, a list of items done so
//! far. A killed stage reads it first and resumes from there; nothing is written twice.

use std::path::{Path, PathBuf};

use randori_core::Stage;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{
    Appender, Board, BoxError, Checkpoint, Disk, Error, Result,
    layout::{CHECKPOINT, checkpoints, latest_in, metrics_file, step_of},
};

/// Storage for one stage's unfinished work.
#[derive(Debug)]
pub struct Workspace {
    disk: Disk,
    /// Folder in which the stage runs, with the run folder.
    folder: PathBuf,
    /// Name of that folder in the run: `iter-0`
    folder_name: String,
    /// Name of the stage: `policy`
    stage: String,
    /// Folder of unfinished work, `iter-0/checkpoint/policy`, removed when the stage is finished.
    work: PathBuf,
    metrics: Option<Appender>,
    board: Option<Board>,
    /// Names passed to [`Workspace::write`].
    written: Vec<String>,
    before: String,
}

impl Workspace {
    pub(crate) fn new(
        disk: &Disk,
        run: &Path,
        folder_name: &str,
        stage: &str,
        before: String,
        board: Option<Board>,
    ) -> Workspace {
        let folder = run.join(folder_name);
        let work = folder.join(CHECKPOINT).join(stage);
        Workspace {
            disk: disk.clone(),
            folder,
            folder_name: folder_name.to_owned(),
            stage: stage.to_owned(),
            work,
            metrics: None,
            board,
            written: Vec::new(),
            before,
        }
    }

    /// Folder in which the stage runs, e.g. `runs/NAME/iter-0`.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Finds the newest checkpoint, from which a stage should resume.
    pub fn latest(&self) -> Result<Option<Checkpoint>> {
        latest_in(&self.work)
    }

    /// Saves the stage's state after `step`: `save` creates and fills the folder at the path it is
    /// given. Rows logged so far are synced first; older checkpoints are removed afterwards.
    pub fn checkpoint<E: Into<BoxError>>(
        &mut self,
        step: u64,
        save: impl FnOnce(&Path) -> std::result::Result<(), E>,
    ) -> Result<()> {
        self.try_checkpoint(step, save)
            .map_err(|error| error.keeping(|| self.describe_saved()))
    }

    /// Appends a row to the folder's `metrics.jsonl`: `{"step": step, …values}`, `values` being a
    /// struct or a map. (A stage not called `policy` has its own `STAGE.metrics.jsonl`.) The first
    /// row of a resumed stage removes rows logged after its last checkpoint, since those steps are
    /// repeated.
    pub fn row(&mut self, step: u64, values: &impl Serialize) -> Result<()> {
        let row = self.with_step(step, values)?;
        self.push_row(&row)
            .map_err(|error| error.keeping(|| self.describe_saved()))?;
        match &self.board {
            Some(board) if self.stage == Stage::Policy.name() => board.row(&self.folder_name, &row),
            _ => Ok(()),
        }
    }

    /// Opens a list that grows while the stage works (responses generated so far): returns the
    /// items in it and an appender. It is removed when the stage is finished, whose artefact then
    /// holds the items.
    pub fn items<T: DeserializeOwned>(&mut self, name: &str) -> Result<(Vec<T>, Appender)> {
        self.disk.make_folder(&self.work)?;
        Appender::resume(&self.disk, &self.work.join(format!("{name}.jsonl")), |_| {
            true
        })
        .map_err(|error| error.keeping(|| self.describe_saved()))
    }

    /// Writes a file or folder beside the stage's artefact, atomically. [`beside`](crate::beside)
    /// finds it again.
    pub fn write<E: Into<BoxError>>(
        &mut self,
        name: &str,
        save: impl FnOnce(&Path) -> std::result::Result<(), E>,
    ) -> Result<()> {
        self.written.push(name.to_owned());
        self.disk
            .replace(&self.folder.join(name), |path| {
                save(path).map_err(Into::into)
            })
            .map_err(|error| error.keeping(|| self.describe_saved()))
    }

    /// Names of files and folders written beside the artefact.
    pub(crate) fn written(&self) -> &[String] {
        &self.written
    }

    /// Says what is saved so far, for errors.
    pub(crate) fn describe_saved(&self) -> String {
        match self.latest() {
            Ok(Some(last)) => format!(
                "{}, and {}/{} up to step {}",
                self.before, self.folder_name, self.stage, last.step
            ),
            _ => self.before.clone(),
        }
    }

    pub(crate) fn sync(&mut self) -> Result<()> {
        match &mut self.metrics {
            Some(metrics) => metrics.sync(),
            None => Ok(()),
        }
    }

    fn try_checkpoint<E: Into<BoxError>>(
        &mut self,
        step: u64,
        save: impl FnOnce(&Path) -> std::result::Result<(), E>,
    ) -> Result<()> {
        self.sync()?;
        self.disk.make_folder(&self.work)?;
        self.disk
            .replace(&self.work.join(format!("step-{step}")), |path| {
                save(path).map_err(Into::into)
            })?;
        let older = checkpoints(&self.work)?
            .into_iter()
            .filter(|checkpoint| checkpoint.step < step);
        older
            .into_iter()
            .try_for_each(|old| self.disk.remove(&old.path))
    }

    fn with_step(&self, step: u64, values: &impl Serialize) -> Result<Map<String, Value>> {
        let path = self.folder.join(metrics_file(&self.stage));
        let mut row = Map::new();
        row.insert("step".into(), step.into());
        match serde_json::to_value(values) {
            Ok(Value::Object(values)) => row.extend(values),
            Ok(_) => {
                return Err(Error::artefact(
                    "save",
                    &path,
                    "a row of metrics must have names".into(),
                ));
            }
            Err(error) => return Err(Error::artefact("save", &path, error.into())),
        }
        Ok(row)
    }

    fn push_row(&mut self, row: &Map<String, Value>) -> Result<()> {
        if self.metrics.is_none() {
            let path = self.folder.join(metrics_file(&self.stage));
            let last = self.latest()?.map_or(0, |checkpoint| checkpoint.step);
            let stays = |row: &Map<String, Value>| step_of(row).is_some_and(|step| step <= last);
            self.metrics = Some(Appender::resume(&self.disk, &path, stays)?.1);
        }
        self.metrics
            .as_mut()
            .map_or(Ok(()), |metrics| metrics.push(row))
    }
}
