//! A repository of the Hugging Face hub, by way of its usual cache folder.

use std::path::{Path, PathBuf};

use hf_hub::{
    Cache, Repo, RepoType,
    api::sync::{ApiBuilder, ApiRepo},
};

use super::folder::shard_names;
use crate::{Error, Result};

const WHOLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Taken along where the repository has them.
const BESIDES: [&str; 7] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "generation_config.json",
    "chat_template.jinja",
    "added_tokens.json",
];

/// Downloads what is not in the cache; answers the folder that holds the snapshot.
///
/// # Errors
/// What the hub answered, unless the cache has all that is needed.
pub(super) fn fetch(repo: &str, revision: &str) -> Result<PathBuf> {
    let wanted = Repo::with_revision(repo.to_string(), RepoType::Model, revision.to_string());
    let refused = |why: String| {
        Error::rule(format!(
            "cannot get {repo} (revision {revision}) from the hub: {why}; without a network, name a local folder or GGUF file"
        ))
    };
    let api = ApiBuilder::from_env()
        .with_progress(false)
        .build()
        .map_err(|e| refused(e.to_string()))?
        .repo(wanted.clone());
    match api.info() {
        Ok(info) => {
            let has: Vec<String> = info.siblings.into_iter().map(|f| f.rfilename).collect();
            download(&api, &has).map_err(refused)
        }
        Err(e) => cached(&wanted).ok_or_else(|| refused(e.to_string())),
    }
}

/// The snapshot's folder, if an earlier download left it whole.
pub(super) fn at_hand(repo: &str, revision: &str) -> Option<PathBuf> {
    let revision = revision.to_string();
    cached(&Repo::with_revision(
        repo.to_string(),
        RepoType::Model,
        revision,
    ))
}

/// `config.json` alone: from the cache, or else fetched.
///
/// # Errors
/// What the hub answered.
pub(super) fn configuration(repo: &str, revision: &str) -> Result<PathBuf> {
    let wanted = Repo::with_revision(repo.to_string(), RepoType::Model, revision.to_string());
    if let Some(path) = Cache::from_env().repo(wanted.clone()).get("config.json") {
        return Ok(path);
    }
    let api = ApiBuilder::from_env().with_progress(false).build();
    api.and_then(|api| api.repo(wanted).get("config.json"))
        .map_err(|e| {
            Error::rule(format!(
                "cannot get config.json of {repo} (revision {revision}) from the hub: {e}; without a network, name a local folder with that file, `random:config.json`, or a GGUF file"
            ))
        })
}

fn download(api: &ApiRepo, has: &[String]) -> std::result::Result<PathBuf, String> {
    let get = |name: &str| api.get(name).map_err(|e| format!("{name}: {e}"));
    let there = |name: &str| has.iter().any(|f| f == name);
    let config = get("config.json")?;
    for name in BESIDES.iter().filter(|n| there(n)) {
        get(name)?;
    }
    if there(WHOLE) {
        get(WHOLE)?;
    } else if there(INDEX) {
        for shard in shard_names(&get(INDEX)?).map_err(|e| e.to_string())? {
            get(&shard)?;
        }
    } else {
        return Err(format!("it has neither {WHOLE} nor {INDEX}"));
    }
    folder_of(&config).ok_or_else(|| "the cache has no folder".to_string())
}

/// What an earlier download left, if it is whole.
fn cached(repo: &Repo) -> Option<PathBuf> {
    let cache = Cache::from_env().repo(repo.clone());
    let config = cache.get("config.json")?;
    if cache.get(WHOLE).is_none() {
        let shards = shard_names(&cache.get(INDEX)?).ok()?;
        if !shards.iter().all(|shard| cache.get(shard).is_some()) {
            return None;
        }
    }
    folder_of(&config)
}

fn folder_of(file: &Path) -> Option<PathBuf> {
    file.parent().map(Path::to_path_buf)
}
