//! A fresh start: removes what a run wrote, and no other file.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use crate::{
    Disk, Error, Manifest, Result,
    disk::{is_hidden, list},
    layout::{CHECKPOINT, check_name, metrics_file},
};

/// Removes what the manifest lists as written, and returns the other files found in the stages'
/// folders. The manifest is first marked as being cleared, so that a crash half-way cannot pass an
/// old checkpoint on to the new run.
///
/// # Errors
/// A foreign file inside an artefact's folder, which the next run would replace; nothing has been
/// removed by then.
pub(crate) fn clear(disk: &Disk, dir: &Path, mut manifest: Manifest) -> Result<Vec<PathBuf>> {
    let written = written(&manifest);
    for done in &manifest.stages {
        let ours = |path: &String| {
            let whole = format!("{}/{}", done.folder, done.file);
            written.contains(path) || written.contains(&whole)
        };
        let there = files_of(dir, &done.folder, &done.file)?;
        if let Some(path) = there.iter().find(|path| !ours(path)) {
            let why = "the run did not write it, and begun afresh it replaces this folder";
            return Err(Error::taken(&dir.join(path), why));
        }
    }
    manifest.clearing = true;
    manifest.write(disk, dir)?;
    for path in written {
        check_name(&path)?; // the manifest may have been edited
        disk.remove(&dir.join(path))?;
    }
    let mut left = Vec::new();
    for folder in &manifest.folders {
        check_name(folder)?;
        let first = Path::new(folder).components().next();
        prune(
            disk,
            &first.map_or(dir.join(folder), |first| dir.join(first)),
            &mut left,
        )?;
    }
    left.sort();
    left.dedup();
    Ok(left)
}

/// Paths inside the run folder that the run wrote.
fn written(manifest: &Manifest) -> BTreeSet<String> {
    let mut all = manifest.written.clone();
    // a manifest older than `written` lists only the artefacts
    for done in &manifest.stages {
        let artefact = format!("{}/{}", done.folder, done.file);
        let inside = format!("{artefact}/");
        if !all.iter().any(|path| path.starts_with(&inside)) {
            all.insert(artefact);
        }
        all.insert(format!("{}/{}", done.folder, metrics_file(&done.stage)));
    }
    let checkpoints = manifest.folders.iter();
    all.extend(checkpoints.map(|folder| format!("{folder}/{CHECKPOINT}")));
    all.extend(manifest.files.iter().cloned());
    all
}

/// Removes empty folders and half-written files; adds all other paths to `left`.
fn prune(disk: &Disk, path: &Path, left: &mut Vec<PathBuf>) -> Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => {}
        Ok(_) if is_hidden(path) => return disk.remove(path),
        Ok(_) => {
            left.push(path.to_owned());
            return Ok(());
        }
        Err(_) => return Ok(()),
    }
    if is_hidden(path) {
        return disk.remove(path);
    }
    for entry in list(path)? {
        prune(disk, &entry, left)?;
    }
    match list(path)?.is_empty() {
        true => disk.remove_empty(path),
        false => Ok(()),
    }
}

/// Files of an artefact in `folder`, by path inside the run folder: itself, or the folder's
/// contents.
pub(crate) fn files_of(dir: &Path, folder: &str, file: &str) -> Result<Vec<String>> {
    let (mut files, mut open) = (Vec::new(), vec![format!("{folder}/{file}")]);
    while let Some(name) = open.pop() {
        let path = dir.join(&name);
        if !path.is_dir() {
            files.extend(path.exists().then_some(name));
            continue;
        }
        for entry in list(&path)? {
            let entry = entry.file_name().unwrap_or_default().to_string_lossy();
            open.push(format!("{name}/{entry}"));
        }
    }
    Ok(files)
}
