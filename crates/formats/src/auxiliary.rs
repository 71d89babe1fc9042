//! A tensor beside a quantised matrix: its scales, zero points or maps. It may be in another file.

use std::sync::Arc;

use crate::{ByteSource, Dtype};

/// Result with an error message that lacks the matrix's name.
pub(crate) type Read<T> = std::result::Result<T, String>;

/// An auxiliary tensor of a matrix.
#[derive(Debug, Clone)]
pub(crate) struct AuxTensor {
    pub(crate) name: String,
    pub(crate) source: Arc<ByteSource>,
    /// Offset of its first byte.
    pub(crate) start: u64,
    /// Length in bytes.
    pub(crate) len: u64,
    /// Shape, slowest axis first.
    pub(crate) shape: Vec<usize>,
    /// Name of its number format.
    pub(crate) format: String,
}

impl PartialEq for AuxTensor {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, self.start) == (&other.name, other.start)
    }
}

impl AuxTensor {
    /// The tensor of a folder whose files are not at hand: nobody reads it.
    pub(crate) fn absent() -> AuxTensor {
        AuxTensor {
            name: String::new(),
            source: Arc::new(ByteSource::memory("config.json", Vec::new())),
            start: 0,
            len: 0,
            shape: Vec::new(),
            format: String::new(),
        }
    }

    pub(crate) fn read(&self) -> Read<Vec<u8>> {
        let bytes = self.source.read(self.start, self.len);
        bytes.map_err(|e| e.to_string())
    }

    /// Reads numbers in f32.
    pub(crate) fn floats(&self) -> Read<Vec<f32>> {
        match self.format == Dtype::F32.tag() {
            true => Ok(Dtype::F32.values(&self.read()?)),
            false => Err(format!(
                "{} is stored as {}; F32 can be read",
                self.name, self.format
            )),
        }
    }

    /// Reads numbers in f32, f16 or bf16.
    pub(crate) fn numbers(&self) -> Read<Vec<f32>> {
        match self.dtype() {
            Some(dtype) => Ok(dtype.values(&self.read()?)),
            None => Err(format!(
                "{} is stored as {}; F32, F16 and BF16 can be read",
                self.name, self.format
            )),
        }
    }

    /// Its dense number format, if it has one.
    pub(crate) fn dtype(&self) -> Option<Dtype> {
        Dtype::ALL.into_iter().find(|d| d.tag() == self.format)
    }

    /// Reads whole numbers of 32 or 64 bits.
    pub(crate) fn integers(&self) -> Read<Vec<i64>> {
        let bytes = self.read()?;
        match self.format.as_str() {
            "I32" => {
                let words = bytes.as_chunks::<4>().0.iter();
                Ok(words.map(|b| i64::from(i32::from_le_bytes(*b))).collect())
            }
            "I64" => {
                let words = bytes.as_chunks::<8>().0.iter();
                Ok(words.map(|b| i64::from_le_bytes(*b)).collect())
            }
            other => Err(format!(
                "{} is stored as {other}; I32 and I64 can be read",
                self.name
            )),
        }
    }

    /// Checks its number format, of `width` bytes, its shape and its length.
    pub(crate) fn expect(&self, format: &str, width: u64, shape: &[usize]) -> Read<()> {
        if self.format != format || self.shape != shape {
            return Err(format!(
                "{} has the shape {:?} in {}, {shape:?} in {format} is wanted",
                self.name, self.shape, self.format
            ));
        }
        self.whole(width)
    }

    /// Checks that it has dense numbers of this shape.
    pub(crate) fn dense(&self, shape: &[usize]) -> Read<()> {
        match self.dtype() {
            Some(dtype) => self.expect(dtype.tag(), dtype.width(), shape),
            None => Err(format!(
                "{} is stored as {}; F32, F16 and BF16 can be read",
                self.name, self.format
            )),
        }
    }

    /// Checks that its length is that of its shape in numbers of `width` bytes.
    pub(crate) fn whole(&self, width: u64) -> Read<()> {
        let dims = self.shape.iter();
        let bytes = dims.map(|&d| d as u64).try_fold(width, u64::checked_mul);
        match bytes == Some(self.len) {
            true => Ok(()),
            false => Err(format!(
                "{} has the shape {:?} in {} but {} bytes",
                self.name, self.shape, self.format, self.len
            )),
        }
    }
}
