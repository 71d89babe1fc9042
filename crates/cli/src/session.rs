//! A recipe opened: plugins loaded, base in memory, tokenizer ready. Every verb that touches a model starts here.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use randori_data::Tokenizer;
use randori_engine::weights::{self, Checkpoint};
use randori_engine::{Base, Player};
use randori_host::{Host, SearchPath};
use randori_sdk::seam::Architecture;

use crate::args::{Common, Who};
use crate::artefacts::Learnt;
use crate::folder;
use crate::inputs::{self, ModelInputs};
use crate::memory;
use crate::model_files::{architecture, hub_id, source, tokenizer};
use crate::progress::Console;
use crate::recipe::{AdapterKind, Recipe};
use crate::settings;
use crate::started;
use crate::trust::Trust;

/// What a model takes, by its configuration; no limit where that names none.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Tokens of a prompt and its response.
    pub window: usize,
    /// Rows of its embedding: token ids are below.
    pub vocabulary: usize,
}

impl Bounds {
    /// Of a model's configuration.
    pub fn of(config: &serde_json::Value) -> Bounds {
        let number = |key: &str| config[key].as_u64().map_or(usize::MAX, |n| n as usize);
        Bounds {
            window: number("max_position_embeddings"),
            vocabulary: number("vocab_size"),
        }
    }
}

/// Everything a verb needs: a [`Setting`], whose fields and methods it has, with its model's
/// weights.
pub struct Session {
    /// All but the weights.
    pub setting: Setting,
    /// The shared base.
    pub base: Arc<Base>,
    /// The player to start from instead of the recipe's own start: an adapter, or a stack of them.
    pub adapter: Vec<PathBuf>,
}

impl std::ops::Deref for Session {
    type Target = Setting;
    fn deref(&self) -> &Setting {
        &self.setting
    }
}

/// A recipe with everything but its model's weights.
pub struct Setting {
    /// What was asked for.
    pub recipe: Recipe,
    /// Where progress goes.
    pub console: Console,
    /// Loaded plugins.
    pub host: Host,
    /// The base's name.
    pub base_name: String,
    /// Tokenizer and chat template.
    pub tokenizer: Tokenizer,
    /// What the model takes.
    pub bounds: Bounds,
    /// The files that base and tokenizer are read from.
    pub model: ModelInputs,
}

/// A recipe opened, its weights not yet read.
pub struct Opened {
    /// All the rest.
    pub setting: Setting,
    /// The model's files, of which the configuration and the index have been read.
    pub checkpoint: Checkpoint,
    /// What runs it.
    pub arch: Arc<dyn Architecture>,
}

impl Opened {
    /// Says what a fresh adapter adapts, before data and weights are read; nothing of one that is
    /// given, or of full training.
    ///
    /// # Errors
    /// An entry of the adapter's settings that matches nothing.
    pub fn check_adapter(&self, given: &[PathBuf]) -> Result<()> {
        let recipe = &self.setting.recipe;
        let fresh = given.is_empty() && recipe.adapter.init.0.is_empty();
        if !fresh || recipe.adapter.kind == AdapterKind::Full {
            return Ok(());
        }
        let spec = settings::lora(recipe)?;
        let found = randori_engine::trace(&*self.arch)
            .and_then(|trace| randori_engine::matched(&trace, &spec))
            .with_context(|| format!("{}: [adapter]", recipe.place("adapter.targets")))?;
        let line = format!("  {:<38} {found}", "projections adapted");
        self.setting.console.say(line);
        Ok(())
    }

    /// Opens plugins, the model's files and the tokenizer.
    pub fn with(mut recipe: Recipe, common: &Common) -> Result<Opened> {
        let console = Console::new(common.quiet);
        let host = host(&recipe, common)?;
        memory::settle(&mut recipe, &host, &console)?;
        // a hub's model is known by its name alone, whatever the commit
        let name = hub_id(&recipe).map_or_else(|| recipe.model.source.0.clone(), |(repo, _)| repo);
        let at_source = || format!("{}: model.source", recipe.place("model.source"));
        let checkpoint = weights::open(source(&recipe)?).with_context(at_source)?;
        console.notes(checkpoint.notes());
        let config = checkpoint.config().clone();
        let arch = architecture(&recipe, &host, &config)?;
        let tokenizer = tokenizer(&recipe, checkpoint.tokenizer())?;
        console.notes(tokenizer.notes());
        let bounds = Bounds::of(&config);
        let model = ModelInputs::of(&recipe, &checkpoint)?;
        Ok(Opened {
            setting: Setting {
                recipe,
                console,
                host,
                base_name: name,
                tokenizer,
                bounds,
                model,
            },
            checkpoint,
            arch,
        })
    }

    /// Opens the recipe of `who`. A run folder stands for what it made of its model, which must not
    /// have changed.
    pub fn of(who: &Who, recipe: Recipe) -> Result<Opened> {
        let opened = Opened::with(recipe, &who.common)?;
        inputs::refuse_another_model(who, &opened.setting)?;
        Ok(opened)
    }

