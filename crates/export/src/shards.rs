//! safetensors files written one tensor at a time: the header needs only names and shapes, so no file is ever held whole.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use half::{bf16, f16};
use randori_engine::weights::Dtype;
use serde_json::{Map, Value, json};

use crate::{Error, Result};

/// A tensor to come.
#[derive(Debug, Clone)]
pub(crate) struct Coming {
    pub name: String,
    pub shape: Vec<usize>,
}

impl Coming {
    pub fn bytes(&self, dtype: Dtype) -> u64 {
        width(dtype) * self.shape.iter().product::<usize>() as u64
    }
}

/// Which tensors go into which file, in order; and the index where there is more than one.
pub(crate) struct Layout {
    pub files: Vec<(String, Vec<Coming>)>,
    pub index: Option<Value>,
    pub total: u64,
}

/// Fills files of at most `limit` bytes (a larger tensor gets its own).
pub(crate) fn layout(tensors: Vec<Coming>, dtype: Dtype, limit: u64) -> Layout {
    let total = tensors.iter().map(|t| t.bytes(dtype)).sum();
    let mut groups: Vec<Vec<Coming>> = vec![Vec::new()];
    let mut size = 0;
    for t in tensors {
        let bytes = t.bytes(dtype);
        if size > 0 && size + bytes > limit {
            groups.push(Vec::new());
            size = 0;
        }
        size += bytes;
        if let Some(last) = groups.last_mut() {
            last.push(t);
        }
    }
    if groups.len() == 1 {
        let files = groups
            .into_iter()
            .map(|g| ("model.safetensors".to_string(), g))
            .collect();
        return Layout {
            files,
            index: None,
            total,
        };
    }
    let count = groups.len();
    let files: Vec<_> = groups
        .into_iter()
        .enumerate()
        .map(|(i, g)| (format!("model-{:05}-of-{count:05}.safetensors", i + 1), g))
        .collect();
    let map: Map<String, Value> = files
        .iter()
        .flat_map(|(file, group)| group.iter().map(move |t| (t.name.clone(), json!(file))))
        .collect();
    // transformers insists on the metadata
    let index = Some(json!({"metadata": {"total_size": total}, "weight_map": map}));
    Layout {
        files,
        index,
        total,
    }
}

/// One file being written; tensors must come in the order announced.
pub(crate) struct Writer {
    path: PathBuf,
    out: BufWriter<File>,
    dtype: Dtype,
}

impl Writer {
    pub fn create(path: &Path, tensors: &[Coming], dtype: Dtype) -> Result<Self> {
        let mut header = Map::from_iter([("__metadata__".to_string(), json!({"format": "pt"}))]);
        let mut at = 0;
        for t in tensors {
            let end = at + t.bytes(dtype);
            header.insert(
                t.name.clone(),
                json!({"dtype": tag(dtype), "shape": t.shape, "data_offsets": [at, end]}),
            );
            at = end;
        }
        let mut header = Value::Object(header).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' '); // the data begins aligned
        let mut out =
            BufWriter::with_capacity(1 << 20, File::create(path).map_err(Error::io(path))?);
        out.write_all(&(header.len() as u64).to_le_bytes())
            .and_then(|()| out.write_all(&header))
            .map_err(Error::io(path))?;
        Ok(Self {
            path: path.to_path_buf(),
            out,
            dtype,
        })
    }

    /// Appends a tensor's values.
    pub fn write(&mut self, name: &str, values: &[f32]) -> Result<()> {
        for chunk in values.chunks(1 << 16) {
            let bytes: Vec<u8> = match self.dtype {
                Dtype::F32 => chunk.iter().flat_map(|v| v.to_le_bytes()).collect(),
                Dtype::Bf16 => chunk
                    .iter()
                    .flat_map(|&v| bf16::from_f32(v).to_le_bytes())
                    .collect(),
                Dtype::F16 => {
                    if let Some(v) = chunk
                        .iter()
                        .find(|v| v.is_finite() && !f16::from_f32(**v).is_finite())
                    {
                        return Err(Error::rule(format!(
                            "{name}: {v} is beyond f16; export as bf16 or f32"
                        )));
                    }
                    chunk
                        .iter()
                        .flat_map(|&v| f16::from_f32(v).to_le_bytes())
                        .collect()
                }
            };
            self.out.write_all(&bytes).map_err(Error::io(&self.path))?;
        }
        Ok(())
    }

    /// Waits until the file is on disk.
    pub fn finish(self) -> Result<()> {
        let file = self
            .out
            .into_inner()
            .map_err(|e| Error::io(&self.path)(e.into_error()))?;
        file.sync_all().map_err(Error::io(&self.path))
    }
}

fn width(dtype: Dtype) -> u64 {
    if dtype == Dtype::F32 { 4 } else { 2 }
}

fn tag(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "F32",
        Dtype::Bf16 => "BF16",
        Dtype::F16 => "F16",
    }
}
