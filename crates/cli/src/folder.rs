//! A run's folder: what it is called, what it was started with, and how its parts are opened.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use randori_store::{Lock, Open, Run, RunSpec};

use crate::args::Who;
use crate::builtin;
use crate::recipe::{OrAuto, Recipe};
use crate::session::Session;

/// `runs/NAME`, or the run folder that was given instead of a recipe.
pub fn of(who: &Who, recipe: &Recipe) -> PathBuf {
    match &who.recipe {
        Some(path) if path.is_dir() => path.clone(),
        _ => who.common.runs.join(&recipe.run.name),
    }
}

/// What was chosen when the run in `dir` began stays chosen, though the memory that is free may be another now.
pub fn keep_choices(recipe: &mut Recipe, dir: &Path, fresh: bool) -> Result<()> {
    let kept = dir.join("recipe.toml");
    if !fresh && recipe.train.micro_batch_tokens == OrAuto::Auto && kept.exists() {
        recipe.train.micro_batch_tokens = Recipe::load(&kept, &[])?.train.micro_batch_tokens;
    }
    Ok(())
}

/// Refuses a folder that another process has, before anything is loaded.
pub fn refuse_if_held(dir: &Path) -> Result<()> {
    if Lock::held(dir) {
        Lock::take(dir)?; // says who holds it
    }
    Ok(())
}

/// The game's folder inside a run: the run's own if there is one game, `seed-S` if there are several.
pub fn of_seed(dir: &Path, seed: u64, several: bool) -> PathBuf {
    if several {
        dir.join(format!("seed-{seed}"))
    } else {
        dir.to_path_buf()
    }
}

/// Opens a run folder for this session's recipe with `seed`.
pub fn open(session: &Session, dir: &Path, seed: u64, how: Open) -> Result<Run> {
    let recipe = &session.recipe;
    let mut values = recipe.values();
    values.insert("seed".into(), seed.to_string());
    values.remove("name");
    let spec = RunSpec {
        recipe_text: recipe.resolved(),
        recipe: values,
        free: vec![
            "game.iterations".into(),
            "compare.seeds".into(),
            "train.save_every".into(),
        ],
        hashes: hashes(session)?,
        versions: versions(session),
    };
    Ok(Run::open(dir, &spec, how)?)
}

/// SHA-256 of everything from outside that decides the bytes: plugins, base, data.
fn hashes(session: &Session) -> Result<BTreeMap<String, String>> {
    let recipe = &session.recipe;
    let mut hashes = BTreeMap::new();
    for plugin in session.host.plugins() {
        hashes.insert(format!("plugin {}", plugin.name), plugin.sha256.clone());
    }
    let d = &recipe.data;
    let data = [
        ("data.train", &d.train.0),
        ("data.validation", &d.validation.0),
        ("data.held_out", &d.held_out.0),
    ];
    for (key, files) in data {
        for file in files.iter() {
            if let Some(name) = file.strip_prefix("builtin:") {
                hashes.insert(format!("{key} {file}"), builtin::data_digest(name));
                continue;
            }
            hashes.insert(
                format!("{key} {file}"),
                randori_store::hash(&recipe.path(file))?.sha256,
            );
        }
    }
    if let Some(name) = recipe.model.source.0.strip_prefix("builtin:") {
        hashes.insert("model.source".into(), builtin::model_digest(name));
    }
    let source = recipe.path(&recipe.model.source.0);
    if source.is_file() {
        hashes.insert("model.source".into(), randori_store::hash(&source)?.sha256);
    } else if source.is_dir() {
        for file in std::fs::read_dir(&source)?
            .filter_map(|e| e.ok())
            .map(|e| e.path())
        {
            let name = file
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if name.ends_with(".safetensors")
                || name == "config.json"
                || name.starts_with("tokenizer")
            {
                hashes.insert(
                    format!("model.source {name}"),
                    randori_store::hash(&file)?.sha256,
                );
            }
        }
    }
    Ok(hashes)
}

fn versions(session: &Session) -> BTreeMap<String, String> {
    let plugins = session
        .host
        .plugins()
        .iter()
        .map(|p| (format!("plugin {}", p.name), p.version.clone()));
    plugins
        .chain([("randori".to_string(), env!("CARGO_PKG_VERSION").to_string())])
        .collect()
}
