//! `randori export`: a player for the tools people deploy with, and how much of what it learnt survives the format.
//!
//! The base is not loaded: weights are read, merged and written one at a time.

mod fidelity;
mod options;
mod places;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use randori_engine::weights::{self, Stream};
use randori_export::{
    BnbOptions, Companion, Each, Fidelity, FolderOptions, GgufLoraOptions, GgufOptions, GgufQuant,
    Merging, Tensors, gguf as gguf_model,
};
use randori_store::{BoxError, Manifest, OutFiles, OutFolder, intact, place_of};

use crate::args::Who;
use crate::artefacts::Learnt;
use crate::card::Card;
use crate::inputs;
use crate::outbox;
use crate::recipe::Recipe;
use crate::session::{self, Opened, Setting};
use crate::settings;

use fidelity::Measured;
use options::Target;
pub use options::{Args, Onto, Which};
use places::{FIDELITY, MODELFILE};

/// Told of bytes done and bytes in all.
type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// A player and the base it goes with, which stays on disk.
struct Player {
    setting: Setting,
    stream: Stream,
    learnt: Learnt,
    onto: Onto,
    /// The run folder's game and which of its players this is.
    game: Option<(PathBuf, Which)>,
}

/// Writes `args.out`.
pub fn run(args: &Args) -> Result<()> {
    let target = args.target()?;
    let out = args.out.as_path();
    match target {
        Target::Peft => peft(outbox::folder(out)?, &ready(args)?, out),
        Target::Hf {
            dtype,
            stochastic,
            shard_bytes,
        } => hf(
            outbox::folder(out)?,
            &ready(args)?,
            dtype,
            stochastic,
            shard_bytes,
            out,
        ),
        Target::Gguf { quant } => {
            let beside = [out.with_extension(FIDELITY), out.with_extension(MODELFILE)];
            gguf(outbox::files(out, &beside)?, &ready(args)?, quant, out)
        }
        Target::GgufLora => {
            let beside = [out.with_extension(MODELFILE)];
            gguf_lora(outbox::files(out, &beside)?, &ready(args)?, out)
        }
        Target::Bnb { dtype, shard_bytes } => {
            bnb(outbox::folder(out)?, &ready(args)?, dtype, shard_bytes, out)
        }
    }
}

/// The player, and the folder that `args.out` is to lie in.
fn ready(args: &Args) -> Result<Player> {
    let out = args.out.as_path();
    let player = open(args)?;
    let base = player
        .setting
        .recipe
        .path(&player.setting.recipe.model.source.0);
    if base.exists() && base.canonicalize()? == out.canonicalize().unwrap_or_default() {
        bail!(
            "--out {}: this is the base itself; name a new place",
            out.display()
        );
    }
    outbox::make_parent(out)?;
    Ok(player)
}

fn open(args: &Args) -> Result<Player> {
    let (recipe, stack, game) = chosen(&args.who, args.iteration)?;
    let opened = Opened::of(&args.who, recipe)?;
    let options = settings::load_options(&opened.setting.recipe);
    let source = opened.setting.recipe.place("model.source");
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
    Ok(Player {
        setting: opened.setting,
        stream,
        learnt,
        onto: args.onto.unwrap_or(Onto::Dequantised),
        game,
    })
}

/// What was learnt, held against its base and by the base's names.
fn on_its_base(mut learnt: Learnt, stream: &Stream) -> Result<Learnt> {
    if let Some(spec) = learnt.lora.take() {
        let (spec, params) = stream.settled((*spec).clone(), (*learnt.params).clone())?;
        learnt.lora = Some(spec.into());
        learnt.params = params.into();
    }
    stream.accepts(learnt.lora.as_deref(), &learnt.params)?;
    Ok(learnt)
}

/// A player's recipe, the folders of what it learnt (none: nothing), and the run it comes from.
type Chosen = (Recipe, Vec<PathBuf>, Option<(PathBuf, Which)>);

