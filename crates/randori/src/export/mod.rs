//! `randori export`: a player for the tools people deploy with, and how much of what it learnt
//! survives the format.
//!
//! The base is not loaded: weights are read, merged and written one at a time.

mod fidelity;
mod places;
mod player;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use randori_engine::weights;
use randori_export::{
    BnbOptions, FolderOptions, GgufLoraOptions, GgufOptions, GgufQuant, Onto, gguf as gguf_model,
};
use randori_lora::LoraSpec;
use randori_store::{BoxError, OutFiles, OutFolder};

use crate::artefacts::Learnt;
use crate::card::{self, Form};
use crate::outbox;
use crate::request::{Request, Which};

use fidelity::Instead;
use places::{FIDELITY, MODELFILE};
use player::{Asked, Player, ready};
pub use player::{Chosen, ITERATION, called, chosen};

/// What is to be written where.
#[derive(Clone)]
pub struct Export {
    /// Whose player.
    pub request: Request,
    /// Which player of a run folder; the last one where it is not given.
    pub iteration: Option<Which>,
    /// Which base receives the update.
    pub onto: Onto,
    /// What to write.
    pub target: Target,
    /// Folder, or for GGUF file, to write.
    pub out: PathBuf,
}

/// A form in which a player is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A PEFT adapter folder.
    Peft,
    /// An adapter folder for mlx-lm.
    Mlx,
    /// A Hugging Face model folder, merged.
    Hf {
        /// Numbers of its weights.
        dtype: weights::Dtype,
        /// The seed of stochastic rounding to bf16.
        stochastic: Option<u64>,
        /// The largest weight file, bytes.
        shard_bytes: u64,
    },
    /// A GGUF model file, merged.
    Gguf {
        /// Its blocks.
        quant: GgufQuant,
    },
    /// A GGUF adapter file.
    GgufLora,
    /// A Hugging Face folder in bitsandbytes' 4 bits, merged.
    Bnb {
        /// Numbers of what is not quantised.
        dtype: weights::Dtype,
        /// The largest weight file, bytes.
        shard_bytes: u64,
    },
}

/// Writes `to.out`.
///
/// # Errors
/// Whatever is wrong with the player or the place; a form that cannot hold this player.
pub fn export(to: &Export) -> Result<()> {
    let out = to.out.as_path();
    let ends: &[&str] = match to.target {
        Target::Gguf { .. } => &[FIDELITY, MODELFILE, card::FILE],
        Target::GgufLora => &[MODELFILE, card::FILE],
        Target::Peft | Target::Mlx | Target::Hf { .. } | Target::Bnb { .. } => &[],
    };
    let beside: Vec<PathBuf> = ends.iter().map(|end| out.with_extension(end)).collect();
    let asked = Asked::of(&to.request, to.iteration)?;
    asked.refuse_place(&to.request, out)?;
    for file in &beside {
        asked.refuse_place(&to.request, file)?;
    }
    let is_again = match out.is_dir() {
        true => std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()),
        false => out.exists(),
    };
    let player = || -> Result<Player> {
        let player = ready(&to.request, asked, to.onto, out)?;
        if is_again {
            let note = format!("{}: replaces the export that is there", out.display());
            player.setting.watch.note(note);
        }
        Ok(player)
    };
    match to.target {
        Target::Peft => peft(outbox::folder(out)?, &player()?, out),
        Target::Mlx => mlx(outbox::folder(out)?, &player()?, out),
        Target::Hf {
            dtype,
            stochastic,
            shard_bytes,
        } => hf(
            outbox::folder(out)?,
            &player()?,
            dtype,
            stochastic,
            shard_bytes,
            out,
        ),
        Target::Gguf { quant } => gguf(outbox::files(out, &beside)?, &player()?, quant, out),
        Target::GgufLora => gguf_lora(outbox::files(out, &beside)?, &player()?, out),
        Target::Bnb { dtype, shard_bytes } => {
            bnb(outbox::folder(out)?, &player()?, dtype, shard_bytes, out)
        }
    }
}

/// The settings of a player's adapter.
fn adapter_of(player: &Player) -> Result<&LoraSpec> {
    match &player.learnt.lora {
        Some(spec) => Ok(spec),
        None => bail!(
            "only a LoRA player has an adapter to write; this one is {}",
            match player.learnt.params.is_empty() {
                true => "the bare base: nothing has been learnt yet",
                false => "fully trained: use --to hf",
            }
        ),
    }
}

fn mlx(to: OutFolder, player: &Player, out: &Path) -> Result<()> {
    let spec = adapter_of(player)?;
    let (params, base_name) = (&player.learnt.params, &player.setting.base_name);
    let projections = player.stream.trace().projections();
    let card = player.card(Form::Mlx, out, "An adapter for mlx-lm".into(), None)?;
    to.write(|fresh| {
        randori_lora::mlx::save(fresh, spec, params, &projections, base_name)?;
        player
            .learnt
            .provenance
            .write(fresh)
            .map_err(BoxError::from)?;
        Ok(std::fs::write(fresh.join(card::FILE), card)?)
    })?;
    let watch = &player.setting.watch;
    result!(
        watch,
        "{}: an adapter of mlx-lm for {base_name}",
        out.display()
    );
    Ok(())
}