    /// Loads the weights.
    pub fn load(self, adapter: Vec<PathBuf>) -> Result<Session> {
        let setting = self.setting;
        let recipe = &setting.recipe;
        let name = short(&setting.base_name);
        let mut stage = setting.console.stage(format!("loading {name}"), 1, "model");
        let options = settings::load_options(recipe);
        let compute = settings::compute(recipe)
            .with_context(|| format!("{}: model.device", recipe.place("model.device")))?;
        let base = self
            .checkpoint
            .load_where(self.arch, &options, compute, &mut |_, _| {})
            .with_context(|| format!("{}: model.source", recipe.place("model.source")))?;
        stage.set(1, 0);
        stage.note(format!("{:.1} MB", weight_bytes(&base) as f64 / 1e6));
        stage.finish();
        Ok(Session {
            setting,
            base: Arc::new(base),
            adapter,
        })
    }
}

/// The recipe of `who`, and the adapter that goes with it: a run folder means its last iteration's
/// player. Says what the recipe gives and nothing reads.
pub fn recipe(who: &Who) -> Result<(Recipe, Vec<PathBuf>)> {
    let (recipe, adapter) = loaded(who)?;
    Console::new(who.common.quiet).notes(&recipe.unread());
    Ok((recipe, adapter))
}

fn loaded(who: &Who) -> Result<(Recipe, Vec<PathBuf>)> {
    let Some(path) = &who.recipe else {
        return Ok((Recipe::without_file(&who.common.set)?, who.adapter.clone()));
    };
    if !path.is_dir() {
        return Ok((Recipe::load(path, &who.common.set)?, who.adapter.clone()));
    }
    let recipe = Recipe::load(&path.join("recipe.toml"), &who.common.set)?;
    let last = match who.adapter.is_empty() {
        true => last_policy(path, &recipe)?.into_iter().collect(),
        false => who.adapter.clone(),
    };
    Ok((recipe, last))
}

/// [`recipe`] for whoever needs the player: all but those that begin a run or go on with it.
///
/// # Errors
/// As [`refuse_unfinished`].
pub fn player(who: &Who) -> Result<(Recipe, Vec<PathBuf>)> {
    let (recipe, adapter) = recipe(who)?;
    refuse_unfinished(who, &adapter)?;
    Ok((recipe, adapter))
}

/// A run folder stands for what it made: where `adapter`, what [`recipe`] found, is nothing, the
/// bare start must not pass for it.
///
/// # Errors
/// A run folder without a player, and none named.
pub fn refuse_unfinished(who: &Who, adapter: &[PathBuf]) -> Result<()> {
    match &who.recipe {
        Some(dir) if dir.is_dir() && adapter.is_empty() => anyhow::bail!(
            "{}: no iteration is finished here yet; give the recipe for the start, or --adapter",
            dir.display()
        ),
        _ => Ok(()),
    }
}

/// What ended the last finished iteration of the run in `dir` (or its supervised start, where none is finished); of its
/// first seed where it holds a game for each.
fn last_policy(dir: &Path, recipe: &Recipe) -> Result<Option<PathBuf>> {
    let game = first_game(dir, recipe)?;
    let Some(manifest) = randori_store::Manifest::read(&game)? else {
        return Ok(None);
    };
    // the baseline's stages are called `policy` too: the game's are those of its iterations
    let iterations = (0..).map_while(|t| manifest.done(&randori_store::place_of(t), "policy"));
    let last = iterations.last().or(manifest.done("start", "policy"));
    last.map(|done| {
        Ok(randori_store::intact(
            &game,
            &manifest,
            &done.place,
            &done.stage,
        )?)
    })
    .transpose()
}

/// The folder of a run's game; of its first seed where it holds a game for each.
///
/// # Errors
/// A manifest that cannot be read.
pub fn first_game(dir: &Path, recipe: &Recipe) -> Result<PathBuf> {
    let first = folder::games(dir, recipe, false)?.into_iter().next();
    Ok(first.map_or_else(|| dir.to_path_buf(), |(_, game)| game))
}

/// Loads the plugins of the binary's own folder, of the recipe (where the user trusts them) and of
/// the command line.
pub fn host(recipe: &Recipe, common: &Common) -> Result<Host> {
    let mut path = SearchPath::standard();
    let from_recipe = recipe.plugins.paths.iter().map(|p| recipe.path(p));
    for named in from_recipe.chain(common.plugins.iter().cloned()) {
        if named.is_dir() {
            path.dirs.push(named);
        } else {
            path.files.push(named);
        }
    }
    let trust = Trust::new(common, recipe.place("plugins.paths"));
    let host = Host::discover_asking(&path, &mut |file, sha256| trust.ask(file, sha256))?;
    #[cfg(feature = "bundled")]
    let host = bundled(host)?;
    Ok(host)
}

