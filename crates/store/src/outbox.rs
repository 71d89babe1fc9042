//! Results written outside a run folder, among a user's own files: a folder for other tools, or a
//! file with others beside it.
//!
//! Each is written with a list of names and SHA-256 hashes. Writing there again replaces only
//! listed files whose hash still matches: a file that the user added stays; one that the user
//! changed is an error before anything is touched. A kill loses no file of either; the next write
//! to the same path completes or undoes what was half done.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    BoxError, Disk, Error, Result,
    disk::{hidden, list},
    hash, read_json, write_json,
};

/// Name of the list in a folder; beside a file `m.gguf` it is `m.exported.json`.
const LIST: &str = "exported.json";

/// Files that were written, with the SHA-256 of each in hexadecimal; with two hashes while one
/// version replaces the other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct List {
    files: BTreeMap<String, Vec<String>>,
}

impl List {
    fn read(path: &Path) -> Result<Option<List>> {
        match is_file(path) {
            true => read_json(path).map(Some),
            false => Ok(None),
        }
    }

    /// Whether the file at `path` has a hash on the list.
    fn wrote(&self, path: &Path) -> Result<bool> {
        let name = path.file_name().and_then(OsStr::to_str);
        match name.and_then(|name| self.files.get(name)) {
            Some(hashes) if is_file(path) => Ok(hashes.contains(&hash(path)?.sha256)),
            _ => Ok(false),
        }
    }
}

/// The names of the files in a folder that were exported there, by the lists beside them; the
/// lists' own names among them. A list that cannot be read, which may be anybody's, names none.
pub fn exported(dir: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let entries = list(dir).unwrap_or_default();
    let is_list = |name: &str| name == LIST || name.ends_with(&format!(".{LIST}"));
    for (name, path) in entries.iter().map(|entry| (name_of(entry), entry)) {
        if !is_list(&name) {
            continue;
        }
        if let Ok(Some(found)) = List::read(path) {
            names.extend(found.files.into_keys().chain([name]));
        }
    }
    names
}

/// Whether `path` is a regular file, not a link to one.
fn is_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file())
}

