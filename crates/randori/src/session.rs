//! A recipe opened: plugins loaded, base in memory, tokenizer ready. Every verb that touches a
//! model starts here.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use randori_core::{PerIteration, Rules};
use randori_data::{Counts, Tokenizer};
use randori_engine::weights::{self, Checkpoint, TokenizerSource};
use randori_engine::{Base, Player};
use randori_host::{Host, SearchPath};
use randori_sdk::abi::Plugin;
use randori_sdk::seam::{Architecture, LossFn, SamplerFn};
use randori_store::{Manifest, Open, Run, RunSpec};

use crate::artefacts::Learnt;
use crate::folder;
use crate::inputs::{self, Hashes, ModelInputs};
use crate::losses;
use crate::memory;
use crate::model_files::{Bounds, architecture, hub_id, source, tokenizer};
use crate::recipe::{AdapterKind, PluginChoice, Recipe};
use crate::request::Request;
use crate::settings;
use crate::started;
use crate::trust::Trust;
use crate::watch::{Watch, notes};

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
    /// Who is told.
    pub watch: Arc<dyn Watch>,
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

impl Setting {
    /// Reads the tokenizer of a model with this configuration, whose own tokenizer is at `own` and
    /// whose weights are read from these files.
    pub fn of(
        recipe: Recipe,
        host: Host,
        request: &Request,
        config: &serde_json::Value,
        own: TokenizerSource,
        weights: Vec<PathBuf>,
    ) -> Result<Setting> {
        let watch = request.watch.clone();
        let name = base_name(&recipe);
        let model = ModelInputs::of(&recipe, &own, weights)?;
        let tokenizer = tokenizer(&recipe, own)?;
        notes(&*watch, tokenizer.notes());
        Ok(Setting {
            bounds: Bounds::of(config),
            base_name: name,
            recipe,
            watch,
            host,
            tokenizer,
            model,
        })
    }

    /// A recipe with its model's configuration and tokenizer: weights are not looked at, nor need
    /// they be there.
    pub fn without_weights(recipe: Recipe, host: Host, request: &Request) -> Result<Setting> {
        let known = weights::without_weights(source(&recipe)?, host.families()?)
            .with_context(|| format!("{}: model.source", recipe.place("model.source")))?;
        notes(&*request.watch, known.notes());
        let own = known.tokenizer();
        Setting::of(recipe, host, request, known.config(), own, Vec::new())
    }

    /// What a run with `seed` is begun with; `hashes` are those of its inputs.
    pub fn spec(&self, seed: u64, hashes: Hashes) -> RunSpec {
        folder::spec(&self.recipe, &self.host, seed, hashes)
    }

    /// Says what became of pairs of equal responses.
    pub fn say_identical(&self, counts: &Counts, loss: &dyn LossFn) {
        if let Some(line) = losses::identical(&self.recipe, counts, loss) {
            self.watch.say(line);
        }
    }

    /// The loss of iteration `t`.
    pub fn loss(&self, t: usize) -> Result<Arc<dyn LossFn>> {
        losses::loss(&self.recipe, &self.host, t)
    }

    /// The loss's `beta` in each iteration, 1 for a loss without one.
    pub fn beta(&self) -> PerIteration<f64> {
        losses::beta(&self.recipe, &self.host)
    }

    /// The rules of the recipe's game.
    pub fn rules(&self) -> Rules {
        settings::rules(&self.recipe, self.beta())
    }

    /// Samplers in order.
    pub fn samplers(&self, choices: &[PluginChoice]) -> Result<Vec<Arc<dyn SamplerFn>>> {
        losses::samplers(&self.host, choices)
    }

