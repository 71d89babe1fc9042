//! A run's folder: what it is called, what it was started with, and how its parts are opened.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use randori_store::{Lock, Manifest, Open, Run, RunSpec};

use crate::args::Who;
use crate::hub_data;
use crate::inputs::{self, Hashes};
use crate::model_files::settle_source;
use crate::recipe::{OnResume, OrAuto, Recipe};
use crate::session::Session;

/// `runs/NAME`, or the run folder that was given instead of a recipe.
pub fn of(who: &Who, recipe: &Recipe) -> PathBuf {
    match &who.recipe {
        Some(path) if path.is_dir() => path.clone(),
        _ => who.common.runs.join(&recipe.run.name),
    }
}

/// What was chosen when the run in `dir` began stays chosen, though another choice might be made
/// now: the micro-batch that the memory allowed, the commit that a hub's branch was. For a run that
/// begins, the commit is chosen here.
///
/// # Errors
/// A run of an earlier version; what the hub answered.
pub fn settle(recipe: &mut Recipe, dir: &Path, fresh: bool) -> Result<()> {
    let kept = kept(dir, fresh)?;
    if recipe.train.micro_batch_tokens == OrAuto::Auto {
        let tokens = kept.recipe.get("train.micro_batch_tokens");
        if let Some(tokens) = tokens.and_then(|text| text.parse().ok()) {
            recipe.train.micro_batch_tokens = OrAuto::Of(tokens);
        }
    }
    settle_source(recipe, &kept.resolved)
}

/// The same for the recipe's data: the commits that data sets of the hub were.
///
/// # Errors
/// As [`settle`].
pub fn settle_data(recipe: &mut Recipe, dir: &Path, fresh: bool) -> Result<()> {
    hub_data::settle(recipe, &kept(dir, fresh)?.resolved)
}

fn kept(dir: &Path, fresh: bool) -> Result<Manifest> {
    let kept = match fresh {
        true => None,
        false => Manifest::resumable(dir)?,
    };
    Ok(kept.unwrap_or_default())
}

/// Refuses a folder that another process has, before anything is loaded.
pub fn refuse_if_held(dir: &Path) -> Result<()> {
    if Lock::held(dir) {
        Lock::take(dir)?; // says who holds it
    }
    Ok(())
}

/// The folder of each of `compare.seeds`' games inside a run; of the one game without them, the
/// run's own.
///
/// A run that begins with one game has it in its own folder, where it stays whatever seeds come
/// later; every other lies in `seed-S`. Such a folder, given itself, holds one game.
///
/// # Errors
/// A manifest that cannot be read.
pub fn games(dir: &Path, recipe: &Recipe, fresh: bool) -> Result<Vec<(u64, PathBuf)>> {
    if let Some(seed) = seed_among_several(dir)? {
        return Ok(vec![(seed, dir.to_path_buf())]);
    }
    let seeds = &recipe.compare.seeds;
    if seeds.is_empty() {
        return Ok(vec![(recipe.run.seed, dir.to_path_buf())]);
    }
    let kept = match fresh {
        true => None,
        false => Manifest::read(dir)?.filter(|manifest| !manifest.clearing),
    };
    let place = |&seed: &u64| {
        let apart = dir.join(format!("seed-{seed}"));
        let own = match &kept {
            None => seeds.len() == 1,
            Some(run) if recorded_seed(run) != Some(seed) => false,
            Some(run) => !run.places.is_empty() || (seeds.len() == 1 && !apart.exists()),
        };
        (seed, if own { dir.to_path_buf() } else { apart })
    };
    Ok(seeds.iter().map(place).collect())
}

/// The seed of the game in `dir`, where that is the folder of one of several seeds inside a run's.
fn seed_among_several(dir: &Path) -> Result<Option<u64>> {
    let place = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
    let name = place.file_name().and_then(|name| name.to_str());
    let named = name.and_then(|name| name.strip_prefix("seed-")?.parse::<u64>().ok());
    let (Some(seed), Some(run)) = (named, place.parent()) else {
        return Ok(None);
    };
    let game = Manifest::read(&place)?.filter(|game| recorded_seed(game) == Some(seed));
    match game.is_some() && Manifest::read(run)?.is_some() {
        true => Ok(Some(seed)),
        false => Ok(None),
    }
}

/// The seed that a run folder was opened with; a run of several games goes on with what it was,
/// since its games have their own.
///
/// # Errors
/// As [`games`].
pub fn seed_of(dir: &Path, recipe: &Recipe, fresh: bool) -> Result<u64> {
    let kept = kept(dir, fresh)?;
    Ok(recorded_seed(&kept).unwrap_or(recipe.run.seed))
}

fn recorded_seed(run: &Manifest) -> Option<u64> {
    run.recipe.get("seed")?.parse().ok()
}

/// Opens a run folder for this session's recipe with `seed`. `given` are the inputs that the
/// command reads besides what [`inputs::of`] names.
pub fn open(session: &Session, dir: &Path, seed: u64, given: Hashes, how: Open) -> Result<Run> {
    let recipe = &session.recipe;
    let mut values = recipe.values();
    values.insert("seed".into(), seed.to_string());
    values.remove("name");
    let mut hashes = inputs::of(session)?;
    hashes.extend(given);
    let spec = RunSpec {
        recipe_text: recipe.resolved(),
        recipe: values,
        free: Recipe::keys_that(OnResume::Free),
        noted: Recipe::keys_that(OnResume::Memory),
        hashes,
        resolved: recipe.resolved.clone(),
        versions: versions(session),
    };
    let run = Run::open(dir, &spec, how)?;
    let left = run.left().iter();
    let stays = |path: &PathBuf| format!("{} was not written by the run: it stays", path.display());
    session.console.notes(&left.map(stays).collect::<Vec<_>>());
    Ok(run)
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
