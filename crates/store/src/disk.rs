//! All changes to files: every operation is atomic or appends, and passes a gate through which
//! tests inject faults.

use std::{
    collections::BTreeSet,
    fmt, fs,
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{BoxError, Error, Result};

/// One file operation, passed to the gate before it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op<'a> {
    /// Create a folder.
    Folder(&'a Path),
    /// Fill a temporary file or folder.
    Fill(&'a Path),
    /// Append so many bytes to a file.
    Append(&'a Path, usize),
    /// Truncate a file to a length, in bytes.
    Cut(&'a Path, u64),
    /// Sync to disk.
    Sync(&'a Path),
    /// Rename.
    Rename(&'a Path, &'a Path),
    /// Remove a file, or a folder with its contents.
    Remove(&'a Path),
}

type Gate = dyn Fn(Op) -> io::Result<()> + Send + Sync;

/// Temporary files and folders that are being filled.
static UNFINISHED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn unfinished() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Times that a folder is removed into which somebody still writes.
const TRIES: usize = 3;

/// Removes the temporary files and folders that are being filled, for a process that ends at once:
/// whoever fills one waits from here on, so that nothing is put in place, and no error told of it.
pub fn abandon_unfinished() {
    let abandoned = unfinished();
    for path in abandoned.iter() {
        // what cannot be removed is hidden, and the next writer to that place removes it
        let _ = (0..TRIES).any(|_| Disk::new().remove(path).is_ok());
    }
    std::mem::forget(abandoned);
}

/// The file system, with an optional gate that can refuse or abort any operation.
#[derive(Clone, Default)]
pub struct Disk {
    gate: Option<Arc<Gate>>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(if self.gate.is_some() {
            "Disk(gated)"
        } else {
            "Disk"
        })
    }
}

impl Disk {
    /// A disk without a gate.
    pub fn new() -> Disk {
        Disk::default()
    }

    /// A disk whose every operation calls `gate` first, for fault injection. A refused append
    /// writes half of its bytes, as a failing disk may.
    pub fn gated(gate: impl Fn(Op) -> io::Result<()> + Send + Sync + 'static) -> Disk {
        Disk {
            gate: Some(Arc::new(gate)),
        }
    }

    /// Lets `fill` write a file or folder at a temporary path, then syncs and renames it to `path`:
    /// atomic. The old file or folder is removed only when the new one is in place.
    pub fn replace(
        &self,
        path: &Path,
        fill: impl FnOnce(&Path) -> std::result::Result<(), BoxError>,
    ) -> Result<()> {
        self.made(path, fill, |fresh| self.rename_over(fresh, path))
    }

    /// [`Disk::replace`] with another way to rename the finished file.
    pub(crate) fn made(
        &self,
        path: &Path,
        fill: impl FnOnce(&Path) -> std::result::Result<(), BoxError>,
        publish: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        let fresh = hidden(path, "new");
        self.remove(&fresh)?;
        unfinished().insert(fresh.clone());
        let filled = self
            .gate(Op::Fill(&fresh))
            .map_err(BoxError::from)
            .and_then(|()| fill(&fresh));
        let whole = match filled {
            Err(source) => Err(Error::artefact("save", path, source)),
            Ok(()) => self.sync_tree(&fresh),
        };
        unfinished().remove(&fresh);
        let placed = whole.and_then(|()| publish(&fresh));
        if placed.is_err() {
            // frees the space of a full disk; the first error is the one to report
            let _ = self.remove(&fresh);
        }
        placed
    }

    /// Whether a file can be made at `path`: an empty one is made beside it, hidden, and removed.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn check_room(&self, path: &Path) -> io::Result<()> {
        let fresh = hidden(path, "try");
        unfinished().insert(fresh.clone());
        let made = File::create(&fresh).and_then(|_| fs::remove_file(&fresh));
        unfinished().remove(&fresh);
        made
    }

    /// [`Disk::replace`] for bytes in memory.
    pub fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        self.replace(path, |fresh| Ok(fs::write(fresh, bytes)?))
    }

    /// Creates a folder and its parents.
    pub fn make_folder(&self, path: &Path) -> Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        self.gate(Op::Folder(path))
            .and_then(|()| fs::create_dir_all(path))
            .map_err(|e| Error::io("make", path, e))?;
        self.sync_folder(parent(path))
    }

    /// Removes a file or folder, if it exists.
    pub fn remove(&self, path: &Path) -> Result<()> {
        let found = match fs::symlink_metadata(path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io("look at", path, error)),
        };
        let remove = |()| match found.is_dir() {
            true => fs::remove_dir_all(path),
            false => fs::remove_file(path),
        };
        self.gate(Op::Remove(path))
            .and_then(remove)
            .map_err(|e| Error::io("remove", path, e))
    }

    /// Opens a file for appending; creates it if missing.
    pub(crate) fn append(&self, path: &Path) -> Result<File> {
        let open = || OpenOptions::new().create(true).append(true).open(path);
        self.gate(Op::Append(path, 0))
            .and_then(|()| open())
            .map_err(|e| Error::io("open", path, e))
    }

    /// Appends to an open file.
    pub(crate) fn push(&self, file: &mut File, path: &Path, bytes: &[u8]) -> Result<()> {
        let refused = self.gate(Op::Append(path, bytes.len()));
        let wanted = if refused.is_err() {
            &bytes[..bytes.len() / 2]
        } else {
            bytes
        };
        file.write_all(wanted)
            .and(refused)
            .map_err(|e| Error::io("append to", path, e))
    }

    /// Truncates a file to `length` bytes.
    pub(crate) fn cut(&self, path: &Path, length: u64) -> Result<()> {
        let cut = || OpenOptions::new().write(true).open(path)?.set_len(length);
        self.gate(Op::Cut(path, length))
            .and_then(|()| cut())
            .map_err(|e| Error::io("cut", path, e))
    }

    /// Syncs an open file to disk.
    pub(crate) fn sync(&self, file: &File, path: &Path) -> Result<()> {
        self.gate(Op::Sync(path))
            .and_then(|()| file.sync_all())
            .map_err(|e| Error::io("sync", path, e))
    }

    /// Renames `fresh`, already synced, to `path`.
    pub(crate) fn rename_over(&self, fresh: &Path, path: &Path) -> Result<()> {
        // A rename replaces a file atomically, but not a folder that has contents: that one is
        // renamed first. A crash between the two renames leaves nothing under the name; the stage,
        // not yet marked finished, is made again.
        let old = hidden(path, "old");
        let aside = path.is_dir();
        if aside && !fresh.is_dir() {
            return Err(Error::taken(path, "a folder is there"));
        }
        if aside {
            self.remove(&old)?;
            self.rename(path, &old)?;
        }
        self.rename(fresh, path)?;
        self.sync_folder(parent(path))?;
        if aside {
            self.remove(&old)?;
        }
        Ok(())
    }

    /// Removes an empty folder.
    pub(crate) fn remove_empty(&self, path: &Path) -> Result<()> {
        self.gate(Op::Remove(path))
            .and_then(|()| fs::remove_dir(path))
            .map_err(|e| Error::io("remove", path, e))
    }

    /// Syncs the parent folder, so that a rename into or out of it lasts.
    pub(crate) fn sync_parent(&self, path: &Path) -> Result<()> {
        self.sync_folder(parent(path))
    }

    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.gate(Op::Rename(from, to))
            .and_then(|()| fs::rename(from, to))
            .map_err(|e| Error::io("rename", from, e))
    }

    fn sync_tree(&self, path: &Path) -> Result<()> {
        if !path.is_dir() {
            let file = open_to_sync(path).map_err(|e| Error::io("open", path, e))?;
            return self.sync(&file, path);
        }
        for entry in list(path)? {
            self.sync_tree(&entry)?;
        }
        self.sync_folder(path)
    }

    fn sync_folder(&self, path: &Path) -> Result<()> {
        let sync = || {
            if cfg!(unix) {
                File::open(path)?.sync_all()
            } else {
                Ok(())
            }
        };
        self.gate(Op::Sync(path))
            .and_then(|()| sync())
            .map_err(|e| Error::io("sync", path, e))
    }

    fn gate(&self, op: Op) -> io::Result<()> {
        self.gate.as_ref().map_or(Ok(()), |gate| gate(op))
    }
}

/// Lists a folder, sorted, so that results do not depend on the file system.
pub(crate) fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = || {
        fs::read_dir(folder)?
            .map(|entry| Ok(entry?.path()))
            .collect::<io::Result<Vec<_>>>()
    };
    let mut entries = read().map_err(|e| Error::io("list", folder, e))?;
    entries.sort();
    Ok(entries)
}

/// Whether a name is one of our temporary ones.
pub(crate) fn is_hidden(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.starts_with('.') && name.ends_with(".tmp"))
}

/// Temporary name `dir/.NAME.new.tmp`: in the same folder, hence on the same file system, so that a
/// rename does not copy.
pub(crate) fn hidden(path: &Path, what: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{what}.tmp"))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(not(windows))]
fn open_to_sync(path: &Path) -> io::Result<File> {
    File::open(path)
}

#[cfg(windows)] // there, only a file opened for writing can be flushed
fn open_to_sync(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).open(path)
}