    /// The sampler that leaves the most likely token alone.
    pub fn greedy(&self) -> Result<Arc<dyn SamplerFn>> {
        Ok(self.host.sampler("greedy", &[])?)
    }
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
        self.setting.watch.say(line);
        Ok(())
    }

    /// Opens the model's files and the tokenizer.
    pub fn with(mut recipe: Recipe, host: Host, request: &Request) -> Result<Opened> {
        memory::settle(&mut recipe, &host, &*request.watch)?;
        let at_source = || format!("{}: model.source", recipe.place("model.source"));
        let checkpoint =
            weights::open(source(&recipe)?, host.families()?).with_context(at_source)?;
        notes(&*request.watch, checkpoint.notes());
        let config = checkpoint.config();
        let arch = architecture(&recipe, &host, config)?;
        let (own, files) = (checkpoint.tokenizer(), checkpoint.files());
        let setting = Setting::of(recipe, host, request, config, own, files)?;
        Ok(Opened {
            setting,
            checkpoint,
            arch,
        })
    }

    /// Opens the recipe of `request`. A run folder stands for what it made of its model, which must
    /// not have changed.
    pub fn of(request: &Request, recipe: Recipe, host: Host) -> Result<Opened> {
        let opened = Opened::with(recipe, host, request)?;
        let setting = &opened.setting;
        inputs::refuse_another_model(request, &setting.recipe, &setting.model)?;
        Ok(opened)
    }

    /// Loads the weights.
    pub fn load(self, adapter: Vec<PathBuf>) -> Result<Session> {
        let setting = self.setting;
        let recipe = &setting.recipe;
        let name = short(&setting.base_name);
        let mut stage = setting.watch.stage(&format!("loading {name}"), 0, "MB");
        let options = settings::load_options(recipe);
        let compute = settings::compute(recipe)?;
        let base = self
            .checkpoint
            .load_where(self.arch, &options, compute, &mut |read, of| {
                stage.of((of / 1_000_000) as usize);
                stage.set((read / 1_000_000) as usize, 0);
            })
            .with_context(|| format!("{}: model.source", recipe.place("model.source")))?;
        stage.note(format!("{:.1} MB in memory", base.bytes() as f64 / 1e6));
        stage.finish();
        Ok(Session {
            setting,
            base: Arc::new(base),
            adapter,
        })
    }
}

/// Loads the plugins of the binary's own folder, of the recipe (where the user trusts them) and of
/// the command line.
pub fn host(recipe: &Recipe, request: &Request) -> Result<Host> {
    let mut path = SearchPath::standard();
    let from_recipe = recipe.plugins.paths.iter().map(|p| recipe.path(p));
    for named in from_recipe.chain(request.plugins.iter().cloned()) {
        if named.is_dir() {
            path.dirs.push(named);
        } else {
            path.files.push(named);
        }
    }
    let trust = Trust::new(request, recipe.place("plugins.paths"));
    let mut host = Host::discover_asking(&path, &mut |file, sha256| trust.ask(file, sha256))?;
    for plugin in request.linked.iter().copied().chain(stock()) {
        host.add_static(plugin)?;
    }
    Ok(host)
}

/// The stock plugins, where they are linked in; a file of the same name beside the program goes
/// first.
fn stock() -> Vec<&'static Plugin> {
    #[cfg(feature = "bundled")]
    return vec![
        &randori_plugin_cohere2::PLUGIN,
        &randori_plugin_gemma2::PLUGIN,
        &randori_plugin_gemma3::PLUGIN,
        &randori_plugin_gemma4::PLUGIN,
        &randori_plugin_glm4::PLUGIN,
        &randori_plugin_gpt_oss::PLUGIN,
        &randori_plugin_granite::PLUGIN,
        &randori_plugin_lfm2::PLUGIN,
        &randori_plugin_llama::PLUGIN,
        &randori_plugin_ministral3::PLUGIN,
        &randori_plugin_mistral::PLUGIN,
        &randori_plugin_mixtral::PLUGIN,
        &randori_plugin_olmo2::PLUGIN,
        &randori_plugin_olmo3::PLUGIN,
        &randori_plugin_phi3::PLUGIN,
        &randori_plugin_qwen2::PLUGIN,
        &randori_plugin_qwen3::PLUGIN,
        &randori_plugin_qwen3_5::PLUGIN,
        &randori_plugin_qwen3_moe::PLUGIN,
        &randori_plugin_smollm3::PLUGIN,
        &randori_plugin_losses::PLUGIN,
        &randori_plugin_sampling::PLUGIN,
    ];
    #[cfg(not(feature = "bundled"))]
    Vec::new()
}

