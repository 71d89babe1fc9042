//! Index of tensors and the files they are in: common to folders, GGUF files and bytes in memory.

use std::{collections::BTreeMap, fmt, sync::Arc};

use randori_sdk::dialect::Values;

use crate::{
    ByteSource, Dtype, Error, Result, Swap,
    auxiliary::AuxTensor,
    bnb::Bnb4,
    gguf::{Block, Kind},
    packed::Packed,
};

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
    /// In which other order the file has its rows or columns.
    pub order: Option<Swap>,
    /// Its rows are columns of what is stored.
    pub columns: Option<Columns>,
    /// Factor of all values, which the stored ones lack.
    pub factor: f32,
    /// What is stored for each of its own values, after the factor.
    pub values: Values,
}

/// Columns of a stored matrix that are rows of a tensor: value (o, i) lies in row i and column
/// `first` + `step` · o of the dense numbers at the tensor's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Columns {
    /// Columns of the stored matrix.
    pub total: usize,
    /// That of the first row.
    pub first: usize,
    /// From one row's to the next one's.
    pub step: usize,
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
    /// Codes in few bits with scales in tensors of their own (GPTQ, AWQ, FP8, …); the bytes are
    /// the codes.
    Packed(Box<Packed>),
    /// An unsupported format, by name.
    Other(String),
}

impl From<Kind> for Format {
    fn from(kind: Kind) -> Format {
        match kind {
            Kind::Dense(dtype) => Format::Dense(dtype),
            Kind::Block(block) => Format::Block(block),
        }
    }
}

impl Format {
    /// Values and bytes per block; `None` for an unsupported format.
    pub fn block(&self) -> Option<(u64, u64)> {
        match self {
            Format::Dense(dtype) => Some((1, dtype.width())),
            Format::Block(block) => Some((block.values() as u64, block.bytes() as u64)),
            Format::Bnb4(_) | Format::Packed(_) | Format::Other(_) => None,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Dense(dtype) => dtype.tag(),
            Format::Block(block) => block.name(),
            Format::Bnb4(_) => "bitsandbytes' 4 bits",
            Format::Packed(packed) => packed.kind(),
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
    pub fn numbers(&self, name: &str, source: &ByteSource) -> Result<Vec<f32>> {
        let Format::Dense(dtype) = self.format else {
            return Err(Error::rule(format!(
                "{name} is stored as {}; F32, F16 and BF16 can be read",
                self.format
            )));
        };
        Ok(dtype.values(&source.read(self.start, self.len)?))
    }
}

impl Index {
    /// Adds a tensor.
    ///
    /// # Errors
    /// A name that exists already.
    pub fn add(&mut self, name: String, tensor: Stored) -> Result<()> {
        let file = self.files.get(tensor.file).map_or("the model", |f| &f.name);
        if self.tensors.contains_key(&name) {
            return Err(Error::rule(format!("{file} has {name} twice")));
        }
        self.tensors.insert(name, tensor);
        Ok(())
    }

    /// A tensor that belongs to a matrix.
    pub(crate) fn auxiliary(&self, name: &str) -> Option<AuxTensor> {
        let stored = self.tensors.get(name)?;
        Some(AuxTensor {
            name: name.to_string(),
            source: self.files.get(stored.file)?.clone(),
            start: stored.start,
            len: stored.len,
            shape: stored.shape.clone(),
            format: stored.format.to_string(),
        })
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
