//! Index of tensors and the files they are in: common to folders, GGUF files and bytes in memory.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use crate::{Dtype, Error, Result, bnb::Bnb4, gguf::Block};

/// Tensors by Hugging Face's names, with their files.
#[derive(Debug, Default)]
pub struct Index {
    /// Tensors by full name.
    pub tensors: BTreeMap<String, Stored>,
    /// Files, in the order in which they were opened.
    pub files: Vec<Arc<ByteSource>>,
}

/// Location, shape and format of one tensor.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Index into [`Index::files`].
    pub file: usize,
    /// Offset of its first byte in the file.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// Shape, slowest axis first.
    pub shape: Vec<usize>,
    /// Its number format.
    pub format: Format,
    /// Number of heads by which llama.cpp permuted the rows.
    pub permuted: Option<usize>,
}

/// A tensor's number format.
#[derive(Debug, Clone, PartialEq)]
pub enum Format {
    /// Dense numbers.
    Dense(Dtype),
    /// Blocks that share a scale.
    Block(Block),
    /// bitsandbytes' 4-bit format; the bytes are the codes.
    Bnb4(Box<Bnb4>),
    /// An unsupported format, by name.
    Other(String),
}

/// A file, or bytes in memory, with a name for errors.
#[derive(Debug)]
pub struct ByteSource {
    /// Name for errors.
    pub name: String,
    /// Path of the file; `None` for bytes in memory.
    pub path: Option<PathBuf>,
    data: Source,
    len: u64,
}

#[derive(Debug)]
enum Source {
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
            data: Source::Memory(bytes),
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
            data: Source::File(Mutex::new(file)),
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
            Source::Memory(bytes) => Ok(bytes.get(first..first + count).ok_or_else(cut)?.to_vec()),
            Source::File(file) => {
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

impl Format {
    /// Values and bytes per block; `None` for an unsupported format.
    pub fn block(&self) -> Option<(u64, u64)> {
        match self {
            Format::Dense(dtype) => Some((1, dtype.width())),
            Format::Block(block) => Some((block.values() as u64, block.bytes() as u64)),
            Format::Bnb4(_) | Format::Other(_) => None,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Dense(dtype) => dtype.tag(),
            Format::Block(block) => block.name(),
            Format::Bnb4(_) => "bitsandbytes' 4 bits",
            Format::Other(name) => name,
        })
    }
}

impl Stored {
    /// Bytes implied by its shape and format; `None` if the product overflows, or blocks do not
    /// divide the rows.
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

    /// Reads all numbers in the order of the file; for small dense tensors.
    ///
    /// # Errors
    /// A format other than dense, a file that is cut short.
    pub fn numbers(&self, name: &str, place: &ByteSource) -> Result<Vec<f32>> {
        let Format::Dense(dtype) = self.format else {
            return Err(Error::rule(format!(
                "{name} is stored as {}; F32, F16 and BF16 can be read",
                self.format
            )));
        };
        Ok(dtype.values(&place.read(self.start, self.len)?))
    }
}

impl Index {
    /// Adds a tensor.
    ///
    /// # Errors
    /// A name that exists already.
    pub fn add(&mut self, name: String, tensor: Stored) -> Result<()> {
        let place = self.files.get(tensor.file).map_or("the model", |f| &f.name);
        if self.tensors.contains_key(&name) {
            return Err(Error::rule(format!("{place} has {name} twice")));
        }
        self.tensors.insert(name, tensor);
        Ok(())
    }

    /// The file a tensor is in.
    ///
    /// # Errors
    /// A tensor of another index.
    pub fn source_of(&self, tensor: &Stored) -> Result<&ByteSource> {
        self.files
            .get(tensor.file)
            .map(Arc::as_ref)
            .ok_or_else(|| Error::rule("a tensor's file is not open"))
    }
}