impl Session {
    /// Opens the run folder `dir` for this recipe with `seed`. `given` are the inputs that the
    /// command reads besides what [`inputs::of`] names.
    pub fn run(&self, dir: &Path, seed: u64, given: Hashes, how: Open) -> Result<Run> {
        let mut hashes = inputs::of(&self.model, &self.host, &self.stack())?;
        hashes.extend(given);
        if how == Open::Resume {
            self.leave_out_new_plugins(dir, &mut hashes)?;
        }
        self.watch.keeps_in(dir); // before it is there: whoever is stopped meanwhile can say so
        let run = Run::open(dir, &self.spec(seed, hashes), how).map_err(inputs::other_plugin)?;
        for path in run.left() {
            let stays = format!("{} was not written by the run: it stays", path.display());
            self.watch.note(stays);
        }
        Ok(run)
    }

    /// A plugin that the program has got since the run in `dir` began had no part in it.
    fn leave_out_new_plugins(&self, dir: &Path, hashes: &mut Hashes) -> Result<()> {
        let Some(known) = Manifest::read(dir)? else {
            return Ok(());
        };
        for plugin in self.host.plugins().iter().filter(|p| p.is_linked()) {
            let name = inputs::plugin(&plugin.name);
            if !known.hashes.contains_key(&name) {
                hashes.remove(&name);
            }
        }
        Ok(())
    }

    /// The player the recipe starts from, before any supervised stage: a fresh adapter, a given
    /// one, or the weights themselves in full training.
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
        self.player_of(&self.stack())
    }

    /// Who has learnt what is in these folders, of the recipe's kind where there are none.
    pub fn player_of(&self, stack: &[PathBuf]) -> Result<Player> {
        match (stack, self.recipe.adapter.kind) {
            ([], AdapterKind::Full) => Ok(Player::full(self.base.clone())?),
            ([], _) => Ok(Player::bare(self.base.clone())),
            (stack, _) => {
                let player = self.learnt(stack)?;
                self.refuse_another(&player, stack)?;
                Ok(player)
            }
        }
    }

    /// The folders of what the start has learnt already: those given, or else the recipe's own;
    /// none for a fresh one.
    pub fn stack(&self) -> Vec<PathBuf> {
        started::stack(&self.recipe, &self.adapter)
    }

    /// A player that was read from `stack`, with what the recipe says of training it.
    fn trained_on(&self, player: Player, stack: &[PathBuf]) -> Result<Player> {
        self.refuse_another(&player, stack)?;
        let Some(own) = &player.lora else {
            return Ok(player);
        };
        let spec = started::trained_on(&self.recipe, own);
        Ok(Player {
            lora: Some(Arc::new(spec)),
            ..player
        })
    }

    /// Holds the recipe's `[adapter]` against a player that was read from `stack`.
    fn refuse_another(&self, player: &Player, stack: &[PathBuf]) -> Result<()> {
        match &player.lora {
            None => Ok(()),
            Some(own) => {
                let trace = randori_engine::trace(self.base.arch.as_ref())?;
                started::refuse_another(&self.recipe, own, &trace, stack)
            }
        }
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

/// What the base is called where it is to be found again: on the hub by its name, whatever the
/// commit; on this machine by its path from the root, which holds in every folder.
fn base_name(recipe: &Recipe) -> String {
    if let Some((repo, _)) = hub_id(recipe) {
        return repo;
    }
    let source = &recipe.model.source.0;
    let path = recipe.path(source);
    match std::path::absolute(&path) {
        Ok(whole) if path.exists() => whole.to_string_lossy().into_owned(),
        _ => source.clone(),
    }
}

/// The last part of a path or hub id.
pub fn short(name: &str) -> String {
    Path::new(name)
        .file_name()
        .map_or(name.to_string(), |n| n.to_string_lossy().into_owned())
}
