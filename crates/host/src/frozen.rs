//! A plugin's bytes, read once and kept so that nobody can change them between their hash and their
//! loading.
//!
//! The system's loader takes a path, not bytes, and a file can be replaced after it was read. So
//! what is loaded is
//! - on Linux a file in memory, sealed against every change, its owner's too;
//! - on other Unix systems, and where Linux has no such files, a copy in a new folder that its
//!   owner alone may enter;
//! - on Windows the file itself, held open in a mode in which the system lets nobody write, move or
//!   remove it.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// What was read.
pub(crate) struct Frozen {
    bytes: Vec<u8>,
    #[cfg(not(unix))]
    held: Held,
}

/// The file while it is held, and where it lies.
#[cfg(not(unix))]
struct Held {
    file: File,
    path: PathBuf,
}

impl Frozen {
    /// Reads a file.
    pub fn read(path: &Path) -> io::Result<Frozen> {
        let mut file = open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(Frozen {
            bytes,
            #[cfg(not(unix))]
            held: Held {
                file,
                path: path.to_owned(),
            },
        })
    }

    /// What was read.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// A file with exactly these bytes, for the loader; `name` shows in debuggers.
    #[cfg(target_os = "linux")]
    pub fn file(self, name: &str) -> io::Result<Copy> {
        sealed(name, &self.bytes).or_else(|_| private(name, &self.bytes))
    }

    /// A file with exactly these bytes, for the loader.
    #[cfg(all(unix, not(target_os = "linux")))]
    pub fn file(self, name: &str) -> io::Result<Copy> {
        private(name, &self.bytes)
    }

    /// A file with exactly these bytes, for the loader.
    #[cfg(not(unix))]
    pub fn file(self, _name: &str) -> io::Result<Copy> {
        Ok(Copy {
            path: self.held.path,
            held: Some(self.held.file),
        })
    }
}

#[cfg(unix)]
fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}

#[cfg(windows)]
fn open(path: &Path) -> io::Result<File> {
    use std::os::windows::fs::OpenOptionsExt;
    const FILE_SHARE_READ: u32 = 1;
    let mut options = std::fs::OpenOptions::new();
    options.read(true).share_mode(FILE_SHARE_READ).open(path)
}

/// A file to be loaded; what it needs goes with it when it is dropped.
pub(crate) struct Copy {
    path: PathBuf,
    /// Of a file in memory, or of a file that is held.
    #[cfg(any(target_os = "linux", not(unix)))]
    held: Option<File>,
    #[cfg(unix)]
    _folder: Option<tempfile::TempDir>,
}

impl Copy {
    /// What the loader is given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// It was loaded. A file in memory stays open: its path is its number, and the loader takes a
    /// path that it knows for a library that it has. A private copy goes; what was mapped of it
    /// stays.
    pub fn keep(self) {
        #[cfg(any(target_os = "linux", not(unix)))]
        std::mem::forget(self.held);
    }
}

#[cfg(target_os = "linux")]
fn sealed(name: &str, bytes: &[u8]) -> io::Result<Copy> {
    use std::{io::Write, os::fd::AsRawFd};

    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(memfd_create(name, flags)?);
    file.write_all(bytes)?;
    fcntl_add_seals(
        &file,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    path.metadata()?; // where /proc is not mounted there is no path
    Ok(Copy {
        path,
        held: Some(file),
        _folder: None,
    })
}

#[cfg(unix)]
fn private(name: &str, bytes: &[u8]) -> io::Result<Copy> {
    let owners = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    let folder = tempfile::Builder::new()
        .prefix("randori-")
        .permissions(owners)
        .tempdir()?;
    let path = folder.path().join(name);
    std::fs::write(&path, bytes)?;
    Ok(Copy {
        path,
        #[cfg(target_os = "linux")]
        held: None,
        _folder: Some(folder),
    })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn both_copies_hold_the_bytes_and_neither_can_be_changed_by_others() {
        let bytes = b"neither code nor data".repeat(1000);
        let copy = sealed("x.so", &bytes).unwrap();
        assert_eq!(fs::read(copy.path()).unwrap(), bytes);
        // sealed: not even its owner writes it, or makes it shorter
        assert!(fs::write(copy.path(), b"other").is_err());
        assert_eq!(fs::read(copy.path()).unwrap(), bytes);

        let copy = private("x.so", &bytes).unwrap();
        assert_eq!(fs::read(copy.path()).unwrap(), bytes);
        let folder = copy.path().parent().unwrap().to_owned();
        let mode = fs::metadata(&folder).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        drop(copy);
        assert!(!folder.exists());
    }
}
