//! The model card: `README.md` of what was exported, with the front matter that model hubs read,
//! and all that is known of how the player came about.

mod base;
mod loading;
mod measures;
mod trainings;

use std::path::Path;

use anyhow::Result;
use randori_store::{Manifest, iteration_folder};
use serde_json::json;

use crate::artefacts::Learnt;
use crate::provenance::{Origin, Training};
use crate::recipe::{AdapterKind, Named, Recipe};
use crate::request::Which;
use crate::session::short;

use base::Base;
use measures::measures;
use trainings::{plain, trainings};

/// The file's name in a folder, and how it ends beside a file.
pub const FILE: &str = "README.md";

/// What was exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A PEFT adapter folder.
    Adapter,
    /// An adapter folder for mlx-lm.
    Mlx,
    /// A Hugging Face model folder.
    Folder,
    /// The same in bitsandbytes' 4 bits.
    Bnb,
    /// A GGUF model file.
    Gguf,
    /// A GGUF adapter file.
    GgufLora,
}

/// What a card is written from.
pub struct Card<'a> {
    /// The recipe of the export.
    pub recipe: &'a Recipe,
    /// The player.
    pub learnt: &'a Learnt,
    /// The folder of the game and which of its players this is; `None` for a player from elsewhere.
    pub game: Option<(&'a Path, Which)>,
    /// What was written.
    pub form: Form,
    /// Where.
    pub out: &'a Path,
    /// How.
    pub how: String,
    /// How much of the update survived.
    pub fidelity: Option<String>,
    /// What else is to be known about it.
    pub remarks: Vec<String>,
    /// Whether the player was trained with that recipe, too.
    pub is_recipe_of_training: bool,
}

impl Card<'_> {
    /// The whole text.
    ///
    /// # Errors
    /// A measure of the run that was changed since it was written.
    pub fn text(&self) -> Result<String> {
        let base = Base::of(self.recipe);
        let made = &self.learnt.provenance;
        let mut out = self.front_matter(&base);
        out += &format!("\n# {}\n\n{}\n", self.recipe.run.name, self.opening(&base));
        out += &format!("\n## How to load it\n\n{}", self.loading(&base));
        out += &format!("\n## What made it\n\n{}", trainings(made));
        if let Some((dir, which)) = self.game
            && let Some(manifest) = Manifest::read(dir)?
        {
            let iterations = match which {
                Which::Iteration(t) => t + 1,
                Which::Start => 0,
            };
            out += &measures(dir, &manifest, iterations)?;
            out += &lineage(&manifest, iterations, &base);
        }
        out += &format!("\n## How it was written\n\n{}.\n", self.how);
        let said = self.fidelity.iter().chain(&self.remarks);
        out.extend(said.map(|line| format!("\n{line}.\n")));
        let recipe = match self.is_recipe_of_training {
            true => "Resolved, defaults included.",
            false => {
                "That of the export: base, tokenizer and chat template are its; what trained the \
                 player is told above."
            }
        };
        out += &format!(
            "\n## Recipe\n\n{recipe}\n\n```toml\n{}\n```\n",
            self.recipe.canonical().trim()
        );
        Ok(out)
    }

    fn is_adapter(&self) -> bool {
        matches!(self.form, Form::Adapter | Form::Mlx | Form::GgufLora)
    }

    /// Whether the game trained it last. An iteration of a run was, though it may be older than the
    /// record of that.
    fn is_of_game(&self) -> bool {
        let iteration = matches!(self.game, Some((_, Which::Iteration(_))));
        iteration || matches!(self.learnt.provenance.0.last(), Some(Origin::Game(_)))
    }

    /// What hubs read. They refuse a base or a data set that is not one of theirs.
    fn front_matter(&self, base: &Base) -> String {
        let made = self.learnt.provenance.flat();
        let any = |kind: fn(&Origin) -> bool| made.iter().any(|one| kind(one));
        let mut tags = vec!["randori"];
        if self.is_of_game() || any(|one| matches!(one, Origin::Game(_))) {
            tags.extend(["spin", "self-play"]);
        }
        if any(|one| matches!(one, Origin::Sft(_))) {
            tags.push("sft");
        }
        match (self.recipe.adapter.kind, self.learnt.lora.is_some()) {
            (AdapterKind::Qlora, true) => tags.extend(["lora", "qlora"]),
            (_, true) => tags.push("lora"),
            (_, false) => {}
        }
        let (library, relation) = match (self.form, self.is_adapter()) {
            (Form::Adapter, _) => ("peft", "adapter"),
            (Form::Mlx, _) => ("mlx", "adapter"),
            (_, true) => ("gguf", "adapter"),
            (Form::Gguf, _) => ("gguf", "finetune"),
            _ => ("transformers", "finetune"),
        };
        let list = |items: Vec<String>| -> String {
            // a JSON text is a YAML text
            items.iter().map(|i| format!("- {}\n", json!(i))).collect()
        };
        let mut out = String::from("---\n");
        if let Base::Hub { repo, .. } = base {
            out += &format!(
                "base_model: {}\nbase_model_relation: {relation}\n",
                json!(repo)
            );
        }
        out += &format!("library_name: {library}\npipeline_tag: text-generation\n");
        let tags = tags.into_iter().map(str::to_string);
        out += &format!("tags:\n{}", list(tags.collect()));
        let sets = data_sets(made.into_iter().filter_map(Origin::training));
        if !sets.is_empty() {
            out += &format!("datasets:\n{}", list(sets));
        }
        out + "---\n"
    }

    fn opening(&self, base: &Base) -> String {
        let name = base.name();
        let by = concat!("randori ", env!("CARGO_PKG_VERSION"));
        let last = self.learnt.provenance.0.last();
        if last.is_none() {
            return format!("{name} itself, written by {by}: nothing has been learnt.");
        }
        let how = match last {
            _ if self.is_of_game() => " by self-play fine-tuning (SPIN, arXiv 2401.01335)".into(),
            Some(Origin::Sft(_)) => " by supervised fine-tuning".into(),
            Some(Origin::Pairs(_)) => " by training on pairs of responses".into(),
            Some(Origin::Sum { of }) => format!(", the sum of {} adapters", of.len()),
            _ => ", trained in a way that is not recorded".to_string(),
        };
        let kind = match self.is_adapter() {
            true => "An adapter for",
            false => "A model made from",
        };
        let mut text = format!("{kind} {name}{how}, written by {by}{}.", self.which());
        if self.is_of_game() {
            text += "\nThe policy learns to tell the data's responses from those of its opponent, \
                 a frozen earlier self.";
        }
        text
    }

    /// Which player of which run it is, where that is known.
    fn which(&self) -> String {
        let last = self.learnt.provenance.0.last();
        let recorded = last.and_then(Origin::training);
        let (run, seed) = match (self.game, recorded) {
            (Some((dir, _)), _) => {
                let manifest = Manifest::read(dir).ok().flatten().unwrap_or_default();
                let seed = manifest.recipe.get("seed").cloned();
                (self.recipe.run.name.clone(), seed)
            }
            (None, Some(training)) => (training.run.clone(), Some(training.seed.to_string())),
            (None, None) => return String::new(),
        };
        let seed = seed.map_or(String::new(), |seed| format!(", seed {seed}"));
        let of_run = format!("of the run `{}`{seed}", plain(&run));
        match (self.game, last) {
            (Some((_, Which::Start)), _) => {
                format!(": the start {of_run}, the player before its first iteration")
            }
            (Some((_, Which::Iteration(t))), _) => after(t, &of_run),
            (None, Some(Origin::Game(training))) => {
                after(training.iteration.unwrap_or_default(), &of_run)
            }
            _ => format!(" ({of_run})"),
        }
    }
}

