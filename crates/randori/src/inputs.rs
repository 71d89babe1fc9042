//! Everything from outside that decides what a stage makes, by name and content. A run folder's
//! manifest keeps it, so that a stage is reused only for the inputs that it was made from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use randori_engine::weights::{Source, TokenizerSource, gguf_parts, weight_files};
use randori_host::Host;
use randori_store::Manifest;

use crate::aside::Aside;
use crate::builtin;
use crate::folder;
use crate::hub_data;
use crate::model_files::{hub_id, source};
use crate::recipe::Recipe;
use crate::request::Request;

/// What a folder's model says besides its weights.
const SETTINGS: [&str; 2] = ["config.json", "generation_config.json"];
/// What its tokenizer and chat template are made of, besides those and the templates with names of
/// their own.
const TOKENIZER: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
];
/// How a plugin is known that has no file.
const LINKED: &str = "linked in";
/// The keys that choose what [`ModelInputs`] are about.
const KEYS: [&str; 3] = ["model.source", "model.tokenizer", "model.chat_template"];

/// Names and hashes, for a manifest.
pub type Hashes = BTreeMap<String, String>;

/// The files of a recipe's model: weights, configuration, tokenizer, chat template. Hashed only
/// when it is asked for.
#[derive(Debug, Default)]
pub struct ModelInputs {
    files: Vec<(String, PathBuf)>,
    /// What needs no reading: a built-in's digest, a hub's commit, the seed of fresh weights.
    known: Hashes,
}

impl ModelInputs {
    /// Of a recipe whose model is open: its own tokenizer, and the files that its weights are read
    /// from (`weights`; none where they are not).
    ///
    /// # Errors
    /// A folder that cannot be listed.
    pub fn of(
        recipe: &Recipe,
        tokenizer: &TokenizerSource,
        weights: Vec<PathBuf>,
    ) -> Result<ModelInputs> {
        let mut inputs = ModelInputs::default();
        let source = &recipe.model.source.0;
        let folder = match tokenizer {
            TokenizerSource::Folder(dir) => Some(dir),
            _ => None,
        };
        if let Some(name) = source.strip_prefix("builtin:") {
            let digest = builtin::model_digest(name);
            inputs.known.insert("model.source".into(), digest);
        } else if let Some(config) = source.strip_prefix("random:") {
            inputs.file("model.source configuration", recipe.path(config));
            let seed = recipe.run.seed.to_string();
            inputs.known.insert("model.source seed".into(), seed);
        } else if let (Some(_), Some(dir)) = (hub_id(recipe), &folder) {
            // a commit's files never change: its weights need not be read to be known
            let commit = dir.file_name().unwrap_or_default().to_string_lossy();
            inputs
                .known
                .insert("model.source commit".into(), commit.into());
        } else {
            let many = folder.is_some() || weights.len() > 1;
            for path in weights {
                match many {
                    true => inputs.file(&named("model.source", &path), path),
                    false => inputs.file("model.source", path),
                }
            }
        }
        if let Some(dir) = &folder {
            inputs.those_there("model.source", dir, &SETTINGS);
            if recipe.model.tokenizer.is_none() {
                inputs.tokenizer("model.source", dir)?;
            }
        }
        inputs.chosen_apart(recipe)?;
        Ok(inputs)
    }

    /// The same before the model is opened; a hub's files are not among them.
    ///
    /// # Errors
    /// A model that is not there; as [`ModelInputs::of`].
    pub fn named(recipe: &Recipe) -> Result<ModelInputs> {
        match source(recipe)? {
            Source::Folder(dir) => {
                // an index that cannot be read is told of where the model is opened
                let weights = weight_files(&dir).unwrap_or_default();
                ModelInputs::of(recipe, &TokenizerSource::Folder(dir), weights)
            }
            Source::Gguf(path) => {
                ModelInputs::of(recipe, &TokenizerSource::None, gguf_parts(&path))
            }
            _ => ModelInputs::of(recipe, &TokenizerSource::None, Vec::new()),
        }
    }

