//! A run's folder: what it is called, what it was started with, and which player it stands for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use randori_host::Host;
use randori_store::{Lock, Manifest, RunSpec};

use crate::artefacts::Learnt;
use crate::builtin;
use crate::hub_data;
use crate::mistaken;
use crate::model_files::settle_source;
use crate::provenance;
use crate::recipe::{OnResume, OrAuto, Recipe};
use crate::request::{Request, Which};
use crate::watch::notes;

/// `runs/NAME`, or the run folder that was given instead of a recipe.
pub fn of(request: &Request, recipe: &Recipe) -> PathBuf {
    request.run_folder(&recipe.run.name)
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

/// What a run of this recipe with `seed` is begun with; `hashes` are those of its inputs.
pub fn spec(recipe: &Recipe, host: &Host, seed: u64, hashes: BTreeMap<String, String>) -> RunSpec {
    let mut values = recipe.values();
    values.insert("seed".into(), seed.to_string());
    values.remove("name");
    RunSpec {
        recipe_text: recipe.resolved(),
        recipe: values,
        defaults: recipe.defaults(),
        free: Recipe::keys_that(OnResume::Free),
        noted: Recipe::keys_that(OnResume::Memory),
        hashes,
        resolved: recipe.resolved.clone(),
        versions: versions(host),
    }
}

/// Of the program and its plugins.
fn versions(host: &Host) -> BTreeMap<String, String> {
    let plugins = host.plugins().iter();
    plugins
        .map(|p| (format!("plugin {}", p.name), p.version.clone()))
        .chain([("randori".to_string(), env!("CARGO_PKG_VERSION").to_string())])
        .collect()
}

/// Refuses to go on with a run in `dir` that was started with another recipe, before the model's
/// files are opened. Its inputs are compared when it is opened.
///
/// # Errors
/// The keys that differ, with both values.
pub fn refuse_other_recipe(
    dir: &Path,
    recipe: &Recipe,
    host: &Host,
    seed: u64,
    fresh: bool,
) -> Result<()> {
    if fresh {
        return Ok(());
    }
    if let Some(begun) = Manifest::resumable(dir)? {
        begun.refuse_other_recipe(dir, &spec(recipe, host, seed, BTreeMap::new()))?;
    }
    Ok(())
}

/// The same for every game of a run, and for what holds them.
///
/// # Errors
/// As [`refuse_other_recipe`] and [`games`].
pub fn refuse_other_games(dir: &Path, recipe: &Recipe, host: &Host, fresh: bool) -> Result<()> {
    let mut games = games(dir, recipe, fresh)?;
    if games.iter().all(|(_, place)| place != dir) {
        games.push((seed_of(dir, recipe, fresh)?, dir.to_path_buf()));
    }
    let mut games = games.iter();
    games.try_for_each(|(seed, place)| refuse_other_recipe(place, recipe, host, *seed, fresh))
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
            Some(run) => !run.folders.is_empty() || (seeds.len() == 1 && !apart.exists()),
        };
        (seed, if own { dir.to_path_buf() } else { apart })
    };
    let games: Vec<(u64, PathBuf)> = seeds.iter().map(place).collect();
    for (seed, place) in games.iter().filter(|(_, place)| !fresh && place != dir) {
        refuse_another_seed(place, *seed)?;
    }
    Ok(games)
}

/// The seed of the game in `dir`, where that is the folder of one of several seeds inside a run's.
fn seed_among_several(dir: &Path) -> Result<Option<u64>> {
    let place = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
    let (Some(seed), Some(run)) = (named_seed(&place), place.parent()) else {
        return Ok(None);
    };
    match Manifest::read(run)?.is_some() && recorded(&place)?.is_some() {
        true => refuse_another_seed(&place, seed).map(|()| Some(seed)),
        false => Ok(None),
    }
}

/// `runs/NAME/seed-3` -> 3
fn named_seed(folder: &Path) -> Option<u64> {
    let name = folder.file_name()?.to_str()?;
    name.strip_prefix("seed-")?.parse().ok()
}

/// The seed that the manifest in a folder says; `None` where there is none.
fn recorded(folder: &Path) -> Result<Option<u64>> {
    Ok(Manifest::read(folder)?.as_ref().and_then(recorded_seed))
}