fn chosen(who: &Who, which: Option<Which>) -> Result<Chosen> {
    let (recipe, last) = session::recipe(who)?;
    let init = |recipe: &Recipe| -> Vec<PathBuf> {
        let named = recipe.adapter.init.0.iter();
        named.map(|p| recipe.path(p)).collect()
    };
    let run = who.recipe.as_ref().filter(|path| path.is_dir());
    let Some(dir) = run.filter(|_| who.adapter.is_empty()) else {
        let stack = if last.is_empty() { init(&recipe) } else { last };
        return Ok((recipe, stack, None));
    };
    let game = session::first_game(dir, &recipe)?;
    let manifest = Manifest::read(&game)?.unwrap_or_default();
    let there = |place: &str| manifest.done(place, "policy").is_some();
    let policy = |place: &str| -> Result<Vec<PathBuf>> {
        Ok(vec![intact(&game, &manifest, place, "policy")?])
    };
    let finished = (0..).take_while(|t| there(&place_of(*t))).count();
    let stack = match which {
        Some(Which::Start) if there("start") => policy("start")?,
        Some(Which::Start) if recipe.sft.epochs > 0 => bail!(
            "{}: --iteration start: the supervised start is not finished here yet; go on with `randori run`",
            dir.display()
        ),
        Some(Which::Start) => {
            let stack = init(&recipe);
            inputs::refuse_another_start(dir, &manifest, &stack)?;
            stack
        }
        Some(Which::Iteration(t)) if there(&place_of(t)) => policy(&place_of(t))?,
        Some(Which::Iteration(t)) => bail!(
            "--iteration {t}: {} has {finished} finished iterations, numbered from 0",
            dir.display()
        ),
        None => {
            session::refuse_unfinished(who, &last)?;
            last
        }
    };
    let which = which.unwrap_or(match finished.checked_sub(1) {
        Some(t) => Which::Iteration(t),
        None => Which::Start,
    });
    Ok((recipe, stack, Some((game, which))))
}

impl Player {
    fn merging(&self) -> Result<Merging<'_>> {
        let onto = match self.onto {
            Onto::Dequantised => randori_export::Onto::Dequantised,
            Onto::Original => randori_export::Onto::Original,
        };
        let lora = self.learnt.lora.as_deref();
        Ok(Merging::new(&self.stream, lora, &self.learnt.params, onto)?)
    }

    fn companions(&self) -> Result<Vec<Companion>> {
        let files = self.setting.tokenizer.files()?.into_iter();
        Ok(files
            .map(|(name, bytes)| Companion::File(name, bytes))
            .collect())
    }

    fn card(&self, form: String, measured: Option<&Measured>) -> String {
        Card {
            recipe: &self.setting.recipe,
            base_name: &self.setting.base_name,
            lora: self.learnt.lora.as_deref(),
            game: self
                .game
                .as_ref()
                .map(|(dir, which)| (dir.as_path(), *which)),
            form,
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
    fn measured(
        &self,
        form: &str,
        lossless: Option<&'static str>,
        write: impl FnOnce(&dyn Tensors, &mut Each, Progress) -> Result<()>,
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
        let mut fidelity = Fidelity::new(inputs);
        let mut bar = self.setting.console.stage("writing", 0, "MB");
        write(
            &merging,
            &mut |name, merged, held| {
                fidelity.add(name, merged, held)?;
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
            lossless,
        })
    }

    /// What receives the update, in words.
    fn merged_onto(&self) -> &'static str {
        match self.onto {
            Onto::Dequantised => "merged in f32 onto the base as it was trained on",
            Onto::Original => "merged in f32 onto the original base",
        }
    }
}

fn peft(to: OutFolder, player: &Player, out: &Path) -> Result<()> {
    if player.learnt.lora.is_none() {
        bail!(
            "only a LoRA player has an adapter to write; this one is {}",
            match player.learnt.params.is_empty() {
                true => "the bare base: nothing has been learnt yet",
                false => "fully trained: use --to hf",
            }
        );
    }
    let base_name = player.setting.base_name.clone();
    let learnt = Learnt {
        base_name,
        ..player.learnt.clone()
    };
    let card = player.card("PEFT adapter".into(), None);
    to.write(|fresh| {
        learnt.write(fresh).map_err(BoxError::from)?;
        Ok(std::fs::write(fresh.join("README.md"), card)?)
    })?;
    outln!(
        "{}: a PEFT adapter for {}",
        out.display(),
        player.setting.base_name
    );
    Ok(())
}

fn hf(
    to: OutFolder,
    player: &Player,
    dtype: weights::Dtype,
    stochastic: Option<u64>,
    shard_bytes: u64,
    out: &Path,
) -> Result<()> {
    let options = FolderOptions {
        dtype,
        stochastic,
        shard_bytes,
    };
    let form = match (dtype, stochastic) {
        (weights::Dtype::F32, _) => "f32".to_string(),
        (weights::Dtype::F16, _) => "f16".to_string(),
        (weights::Dtype::Bf16, None) => "bf16".to_string(),
        (weights::Dtype::Bf16, Some(seed)) => format!("bf16, stochastic rounding with seed {seed}"),
    };
    let companions = player.companions()?;
    let mut report = None;
    let measured = player.folder(&to, &form, None, |tensors, fresh, each, progress| {
        let written =
            randori_export::folder(tensors, &companions, fresh, &options, each, progress)?;
        report = Some(written);
        Ok(())
    })?;
    if let Some(report) = report {
        let files = match report.files.len() {
            1 => String::new(),
            n => format!(" in {n} files"),
        };
        outln!(
            "{}: {} tensors{files}, {:.1} MB in {form}",
            out.display(),
            report.tensors,
            report.bytes as f64 / 1e6
        );
    }
    measured.print();
    Ok(())
}

