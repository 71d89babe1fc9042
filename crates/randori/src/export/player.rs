//! The player that is exported: opened beside its base, merged, measured as it is written.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use randori_engine::weights::Stream;
use randori_export::{Companion, Fidelity, FromDisk, OnTensor, Onto, Tensors};
use randori_store::{Manifest, intact, iteration_folder};

use super::fidelity::{self, Instead, Measured};
use crate::artefacts::Learnt;
use crate::card::{Card, Form};
use crate::check;
use crate::folder;
use crate::inputs;
use crate::model_files::check_paths;
use crate::outbox;
use crate::recipe::Recipe;
use crate::request::{Request, Which};
use crate::session::{self, Opened, Setting};
use crate::settings;
use crate::started;

/// Told of bytes done and bytes in all.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// A player and the base it goes with, which stays on disk.
pub struct Player {
    /// Its recipe, tokenizer and plugins.
    pub setting: Setting,
    /// The base, read a weight at a time.
    pub stream: Stream,
    /// What it has learnt.
    pub learnt: Learnt,
    onto: Onto,
    /// The run folder's game and which of its players this is.
    game: Option<(PathBuf, Which)>,
}

/// A player that is to be exported, before anything of it is read.
pub struct Asked {
    recipe: Recipe,
    /// The folders of what it has learnt.
    stack: Vec<PathBuf>,
    game: Option<(PathBuf, Which)>,
}

impl Asked {
    /// The player that `which` means.
    ///
    /// # Errors
    /// As [`chosen`]; a recipe that cannot be read.
    pub fn of(request: &Request, which: Option<Which>) -> Result<Asked> {
        let (recipe, last) = folder::recipe(request)?;
        let (stack, game) = chosen(request, &recipe, last, which, ITERATION)?;
        folder::say_game(request, &recipe)?;
        Ok(Asked {
            recipe,
            stack,
            game,
        })
    }

    /// Refuses to write over what is read of it.
    ///
    /// # Errors
    /// As [`outbox::refuse_place`].
    pub fn refuse_place(&self, request: &Request, out: &Path) -> Result<()> {
        let reads = check::reads(&self.recipe, request, &self.stack, None);
        outbox::refuse_place(out, &reads.all)
    }
}

/// The player, and the folder that `out` is to lie in.
pub fn ready(request: &Request, asked: Asked, onto: Onto, out: &Path) -> Result<Player> {
    let player = open(request, asked, onto)?;
    outbox::make_parent(out)?;
    Ok(player)
}

fn open(request: &Request, asked: Asked, onto: Onto) -> Result<Player> {
    let Asked {
        recipe,
        stack,
        game,
    } = asked;
    check_paths(&recipe)?;
    for folder in &stack {
        Learnt::check_there(folder)?;
    }
    let host = session::host(&recipe, request)?;
    let opened = Opened::of(request, recipe, host)?;
    let options = settings::load_options(&opened.setting.recipe);
    let source = opened.setting.recipe.place("model.source");
    let arch = opened.arch.clone();
    let stream = opened
        .checkpoint
        .stream(opened.arch, &options)
        .with_context(|| format!("{source}: model.source"))?;
    let learnt = match &stack[..] {
        [] => Learnt::nothing(&opened.setting.base_name),
        stack => {
            let learnt = Learnt::read_stack(stack)?;
            let names = stack.iter().map(|dir| dir.display().to_string());
            on_its_base(learnt, &stream).with_context(|| names.collect::<Vec<_>>().join(" + "))?
        }
    };
    if let Some(own) = &learnt.lora {
        let trace = randori_engine::trace(&*arch)?;
        started::refuse_another(&opened.setting.recipe, own, &trace, &stack)?;
    }
    Ok(Player {
        setting: opened.setting,
        stream,
        learnt,
        onto,
        game,
    })
}

/// What was learnt, held against its base and by the base's names.
fn on_its_base(mut learnt: Learnt, stream: &Stream) -> Result<Learnt> {
    if let Some(spec) = learnt.lora.take() {
        let (spec, params) = stream.settle((*spec).clone(), (*learnt.params).clone())?;
        learnt.lora = Some(spec.into());
        learnt.params = params.into();
    }
    stream.accepts(learnt.lora.as_deref(), &learnt.params)?;
    Ok(learnt)
}

/// The folders of what a player learnt (none: nothing), and the run it comes from.
pub type Chosen = (Vec<PathBuf>, Option<(PathBuf, Which)>);

/// The option that names one of a run's players.
pub const ITERATION: &str = "--iteration";

/// What a player is called where it is shown: the run's name for it; `adapter`, if the request
/// gives one; `start`, or `model` where a supervised stage would come before the start.
pub fn called(request: &Request, recipe: &Recipe, of_run: Option<&(PathBuf, Which)>) -> String {
    match of_run {
        Some((_, which)) => which.to_string(),
        None if !request.adapter.is_empty() => "adapter".into(),
        None if recipe.sft.epochs == 0 => Which::Start.to_string(),
        None => "model".into(),
    }
}

