//! A model's files of a hub repository: which are wanted, all of one commit.

use std::path::PathBuf;

use randori_formats::{INDEX, UNSHARDED, shard_names};
use randori_kernels::{Error, Result};

use super::unsupported::{self, adapter_error};
use crate::hub::{Kind, Snapshot};

/// Files that are fetched with the weights where the repository has them.
const EXTRA_FILES: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.jinja",
];
/// The folder of chat templates with names of their own, which are taken along as well.
const TEMPLATES: &str = "additional_chat_templates/";

/// Downloads what is not in the cache; answers the folder that holds the snapshot.
///
/// # Errors
/// What the hub answered, unless the cache has all that is needed; an adapter beside the model.
pub(super) fn fetch(repo: &str, revision: &str) -> Result<PathBuf> {
    let snapshot = opened(repo, revision)?;
    extra_files(&snapshot)?;
    if snapshot.has(UNSHARDED) {
        snapshot.get(UNSHARDED)?;
    } else if snapshot.has(INDEX) {
        for shard in shard_names(&snapshot.get(INDEX)?)? {
            snapshot.get(&shard)?;
        }
    } else {
        return Err(Error::rule(format!(
            "cannot get {repo} (revision {revision}) from the hub: it has neither {UNSHARDED} nor {INDEX}"
        )));
    }
    Ok(snapshot.dir().to_path_buf())
}

/// The same without its weights.
///
/// # Errors
/// As [`fetch`].
pub(super) fn without_weights(repo: &str, revision: &str) -> Result<PathBuf> {
    let snapshot = opened(repo, revision)?;
    extra_files(&snapshot)?;
    Ok(snapshot.dir().to_path_buf())
}

/// Fetches the configuration and what the tokenizer and its templates are made of.
fn extra_files(snapshot: &Snapshot) -> Result<()> {
    snapshot.get("config.json")?;
    for name in EXTRA_FILES.iter().filter(|name| snapshot.has(name)) {
        snapshot.get(name)?;
    }
    for name in snapshot.names().filter(|name| is_template(name)) {
        snapshot.get(name)?;
    }
    if !snapshot.has("tokenizer.json") && snapshot.has("tokenizer.model") {
        snapshot.get("tokenizer.model")?; // not read, but an error can say what it is
    }
    Ok(())
}

/// A template right in [`TEMPLATES`]: transformers looks no deeper.
fn is_template(name: &str) -> bool {
    let file = name.strip_prefix(TEMPLATES);
    file.is_some_and(|file| file.ends_with(".jinja") && !file.contains('/'))
}

/// The snapshot's folder, if an earlier download left it whole.
pub(super) fn find_cached(repo: &str, revision: &str) -> Option<PathBuf> {
    let snapshot = Snapshot::cached(Kind::Model, repo, revision)?;
    if snapshot.has(unsupported::ADAPTER) {
        return None; // `configuration` says why
    }
    snapshot.get("config.json").ok()?;
    if snapshot.get(UNSHARDED).is_err() {
        let shards = shard_names(&snapshot.get(INDEX).ok()?).ok()?;
        if !shards.iter().all(|shard| snapshot.get(shard).is_ok()) {
            return None;
        }
    }
    Some(snapshot.dir().to_path_buf())
}

/// `config.json` alone: from the cache, or else fetched.
///
/// # Errors
/// What the hub answered; an adapter beside the model.
pub(super) fn configuration(repo: &str, revision: &str) -> Result<PathBuf> {
    opened(repo, revision)?.get("config.json")
}

fn opened(repo: &str, revision: &str) -> Result<Snapshot> {
    let snapshot = Snapshot::open(Kind::Model, repo, revision)?;
    match snapshot.has(unsupported::ADAPTER) {
        true => Err(adapter_error(&format!("{repo}: {}", unsupported::ADAPTER))),
        false => Ok(snapshot),
    }
}