    /// `model.tokenizer` and `model.chat_template`.
    fn chosen_apart(&mut self, recipe: &Recipe) -> Result<()> {
        if let Some(given) = &recipe.model.tokenizer {
            let path = recipe.path(given);
            match path.is_dir() {
                true => {
                    self.those_there("model.tokenizer", &path, &SETTINGS);
                    self.tokenizer("model.tokenizer", &path)?;
                }
                false => self.file("model.tokenizer", path),
            }
        }
        match recipe.model.chat_template.as_deref() {
            None | Some("plain") => {}
            Some(file) => self.file("model.chat_template", recipe.path(file)),
        }
        Ok(())
    }

    /// A folder's tokenizer and chat templates.
    fn tokenizer(&mut self, key: &str, dir: &Path) -> Result<()> {
        self.those_there(key, dir, &TOKENIZER);
        for path in randori_data::named_templates(dir)? {
            self.file(&named(&format!("{key} template"), &path), path);
        }
        Ok(())
    }

    fn file(&mut self, name: &str, path: PathBuf) {
        self.files.push((name.to_string(), path));
    }

    fn those_there(&mut self, key: &str, dir: &Path, names: &[&str]) {
        for path in names.iter().map(|name| dir.join(name)) {
            if path.is_file() {
                self.file(&named(key, &path), path);
            }
        }
    }

    /// Where the files lie.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(_, path)| path.as_path())
    }

    fn hashes(&self) -> Result<Hashes> {
        let mut hashes = self.known.clone();
        for (name, path) in &self.files {
            hashes.insert(name.clone(), randori_store::hash(path)?.sha256);
        }
        Ok(hashes)
    }
}

/// What every stage depends on: plugins, the model, and the players (`stack`) to start from.
pub fn of(model: &ModelInputs, host: &Host, stack: &[PathBuf]) -> Result<Hashes> {
    let mut hashes = model.hashes()?;
    for plugin in host.plugins() {
        // one that is linked in is known as the rest of the program is
        let known = match plugin.is_linked() {
            true => format!("{LINKED}, version {}", plugin.version),
            false => plugin.sha256.clone(),
        };
        hashes.insert(self::plugin(&plugin.name), known);
    }
    hashes.extend(starts(stack)?);
    Ok(hashes)
}

/// How a plugin is called among the inputs.
pub fn plugin(name: &str) -> String {
    format!("plugin {name}")
}

/// The refusal of a run that was begun with a plugin's file, where the plugin is linked in now,
/// says how it goes on.
pub fn other_plugin(error: randori_store::Error) -> anyhow::Error {
    let is_linked = |change: &String| {
        change.starts_with("plugin ") && change.contains(&format!(", is {LINKED}"))
    };
    let of_linked = match &error {
        randori_store::Error::Changed { changes, .. } => changes.iter().any(is_linked),
        _ => false,
    };
    match of_linked {
        true => anyhow::anyhow!(
            "{error}; a run that was begun with a plugin's file goes on with that file: name it with --plugin"
        ),
        false => error.into(),
    }
}

/// The files of the players that are the start together: `start NAME`, or `start 2 NAME` of the
/// second of several.
fn starts(stack: &[PathBuf]) -> Result<Hashes> {
    let mut hashes = Hashes::new();
    for (i, dir) in stack.iter().enumerate() {
        let key = match stack.len() {
            1 => "start".to_string(),
            _ => format!("start {}", i + 1),
        };
        for path in adapter_files(dir)? {
            hashes.insert(named(&key, &path), randori_store::hash(&path)?.sha256);
        }
    }
    Ok(hashes)
}