/// The player of `request` that `which` means; `recipe` and `last` are what [`folder::recipe`]
/// found.
///
/// # Errors
/// A player that is not there, or not finished yet; one of a run where no run is given: they name
/// the option that `which` was given by.
pub fn chosen(
    request: &Request,
    recipe: &Recipe,
    last: Vec<PathBuf>,
    which: Option<Which>,
    option: &str,
) -> Result<Chosen> {
    let init = |recipe: &Recipe| -> Vec<PathBuf> {
        let named = recipe.adapter.init.0.iter();
        named.map(|p| recipe.path(p)).collect()
    };
    let run = request.recipe.as_ref().filter(|path| path.is_dir());
    if which.is_some() && !request.adapter.is_empty() {
        bail!("{option} and --adapter both name the player; give one of them");
    }
    if which.is_some() && run.is_none() {
        bail!("{option} goes with a run folder, which is what has iterations");
    }
    let Some(dir) = run.filter(|_| request.adapter.is_empty()) else {
        let stack = if last.is_empty() { init(recipe) } else { last };
        return Ok((stack, None));
    };
    let game = folder::first_game(dir, recipe)?;
    let manifest = Manifest::read(&game)?.unwrap_or_default();
    // the card tells them
    for done in manifest.stages.iter().filter(|done| done.stage == "eval") {
        intact(&game, &manifest, &done.folder, &done.stage)?;
    }
    let there = |place: &str| manifest.done(place, "policy").is_some();
    let policy = |place: &str| -> Result<Vec<PathBuf>> {
        Ok(vec![intact(&game, &manifest, place, "policy")?])
    };
    let finished = (0..).take_while(|t| there(&iteration_folder(*t))).count();
    let stack = match which {
        Some(Which::Start) if there("start") => policy("start")?,
        Some(Which::Start) if recipe.sft.epochs > 0 => bail!(
            "{}: {option} start: the supervised start is not finished here yet; go on with `randori run`",
            dir.display()
        ),
        Some(Which::Start) => {
            let stack = init(recipe);
            inputs::refuse_another_start(dir, &manifest, &stack)?;
            stack
        }
        Some(Which::Iteration(t)) if there(&iteration_folder(t)) => policy(&iteration_folder(t))?,
        Some(Which::Iteration(t)) => bail!(
            "{option} {t}: {} has {finished} finished iterations, numbered from 0",
            dir.display()
        ),
        None => {
            folder::refuse_unfinished(request, &last)?;
            last
        }
    };
    let which = which.unwrap_or(match finished.checked_sub(1) {
        Some(t) => Which::Iteration(t),
        None => Which::Start,
    });
    Ok((stack, Some((game, which))))
}

impl Player {
    fn merging(&self) -> Result<FromDisk<'_>> {
        let lora = self.learnt.lora.as_deref();
        let params = &self.learnt.params;
        Ok(FromDisk::new(&self.stream, lora, params, self.onto)?)
    }

    /// The tokenizer's files.
    pub fn companions(&self) -> Result<Vec<Companion>> {
        let files = self.setting.tokenizer.files()?.into_iter();
        Ok(files
            .map(|(name, bytes)| Companion::File(name, bytes))
            .collect())
    }

    /// The model card of what is written at `out`.
    ///
    /// # Errors
    /// A measure of the run that was changed since it was written.
    pub fn card(
        &self,
        form: Form,
        out: &Path,
        how: String,
        measured: Option<&Measured>,
    ) -> Result<String> {
        let game = self.game.as_ref();
        Card {
            recipe: &self.setting.recipe,
            learnt: &self.learnt,
            game: game.map(|(dir, which)| (dir.as_path(), *which)),
            form,
            out,
            how,
            is_recipe_of_training: game.is_some(),
            fidelity: measured.and_then(Measured::summary),
            remarks: measured
                .into_iter()
                .flat_map(|m| [m.moved(), m.warning()])
                .flatten()
                .collect(),
        }
        .text()
    }

    /// Runs `write` with a progress bar, measuring every tensor that it tells of.
    pub fn measured(
        &self,
        form: &str,
        instead: Instead,
        write: impl FnOnce(&dyn Tensors, &mut OnTensor, Progress) -> Result<()>,
    ) -> Result<Measured> {
        let (inputs, without_outputs) = if self.learnt.params.is_empty() {
            (None, None)
        } else {
            match fidelity::inputs(&self.setting, &self.stream, &self.learnt) {
                Ok(inputs) => (Some(inputs), None),
                Err(why) => (None, Some(why)),
            }
        };
        let merging = self.merging()?;
        let mut fidelity = match instead.dtypes.contains(&"q8_0") {
            true => Fidelity::new(inputs).beside_q8_0(),
            false => Fidelity::new(inputs),
        };
        let mut bar = self.setting.watch.stage("writing", 0, "MB");
        write(
            &merging,
            &mut |name, merged, round_trip| {
                fidelity.add(name, merged, round_trip)?;
                match merging.trained_on(name)? {
                    Some(values) => fidelity.trained_on(name, merged, &values),
                    None => Ok(()),
                }
            },
            &mut |done, of| {
                bar.of((of / 1_000_000) as usize);
                bar.set((done / 1_000_000) as usize, 0);
            },
        )?;
        bar.finish();
        Ok(Measured {
            form: form.into(),
            report: fidelity.report(),
            without_outputs,
            instead,
        })
    }

    /// What receives the update, in words.
    pub fn merged_onto(&self) -> &'static str {
        match self.onto {
            Onto::Dequantised => "merged in f32 onto the base as it was trained on",
            Onto::Original => "merged in f32 onto the original base",
        }
    }
}
