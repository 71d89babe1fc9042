//! `manifest.json`: the inputs a run was started with, and its finished stages. It is written after
//! what it lists, so whatever it lists exists.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Disk, Error, Result, json};

/// Format that this version writes; it reads all up to it. 2: every input is recorded, by content.
pub(crate) const FORMAT: u64 = 2;
/// The manifest's file name.
pub(crate) const FILE: &str = "manifest.json";

/// The inputs of a run: everything that can change its results.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunSpec {
    /// The resolved recipe as text, for `recipe.toml`.
    pub recipe_text: String,
    /// The resolved recipe by key: `train.lr` -> `1e-4`.
    pub recipe: BTreeMap<String, String>,
    /// What a key means that is absent: from [`RunSpec::recipe`], or from the manifest of a version
    /// that did not know it. An absent key is no change from its default.
    pub defaults: BTreeMap<String, String>,
    /// Keys that may change when a run is resumed, since no finished stage depends on them:
    /// `game.iterations`.
    pub free: Vec<String>,
    /// Keys that may change since they affect memory only: `generate.batch`. Each change is added
    /// to [`Manifest::accepted`].
    pub noted: Vec<String>,
    /// Hashes of external inputs, by name: SHA-256 of base, data and plugins, a hub's commit
    /// (`plugin losses` -> `ab12…`). A change is refused as one of the recipe is.
    pub hashes: BTreeMap<String, String>,
    /// What mutable names referred to when the run began: `model org/name` -> `org/name@COMMIT`.
    /// Kept for the run's lifetime; not compared.
    pub resolved: BTreeMap<String, String>,
    /// Versions of randori and its plugins: recorded, not compared.
    pub versions: BTreeMap<String, String>,
}

/// Contents of `manifest.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Format of the run folder.
    pub format: u64,
    /// See [`RunSpec`].
    pub versions: BTreeMap<String, String>,
    /// See [`RunSpec`].
    pub hashes: BTreeMap<String, String>,
    /// See [`RunSpec`].
    pub recipe: BTreeMap<String, String>,
    /// See [`RunSpec`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub resolved: BTreeMap<String, String>,
    /// Changes of [`RunSpec::noted`] keys so far, each with the stages finished by then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accepted: Vec<String>,
    /// Whether the run is being cleared for a fresh start; after a crash, the next open completes
    /// that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub clearing: bool,
    /// Folders in which stages run: `start`, `iter-0`, ….
    #[serde(rename = "places")]
    pub folders: Vec<String>,
    /// Paths inside the run folder that stages wrote, all that a fresh start removes; absent from
    /// older manifests.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub written: BTreeSet<String>,
    /// Files written beside the manifest, which a fresh start removes too.
    pub files: Vec<String>,
    /// Finished stages, in the order they finished.
    pub stages: Vec<Done>,
}

/// A finished stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// The stage's folder: `iter-0`
    #[serde(rename = "place")]
    pub folder: String,
    /// The stage: `policy`
    pub stage: String,
    /// Name of its artefact, in that folder.
    pub file: String,
    /// The artefact's hash.
    pub sha256: String,
    /// The artefact's size in bytes.
    pub bytes: u64,
    /// Duration of the stage in seconds; for a resumed stage, since the last resume.
    pub seconds: f64,
    /// SHA-256 of the files that it wrote beside its artefact, its log among them, by name; absent
    /// from older manifests.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub beside: BTreeMap<String, String>,
}

impl Manifest {
    /// Reads a run folder's manifest, without a lock; `None` if there is none.
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

    /// Whether a folder is a run's, of this version or a later one.
    pub fn is_in(dir: &Path) -> bool {
        let found = Manifest::read(dir);
        matches!(found, Ok(Some(_)) | Err(Error::Newer { .. }))
    }

    /// Finds a finished stage.
    pub fn done(&self, folder: &str, stage: &str) -> Option<&Done> {
        self.stages
            .iter()
            .find(|done| done.folder == folder && done.stage == stage)
    }

    /// Finds the stage of this name that finished last, in any folder.
    pub fn last(&self, stage: &str) -> Option<&Done> {
        self.stages.iter().rfind(|done| done.stage == stage)
    }

    pub(crate) fn new(spec: &RunSpec) -> Manifest {
        Manifest {
            format: FORMAT,
            versions: spec.versions.clone(),
            hashes: spec.hashes.clone(),
            recipe: spec.recipe.clone(),
            resolved: spec.resolved.clone(),
            ..Manifest::default()
        }
    }

    pub(crate) fn write(&self, disk: &Disk, dir: &Path) -> Result<()> {
        json::write_json(disk, &dir.join(FILE), self)
    }

