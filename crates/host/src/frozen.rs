//! A plugin's bytes, read once and protected against changes between hashing and loading.
//!
//! The system's loader takes a path, not bytes, and a file can be replaced after it was read. So
//! the loader gets
//! - on Linux a file in memory (memfd), sealed against every change, also by its owner;
//! - on other Unix systems, and where memfd fails, a copy in a new folder that only its owner can
//!   enter;
//! - on Windows the file itself, held open in a mode that prevents writing, moving and removing it.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// A file's bytes, as read once.
pub(crate) struct Frozen {
    bytes: Vec<u8>,
    #[cfg(not(unix))]
    held: OpenFile,
}

/// The open file, and its path.
#[cfg(not(unix))]
struct OpenFile {
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
            held: OpenFile {
                file,
                path: path.to_owned(),
            },
        })
    }

    /// The bytes.
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

/// A file for the loader; on drop its file descriptor or folder is released.
pub(crate) struct Copy {
    path: PathBuf,
    /// The file in memory, or the file held open.
    #[cfg(any(target_os = "linux", not(unix)))]
    held: Option<File>,
    #[cfg(unix)]
    _folder: Option<tempfile::TempDir>,
}

impl Copy {
    /// Path for the loader.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Releases the copy after loading. A file in memory stays open for ever: its path is its
    /// descriptor's number, and if that were reused, the loader would take the new file for this
    /// library. A private copy is deleted; its mapping stays.
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