fn stands(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// An output folder, written atomically.
#[derive(Debug)]
pub struct OutFolder {
    disk: Disk,
    /// The folder; a link to a folder is resolved.
    dir: PathBuf,
}

impl OutFolder {
    /// Checks that `out` can be written: it does not exist, is empty, or holds what was written
    /// before, unchanged. First recovers from a writer that was killed.
    ///
    /// # Errors
    /// [`Error::Taken`] otherwise.
    pub fn open(disk: Disk, out: &Path) -> Result<OutFolder> {
        let dir = match fs::symlink_metadata(out) {
            Ok(meta) if meta.is_symlink() => {
                fs::canonicalize(out).map_err(|_| Error::taken(out, "it is a link to nothing"))?
            }
            _ => out.to_owned(),
        };
        if dir.file_name().is_none() {
            return Err(Error::taken(out, "it names no folder"));
        }
        let folder = OutFolder { disk, dir };
        folder.recover()?;
        folder.check()?;
        Ok(folder)
    }

    /// Returns the list after verifying every file on it; `None` where nothing exists yet.
    fn check(&self) -> Result<Option<List>> {
        if !stands(&self.dir) {
            return Ok(None);
        }
        if !self.dir.is_dir() {
            return Err(Error::taken(&self.dir, "a file is there"));
        }
        let entries = list(&self.dir)?;
        let Some(known) = List::read(&self.dir.join(LIST))? else {
            return match entries.first() {
                None => Ok(None),
                Some(entry) => Err(Error::taken(
                    &self.dir,
                    format!(
                        "it holds {} and no {LIST}, the list of what an export wrote",
                        name_of(entry)
                    ),
                )),
            };
        };
        let on_list = |entry: &&PathBuf| known.files.contains_key(&name_of(entry));
        for entry in entries.iter().filter(on_list) {
            if !known.wrote(entry)? {
                return Err(Error::taken(entry, "it was changed since it was exported"));
            }
        }
        Ok(Some(known))
    }

    /// Lets `fill` create the folder at the path that it is given, and renames it into place. Files
    /// in the old folder that we did not write are kept.
    pub fn write(
        &self,
        fill: impl FnOnce(&Path) -> std::result::Result<(), BoxError>,
    ) -> Result<()> {
        let fill = |fresh: &Path| {
            fill(fresh)?;
            Ok(self.enlist(fresh)?)
        };
        self.disk.made(&self.dir, fill, |fresh| self.publish(fresh))
    }

    fn enlist(&self, fresh: &Path) -> Result<()> {
        let mut new = List::default();
        for entry in list(fresh)?.iter().filter(|entry| is_file(entry)) {
            let sha256 = hash(entry)?.sha256;
            new.files.insert(name_of(entry), vec![sha256]);
        }
        write_json(&self.disk, &fresh.join(LIST), &new)
    }

    fn publish(&self, fresh: &Path) -> Result<()> {
        let known = self.check()?; // hours may have passed since `open`
        if let Some(known) = &known {
            let own = |name: &String| name == LIST || known.files.contains_key(name);
            for name in list(fresh)?.iter().map(|entry| name_of(entry)) {
                if !own(&name) && stands(&self.dir.join(&name)) {
                    let why = "an export writes this file, and it was not one that put it there";
                    return Err(Error::taken(&self.dir.join(name), why));
                }
            }
        }
        let old = hidden(&self.dir, "old");
        if stands(&self.dir) {
            self.disk.rename(&self.dir, &old)?;
        }
        self.disk.rename(fresh, &self.dir)?;
        self.disk.sync_parent(&self.dir)?;
        self.clear(&old)
    }

    /// Recovers from a kill: puts the old folder back if the new one was not renamed into place,
    /// else moves the user's files over to the new one.
    fn recover(&self) -> Result<()> {
        let old = hidden(&self.dir, "old");
        match (stands(&old), stands(&self.dir)) {
            (false, _) => Ok(()),
            (true, false) => self.disk.rename(&old, &self.dir),
            (true, true) => self.clear(&old),
        }
    }

    /// Empties the old folder: removes the files we wrote, moves all others to the new folder.
    fn clear(&self, old: &Path) -> Result<()> {
        if !stands(old) {
            return Ok(());
        }
        let known = List::read(&old.join(LIST))?.unwrap_or_default();
        for entry in list(old)?.iter().filter(|entry| !entry.ends_with(LIST)) {
            if known.wrote(entry)? {
                self.disk.remove(entry)?;
                continue;
            }
            let back = self.dir.join(entry.file_name().unwrap_or_default());
            if stands(&back) {
                return Err(Error::taken(
                    entry,
                    format!("it is not ours, and {} is taken", back.display()),
                ));
            }
            self.disk.rename(entry, &back)?;
        }
        // the list goes last: without it our files could not be told from the user's
        self.disk.remove(&old.join(LIST))?;
        self.disk.remove_empty(old)?;
        self.disk.sync_parent(&self.dir)
    }
}

/// An output file, and others beside it.
#[derive(Debug)]
pub struct OutFiles {
    disk: Disk,
    list: PathBuf,
    known: List,
}

impl OutFiles {
    /// Checks that `out` and the files `beside` it can be written: each does not exist, or was
    /// written before and is unchanged.
    ///
    /// # Errors
    /// [`Error::Taken`] otherwise.
    pub fn open(disk: Disk, out: &Path, beside: &[PathBuf]) -> Result<OutFiles> {
        let list = out.with_extension(LIST);
        let known = List::read(&list)?.unwrap_or_default();
        for path in [out.to_owned()].iter().chain(beside) {
            if !stands(path) || known.wrote(path)? {
                continue;
            }
            return Err(Error::taken(
                path,
                match known.files.contains_key(&name_of(path)) {
                    true => "it was changed since it was exported".into(),
                    false => format!("{} does not name it as exported", list.display()),
                },
            ));
        }
        Ok(OutFiles { disk, list, known })
    }

    /// Lets `fill` write one of the files at the path that it is given, and renames it into place.
    pub fn write(
        &mut self,
        path: &Path,
        fill: impl FnOnce(&Path) -> std::result::Result<(), BoxError>,
    ) -> Result<()> {
        let disk = self.disk.clone();
        disk.made(path, fill, |fresh| {
            let new = hash(fresh)?.sha256;
            let hashes = self.known.files.entry(name_of(path)).or_default();
            // until the rename is done, either version may be found there
            hashes.push(new.clone());
            write_json(&self.disk, &self.list, &self.known)?;
            self.disk.rename_over(fresh, path)?;
            self.known.files.insert(name_of(path), vec![new]);
            write_json(&self.disk, &self.list, &self.known)
        })
    }
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
