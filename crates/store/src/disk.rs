//! The only place that changes files: everything here is atomic or append-only, and every operation
//! passes a gate where tests can break the disk.

use std::{
    fmt, fs,
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{BoxError, Error, Result};

/// One change to the disk, as the gate sees it before it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op<'a> {
    /// Make a folder.
    Folder(&'a Path),
    /// Fill a temporary file or folder.
    Fill(&'a Path),
    /// Append these many bytes to a file.
    Append(&'a Path, usize),
    /// Cut a file to a length.
    Cut(&'a Path, u64),
    /// Wait until it is on disk.
    Sync(&'a Path),
    /// Give it its name.
    Rename(&'a Path, &'a Path),
    /// Remove a file or a folder with all that is in it.
    Remove(&'a Path),
}

type Gate = dyn Fn(Op) -> io::Result<()> + Send + Sync;

/// The disk, with an optional gate that can refuse or abort any operation.
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
    /// The disk as it is.
    pub fn new() -> Disk {
        Disk::default()
    }

    /// A disk whose every operation asks `gate` first: for fault injection. An append that is
    /// refused has written half of its bytes by then, as a real one may have.
    pub fn gated(gate: impl Fn(Op) -> io::Result<()> + Send + Sync + 'static) -> Disk {
        Disk {
            gate: Some(Arc::new(gate)),
        }
    }

    /// Lets `fill` write a file or a folder at the temporary path it is given, and puts it at
    /// `path`, whole and on disk or not at all. What stood there before is gone only when the new
    /// one stands.
    pub fn replace(
        &self,
        path: &Path,
        fill: impl FnOnce(&Path) -> std::result::Result<(), BoxError>,
    ) -> Result<()> {
        self.made(path, fill, |fresh| self.place(fresh, path))
    }

    /// [`Disk::replace`] with another way of giving what was made its name.
    pub(crate) fn made(
        &self,
        path: &Path,
        fill: impl FnOnce(&Path) -> std::result::Result<(), BoxError>,
        publish: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        let fresh = hidden(path, "new");
        self.remove(&fresh)?;
        let filled = self
            .gate(Op::Fill(&fresh))
            .map_err(BoxError::from)
            .and_then(|()| fill(&fresh));
        let placed = match filled {
            Err(source) => Err(Error::artefact("save", path, source)),
            Ok(()) => self.sync_tree(&fresh).and_then(|()| publish(&fresh)),
        };
        if placed.is_err() {
            let _ = self.remove(&fresh); // gives a full disk its space back; the first error is the one to report
        }
        placed
    }

    /// [`Disk::replace`] for bytes at hand.
    pub fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        self.replace(path, |fresh| Ok(fs::write(fresh, bytes)?))
    }

    /// Makes a folder and those above it.
    pub fn folder(&self, path: &Path) -> Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        self.gate(Op::Folder(path))
            .and_then(|()| fs::create_dir_all(path))
            .map_err(|e| Error::io("make", path, e))?;
        self.sync_folder(parent(path))
    }

    /// Removes a file or folder, if there.
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

    /// Opens a file for appending, made if it is not there.
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

    /// Cuts a file to a length.
    pub(crate) fn cut(&self, path: &Path, length: u64) -> Result<()> {
        let cut = || OpenOptions::new().write(true).open(path)?.set_len(length);
        self.gate(Op::Cut(path, length))
            .and_then(|()| cut())
            .map_err(|e| Error::io("cut", path, e))
    }

    /// Waits until an open file is on disk.
    pub(crate) fn sync(&self, file: &File, path: &Path) -> Result<()> {
        self.gate(Op::Sync(path))
            .and_then(|()| file.sync_all())
            .map_err(|e| Error::io("sync", path, e))
    }

    /// Gives what is on disk at `fresh` the name `path`.
    pub(crate) fn place(&self, fresh: &Path, path: &Path) -> Result<()> {
        // A rename replaces a file at once, but no folder that has something in it: that one steps
        // aside first. A crash between the two renames leaves nothing under the name, and the stage
        // that was not yet marked finished is made again.
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

    /// Removes a folder that holds nothing.
    pub(crate) fn remove_empty(&self, path: &Path) -> Result<()> {
        self.gate(Op::Remove(path))
            .and_then(|()| fs::remove_dir(path))
            .map_err(|e| Error::io("remove", path, e))
    }

    /// Makes what was renamed into a folder or out of it last.
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

/// What a folder holds, sorted, so that whatever follows does not depend on the file system.
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

/// Whether a name is one of ours for something unfinished.
pub(crate) fn is_hidden(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.starts_with('.') && name.ends_with(".tmp"))
}

/// `dir/.NAME.new.tmp`: same folder, hence same file system, hence a rename and not a copy.
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
