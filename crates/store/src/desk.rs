//! Unfinished work of a stage: checkpoints, a log of steps, a list of items done so far. A killed
//! stage reads it first and resumes from there; nothing is written twice.

use std::path::{Path, PathBuf};

use randori_core::Stage;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{Appender, Board, BoxError, Disk, Error, Result, disk::list};

/// Folder of checkpoints, in a place.
pub(crate) const CHECKPOINT: &str = "checkpoint";

/// Access to one stage's unfinished work.
#[derive(Debug)]
pub struct Desk {
    disk: Disk,
    /// The stage's folder, with the run folder.
    place: PathBuf,
    /// Name of that folder in the run: `iter-0`
    place_name: String,
    /// Name of the stage: `policy`
    stage: String,
    /// Folder of unfinished work, `iter-0/checkpoint/policy`, removed when the stage is finished.
    work: PathBuf,
    metrics: Option<Appender>,
    board: Option<Board>,
    /// Names passed to [`Desk::write`].
    written: Vec<String>,
    before: String,
}

/// State of a stage after some step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The step.
    pub step: u64,
    /// Folder that `save` filled.
    pub path: PathBuf,
}

impl Desk {
    pub(crate) fn new(
        disk: &Disk,
        run: &Path,
        place_name: &str,
        stage: &str,
        before: String,
        board: Option<Board>,
    ) -> Desk {
        let place = run.join(place_name);
        let work = place.join(CHECKPOINT).join(stage);
        Desk {
            disk: disk.clone(),
            place,
            place_name: place_name.to_owned(),
            stage: stage.to_owned(),
            work,
            metrics: None,
            board,
            written: Vec::new(),
            before,
        }
    }

    /// Folder of the stage's place, e.g. `iter-0`.
    pub fn place(&self) -> &Path {
        &self.place
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

    /// Appends a row to the place's `metrics.jsonl`: `{"step": step, …values}`, `values` being a
    /// struct or a map. (A stage not called `policy` has its own `STAGE.metrics.jsonl`.) The first
    /// row of a resumed stage removes rows logged after its last checkpoint, since those steps are
    /// repeated.
    pub fn row(&mut self, step: u64, values: &impl Serialize) -> Result<()> {
        let row = self.with_step(step, values)?;
        self.push_row(&row)
            .map_err(|error| error.keeping(|| self.describe_saved()))?;
        match &self.board {
            Some(board) if self.stage == Stage::Policy.name() => board.row(&self.place_name, &row),
            _ => Ok(()),
        }
    }

    /// Opens a list that grows while the stage works (responses generated so far): returns the
    /// items in it and an appender. It is removed when the stage is finished, whose artefact then
    /// holds the items.
    pub fn items<T: DeserializeOwned>(&mut self, name: &str) -> Result<(Vec<T>, Appender)> {
        self.disk.folder(&self.work)?;
        Appender::resume(&self.disk, &self.work.join(format!("{name}.jsonl")), |_| {
            true
        })
        .map_err(|error| error.keeping(|| self.describe_saved()))
    }

    /// Writes one more file or folder into the place, atomically. [`beside`](crate::beside) finds it
    /// again.
    pub fn write<E: Into<BoxError>>(
        &mut self,
        name: &str,
        save: impl FnOnce(&Path) -> std::result::Result<(), E>,
    ) -> Result<()> {
        self.written.push(name.to_owned());
        self.disk
            .replace(&self.place.join(name), |path| {
                save(path).map_err(Into::into)
            })
            .map_err(|error| error.keeping(|| self.describe_saved()))
    }

    /// Names of files and folders written into the place besides the artefact.
    pub(crate) fn written(&self) -> &[String] {
        &self.written
    }

    /// Says what is saved so far, for errors.
    pub(crate) fn describe_saved(&self) -> String {
        match self.latest() {
            Ok(Some(last)) => format!(
                "{}, and {}/{} up to step {}",
                self.before, self.place_name, self.stage, last.step
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
        self.disk.folder(&self.work)?;
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
        let path = self.place.join(metrics_file(&self.stage));
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
            let path = self.place.join(metrics_file(&self.stage));
            let last = self.latest()?.map_or(0, |checkpoint| checkpoint.step);
            let stays = |row: &Map<String, Value>| step_of(row).is_some_and(|step| step <= last);
            self.metrics = Some(Appender::resume(&self.disk, &path, stays)?.1);
        }
        self.metrics
            .as_mut()
            .map_or(Ok(()), |metrics| metrics.push(row))
    }
}

/// Name of a stage's metrics log: `metrics.jsonl` for the stage that trains.
pub(crate) fn metrics_file(stage: &str) -> String {
    match stage {
        stage if stage == Stage::Policy.name() => "metrics.jsonl".into(),
        other => format!("{other}.metrics.jsonl"),
    }
}

/// Step of a row.
pub(crate) fn step_of(row: &Map<String, Value>) -> Option<u64> {
    row.get("step")?.as_u64()
}

/// Finds the newest checkpoint in a folder.
pub(crate) fn latest_in(work: &Path) -> Result<Option<Checkpoint>> {
    Ok(checkpoints(work)?
        .into_iter()
        .max_by_key(|checkpoint| checkpoint.step))
}

fn checkpoints(work: &Path) -> Result<Vec<Checkpoint>> {
    if !work.is_dir() {
        return Ok(Vec::new());
    }
    let step = |path: &Path| {
        path.file_name()?
            .to_str()?
            .strip_prefix("step-")?
            .parse()
            .ok()
    };
    Ok(list(work)?
        .into_iter()
        .filter_map(|path| {
            Some(Checkpoint {
                step: step(&path)?,
                path,
            })
        })
        .collect())
}