/// The rule of docs/reference/commands.md.
fn after(t: usize, of_run: &str) -> String {
    format!(": iteration {t} {of_run}, the player after training {t}, counted from 0")
}

/// The hub's data sets among what trainings read, each once.
fn data_sets<'a>(trainings: impl Iterator<Item = &'a Training>) -> Vec<String> {
    let mut sets = Vec::new();
    for input in trainings.flat_map(|training| &training.data) {
        let text = input.name.split(' ').next().unwrap_or_default();
        let repo = Named::parse(text).map(|named| named.repo);
        sets.extend(repo.filter(|repo| !sets.contains(repo)));
    }
    sets
}

/// What the run was begun with, by content, and its players up to this one.
fn lineage(manifest: &Manifest, iterations: usize, base: &Base) -> String {
    let mut out = String::from("\n## Lineage\n\n| what | SHA-256 |\n|---|---|\n");
    let base = format!("base {}", base.name());
    let hashes = manifest.hashes.iter();
    let rows: Vec<_> = hashes
        .map(|(name, hash)| {
            let version = manifest.versions.get(name);
            let version = version.map_or(String::new(), |v| format!(" {v}"));
            (spoken(name, &base) + &version, hash)
        })
        .collect();
    if !rows.iter().any(|(name, _)| name.starts_with("base ")) {
        out += &format!("| {base} | as the hub has it |\n");
    }
    out.extend(
        rows.iter()
            .map(|(name, hash)| format!("| {name} | `{hash}` |\n")),
    );
    out.push('\n');
    for t in 0..iterations {
        let opponent = match t.checked_sub(1) {
            None => Which::Start,
            Some(before) => Which::Iteration(before),
        };
        let hash = manifest
            .done(&iteration_folder(t), "policy")
            .map(|d| &d.sha256);
        let hash = hash.map_or(String::new(), |h| format!("; policy `{h}`"));
        out += &format!("- iteration {t}: opponent {opponent}{hash}\n");
    }
    out
}

/// `data.train /some/folder/train.jsonl` -> `data.train train.jsonl`; `model.source FILE` -> the
/// base and its file.
fn spoken(name: &str, base: &str) -> String {
    let (kind, file) = name.split_once(' ').unwrap_or((name, ""));
    let file = short(file);
    match (kind, file.as_str()) {
        ("model.source", "") => base.to_string(),
        ("model.source", file) => format!("{base}: {file}"),
        (kind, file) => format!("{kind} {file}"),
    }
}

#[cfg(test)]
mod tests;
