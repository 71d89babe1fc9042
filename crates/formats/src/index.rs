//! Which tensor lies where: what a folder, a GGUF file and embedded bytes have in common.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use crate::{Dtype, Error, Result, bnb::Four, gguf::Block};

/// Tensors by Hugging Face's names, and the files they lie in.
#[derive(Debug, Default)]
pub struct Index {
    /// By full name.
    pub tensors: BTreeMap<String, Stored>,
    /// In the order in which they were opened.
    pub files: Vec<Arc<Place>>,
}

/// One tensor of a file.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Index into [`Index::files`].
    pub file: usize,
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// Slowest axis first.
    pub shape: Vec<usize>,
    /// How its numbers are written.
    pub format: Format,
    /// Heads by which llama.cpp permuted the rows.
    pub permuted: Option<usize>,
}

/// How a tensor's numbers are written.
#[derive(Debug, Clone, PartialEq)]
pub enum Format {
    /// One by one.
    Dense(Dtype),
    /// In blocks that share a scale.
    Block(Block),
    /// bitsandbytes' 4 bits; the bytes are the codes.
    Four(Box<Four>),
    /// One we cannot read, by its name.
    Other(String),
}

/// A file, or bytes, with the name that errors give it.
#[derive(Debug)]
pub struct Place {
    /// For errors.
    pub name: String,
    /// Where it lies; none for bytes in memory.
    pub path: Option<PathBuf>,
    data: Source,
    len: u64,
}

#[derive(Debug)]
enum Source {
    File(Mutex<File>),
    Memory(Vec<u8>),
}

impl Place {
    /// Bytes in memory.
    pub fn memory(name: &str, bytes: Vec<u8>) -> Self {
        Place {
            name: name.to_string(),
            path: None,
            len: bytes.len() as u64,
            data: Source::Memory(bytes),
        }
    }

    /// A file.
    ///
    /// # Errors
    /// One that cannot be opened, or is a folder.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(Error::io(path))?;
        let about = file.metadata().map_err(Error::io(path))?;
        if about.is_dir() {
            return Err(Error::rule(format!("{name} is a folder, not a file")));
        }
        Ok(Place {
            name,
            path: Some(path.to_path_buf()),
            data: Source::File(Mutex::new(file)),
            len: about.len(),
        })
    }

    /// Bytes in all.
    pub fn size(&self) -> u64 {
        self.len
    }

    /// Bytes `start..start + len`. The range is held against the file's length before anything is
    /// allocated.
    ///
    /// # Errors
    /// A file that ends before, or cannot be read.
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
    /// Values and bytes of a block; `None` for a format we cannot read.
    pub fn block(&self) -> Option<(u64, u64)> {
        match self {
            Format::Dense(dtype) => Some((1, dtype.width())),
            Format::Block(block) => Some((block.values() as u64, block.bytes() as u64)),
            Format::Four(_) | Format::Other(_) => None,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Dense(dtype) => dtype.tag(),
            Format::Block(block) => block.name(),
            Format::Four(_) => "bitsandbytes' 4 bits",
            Format::Other(name) => name,
        })
    }
}

impl Stored {
    /// Bytes its shape and format ask for; `None` if that is no number, or blocks do not fit the
    /// rows.
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

    /// All its numbers, in the order of the file; for small dense tensors.
    ///
    /// # Errors
    /// Another format than dense, a file that is cut short.
    pub fn numbers(&self, name: &str, place: &Place) -> Result<Vec<f32>> {
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
    ///
    /// # Errors
    /// A tensor of another index.
    pub fn place(&self, tensor: &Stored) -> Result<&Place> {
        self.files
            .get(tensor.file)
            .map(Arc::as_ref)
            .ok_or_else(|| Error::rule("a tensor's file is not open"))
    }
}
