//! Bytes that model files are read from, by position.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::Mutex,
};

use crate::{Error, Result};

/// A file, or bytes in memory, with a name for errors.
#[derive(Debug)]
pub struct ByteSource {
    /// Name for errors.
    pub name: String,
    /// Path of the file; `None` for bytes in memory.
    pub path: Option<PathBuf>,
    data: Data,
    len: u64,
}

#[derive(Debug)]
enum Data {
    File(Mutex<File>),
    Memory(Vec<u8>),
}

impl ByteSource {
    /// Wraps bytes in memory.
    pub fn memory(name: &str, bytes: Vec<u8>) -> Self {
        ByteSource {
            name: name.to_string(),
            path: None,
            len: bytes.len() as u64,
            data: Data::Memory(bytes),
        }
    }

    /// Opens a file.
    ///
    /// # Errors
    /// A file that cannot be opened, or is a folder.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(Error::io(path))?;
        let about = file.metadata().map_err(Error::io(path))?;
        if about.is_dir() {
            return Err(Error::rule(format!("{name} is a folder, not a file")));
        }
        Ok(ByteSource {
            name,
            path: Some(path.to_path_buf()),
            data: Data::File(Mutex::new(file)),
            len: about.len(),
        })
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.len
    }

    /// Reads bytes `start..start + len`. The range is checked against the file's length before
    /// anything is allocated.
    ///
    /// # Errors
    /// A range past the end, a file that cannot be read.
    pub fn read(&self, start: u64, len: u64) -> Result<Vec<u8>> {
        let cut = || {
            Error::rule(format!(
                "{} ends before byte {start} + {len}: it is cut short",
                self.name
            ))
        };
        if start.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(cut());
        }
        let (first, count) = (
            usize::try_from(start).map_err(|_| cut())?,
            usize::try_from(len).map_err(|_| cut())?,
        );
        match &self.data {
            Data::Memory(bytes) => Ok(bytes.get(first..first + count).ok_or_else(cut)?.to_vec()),
            Data::File(file) => {
                let mut file = file
                    .lock()
                    .map_err(|e| Error::rule(format!("{}: {e}", self.name)))?;
                let mut out = vec![0; count];
                file.seek(SeekFrom::Start(start))
                    .and_then(|_| file.read_exact(&mut out))
                    .map_err(Error::io(Path::new(&self.name)))?;
                Ok(out)
            }
        }
    }
}
