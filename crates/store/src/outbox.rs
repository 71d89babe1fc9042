//! What a program writes where people keep things too: a folder for other tools, or a file with
//! others beside it.
//!
//! Beside what it writes it leaves a list: names, and the SHA-256 of each. What is written there
//! again takes the place of files on the list whose bytes are still those, and of nothing else: a
//! file that somebody put there stays, one that somebody changed is a refusal, before anything is
//! touched. A kill at any moment loses nothing of either; what it left half done is finished or
//! undone when the same place is written again.

use std::{
    collections::BTreeMap,
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

/// The list's name in a folder; beside a file `m.gguf` it is `m.exported.json`.
const LIST: &str = "exported.json";

/// The files that were written: the SHA-256 of each in hexadecimal, of two while one takes the
/// place of the other.
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

    /// Whether what stands at `path` is what was written there.
    fn wrote(&self, path: &Path) -> Result<bool> {
        let name = path.file_name().and_then(OsStr::to_str);
        match name.and_then(|name| self.files.get(name)) {
            Some(hashes) if is_file(path) => Ok(hashes.contains(&hash(path)?.sha256)),
            _ => Ok(false),
        }
    }
}

/// A file, and no link to one.
fn is_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file())
}

fn stands(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// A folder to write, whole or not at all.
#[derive(Debug)]
pub struct OutFolder {
    disk: Disk,
    /// A link to a folder is the folder.
    dir: PathBuf,
}

impl OutFolder {
    /// Looks whether `out` can be written: nothing, an empty folder, or what was written before and
    /// not changed since. What a killed writer left there is put right first.
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

    /// The list, after a look at everything on it; `None` where nothing stands in the way.
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

    /// Lets `fill` make the folder at the path that it is given, and puts it in its place. What
    /// stood there and was not written before stays in it.
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
        let known = self.check()?; // it may have taken hours since the last look
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

    /// After a kill: the old folder goes back where the new one did not get its name, or what is
    /// not ours goes over to the new one.
    fn recover(&self) -> Result<()> {
        let old = hidden(&self.dir, "old");
        match (stands(&old), stands(&self.dir)) {
            (false, _) => Ok(()),
            (true, false) => self.disk.rename(&old, &self.dir),
            (true, true) => self.clear(&old),
        }
    }

    /// Empties what stood here before: what was written goes, all else moves to where it was.
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
        // the list goes last: without it nothing here could be told from what is somebody's
        self.disk.remove(&old.join(LIST))?;
        self.disk.remove_empty(old)?;
        self.disk.sync_parent(&self.dir)
    }
}

/// A file to write, and others beside it.
#[derive(Debug)]
pub struct OutFiles {
    disk: Disk,
    list: PathBuf,
    known: List,
}

impl OutFiles {
    /// Looks whether `out` and the files `beside` it can be written: each is not there, or was
    /// written before and not changed since.
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

    /// Lets `fill` write one of the files at the path that it is given, and puts it in its place.
    pub fn write(
        &mut self,
        path: &Path,
        fill: impl FnOnce(&Path) -> std::result::Result<(), BoxError>,
    ) -> Result<()> {
        let disk = self.disk.clone();
        disk.made(path, fill, |fresh| {
            let new = hash(fresh)?.sha256;
            let hashes = self.known.files.entry(name_of(path)).or_default();
            // for a moment either may stand there
            hashes.push(new.clone());
            write_json(&self.disk, &self.list, &self.known)?;
            self.disk.place(fresh, path)?;
            self.known.files.insert(name_of(path), vec![new]);
            write_json(&self.disk, &self.list, &self.known)
        })
    }
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
