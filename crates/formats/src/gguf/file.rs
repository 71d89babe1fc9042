//! Writer of GGUF files (version 3, little-endian, data aligned to 32 bytes), in one pass: the
//! header needs only names and shapes, and the tensors' bytes follow. The file has a temporary name
//! until it is complete and on disk.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use super::{
    TensorSpec, Value,
    header::{self, ALIGNMENT},
};
use crate::{Error, Result};

/// A GGUF file being written; tensors must come in the order declared. Dropped before
/// [`Writer::publish`], it removes the file.
pub struct Writer {
    out: Option<BufWriter<File>>,
    partial: PathBuf,
    target: PathBuf,
    coming: std::vec::IntoIter<TensorSpec>,
    /// The tensor being written and the number of bytes it still lacks.
    current: Option<(TensorSpec, u64)>,
    written: u64,
}

impl Writer {
    /// Creates the file and writes the header.
    ///
    /// # Errors
    /// The file exists and is not to be replaced, an integer exceeds 32 bits, the disk is full.
    pub fn create(
        target: &Path,
        replace: bool,
        metadata: &[(String, Value)],
        coming: Vec<TensorSpec>,
    ) -> Result<Self> {
        if !replace && target.exists() {
            return Err(Error::rule(format!(
                "{} is there already; choose another place or ask to replace it",
                target.display()
            )));
        }
        if target.is_dir() {
            return Err(Error::rule(format!(
                "{} is a folder; a GGUF is one file",
                target.display()
            )));
        }
        let header = header::write(metadata, &coming)?;
        let partial = beside(target)?;
        let file = File::create(&partial).map_err(Error::io(&partial))?;
        let mut writer = Writer {
            out: Some(BufWriter::with_capacity(1 << 20, file)),
            partial,
            target: target.to_path_buf(),
            coming: coming.into_iter(),
            current: None,
            written: 0,
        };
        writer.put(&header)?;
        Ok(writer)
    }

    /// Begins the next declared tensor, which must have this name.
    ///
    /// # Errors
    /// Another tensor is next, or the one before lacks bytes.
    pub fn begin(&mut self, name: &str) -> Result<()> {
        self.complete()?;
        match self.coming.next() {
            Some(next) if next.name == name => {
                let bytes = next.bytes();
                self.current = Some((next, bytes));
                Ok(())
            }
            next => Err(Error::rule(format!(
                "{name} was to be written where the header has {}",
                next.map_or_else(|| "nothing".into(), |n| n.name)
            ))),
        }
    }

    /// Appends data of the current tensor.
    ///
    /// # Errors
    /// More bytes than declared, a full disk.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.current {
            Some((_, left)) if *left >= bytes.len() as u64 => *left -= bytes.len() as u64,
            _ => {
                return Err(Error::rule(
                    "a tensor has more bytes than its header says".to_string(),
                ));
            }
        }
        self.put(bytes)
    }

    /// Syncs the file to disk, renames it into place, and returns its size in bytes.
    ///
    /// # Errors
    /// A declared tensor is not written, the disk is full.
    pub fn publish(mut self) -> Result<u64> {
        self.complete()?;
        if let Some(missing) = self.coming.next() {
            return Err(Error::rule(format!("{} was not written", missing.name)));
        }
        if let Some(out) = self.out.take() {
            let file = out
                .into_inner()
                .map_err(|e| Error::io(&self.partial)(e.into_error()))?;
            file.sync_all().map_err(Error::io(&self.partial))?;
        }
        fs::rename(&self.partial, &self.target).map_err(Error::io(&self.target))?;
        if let Some(parent) = self.target.parent().filter(|p| !p.as_os_str().is_empty()) {
            // syncs the rename where the system allows it
            let _ = File::open(parent).and_then(|d| d.sync_all());
        }
        Ok(self.written)
    }

    /// Pads the file so that the next tensor is aligned.
    fn complete(&mut self) -> Result<()> {
        if let Some((tensor, left)) = self.current.take() {
            if left != 0 {
                return Err(Error::rule(format!(
                    "{} lacks {left} of its {} bytes",
                    tensor.name,
                    tensor.bytes()
                )));
            }
            let gap = self.written.next_multiple_of(ALIGNMENT) - self.written;
            self.put(&vec![0; gap as usize])?;
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        if let Some(out) = &mut self.out {
            out.write_all(bytes).map_err(Error::io(&self.partial))?;
        }
        self.written += bytes.len() as u64;
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.out.take());
        // after `publish` no file has this name
        let _ = fs::remove_file(&self.partial);
    }
}

/// Writes a file of tensors in memory and returns its size in bytes.
///
/// # Errors
/// As for [`Writer`].
pub fn write(
    target: &Path,
    replace: bool,
    metadata: &[(String, Value)],
    tensors: &[(TensorSpec, Vec<u8>)],
) -> Result<u64> {
    let coming = tensors.iter().map(|(t, _)| t.clone()).collect();
    let mut writer = Writer::create(target, replace, metadata, coming)?;
    for (t, bytes) in tensors {
        writer.begin(&t.name)?;
        writer.write(bytes)?;
    }
    writer.publish()
}

/// Temporary name: `models/mine.gguf` -> `models/mine.gguf.partial`
fn beside(target: &Path) -> Result<PathBuf> {
    let name = target
        .file_name()
        .ok_or_else(|| Error::rule(format!("{} names no file to write", target.display())))?;
    let mut name: OsString = name.to_os_string();
    name.push(".partial");
    Ok(target.with_file_name(name))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::{ByteSource, Dtype, gguf::Kind, gguf::header::Header};

    fn coming(name: &str, n: usize) -> TensorSpec {
        TensorSpec::new(name, &[n], Kind::Dense(Dtype::F32))
    }

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.gguf");
        let metadata = [("general.name".to_string(), Value::Text("x".into()))];
        let tensors = [("a", 3), ("b", 8), ("c", 1)].map(|(name, n)| {
            let values: Vec<f32> = (0..n).map(|i| i as f32 + 0.5).collect();
            (coming(name, n), Dtype::F32.encode(name, &values).unwrap())
        });
        let bytes = write(&path, false, &metadata, &tensors).unwrap();
        assert_eq!(bytes, fs::metadata(&path).unwrap().len());
        let source = ByteSource::open(&path).unwrap();
        let header = Header::read(&source).unwrap();
        assert_eq!(header.metadata["general.name"], metadata[0].1);
        for (t, bytes) in &tensors {
            let stored = &header.tensors[&t.name];
            assert_eq!(&source.read(stored.start, stored.len).unwrap(), bytes);
        }
        let again = write(&path, false, &metadata, &tensors).unwrap_err();
        assert!(again.to_string().contains("there already"), "{again}");
        assert_eq!(write(&path, true, &metadata, &tensors).unwrap(), bytes);
    }

    #[test]
    fn what_is_not_as_announced_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.gguf");
        let create =
            || Writer::create(&path, false, &[], vec![coming("a", 2), coming("b", 2)]).unwrap();
        let mut writer = create();
        assert!(writer.begin("b").is_err());
        drop(writer);
        let mut writer = create();
        writer.begin("a").unwrap();
        assert!(writer.write(&[0; 9]).is_err());
        writer.write(&[0; 4]).unwrap();
        let e = writer.begin("b").unwrap_err().to_string();
        assert!(e.contains("a lacks 4 of its 8 bytes"), "{e}");
        drop(writer);
        let mut writer = create();
        writer.begin("a").unwrap();
        writer.write(&[0; 8]).unwrap();
        assert!(
            writer
                .publish()
                .unwrap_err()
                .to_string()
                .contains("b was not written")
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