    /// Reads the manifest of a run that can be resumed; `None` if there is none, or it is being
    /// cleared.
    ///
    /// # Errors
    /// [`Error::Older`]: the run was begun before every input was recorded.
    pub fn resumable(dir: &Path) -> Result<Option<Manifest>> {
        match Manifest::read(dir)? {
            Some(old) if old.format < FORMAT && !old.clearing => Err(Error::Older {
                dir: dir.to_owned(),
                found: old.format,
            }),
            found => Ok(found.filter(|manifest| !manifest.clearing)),
        }
    }

    /// Differences from `spec`, in words: first the permitted ones (to be recorded), then the
    /// others.
    pub(crate) fn changes(&self, spec: &RunSpec) -> (Vec<String>, Vec<String>) {
        let is_one = |keys: &[String], key: &str| keys.iter().any(|one| one == key);
        let differs = |key: &str| {
            let default = spec.defaults.get(key);
            self.recipe.get(key).or(default) != spec.recipe.get(key).or(default)
        };
        let noted = differences(&self.recipe, &spec.recipe, |key| {
            is_one(&spec.noted, key) && differs(key)
        });
        let mut refused = differences(&self.recipe, &spec.recipe, |key| {
            !is_one(&spec.noted, key) && !is_one(&spec.free, key) && differs(key)
        });
        refused.extend(differences(&self.hashes, &spec.hashes, |_| true));
        (noted, refused)
    }

    /// Refuses a recipe with which the run would not be resumed, as [`Run::open`](crate::Run::open)
    /// does; `dir` is the run's folder, and hashes are not compared.
    ///
    /// # Errors
    /// [`Error::Changed`].
    pub fn refuse_other_recipe(&self, dir: &Path, spec: &RunSpec) -> Result<()> {
        let spec = RunSpec {
            hashes: self.hashes.clone(),
            ..spec.clone()
        };
        let (_, changes) = self.changes(&spec);
        match changes.is_empty() {
            true => Ok(()),
            false => Err(Error::Changed {
                dir: dir.to_owned(),
                changes,
            }),
        }
    }

    /// Inputs, read again by a later command, that differ from the run's, in words. Only names that
    /// both have are compared.
    pub fn other_inputs(&self, now: &BTreeMap<String, String>) -> Vec<String> {
        differences(&self.hashes, now, |name| {
            self.hashes.contains_key(name) && now.contains_key(name)
        })
    }

    /// Inputs of the given names that differ from the run's, in words; one that only the run or
    /// only `now` has counts too. Empty for a run begun before every input was recorded.
    pub fn changed_inputs(
        &self,
        now: &BTreeMap<String, String>,
        counts: impl Fn(&str) -> bool,
    ) -> Vec<String> {
        match self.format < FORMAT {
            true => Vec::new(),
            false => differences(&self.hashes, now, counts),
        }
    }
}

fn differences(
    was: &BTreeMap<String, String>,
    is: &BTreeMap<String, String>,
    counts: impl Fn(&str) -> bool,
) -> Vec<String> {
    let keys: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
    keys.into_iter()
        .filter(|key| was.get(*key) != is.get(*key) && counts(key))
        .map(|key| {
            let (was, is) = (was.get(key), is.get(key));
            format!("{key} was {}, is {}", shown(was, is), shown(is, was))
        })
        .collect()
}

/// Characters shown of a long value.
const SHOWN: usize = 40;
/// Characters shown before the first difference, and the least shown after it.
const BEFORE: usize = 8;
const AFTER: usize = 16;

/// Formats a value; a long one (hash, prompt) from where it begins to differ from `other`.
fn shown(value: Option<&String>, other: Option<&String>) -> String {
    let Some(value) = value else {
        return "not set".into();
    };
    if value.chars().count() <= SHOWN {
        return value.clone();
    }
    let other = other.map_or("", String::as_str);
    let same = value.chars().zip(other.chars());
    let same = same.take_while(|(a, b)| a == b).count();
    let first = match same {
        near if near + AFTER <= SHOWN => 0,
        far => far - BEFORE,
    };
    let part: String = value.chars().skip(first).take(SHOWN).collect();
    let (before, after) = (first > 0, value.chars().count() > first + SHOWN);
    let dots = |cut: bool| if cut { "…" } else { "" };
    format!("{}{part}{}", dots(before), dots(after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_value_is_shown_where_it_differs() {
        let show = |a: &str, b: &str| shown(Some(&a.to_string()), Some(&b.to_string()));
        assert_eq!(show("short", "other"), "short");
        let hash = "ab".repeat(32);
        assert_eq!(show(&hash, "cd"), format!("{}…", "ab".repeat(20)));
        let long = "x".repeat(60);
        let (one, two) = (format!("{long}é one"), format!("{long}é two"));
        assert_eq!(show(&one, &two), "…xxxxxxé one");
        // the other value continues where this one ends
        assert_eq!(show(&long, &format!("{long} more")), "…xxxxxxxx");
        assert_eq!(shown(None, Some(&long)), "not set");
    }
}
