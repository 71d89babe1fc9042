//! Which tensor lies where: what a folder, a GGUF file and embedded bytes have in common.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use candle_core::quantized::GgmlDType;

use super::bnb::Four;
use crate::{Error, Result};

/// Tensors by Hugging Face's names, and the files they lie in.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub tensors: BTreeMap<String, Stored>,
    pub files: Vec<Arc<Place>>,
}

/// One tensor of a file.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    /// Index into [`Index::files`].
    pub file: usize,
    /// First byte, and how many.
    pub start: u64,
    pub len: u64,
    pub shape: Vec<usize>,
    pub format: Format,
    /// Heads by which llama.cpp permuted the rows.
    pub permuted: Option<usize>,
}

/// How a tensor's numbers are written.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Format {
    F32,
    F16,
    Bf16,
    Block(GgmlDType),
    /// bitsandbytes' 4 bits; the bytes are the codes.
    Four(Box<Four>),
    /// One we cannot read, by its name.
    Other(String),
}

/// A file, or bytes, with the name that errors give it.
#[derive(Debug)]
pub(super) struct Place {
    pub name: String,
    /// Where it lies; none for bytes in memory.
    pub path: Option<PathBuf>,
    data: Source,
    len: u64,
}

/// What a [`Place`] is made of.
pub(super) enum Data {
    File(File),
    Memory(Vec<u8>),
}

#[derive(Debug)]
enum Source {
    File(Mutex<File>),
    Memory(Vec<u8>),
}

impl Place {
    pub fn new(name: &str, data: Data) -> Result<Self> {
        let (data, len) = match data {
            Data::File(file) => {
                let len = file.metadata().map_err(|e| io(name, e))?.len();
                (Source::File(Mutex::new(file)), len)
            }
            Data::Memory(bytes) => {
                let len = bytes.len() as u64;
                (Source::Memory(bytes), len)
            }
        };
        Ok(Place {
            name: name.to_string(),
            path: None,
            data,
            len,
        })
    }

    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|e| io(&name, e))?;
        if file.metadata().map_err(|e| io(&name, e))?.is_dir() {
            return Err(Error::rule(format!("{name} is a folder, not a file")));
        }
        Ok(Place {
            path: Some(path.to_path_buf()),
            ..Place::new(&name, Data::File(file))?
        })
    }

    /// Bytes in all.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Bytes `start..start + len`. The range is held against the file's length before anything is allocated.
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
            Source::Memory(bytes) => Ok(bytes.get(first..first + count).ok_or_else(cut)?.to_vec()),
            Source::File(file) => {
                let mut file = file
                    .lock()
                    .map_err(|e| Error::rule(format!("{}: {e}", self.name)))?;
                let mut out = vec![0; count];
                file.seek(SeekFrom::Start(start))
                    .and_then(|_| file.read_exact(&mut out))
                    .map_err(|e| io(&self.name, e))?;
                Ok(out)
            }
        }
    }
}

impl Format {
    /// Values and bytes of a block; `None` for a format we cannot read.
    pub fn block(&self) -> Option<(u64, u64)> {
        match self {
            Format::F32 => Some((1, 4)),
            Format::F16 | Format::Bf16 => Some((1, 2)),
            Format::Block(d) => Some((d.block_size() as u64, d.type_size() as u64)),
            Format::Four(_) | Format::Other(_) => None,
        }
    }
}

impl Stored {
    /// Bytes its shape and format ask for; `None` if that is no number, or blocks do not fit the rows.
    pub fn wanted_bytes(&self) -> Option<u64> {
        let (values, bytes) = self.format.block()?;
        let count = self
            .shape
            .iter()
            .try_fold(1u64, |n, &d| n.checked_mul(d as u64))?;
        let row = self.shape.last().map_or(1, |&d| d as u64);
        (row.is_multiple_of(values))
            .then(|| (count / values).checked_mul(bytes))
            .flatten()
    }
}

impl Index {
    /// Adds a tensor.
    ///
    /// # Errors
    /// A name that is there already.
    pub fn add(&mut self, name: String, tensor: Stored) -> Result<()> {
        let place = self.files.get(tensor.file).map_or("the model", |f| &f.name);
        if self.tensors.contains_key(&name) {
            return Err(Error::rule(format!("{place} has {name} twice")));
        }
        self.tensors.insert(name, tensor);
        Ok(())
    }

    /// The file a tensor lies in.
    pub fn place(&self, tensor: &Stored) -> Result<&Place> {
        self.files
            .get(tensor.file)
            .map(Arc::as_ref)
            .ok_or_else(|| Error::rule("a tensor's file is not open"))
    }
}

pub(super) fn io(name: &str, source: std::io::Error) -> Error {
    Error::Io {
        path: name.into(),
        source,
    }
}