/// The recipe's data, and how they are divided: `aside` is what is kept of the training data as
/// validation.
pub fn data(recipe: &Recipe, aside: Option<&Aside>) -> Result<Hashes> {
    let d = &recipe.data;
    let splits = [
        ("data.train", &d.train.0[..]),
        ("data.validation", d.validation.sets()),
        ("data.held_out", &d.held_out.0[..]),
    ];
    let kept = aside.filter(|aside| aside.kept > 0);
    let kept = kept.map(|aside| ("data.validation".to_string(), aside.to_string()));
    let mut hashes: Hashes = kept.into_iter().collect();
    for (key, files) in splits {
        for file in files {
            if let Some(name) = file.strip_prefix("builtin:") {
                hashes.insert(format!("{key} {file}"), builtin::data_digest(name));
                continue;
            }
            for (name, path) in hub_data::files(recipe, file, key)? {
                let hash = randori_store::hash(&path)?.sha256;
                hashes.insert(format!("{key} {name}"), hash);
            }
        }
    }
    Ok(hashes)
}

/// A run folder that was given stands for what it made of its model: one whose files have changed
/// since is refused, unless the command chooses another model itself (`--set model.source=…`).
///
/// # Errors
/// What was and what is, by name.
pub fn refuse_another_model(request: &Request, recipe: &Recipe, model: &ModelInputs) -> Result<()> {
    let Some(dir) = request.recipe.as_ref().filter(|path| path.is_dir()) else {
        return Ok(());
    };
    let Some(manifest) = Manifest::read(&folder::first_game(dir, recipe)?)? else {
        return Ok(());
    };
    let values = recipe.values();
    let chosen = |key: &&str| manifest.recipe.get(*key) != values.get(*key);
    if KEYS.iter().any(chosen) {
        return Ok(());
    }
    let changes = manifest.other_inputs(&model.hashes()?);
    match changes.is_empty() {
        true => Ok(()),
        false => bail!(
            "{}: the run's model has changed since: {}; put it back, or choose another with --set model.source=…",
            dir.display(),
            changes.join("; ")
        ),
    }
}

/// The start of the run in `dir` is what its manifest says by content: a `stack` of other files is
/// refused, and one that the recipe does not name.
///
/// # Errors
/// What was and what is, by name.
pub fn refuse_another_start(dir: &Path, manifest: &Manifest, stack: &[PathBuf]) -> Result<()> {
    let place = || format!("{}: --iteration start", dir.display());
    let now = starts(stack).with_context(place)?;
    let changes = manifest.changed_inputs(&now, |name| name.starts_with("start "));
    if changes.is_empty() {
        return Ok(());
    }
    let (place, changes) = (place(), changes.join("; "));
    match stack.is_empty() {
        true => bail!(
            "{place}: the run was started with --adapter, which its recipe does not name: {changes}; give that folder with --adapter"
        ),
        false => bail!(
            "{place}: the recipe's adapter.init is not what the run was started from: {changes}; put it back, or give the start's folder with --adapter"
        ),
    }
}

/// The files of a player's folder that are read: an adapter's configuration and its tensors.
pub fn adapter_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let wanted = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name == "adapter_config.json"
            || name.ends_with(".safetensors")
            || name.ends_with(".safetensors.index.json")
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        files.push(entry?.path());
    }
    files.retain(|path| path.is_file() && wanted(path));
    files.sort();
    Ok(files)
}

/// `model.source config.json`.
fn named(key: &str, path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    format!("{key} {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_begun_with_a_plugin_s_file_says_how_it_goes_on() {
        let of = |change: &str| {
            let error = randori_store::Error::Changed {
                dir: "runs/r".into(),
                changes: vec!["train.lr was 1, is 2".into(), change.into()],
            };
            other_plugin(error).to_string()
        };
        let said = of("plugin losses was 0a1b, is linked in, version 0.1.0");
        assert!(said.contains("--fresh; a run that was begun"), "{said}");
        assert!(said.ends_with("name it with --plugin"), "{said}");
        let said = of("plugin losses was 0a1b, is 2c3d");
        assert!(said.ends_with("start afresh with --fresh"), "{said}");
    }
}