/// Refuses a folder that is called by one seed and holds the game of another: no game of its seed
/// was played there.
fn refuse_another_seed(folder: &Path, seed: u64) -> Result<()> {
    match recorded(folder)? {
        Some(own) if own != seed => anyhow::bail!(
            "{}: it holds the game with seed {own}, not {seed}: it was copied or renamed; move it away, or call it seed-{own} again",
            folder.display()
        ),
        _ => Ok(()),
    }
}

/// Says which of several games in a run's folder is meant by it.
///
/// # Errors
/// As [`games`].
pub fn say_game(request: &Request, recipe: &Recipe) -> Result<()> {
    let run = request.recipe.as_ref().filter(|path| path.is_dir());
    let Some(dir) = run.filter(|_| request.adapter.is_empty()) else {
        return Ok(());
    };
    let Some((seed, game)) = games(dir, recipe, false)?.into_iter().next() else {
        return Ok(());
    };
    let own = Manifest::read(dir)?.is_some_and(|run| !run.stages.is_empty());
    let mut played = usize::from(own);
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let place = entry.path();
        played += usize::from(named_seed(&place).is_some() && recorded(&place)?.is_some());
    }
    if played > 1 {
        request.watch.note(format!(
            "{}: of its {played} games the one with seed {seed} is meant, in {}",
            dir.display(),
            game.display()
        ));
    }
    Ok(())
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

/// The recipe of `request`, and the adapter that goes with it: a run folder means its last
/// iteration's player. Says what the recipe gives and nothing reads.
pub fn recipe(request: &Request) -> Result<(Recipe, Vec<PathBuf>)> {
    let (recipe, adapter) = loaded(request)?;
    let mut unread = recipe.unread();
    if request.recipe.as_ref().is_some_and(|path| path.is_dir()) {
        // what the run's own recipe gives was said when it began
        unread.retain(|line| line.starts_with("--set"));
    }
    notes(&*request.watch, &unread);
    Ok((recipe, adapter))
}

fn loaded(request: &Request) -> Result<(Recipe, Vec<PathBuf>)> {
    let Some(path) = &request.recipe else {
        anyhow::bail!("a recipe must be given: a file, a run folder or builtin:demo");
    };
    if let Some((shown, name)) = built_in(path) {
        let text = builtin::recipe(name).ok_or_else(|| builtin::unknown(shown))?;
        let recipe = Recipe::parse(shown, text, Path::new(""), &request.set)?;
        return Ok((recipe, request.adapter.clone()));
    }
    if !path.is_dir() {
        refuse_absent_game(path)?;
        mistaken::refuse_for_recipe(path)?;
        return Ok((Recipe::load(path, &request.set)?, request.adapter.clone()));
    }
    refuse_no_run(path)?;
    let recipe = Recipe::load(&path.join("recipe.toml"), &request.set)?;
    let last = match request.adapter.is_empty() {
        true => last_policy(path, &recipe)?.into_iter().collect(),
        false => request.adapter.clone(),
    };
    Ok((recipe, last))
}

/// Refuses the folder of a run's game that is not there, and says which are.
fn refuse_absent_game(path: &Path) -> Result<()> {
    let name = path.file_name().and_then(|name| name.to_str());
    let is_game = name.is_some_and(|name| name.starts_with("seed-"));
    let Some(run) = path.parent().filter(|_| is_game && !path.exists()) else {
        return Ok(());
    };
    if Manifest::read(run)?.is_none() {
        return Ok(());
    }
    let inside = std::fs::read_dir(run)?.flatten();
    let names = inside.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut games: Vec<String> = names.filter(|name| name.starts_with("seed-")).collect();
    games.sort();
    let (path, run) = (path.display(), run.display());
    match games.is_empty() {
        true => anyhow::bail!("{path} is not there: {run} has one game, in its own folder"),
        false => anyhow::bail!("{path} is not there; {run} has {}", games.join(", ")),
    }
}

