//! A Hugging Face folder: `config.json` with `model.safetensors`, or shards and
//! `model.safetensors.index.json`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Component, Path, PathBuf},
};

use serde_json::{Map, Value, json};

use crate::{
    ByteSource, Error, Index, Result,
    safetensors::{self, TensorSpec},
};

/// File name of unsharded weights.
pub const UNSHARDED: &str = "model.safetensors";
/// File name of the index of sharded weights: the file of each tensor.
pub const INDEX: &str = "model.safetensors.index.json";

/// Reads a folder's configuration and tensor index.
///
/// # Errors
/// A missing, truncated or damaged file, with its name and what is wrong.
pub fn open(dir: &Path) -> Result<(Value, Index)> {
    if !dir.is_dir() {
        return Err(Error::rule(format!("there is no folder {}", dir.display())));
    }
    let config = read_json(&dir.join("config.json"))?;
    let mut index = Index::default();
    if dir.join(UNSHARDED).exists() {
        safetensors::add(&mut index, ByteSource::open(&dir.join(UNSHARDED))?)?;
    } else if dir.join(INDEX).exists() {
        shards(&mut index, dir)?;
    } else {
        return Err(Error::rule(format!(
            "{} has neither {UNSHARDED} nor {INDEX}{}",
            dir.display(),
            pickled(dir)
        )));
    }
    Ok((config, index))
}

/// Whether the folder has weights.
pub fn has_weights(dir: &Path) -> bool {
    dir.join(UNSHARDED).exists() || dir.join(INDEX).exists()
}

/// The folder's weight files: one, or the shards that its index names; empty if it has neither.
///
/// # Errors
/// An index that cannot be read, or names files outside the folder.
pub fn weight_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let (whole, index) = (dir.join(UNSHARDED), dir.join(INDEX));
    if whole.exists() {
        return Ok(vec![whole]);
    }
    if !index.exists() {
        return Ok(Vec::new());
    }
    let shards = shard_names(&index)?.into_iter();
    Ok(shards.map(|shard| dir.join(shard)).collect())
}

/// The files that an index names, sorted.
///
/// # Errors
/// An index that cannot be read, or names something other than a plain file name.
pub fn shard_names(index_file: &Path) -> Result<Vec<String>> {
    let mut names: Vec<String> = weight_map(index_file)?.into_values().collect();
    names.sort();
    names.dedup();
    Ok(names)
}

/// Reads a JSON file.
///
/// # Errors
/// A file that cannot be read or is not JSON.
pub fn read_json(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).map_err(Error::io(path))?;
    serde_json::from_str(&text)
        .map_err(|e| Error::rule(format!("{}: not JSON: {e}", path.display())))
}

/// Maps tensor names to file names; every file must be in the index's folder.
fn weight_map(path: &Path) -> Result<BTreeMap<String, String>> {
    let index = read_json(path)?;
    let map: BTreeMap<String, String> = index
        .get("weight_map")
        .and_then(|map| serde_json::from_value(map.clone()).ok())
        .ok_or_else(|| {
            Error::rule(format!(
                "{}: weight_map must map tensor names to file names",
                path.display()
            ))
        })?;
    match map.values().find(|shard| !is_plain(shard)) {
        Some(shard) => Err(Error::rule(format!(
            "{} names the shard {shard:?}, which is no plain file name",
            path.display()
        ))),
        None => Ok(map),
    }
}

fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!(
        (parts.next(), parts.next()),
        (Some(Component::Normal(_)), None)
    )
}

fn shards(index: &mut Index, dir: &Path) -> Result<()> {
    let path = dir.join(INDEX);
    let map = weight_map(&path)?;
    let mut opened: BTreeMap<&str, usize> = BTreeMap::new();
    for shard in map.values() {
        if !opened.contains_key(shard.as_str()) {
            opened.insert(shard, index.files.len());
            safetensors::add(index, ByteSource::open(&dir.join(shard))?)?;
        }
    }
    for (tensor, shard) in &map {
        if index.tensors.get(tensor).map(|t| t.file) != opened.get(shard.as_str()).copied() {
            return Err(Error::rule(format!(
                "{} says that {tensor} is in {shard}; it is not",
                path.display()
            )));
        }
    }
    Ok(())
}