fn gguf(mut to: OutFiles, player: &Player, quant: GgufQuant, out: &Path) -> Result<()> {
    let lossless = match quant {
        GgufQuant::F32 | GgufQuant::F16 | GgufQuant::Bf16 => None,
        _ => Some("the base with a GGUF adapter (--to gguf-lora)"),
    };
    let tokenizer = player.setting.tokenizer.to_gguf()?;
    if let Some(lost) = player.setting.tokenizer.lost_in_gguf() {
        errln!("warning: {lost}");
    }
    let options = GgufOptions {
        quant,
        replace: true,
        name: player.setting.recipe.run.name.clone(),
    };
    let form = quant.to_string();
    let mut report = None;
    let measured = player.file(
        &mut to,
        out,
        &form,
        lossless,
        |tensors, fresh, each, progress| {
            let written = gguf_model(tensors, Some(&tokenizer), fresh, &options, each, progress)?;
            report = Some(written);
            Ok(())
        },
    )?;
    if let Some(report) = report {
        let kinds = report.kinds.iter().map(|(kind, n)| format!("{n} {kind}"));
        outln!(
            "{}: {} tensors ({}), {:.1} MB",
            out.display(),
            report.tensors,
            kinds.collect::<Vec<_>>().join(", "),
            report.bytes as f64 / 1e6
        );
        report.notes.iter().for_each(|note| outln!("note: {note}"));
    }
    player.modelfile(&mut to, out, &format!("./{}", file_name(out)), None)?;
    measured.print();
    Ok(())
}

fn gguf_lora(mut to: OutFiles, player: &Player, out: &Path) -> Result<()> {
    let Some(spec) = &player.learnt.lora else {
        bail!("only a LoRA player has an adapter to write; export this one merged (--to gguf)");
    };
    if spec.dora || !spec.modules_to_save.is_empty() {
        bail!(
            "a GGUF LoRA can express neither DoRA nor modules trained in full; export the player merged (--to gguf)"
        );
    }
    let options = GgufLoraOptions {
        replace: true,
        name: player.setting.recipe.run.name.clone(),
    };
    let mut report = None;
    to.write(out, |fresh| {
        let (params, config) = (&player.learnt.params, player.stream.config());
        let scale = |projection: &str| spec.scale_of(projection);
        report = Some(randori_export::gguf_lora(
            params, config, &scale, fresh, &options,
        )?);
        Ok(())
    })?;
    if let Some(report) = report {
        outln!(
            "{}: a GGUF LoRA for {}, {} tensors, {:.1} MB",
            out.display(),
            player.setting.base_name,
            report.tensors,
            report.bytes as f64 / 1e6
        );
    }
    let base = player.setting.recipe.path(&player.setting.base_name);
    let from = match base.exists() {
        true => base.display().to_string(),
        false => player.setting.base_name.clone(),
    };
    player.modelfile(&mut to, out, &from, Some(&format!("./{}", file_name(out))))
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn bnb(
    to: OutFolder,
    player: &Player,
    dtype: weights::Dtype,
    shard_bytes: u64,
    out: &Path,
) -> Result<()> {
    let lossless = Some("the base with its PEFT adapter (--to peft)");
    let companions = player.companions()?;
    let options = BnbOptions {
        double: player.setting.recipe.adapter.double_quant,
        dtype,
        shard_bytes,
    };
    let form = "bitsandbytes NF4";
    let mut report = None;
    let measured = player.folder(&to, form, lossless, |tensors, fresh, each, progress| {
        let written = randori_export::bnb(tensors, &companions, fresh, &options, each, progress)?;
        report = Some(written);
        Ok(())
    })?;
    if let Some(report) = report {
        outln!(
            "{}: {} weights, {} of them in 4 bits, {:.1} MB in {form}",
            out.display(),
            report.tensors,
            report.quantised,
            report.bytes as f64 / 1e6
        );
    }
    measured.print();
    Ok(())
}
