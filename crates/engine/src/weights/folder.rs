//! A Hugging Face folder: `config.json` with `model.safetensors`, or shards and `model.safetensors.index.json`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Component, Path, PathBuf},
};

use serde_json::Value;

use super::{
    Checkpoint, TokenizerSource,
    index::{Index, Place, io},
    safetensors,
};
use crate::{Error, Result};

pub(super) const WHOLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";

pub(super) fn open(dir: &Path) -> Result<Checkpoint> {
    if !dir.is_dir() {
        return Err(Error::rule(format!("there is no folder {}", dir.display())));
    }
    let config = json(&dir.join("config.json"))?;
    let mut index = Index::default();
    if dir.join(WHOLE).exists() {
        safetensors::add_place(&mut index, Place::open(&dir.join(WHOLE))?)?;
    } else if dir.join(INDEX).exists() {
        shards(&mut index, dir)?;
    } else {
        return Err(Error::rule(format!(
            "{} has neither {WHOLE} nor {INDEX}{}",
            dir.display(),
            pickled(dir)
        )));
    }
    Checkpoint::stored(config, TokenizerSource::Folder(dir.to_path_buf()), index)
}

/// Whether there are weights beside the configuration.
pub(super) fn has_weights(dir: &Path) -> bool {
    dir.join(WHOLE).exists() || dir.join(INDEX).exists()
}

/// The files of a folder's weights: one, or the shards that its index names; none where it has
/// neither.
///
/// # Errors
/// An index that cannot be read, or names files elsewhere.
pub fn weight_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let (whole, index) = (dir.join(WHOLE), dir.join(INDEX));
    if whole.exists() {
        return Ok(vec![whole]);
    }
    if !index.exists() {
        return Ok(Vec::new());
    }
    let shards = shard_names(&index)?.into_iter();
    Ok(shards.map(|shard| dir.join(shard)).collect())
}

/// The folder a hub repository's weights need beside its configuration: the shard names of an index file's text.
pub(super) fn shard_names(index_file: &Path) -> Result<Vec<String>> {
    let mut names: Vec<String> = weight_map(index_file)?.into_values().collect();
    names.sort();
    names.dedup();
    Ok(names)
}

pub(super) fn json(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).map_err(|e| io(&path.display().to_string(), e))?;
    serde_json::from_str(&text)
        .map_err(|e| Error::rule(format!("{}: not JSON: {e}", path.display())))
}

/// Tensor name to file name; a file must be one of the index's own folder.
fn weight_map(path: &Path) -> Result<BTreeMap<String, String>> {
    let index = json(path)?;
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
            safetensors::add_place(index, Place::open(&dir.join(shard))?)?;
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