fn pickled(dir: &Path) -> &'static str {
    let bin = ["pytorch_model.bin", "pytorch_model.bin.index.json"]
        .iter()
        .any(|f| dir.join(f).exists());
    if bin {
        "; pickled weights (pytorch_model.bin) are not read: save them as safetensors"
    } else {
        ""
    }
}

/// Assignment of tensors to weight files, in order, with the index if there are several files.
pub struct Layout {
    /// File names with their units of tensors.
    pub files: Vec<(String, Vec<Vec<TensorSpec>>)>,
    /// Content of [`INDEX`].
    pub index: Option<Value>,
    /// Bytes of all tensors.
    pub total: u64,
}

impl Layout {
    /// Fills files of at most `limit` bytes. The tensors of a unit stay together; a larger unit
    /// gets a file of its own.
    pub fn new(units: Vec<Vec<TensorSpec>>, limit: u64) -> Layout {
        let size = |unit: &[TensorSpec]| unit.iter().map(|t| t.bytes).sum::<u64>();
        let total = units.iter().map(|unit| size(unit)).sum();
        let mut groups: Vec<Vec<Vec<TensorSpec>>> = vec![Vec::new()];
        let mut filled = 0;
        for unit in units {
            let bytes = size(&unit);
            if filled > 0 && filled + bytes > limit.max(1) {
                groups.push(Vec::new());
                filled = 0;
            }
            filled += bytes;
            if let Some(last) = groups.last_mut() {
                last.push(unit);
            }
        }
        let count = groups.len();
        let name = |i: usize| match count {
            1 => UNSHARDED.to_string(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
        };
        let named = groups.into_iter().enumerate();
        let files: Vec<_> = named.map(|(i, group)| (name(i), group)).collect();
        let map = files.iter().flat_map(|(file, units)| {
            units
                .iter()
                .flatten()
                .map(move |t| (t.name.clone(), json!(file)))
        });
        // transformers requires the metadata
        let index = (count > 1).then(|| {
            let map: Map<String, Value> = map.collect();
            json!({"metadata": {"total_size": total}, "weight_map": map})
        });
        Layout {
            files,
            index,
            total,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::{Dtype, Format, safetensors::Writer};

    /// Writes tensors a (of two parts), b and c; returns the names of the files.
    fn written(dir: &Path, limit: u64) -> Vec<String> {
        let one = |name: &str, n| TensorSpec::dense(name, vec![n, 2], Dtype::F32);
        let units = vec![
            vec![one("a", 3), one("a.part", 1)],
            vec![one("b", 2)],
            vec![one("c", 5)],
        ];
        let layout = Layout::new(units, limit);
        assert_eq!(layout.total, 88);
        fs::write(dir.join("config.json"), "{}").unwrap();
        for (name, units) in &layout.files {
            let tensors = units.iter().flatten();
            let mut writer = Writer::create(&dir.join(name), tensors.clone()).unwrap();
            for t in tensors {
                let values = vec![t.name.len() as f32; t.shape.iter().product()];
                writer
                    .write(&Dtype::F32.encode(&t.name, &values).unwrap())
                    .unwrap();
            }
            writer.finish().unwrap();
        }
        if let Some(index) = &layout.index {
            fs::write(dir.join(INDEX), index.to_string()).unwrap();
            let mut names: Vec<String> = layout.files.iter().map(|(n, _)| n.clone()).collect();
            names.sort();
            assert_eq!(shard_names(&dir.join(INDEX)).unwrap(), names);
        }
        layout.files.into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn a_folder_is_read_as_it_was_laid_out() {
        for (limit, files) in [(1000, 1), (48, 2), (40, 3), (0, 3)] {
            let dir = tempfile::tempdir().unwrap();
            assert_eq!(written(dir.path(), limit).len(), files, "{limit}");
            assert!(has_weights(dir.path()));
            let (config, index) = open(dir.path()).unwrap();
            assert!(config.is_object() && index.files.len() == files);
            for (name, rows) in [("a", 3), ("a.part", 1), ("b", 2), ("c", 5)] {
                let stored = &index.tensors[name];
                assert_eq!(stored.shape, [rows, 2]);
                assert_eq!(stored.format, Format::Dense(Dtype::F32));
                let numbers = stored
                    .numbers(name, index.source_of(stored).unwrap())
                    .unwrap();
                assert!(numbers.iter().all(|v| *v == name.len() as f32), "{name}");
            }
            assert_eq!(index.tensors["a"].file, index.tensors["a.part"].file);
        }
    }
}
