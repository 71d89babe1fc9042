//! `manifest.json`: what a run was started with, and which stages are finished. Written last, so what it says is true.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Disk, Error, Result, json};

/// The format this version writes; it reads all up to it.
pub(crate) const FORMAT: u64 = 1;
/// The manifest's file.
pub(crate) const FILE: &str = "manifest.json";

/// What a run is started with. Everything that can change its bytes should be in here.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunSpec {
    /// The resolved recipe as text, for `recipe.toml`.
    pub recipe_text: String,
    /// The resolved recipe, key by key: `train.lr` -> `1e-4`.
    pub recipe: BTreeMap<String, String>,
    /// Keys that may change under a resumed run: `game.iterations`, whatever only concerns display.
    pub free: Vec<String>,
    /// SHA-256 of base, data and plugins by name: `plugin losses` -> `ab12…`. A change is refused like the recipe's.
    pub hashes: BTreeMap<String, String>,
    /// Versions of randori and its plugins: written down, not compared.
    pub versions: BTreeMap<String, String>,
}

/// The manifest as it lies on disk.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The folder's format.
    pub format: u64,
    /// See [`RunSpec`].
    pub versions: BTreeMap<String, String>,
    /// See [`RunSpec`].
    pub hashes: BTreeMap<String, String>,
    /// See [`RunSpec`].
    pub recipe: BTreeMap<String, String>,
    /// Changes that were accepted since.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accepted: Vec<String>,
    /// Everything is being removed for a fresh start; a crash in the middle is finished on the next open.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub clearing: bool,
    /// Folders of stages, so that a fresh start removes these and nothing else.
    pub places: Vec<String>,
    /// Files beside the manifest, likewise.
    pub files: Vec<String>,
    /// Finished stages, in the order they finished.
    pub stages: Vec<Done>,
}

/// A finished stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// `iter-0`
    pub place: String,
    /// `policy`
    pub stage: String,
    /// Its artefact, in the place.
    pub file: String,
    /// The artefact's hash.
    pub sha256: String,
    /// The artefact's size.
    pub bytes: u64,
    /// How long the stage took; a resumed stage, since the last resume.
    pub seconds: f64,
}

impl Manifest {
    /// Reads a run folder's manifest; needs no lock. `None` if there is none.
    pub fn read(dir: &Path) -> Result<Option<Manifest>> {
        let path = dir.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let found = json::read_json::<Value>(&path)?["format"]
            .as_u64()
            .unwrap_or(0);
        if found > FORMAT {
            return Err(Error::Newer {
                dir: dir.to_owned(),
                found,
                ours: FORMAT,
            });
        }
        json::read_json(&path).map(Some)
    }

    /// A finished stage.
    pub fn done(&self, place: &str, stage: &str) -> Option<&Done> {
        self.stages
            .iter()
            .find(|done| done.place == place && done.stage == stage)
    }

    /// The stage of this name that finished last, wherever that was.
    pub fn last(&self, stage: &str) -> Option<&Done> {
        self.stages.iter().rfind(|done| done.stage == stage)
    }

    pub(crate) fn new(spec: &RunSpec) -> Manifest {
        Manifest {
            format: FORMAT,
            versions: spec.versions.clone(),
            hashes: spec.hashes.clone(),
            recipe: spec.recipe.clone(),
            ..Manifest::default()
        }
    }

    pub(crate) fn write(&self, disk: &Disk, dir: &Path) -> Result<()> {
        json::write_json(disk, &dir.join(FILE), self)
    }

    /// What differs from `spec`, in words; free keys aside.
    pub(crate) fn changes(&self, spec: &RunSpec) -> Vec<String> {
        let mut changes = differences(&self.recipe, &spec.recipe, |key| {
            spec.free.iter().any(|free| free == key)
        });
        changes.extend(differences(&self.hashes, &spec.hashes, |_| false));
        changes
    }
}

fn differences(
    was: &BTreeMap<String, String>,
    is: &BTreeMap<String, String>,
    free: impl Fn(&str) -> bool,
) -> Vec<String> {
    let say = |value: Option<&String>| value.map_or("not set".into(), |value| short(value));
    let mut keys: Vec<&String> = was
        .keys()
        .chain(is.keys().filter(|key| !was.contains_key(*key)))
        .collect();
    keys.sort();
    keys.into_iter()
        .filter(|key| was.get(*key) != is.get(*key) && !free(key))
        .map(|key| format!("{key} was {}, is {}", say(was.get(key)), say(is.get(key))))
        .collect()
}

/// Long values (hashes, prompts) by their beginning.
fn short(value: &str) -> String {
    match value.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_owned(),
    }
}
