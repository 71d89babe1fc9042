//! Names inside a run folder: of iterations, checkpoints and logs of metrics.

use std::path::{Component, Path, PathBuf};

use randori_core::Stage;
use serde_json::{Map, Value};

use crate::{Error, Result, disk::list, manifest::FILE};

/// Folder of checkpoints, inside the folder in which a stage runs.
pub(crate) const CHECKPOINT: &str = "checkpoint";

/// State of a stage after some step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The step.
    pub step: u64,
    /// Folder that `save` filled.
    pub path: PathBuf,
}

/// Name of iteration `t`'s folder: `iter-0`.
pub fn iteration_folder(t: usize) -> String {
    format!("iter-{t}")
}

/// The iteration whose folder has this name; `None` for a folder of another kind.
pub(crate) fn iteration(folder: &str) -> Option<usize> {
    folder.strip_prefix("iter-")?.parse().ok()
}

/// Name of a stage's metrics log: `metrics.jsonl` for the stage that trains.
pub(crate) fn metrics_file(stage: &str) -> String {
    match stage {
        stage if stage == Stage::Policy.name() => "metrics.jsonl".into(),
        other => format!("{other}.metrics.jsonl"),
    }
}

/// Step of a row of metrics.
pub(crate) fn step_of(row: &Map<String, Value>) -> Option<u64> {
    row.get("step")?.as_u64()
}

/// Finds the newest checkpoint in a folder.
pub(crate) fn latest_in(work: &Path) -> Result<Option<Checkpoint>> {
    Ok(checkpoints(work)?
        .into_iter()
        .max_by_key(|checkpoint| checkpoint.step))
}

/// Lists the checkpoints in a folder.
pub(crate) fn checkpoints(work: &Path) -> Result<Vec<Checkpoint>> {
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

/// Refuses a name that could lead out of the run folder, hide a file or replace the manifest.
pub(crate) fn check_name(name: &str) -> Result<()> {
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
        false => Err(Error::BadName(name.to_owned())),
    }
}