fn peft(to: OutFolder, player: &Player, out: &Path) -> Result<()> {
    adapter_of(player)?;
    let base_name = player.setting.base_name.clone();
    let learnt = Learnt {
        base_name,
        ..player.learnt.clone()
    };
    let card = player.card(Form::Adapter, out, "A PEFT adapter".into(), None)?;
    to.write(|fresh| {
        let dialect = player.stream.arch().dialect();
        let written = learnt.write_for_peft(fresh, &dialect);
        written.map_err(BoxError::from)?;
        Ok(std::fs::write(fresh.join(card::FILE), card)?)
    })?;
    result!(
        player.setting.watch,
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
    let measured = player.folder(
        &to,
        out,
        Form::Folder,
        &form,
        Instead::FOLDER,
        |tensors, fresh, each, progress| {
            let written =
                randori_export::folder(tensors, &companions, fresh, &options, each, progress)?;
            report = Some(written);
            Ok(())
        },
    )?;
    measured.tell_sentence(&*player.setting.watch);
    if let Some(report) = report {
        let files = match report.files.len() {
            1 => String::new(),
            n => format!(" in {n} files"),
        };
        result!(
            player.setting.watch,
            "{}: {} tensors{files}, {:.1} MB in {form}",
            out.display(),
            report.tensors,
            report.bytes as f64 / 1e6
        );
    }
    measured.tell_rest(&*player.setting.watch);
    Ok(())
}

fn gguf(mut to: OutFiles, player: &Player, quant: GgufQuant, out: &Path) -> Result<()> {
    let lossless = match (quant, &player.learnt.lora) {
        (GgufQuant::F32, _) => None,
        (_, Some(spec)) if has_gguf_form(spec) => {
            Some("the base with a GGUF adapter (--to gguf-lora)")
        }
        _ => None,
    };
    let tokenizer = player.setting.tokenizer.to_gguf()?;
    if let Some(lost) = player.setting.tokenizer.lost_in_gguf() {
        player.setting.watch.warn(lost.to_string());
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
        Instead::of_gguf(quant).or(lossless),
        |tensors, fresh, each, progress| {
            let written = gguf_model(tensors, Some(&tokenizer), fresh, &options, each, progress)?;
            report = Some(written);
            Ok(())
        },
    )?;
    measured.tell_sentence(&*player.setting.watch);
    if let Some(report) = report {
        let kinds = report.kinds.iter().map(|(kind, n)| format!("{n} {kind}"));
        result!(
            player.setting.watch,
            "{}: {} tensors ({}), {:.1} MB",
            out.display(),
            report.tensors,
            kinds.collect::<Vec<_>>().join(", "),
            report.bytes as f64 / 1e6
        );
        for note in &report.notes {
            result!(player.setting.watch, "note: {note}");
        }
    }
    player.modelfile(&mut to, out, &format!("./{}", file_name(out)), None)?;
    measured.tell_rest(&*player.setting.watch);
    Ok(())
}

/// Whether a GGUF adapter can express this one.
fn has_gguf_form(spec: &LoraSpec) -> bool {
    !spec.dora && spec.modules_to_save.is_empty()
}

fn gguf_lora(mut to: OutFiles, player: &Player, out: &Path) -> Result<()> {
    let Some(spec) = &player.learnt.lora else {
        bail!("only a LoRA player has an adapter to write; export this one merged (--to gguf)");
    };
    if !has_gguf_form(spec) {
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
        let family = player.stream.arch().family();
        let scale = |projection: &str| spec.scale_of(projection);
        report = Some(randori_export::gguf_lora(
            params, config, &family, &scale, fresh, &options,
        )?);
        Ok(())
    })?;
    if let Some(report) = report {
        result!(
            player.setting.watch,
            "{}: a GGUF LoRA for {}, {} tensors, {:.1} MB",
            out.display(),
            player.setting.base_name,
            report.tensors,
            report.bytes as f64 / 1e6
        );
    }
    let how = "A GGUF LoRA, as it was trained".into();
    let card = player.card(Form::GgufLora, out, how, None)?;
    player.card_beside(&mut to, out, &card)?;
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
    let lossless = player.learnt.lora.as_ref();
    let lossless = lossless.map(|_| "the base with its PEFT adapter (--to peft)");
    let companions = player.companions()?;
    let options = BnbOptions {
        double: player.setting.recipe.adapter.double_quant,
        dtype,
        shard_bytes,
    };
    let form = "bitsandbytes NF4";
    let mut report = None;
    let measured = player.folder(
        &to,
        out,
        Form::Bnb,
        form,
        Instead::FOLDER.or(lossless),
        |tensors, fresh, each, progress| {
            let written =
                randori_export::bnb(tensors, &companions, fresh, &options, each, progress)?;
            report = Some(written);
            Ok(())
        },
    )?;
    measured.tell_sentence(&*player.setting.watch);
    if let Some(report) = report {
        result!(
            player.setting.watch,
            "{}: {} weights, {} of them in 4 bits, {:.1} MB in {form}",
            out.display(),
            report.tensors,
            report.quantised,
            report.bytes as f64 / 1e6
        );
    }
    measured.tell_rest(&*player.setting.watch);
    Ok(())
}