/// Adds the stock plugins that are linked in; a file of the same name beside the binary goes first.
#[cfg(feature = "bundled")]
fn bundled(mut host: Host) -> Result<Host> {
    host.add_static(&randori_plugin_llama::PLUGIN)?;
    host.add_static(&randori_plugin_mistral::PLUGIN)?;
    host.add_static(&randori_plugin_losses::PLUGIN)?;
    host.add_static(&randori_plugin_sampling::PLUGIN)?;
    Ok(host)
}

impl Session {
    /// Opens everything.
    pub fn open(who: &Who) -> Result<Session> {
        let (recipe, adapter) = player(who)?;
        Opened::of(who, recipe)?.load(adapter)
    }

    /// The player the recipe starts from, before any supervised stage: a fresh adapter, a given one, or the weights
    /// themselves in full training.
    pub fn start(&self, seed: u64) -> Result<Player> {
        match (&self.stack()[..], self.recipe.adapter.kind) {
            ([], AdapterKind::Full) => Ok(Player::full(self.base.clone())?),
            ([], _) => Ok(Player::with_lora(
                self.base.clone(),
                settings::lora(&self.recipe)?,
                seed,
            )?),
            (stack, kind) => {
                let player = self.learnt(stack)?;
                let held = match player.lora {
                    Some(_) => "a LoRA adapter",
                    None => "a model trained in full",
                };
                match player.lora.is_none() == (kind == AdapterKind::Full) {
                    true => self.trained_on(player, stack),
                    false => Err(self
                        .recipe
                        .refuse(
                            "adapter.kind",
                            format!("does not fit the start, which is {held}"),
                        )
                        .into()),
                }
            }
        }
    }

    /// The same for who plays and does not train: a fresh adapter computes what the base does, and
    /// is left out.
    pub fn player(&self) -> Result<Player> {
        match (&self.stack()[..], self.recipe.adapter.kind) {
            ([], AdapterKind::Full) => Ok(Player::full(self.base.clone())?),
            ([], _) => Ok(Player::bare(self.base.clone())),
            (stack, _) => self.learnt(stack),
        }
    }

    /// The folders of what the start has learnt already: those given, or else the recipe's own;
    /// none for a fresh one.
    pub fn stack(&self) -> Vec<PathBuf> {
        started::stack(&self.recipe, &self.adapter)
    }

    /// A player that was read from `stack`, with what the recipe says of training it.
    fn trained_on(&self, player: Player, stack: &[PathBuf]) -> Result<Player> {
        let Some(own) = &player.lora else {
            return Ok(player);
        };
        let trace = randori_engine::trace(self.base.arch.as_ref())?;
        started::refuse_another(&self.recipe, own, &trace, stack)?;
        let spec = started::trained_on(&self.recipe, own);
        Ok(Player {
            lora: Some(Arc::new(spec)),
            ..player
        })
    }

    /// Whether [`Session::start`] will find what it needs: asked before a run folder is begun.
    pub fn check_start(&self) -> Result<()> {
        match (!self.stack().is_empty(), self.recipe.adapter.kind) {
            (true, _) => self.start(0).map(drop),
            (false, AdapterKind::Full) => Ok(()),
            (false, _) => {
                let spec = settings::lora(&self.recipe)?;
                let found = Player::check_lora(&self.base, &spec).map(drop);
                found
                    .with_context(|| format!("{}: [adapter]", self.recipe.place("adapter.targets")))
            }
        }
    }

    /// A player from what was learnt in a folder, or in several together.
    pub fn learnt(&self, stack: &[PathBuf]) -> Result<Player> {
        let learnt = Learnt::read_stack(stack)?;
        let place = || {
            let names: Vec<String> = stack.iter().map(|d| d.display().to_string()).collect();
            names.join(" + ")
        };
        match &learnt.lora {
            Some(spec) => Player::with_adapter(
                self.base.clone(),
                (**spec).clone(),
                (*learnt.params).clone(),
            )
            .with_context(place),
            None => {
                let fresh = Player::full(self.base.clone())?;
                check_same_shape(&fresh, &learnt).with_context(place)?;
                Ok(learnt.player(&self.base))
            }
        }
    }
}

fn check_same_shape(fresh: &Player, learnt: &Learnt) -> Result<()> {
    for (name, tensor) in fresh.params.iter() {
        match learnt.params.get(name) {
            None => anyhow::bail!("has no {name}, which the base asks for"),
            Some(found) if found.dims() != tensor.dims() => {
                anyhow::bail!(
                    "{name} has shape {:?}, the base asks for {:?}",
                    found.dims(),
                    tensor.dims()
                )
            }
            Some(_) => {}
        }
    }
    match learnt
        .params
        .keys()
        .find(|name| !fresh.params.contains_key(*name))
    {
        Some(stray) => anyhow::bail!("has {stray}, which the base does not know"),
        None => Ok(()),
    }
}

fn weight_bytes(base: &Base) -> usize {
    base.bytes()
}

/// The last part of a path or hub id.
pub fn short(name: &str) -> String {
    Path::new(name)
        .file_name()
        .map_or(name.to_string(), |n| n.to_string_lossy().into_owned())
}