/// Refuses a folder that is given in a recipe's place and is no run's.
fn refuse_no_run(dir: &Path) -> Result<()> {
    if dir.join("recipe.toml").is_file() {
        return Ok(());
    }
    let shown = dir.display();
    let name = dir.file_name().and_then(|name| name.to_str());
    let player = match name {
        Some("start") => name,
        _ => name.and_then(|name| name.strip_prefix("iter-")),
    };
    let player = player.filter(|text| text.parse::<Which>().is_ok());
    let run = dir.parent().filter(|run| run.join("recipe.toml").is_file());
    if let (Some(which), Some(run)) = (player, run) {
        let run = run.display();
        anyhow::bail!("{shown}: a player of the run {run}: give {run} with --iteration {which}");
    }
    if !dir.join(provenance::FILE).is_file() {
        mistaken::refuse_for_recipe(dir)?; // no player that was trained here
    }
    match Learnt::check_there(dir).is_ok() {
        true => anyhow::bail!(
            "{shown}: no run folder, but what a player has learnt: give a recipe with --adapter {shown}"
        ),
        false => {
            mistaken::refuse_for_recipe(dir)?;
            anyhow::bail!("{shown}: no run folder: it has no recipe.toml")
        }
    }
}

/// `builtin:NAME`, and the name in it, where a recipe is given by it.
fn built_in(path: &Path) -> Option<(&str, &str)> {
    let shown = path.to_str()?;
    Some((shown, shown.strip_prefix("builtin:")?))
}

/// [`recipe`] for whoever needs the player: all but those that begin a run or go on with it.
///
/// # Errors
/// As [`refuse_unfinished`].
pub fn player(request: &Request) -> Result<(Recipe, Vec<PathBuf>)> {
    let (recipe, adapter) = recipe(request)?;
    refuse_unfinished(request, &adapter)?;
    say_game(request, &recipe)?;
    Ok((recipe, adapter))
}

/// A run folder stands for what it made: where `adapter`, what [`recipe`] found, is nothing, the
/// bare start must not pass for it.
///
/// # Errors
/// A run folder without a player, and none named.
pub fn refuse_unfinished(request: &Request, adapter: &[PathBuf]) -> Result<()> {
    match &request.recipe {
        Some(dir) if dir.is_dir() && adapter.is_empty() => anyhow::bail!(
            "{}: no iteration is finished here yet; give the recipe for the start, or --adapter",
            dir.display()
        ),
        _ => Ok(()),
    }
}

/// What ended the last finished iteration of the run in `dir` (or its supervised start, where none
/// is finished); of its first seed where it holds a game for each.
fn last_policy(dir: &Path, recipe: &Recipe) -> Result<Option<PathBuf>> {
    let game = first_game(dir, recipe)?;
    let Some(manifest) = randori_store::Manifest::read(&game)? else {
        return Ok(None);
    };
    // the baseline's stages are called `policy` too: the game's are those of its iterations
    let iterations =
        (0..).map_while(|t| manifest.done(&randori_store::iteration_folder(t), "policy"));
    let last = iterations.last().or(manifest.done("start", "policy"));
    last.map(|done| {
        Ok(randori_store::intact(
            &game,
            &manifest,
            &done.folder,
            &done.stage,
        )?)
    })
    .transpose()
}

/// The folder of a run's game; of its first seed where it holds a game for each. A seed's folder
/// that was taken out of its run's is a game, too.
///
/// # Errors
/// A manifest that cannot be read.
pub fn first_game(dir: &Path, recipe: &Recipe) -> Result<PathBuf> {
    let games = games(dir, recipe, false)?;
    let own = games.iter().any(|(_, game)| game == dir);
    match games.into_iter().next() {
        Some((_, first)) if !own || first.exists() => Ok(first),
        _ => Ok(dir.to_path_buf()),
    }
}

/// The seed of the game that `request` means: the one a run folder's was begun with, unless the
/// command names another, or else the recipe's.
///
/// # Errors
/// As [`first_game`].
pub fn game_seed(request: &Request, recipe: &Recipe) -> Result<u64> {
    let run = request.recipe.as_ref().filter(|path| path.is_dir());
    let Some(dir) = run.filter(|_| !recipe.place("seed").starts_with("--set")) else {
        return Ok(recipe.run.seed);
    };
    let game = Manifest::read(&first_game(dir, recipe)?)?;
    Ok(game
        .as_ref()
        .and_then(recorded_seed)
        .unwrap_or(recipe.run.seed))
}
