//! The GGUF container (version 3, little-endian, data aligned to 32 bytes), written in one pass: the header needs only
//! names and shapes, then the tensors' bytes follow. The file has another name until it is whole and on disk.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use crate::{Error, Result};

/// Every tensor begins at a multiple of this, counted from the start of the data.
const ALIGNMENT: u64 = 32;

/// A metadata value with the type it gets in the file.
#[derive(Debug, Clone, PartialEq)]
pub enum Meta {
    /// A whole number.
    U32(u32),
    /// A number.
    F32(f32),
    /// A truth value.
    Bool(bool),
    /// A text.
    Text(String),
    /// A list of texts.
    Texts(Vec<String>),
    /// A list of numbers (f32).
    Floats(Vec<f32>),
    /// A list of whole numbers (i32).
    Ints(Vec<i32>),
}

/// A tensor to come.
#[derive(Debug, Clone)]
pub(super) struct Coming {
    /// llama.cpp's name.
    pub name: String,
    /// As in PyTorch, slowest axis first; the file has them reversed.
    pub shape: Vec<usize>,
    /// ggml's number of the format.
    pub kind: u32,
    /// Of its data.
    pub bytes: u64,
}

/// A file being written; tensors must come in the order announced. Dropped before [`Writer::publish`], it leaves nothing.
pub(super) struct Writer {
    out: Option<BufWriter<File>>,
    partial: PathBuf,
    target: PathBuf,
    coming: std::vec::IntoIter<Coming>,
    /// The tensor being written and what it still lacks.
    current: Option<(Coming, u64)>,
    written: u64,
}

impl Writer {
    /// Writes the header.
    pub fn create(
        target: &Path,
        replace: bool,
        metadata: &[(String, Meta)],
        coming: Vec<Coming>,
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
        let header = header(metadata, &coming);
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

    /// Begins the next tensor announced, which must be this one.
    pub fn begin(&mut self, name: &str) -> Result<()> {
        self.complete()?;
        match self.coming.next() {
            Some(next) if next.name == name => {
                let bytes = next.bytes;
                self.current = Some((next, bytes));
                Ok(())
            }
            next => Err(Error::rule(format!(
                "{name} was to be written where the header has {}",
                next.map_or_else(|| "nothing".into(), |n| n.name)
            ))),
        }
    }

    /// More of the current tensor's data.
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

    /// Waits until the file is on disk, gives it its name, and answers its size in bytes.
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
            // makes the rename durable where the system allows it
            let _ = File::open(parent).and_then(|d| d.sync_all());
        }
        Ok(self.written)
    }

    /// Pads what was written so that the next tensor is aligned.
    fn complete(&mut self) -> Result<()> {
        if let Some((tensor, left)) = self.current.take() {
            if left != 0 {
                return Err(Error::rule(format!(
                    "{} lacks {left} of its {} bytes",
                    tensor.name, tensor.bytes
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
        // after `publish` there is nothing of this name
        let _ = fs::remove_file(&self.partial);
    }
}

/// Magic, version, counts, metadata, tensor infos, zeros up to the data.
fn header(metadata: &[(String, Meta)], tensors: &[Coming]) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        text(&mut out, key);
        entry(&mut out, value);
    }
    let mut offset = 0u64;
    for t in tensors {
        text(&mut out, &t.name);
        out.extend((t.shape.len() as u32).to_le_bytes());
        for n in t.shape.iter().rev() {
            out.extend((*n as u64).to_le_bytes());
        }
        out.extend(t.kind.to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset = (offset + t.bytes).next_multiple_of(ALIGNMENT);
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT as usize), 0);
    out
}

/// A value with its type's number before it.
fn entry(out: &mut Vec<u8>, value: &Meta) {
    let list = |out: &mut Vec<u8>, kind: u32, n: usize| {
        out.extend(9u32.to_le_bytes());
        out.extend(kind.to_le_bytes());
        out.extend((n as u64).to_le_bytes());
    };
    match value {
        Meta::U32(v) => {
            out.extend(4u32.to_le_bytes());
            out.extend(v.to_le_bytes());
        }
        Meta::F32(v) => {
            out.extend(6u32.to_le_bytes());
            out.extend(v.to_le_bytes());
        }
        Meta::Bool(v) => {
            out.extend(7u32.to_le_bytes());
            out.push(u8::from(*v));
        }
        Meta::Text(v) => {
            out.extend(8u32.to_le_bytes());
            text(out, v);
        }
        Meta::Texts(v) => {
            list(out, 8, v.len());
            v.iter().for_each(|t| text(out, t));
        }
        Meta::Floats(v) => {
            list(out, 6, v.len());
            v.iter().for_each(|n| out.extend(n.to_le_bytes()));
        }
        Meta::Ints(v) => {
            list(out, 5, v.len());
            v.iter().for_each(|n| out.extend(n.to_le_bytes()));
        }
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// `models/mine.gguf` -> `models/mine.gguf.partial`
fn beside(target: &Path) -> Result<PathBuf> {
    let name = target
        .file_name()
        .ok_or_else(|| Error::rule(format!("{} names no file to write", target.display())))?;
    let mut name: OsString = name.to_os_string();
    name.push(".partial");
    Ok(target.with_file_name(name))
}
