//! safetensors files: 8 bytes of length, then a JSON header `{name: {dtype, shape, data_offsets}}`,
//! then the data. The header is parsed by hand so that each fault is named, and written before the
//! data, for which names and shapes suffice.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use randori_sdk::dialect::Values;
use serde_json::{Map, Value, json};

use crate::{ByteSource, Dtype, Error, Format, Index, Result, Stored};

/// The format's limit on the header's length.
const LONGEST_HEADER: u64 = 100_000_000;

/// Adds a file's tensors to the index.
///
/// # Errors
/// A truncated or damaged header, a tensor that exceeds the file or is in the index already.
pub fn add(index: &mut Index, source: ByteSource) -> Result<()> {
    let (header, data_start) = header(&source)?;
    let (file, name, data_len) = (
        index.files.len(),
        source.name.clone(),
        source.size() - data_start,
    );
    index.files.push(source.into());
    for (tensor, entry) in &header {
        if tensor != "__metadata__" {
            let stored = stored(entry, file, data_start, data_len)
                .map_err(|what| Error::rule(format!("{name}: {tensor} {what}")))?;
            index.add(tensor.clone(), stored)?;
        }
    }
    Ok(())
}

fn header(source: &ByteSource) -> Result<(Map<String, Value>, u64)> {
    let name = &source.name;
    if source.size() < 8 {
        return Err(Error::rule(format!(
            "{name} is no safetensors file: it has {} bytes",
            source.size()
        )));
    }
    let mut length = [0; 8];
    length.copy_from_slice(&source.read(0, 8)?);
    let length = u64::from_le_bytes(length);
    if length > LONGEST_HEADER {
        return Err(Error::rule(format!(
            "{name} is no safetensors file: its header would be {length} bytes long"
        )));
    }
    if length > source.size() - 8 {
        return Err(Error::rule(format!(
            "{name} is cut short: its header needs {length} bytes and {} follow",
            source.size() - 8
        )));
    }
    let text = source.read(8, length)?;
    match serde_json::from_slice(&text) {
        Ok(Value::Object(map)) => Ok((map, 8 + length)),
        Ok(_) => Err(Error::rule(format!(
            "{name} is no safetensors file: its header is not a JSON object"
        ))),
        Err(e) => Err(Error::rule(format!(
            "{name} is damaged or no safetensors file: its header is not JSON: {e}"
        ))),
    }
}

fn stored(
    entry: &Value,
    file: usize,
    data_start: u64,
    data_len: u64,
) -> std::result::Result<Stored, String> {
    let dtype = entry
        .get("dtype")
        .and_then(Value::as_str)
        .ok_or("has no dtype")?;
    let known = Dtype::ALL.into_iter().find(|d| d.tag() == dtype);
    let format = known.map_or_else(|| Format::Other(dtype.to_string()), Format::Dense);
    let numbers = |key: &str| -> Option<Vec<u64>> {
        entry
            .get(key)?
            .as_array()?
            .iter()
            .map(Value::as_u64)
            .collect()
    };
    let shape = numbers("shape").ok_or("has no shape")?;
    let shape: Vec<usize> = shape
        .into_iter()
        .map(usize::try_from)
        .collect::<std::result::Result<_, _>>()
        .map_err(|e| e.to_string())?;
    let offsets = numbers("data_offsets")
        .filter(|o| o.len() == 2)
        .ok_or("has no data_offsets")?;
    let (begin, end) = (offsets[0], offsets[1]);
    if begin > end || end > data_len {
        return Err(format!(
            "lies at bytes {begin}..{end} of {data_len} bytes of data: it leaves the file (is the file cut short?)"
        ));
    }
    let stored = Stored {
        file,
        start: data_start + begin,
        len: end - begin,
        shape,
        format,
        order: None,
        columns: None,
        factor: 1.0,
        values: Values::Same,
    };
    // an unsupported format is an error only if the tensor is needed
    if !matches!(stored.format, Format::Other(_)) && stored.wanted_bytes() != Some(stored.len) {
        return Err(format!(
            "has the shape {:?} in {dtype} but {} bytes",
            stored.shape, stored.len
        ));
    }
    Ok(stored)
}

/// A tensor to be written.
#[derive(Debug, Clone)]
pub struct TensorSpec {
    /// Its full name.
    pub name: String,
    /// Dtype as the header names it.
    pub tag: &'static str,
    /// Shape, slowest axis first.
    pub shape: Vec<usize>,
    /// Size of its data, in bytes.
    pub bytes: u64,
}

impl TensorSpec {
    /// A tensor of dense numbers.
    pub fn dense(name: &str, shape: Vec<usize>, dtype: Dtype) -> Self {
        TensorSpec {
            name: name.to_string(),
            tag: dtype.tag(),
            bytes: dtype.width() * shape.iter().product::<usize>() as u64,
            shape,
        }
    }
}

/// A file being written; tensors' bytes must come in the order declared.
pub struct Writer {
    path: PathBuf,
    out: BufWriter<File>,
}

impl Writer {
    /// Creates the file and writes the header.
    ///
    /// # Errors
    /// A file that cannot be created.
    pub fn create<'a>(
        path: &Path,
        tensors: impl IntoIterator<Item = &'a TensorSpec>,
    ) -> Result<Self> {
        let mut header = Map::from_iter([("__metadata__".to_string(), json!({"format": "pt"}))]);
        let mut at = 0;
        for t in tensors {
            let end = at + t.bytes;
            header.insert(
                t.name.clone(),
                json!({"dtype": t.tag, "shape": t.shape, "data_offsets": [at, end]}),
            );
            at = end;
        }
        let mut header = Value::Object(header).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' '); // the data begins aligned
        let mut writer = Self {
            path: path.to_path_buf(),
            out: BufWriter::with_capacity(1 << 20, File::create(path).map_err(Error::io(path))?),
        };
        writer.write(&(header.len() as u64).to_le_bytes())?;
        writer.write(&header)?;
        Ok(writer)
    }

    /// Appends bytes of the next tensor.
    ///
    /// # Errors
    /// A full disk.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(Error::io(&self.path))
    }

    /// Syncs the file to disk.
    ///
    /// # Errors
    /// A full disk.
    pub fn finish(self) -> Result<()> {
        let file = self
            .out
            .into_inner()
            .map_err(|e| Error::io(&self.path)(e.into_error()))?;
        file.sync_all().map_err(Error::io(&self.path))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let values = [0.5f32, -3.0, 1e-3, 65_000.0, 0.0, 7.0];
        let coming = Dtype::ALL.map(|d| TensorSpec::dense(d.tag(), vec![2, 3], d));
        let mut writer = Writer::create(&path, &coming).unwrap();
        for dtype in Dtype::ALL {
            writer.write(&dtype.encode("x", &values).unwrap()).unwrap();
        }
        writer.finish().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for source in [
            ByteSource::open(&path).unwrap(),
            ByteSource::memory("x", bytes),
        ] {
            let mut index = Index::default();
            add(&mut index, source).unwrap();
            assert_eq!(index.tensors.len(), 3);
            for dtype in Dtype::ALL {
                let stored = &index.tensors[dtype.tag()];
                assert_eq!(
                    (&stored.shape[..], &stored.format),
                    (&[2, 3][..], &Format::Dense(dtype))
                );
                let mut rounded = values;
                dtype.round("x", &mut rounded).unwrap();
                let source = index.source_of(stored).unwrap();
                assert_eq!(stored.numbers("x", source).unwrap(), rounded);
            }
        }
    }
}
