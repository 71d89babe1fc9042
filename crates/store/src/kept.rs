//! Files of finished stages, verified before they are read again. None of it needs the lock.

use std::path::{Path, PathBuf};

use crate::{Artefact, Done, Error, Manifest, Result, hash};

/// Loads the artefact of a finished stage without a lock: for export, chat and reports.
pub fn load<A: Artefact>(dir: &Path, folder: &str, stage: &str) -> Result<A> {
    load_done(
        dir,
        &Manifest::read(dir)?.unwrap_or_default(),
        folder,
        stage,
    )
}

pub(crate) fn load_done<A: Artefact>(
    dir: &Path,
    manifest: &Manifest,
    folder: &str,
    stage: &str,
) -> Result<A> {
    let path = intact(dir, manifest, folder, stage)?;
    A::load(&path).map_err(|source| Error::artefact("load", &path, source))
}

/// Path of a finished stage's artefact, after verifying its hash.
pub fn intact(dir: &Path, manifest: &Manifest, folder: &str, stage: &str) -> Result<PathBuf> {
    let done = manifest
        .done(folder, stage)
        .ok_or_else(|| Error::NotFinished {
            dir: dir.to_owned(),
            folder: folder.to_owned(),
            stage: stage.to_owned(),
        })?;
    let path = dir.join(folder).join(&done.file);
    verify(&path, &[&done.sha256])?;
    Ok(path)
}

/// Path of a file that a finished stage wrote beside its artefact (its log, what
/// [`Workspace::write`](crate::Workspace::write) wrote), after verifying its hash; `None` where the
/// stage is not finished, or another one of the folder has written the file since. Of a run begun
/// before such files were hashed, the path alone, if it is there.
///
/// # Errors
/// [`Error::Damaged`]: the file was changed, or is gone.
pub fn beside(
    dir: &Path,
    manifest: &Manifest,
    folder: &str,
    stage: &str,
    name: &str,
) -> Result<Option<PathBuf>> {
    let path = dir.join(folder).join(name);
    let Some(done) = manifest.done(folder, stage) else {
        return Ok(None);
    };
    let Some(own) = done.beside.get(name) else {
        let older = done.beside.is_empty() && path.exists();
        return Ok(older.then_some(path));
    };
    let here = manifest
        .stages
        .iter()
        .filter(|other| other.folder == folder);
    let known: Vec<&String> = here
        .filter_map(|done: &Done| done.beside.get(name))
        .collect();
    let found = verify(&path, &known)?;
    Ok((found == *own).then_some(path))
}

/// The SHA-256 of a file or folder, which must be one of those `known`.
fn verify(path: &Path, known: &[&String]) -> Result<String> {
    let damaged = |why: String| Error::Damaged {
        path: path.to_owned(),
        why,
    };
    if !path.exists() {
        return Err(damaged("it is gone".into()));
    }
    let now = hash(path)?.sha256;
    match known.last() {
        Some(was) if !known.contains(&&now) => Err(damaged(format!(
            "its SHA-256 was {was:.12}…, is {now:.12}…"
        ))),
        _ => Ok(now),
    }
}
