//! Errors of a run folder: one sentence each, with the rule, the value and the place.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Any error, as artefacts return them.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// Result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// Errors of a run folder.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// The operation: `read`, `write`, `rename`, …
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// No space left on the device, or a quota is used up.
    #[error(
        "the disk is full: could not write {}. Kept: {kept}. Free some space and give the same command again to go on from there",
        path.display()
    )]
    Full {
        /// The file being written; nothing of it exists, not even half.
        path: PathBuf,
        /// What is saved.
        kept: String,
    },
    /// A file in our format that does not parse.
    #[error("{}:{line}: {what}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// The rule.
        what: String,
    },
    /// An artefact failed to save or load.
    #[error("cannot {doing} {}: {source}", path.display())]
    Artefact {
        /// `save` or `load`.
        doing: &'static str,
        /// The artefact's path.
        path: PathBuf,
        /// The cause.
        source: BoxError,
    },
    /// Another process has the folder locked.
    #[error("{} is in use by {}; one process per run folder", dir.display(), holder(*pid))]
    Locked {
        /// The run folder.
        dir: PathBuf,
        /// Its process id, where it could be read.
        pid: Option<u32>,
    },
    /// A resumed run's recipe or inputs differ from those it was started with.
    #[error(
        "{} was started with another recipe or other inputs: {}; use another name, undo the change, or start afresh with --fresh",
        dir.display(),
        changes.join("; ")
    )]
    Changed {
        /// The run folder.
        dir: PathBuf,
        /// The changes: `train.lr was 1e-4, is 2e-4`.
        changes: Vec<String>,
    },
    /// A path to write holds something that we did not write, or that was changed since.
    #[error("{}: something else is there ({why}); move it away, or name a new place", path.display())]
    Taken {
        /// The path.
        path: PathBuf,
        /// How that is known.
        why: String,
    },
    /// The folder holds files that no run has written.
    #[error("{} is not a run folder: it has no manifest.json but {found}; use another name", dir.display())]
    NotARun {
        /// The folder.
        dir: PathBuf,
        /// One of these files.
        found: String,
    },
    /// The run folder has a later format.
    #[error("{} has format {found}; this randori reads up to {ours}: use a newer one", dir.display())]
    Newer {
        /// The run folder.
        dir: PathBuf,
        /// Its format.
        found: u64,
        /// The newest format that this version reads.
        ours: u64,
    },
    /// The run folder has an earlier format, which cannot be resumed.
    #[error(
        "{} was started by an earlier randori (format {found}), which did not record everything that decides the results: finish it with that version, use another name, or start afresh with --fresh",
        dir.display()
    )]
    Older {
        /// The run folder.
        dir: PathBuf,
        /// Its format.
        found: u64,
    },
    /// A finished artefact's bytes differ from those that were written.
    #[error("{} has changed since it was written ({why}); put it back, or start afresh with --fresh", path.display())]
    Damaged {
        /// The artefact.
        path: PathBuf,
        /// `it is gone`, or both hashes.
        why: String,
    },
    /// The stage asked for is not finished.
    #[error("{folder}/{stage} of {} is not finished", dir.display())]
    NotFinished {
        /// The run folder.
        dir: PathBuf,
        /// The stage's folder: `iter-0`
        folder: String,
        /// The stage: `policy`
        stage: String,
    },
    /// An invalid name of a file or folder inside a run.
    #[error(
        "`{0}` cannot name a file or folder of a run: letters, digits, `-`, `_`, `.` and `/` between them"
    )]
    BadName(String),
}

impl Error {
    /// Wraps an operating system's error; one of a full disk becomes [`Error::Full`].
    pub(crate) fn io(doing: &'static str, path: &Path, source: io::Error) -> Error {
        match is_full(&source) {
            true => Error::full(path),
            false => Error::Io {
                doing,
                path: path.to_owned(),
                source,
            },
        }
    }

    /// Wraps an artefact's own error; a full disk anywhere in its chain of causes becomes
    /// [`Error::Full`].
    pub(crate) fn artefact(doing: &'static str, path: &Path, source: BoxError) -> Error {
        if is_full(source.as_ref()) {
            return Error::full(path);
        }
        match source.downcast::<Error>() {
            Ok(ours) => *ours,
            Err(source) => Error::Artefact {
                doing,
                path: path.to_owned(),
                source,
            },
        }
    }

    /// The error for a path that must not be replaced.
    pub(crate) fn taken(path: &Path, why: impl Into<String>) -> Error {
        Error::Taken {
            path: path.to_owned(),
            why: why.into(),
        }
    }

    fn full(path: &Path) -> Error {
        Error::Full {
            path: path.to_owned(),
            kept: "what was there before".into(),
        }
    }

    /// Adds to an [`Error::Full`] what is saved.
    pub(crate) fn keeping(self, kept: impl FnOnce() -> String) -> Error {
        match self {
            Error::Full { path, .. } => Error::Full { path, kept: kept() },
            other => other,
        }
    }
}

/// Whether a full disk (or quota) caused an error. Libraries wrap it in many ways, so the chain of
/// causes is searched, and their messages as a last resort.
fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let kind = match (
            error.downcast_ref::<io::Error>(),
            error.downcast_ref::<Error>(),
        ) {
            (Some(io), _) => io.kind(),
            (_, Some(Error::Full { .. })) => io::ErrorKind::StorageFull,
            _ => io::ErrorKind::Other,
        };
        let words = || {
            error
                .to_string()
                .to_lowercase()
                .contains("no space left on device")
        };
        if matches!(
            kind,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        ) || words()
        {
            return true;
        }
        cause = error.source();
    }
    false
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or("another process".into(), |pid| format!("process {pid}"))
}
