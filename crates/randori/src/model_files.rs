//! The files a recipe's model is made of: where its weights and configuration lie, which
//! architecture runs it, and its tokenizer with the chat template.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use randori_data::{ChatTemplate, GgufTokenizer, Tokenizer};
use randori_engine::hub::{Kind, Snapshot, is_commit};
use randori_engine::weights::{self, Source, TokenizerSource};
use randori_host::Host;
use randori_sdk::seam::Architecture;

use crate::builtin;
use crate::recipe::Recipe;

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

/// What runs a model of this configuration: the recipe's choice, or else what the configuration
/// names.
pub fn architecture(
    recipe: &Recipe,
    host: &Host,
    config: &serde_json::Value,
) -> Result<Arc<dyn Architecture>> {
    let named = recipe.model.arch.as_deref();
    let Some(arch) = named.or(config["model_type"].as_str()) else {
        anyhow::bail!(recipe.refuse(
            "model.arch",
            "must be given: the model's configuration has no model_type"
        ));
    };
    let key = match named {
        Some(_) => "model.arch",
        None => "model.source",
    };
    host.architecture(arch, &config.to_string())
        .with_context(|| format!("{}: {key}", recipe.place(key)))
}

/// Where the recipe's model comes from.
pub fn source(recipe: &Recipe) -> Result<Source> {
    let text = &recipe.model.source.0;
    if text.is_empty() {
        let what = "a Hugging Face folder, a .gguf file, org/name on the hub, or builtin:demo";
        return Err(recipe.missing("model.source", what).into());
    }
    if let Some(name) = text.strip_prefix("builtin:") {
        let model = builtin::model(name).ok_or_else(|| builtin::unknown(text))?;
        let config = serde_json::from_slice(model.config)?;
        return Ok(Source::Memory {
            config,
            tensors: model.weights.to_vec(),
        });
    }
    if let Some(file) = text.strip_prefix("random:") {
        let path = recipe.path(file);
        let bytes = std::fs::read(&path)
            .with_context(|| format!("{}: {}", recipe.place("model.source"), path.display()))?;
        let config = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is not JSON", path.display()))?;
        return Ok(Source::Random {
            config,
            seed: recipe.run.seed,
        });
    }
    let path = recipe.path(text);
    if path.is_dir() {
        if let Some(inside) = only_gguf(&path) {
            let rule = format!(
                "is a folder without config.json, got \"{text}\"; its GGUF file can be given: {}",
                Path::new(text).join(inside).display()
            );
            return Err(recipe.refuse("model.source", rule).into());
        }
        return Ok(Source::Folder(path));
    }
    if path.is_file() || text.ends_with(".gguf") {
        return Ok(Source::Gguf(path));
    }
    if let Some((repo, revision)) = hub_id(recipe) {
        return Ok(Source::Hub { repo, revision });
    }
    Err(recipe
        .refuse("model.source", format!("is neither a folder, a .gguf file nor a hub id (org/name), got \"{text}\" ({} does not exist)", path.display()))
        .into())
}

/// The first GGUF file of a folder that is no Hugging Face folder.
fn only_gguf(folder: &Path) -> Option<OsString> {
    if folder.join("config.json").exists() {
        return None;
    }
    let names = std::fs::read_dir(folder).ok()?.flatten();
    let names = names.map(|entry| entry.file_name());
    let is_gguf = |name: &OsString| Path::new(name).extension().is_some_and(|e| e == "gguf");
    names.filter(is_gguf).min()
}

/// Whether the files that the recipe's `[model]` names are there; of a model from the hub nothing
/// is asked. The chat template is read, no weight.
///
/// # Errors
/// The first that is not, at its place in the recipe.
pub fn check_paths(recipe: &Recipe) -> Result<()> {
    if let Source::Gguf(path) = source(recipe)? {
        std::fs::File::open(&path)
            .with_context(|| path.display().to_string())
            .with_context(|| format!("{}: model.source", recipe.place("model.source")))?;
    }
    if let Some(given) = &recipe.model.tokenizer {
        let path = recipe.path(given);
        if !path.exists() {
            let rule = format!("names {}, which is not there", path.display());
            return Err(recipe.refuse("model.tokenizer", rule).into());
        }
    }
    chat_template(recipe).map(drop)
}

/// Repository and revision of a model from the hub. `org/name` and nothing else looks like one;
/// what is there on disk, what is longer, or has a dot in front is a path.
pub fn hub_id(recipe: &Recipe) -> Option<(String, String)> {
    let text = &recipe.model.source.0;
    let (repo, revision) = text.split_once('@').unwrap_or((text, "main"));
    let parts: Vec<&str> = repo.split('/').collect();
    let named = parts.len() == 2 && parts.iter().all(|p| !p.is_empty() && !p.starts_with('.'));
    let local = text.contains(':') || text.ends_with(".gguf") || recipe.path(text).exists();
    (named && !local).then(|| (repo.to_string(), revision.to_string()))
}

/// Puts the commit in the place of a hub's branch or tag, once: the one that the run in hand was
/// begun with (`kept` of its manifest), or else the one that it is today.
///
/// # Errors
/// What the hub answered.
pub fn settle_source(recipe: &mut Recipe, kept: &BTreeMap<String, String>) -> Result<()> {
    let Some((repo, revision)) = hub_id(recipe).filter(|(_, r)| !is_commit(r)) else {
        return Ok(());
    };
    let asked = format!("model.source {repo}@{revision}");
    let meant = match kept.get(&asked) {
        Some(meant) => meant.clone(),
        None => {
            let snapshot = Snapshot::open(Kind::Model, &repo, &revision)
                .with_context(|| format!("{}: model.source", recipe.place("model.source")))?;
            format!("{repo}@{}", snapshot.commit())
        }
    };
    recipe.model.source.0 = meant.clone();
    recipe.resolved.insert(asked, meant);
    Ok(())
}

/// The tokenizer the recipe names, or the model's own, with the recipe's chat template if it gives
/// one.
pub fn tokenizer(recipe: &Recipe, own: TokenizerSource) -> Result<Tokenizer> {
    let template = chat_template(recipe)?;
    let of_folder = |dir: &Path, template| match template {
        Some(template) => Tokenizer::from_folder_with(dir, template),
        None => Tokenizer::from_folder(dir),
    };
    let of_gguf = |gguf: &GgufTokenizer, template| match template {
        Some(template) => Tokenizer::from_gguf_with(gguf, template),
        None => Tokenizer::from_gguf(gguf),
    };
    let mut tokenizer = match (
        &recipe.model.tokenizer,
        recipe.model.source.0.strip_prefix("builtin:"),
    ) {
        (Some(given), _) => {
            let path = recipe.path(given);
            let read = match path.extension().is_some_and(|e| e == "gguf") {
                true => match weights::gguf_tokenizer(&path)? {
                    Some(gguf) => of_gguf(&gguf, template),
                    None => anyhow::bail!(recipe.refuse(
                        "model.tokenizer",
                        format!("holds no tokenizer: {}", path.display())
                    )),
                },
                false => of_folder(&path, template),
            };
            read.with_context(|| format!("{}: model.tokenizer", recipe.place("model.tokenizer")))?
        }
        (None, Some(name)) => {
            let model =
                builtin::model(name).ok_or_else(|| builtin::unknown(&recipe.model.source.0))?;
            let mut own =
                Tokenizer::from_bytes(model.tokenizer, Some(model.tokenizer_config), None)?;
            if let Some(template) = template {
                own.set_chat_template(template);
            }
            own
        }
        (None, None) => match own {
            TokenizerSource::Folder(dir) => of_folder(&dir, template)
                .with_context(|| format!("{}: model.source", recipe.place("model.source")))?,
            TokenizerSource::Gguf(gguf) => of_gguf(&gguf, template)
                .with_context(|| format!("{}: model.source", recipe.place("model.source")))?,
            TokenizerSource::None => anyhow::bail!(recipe.refuse(
                "model.tokenizer",
                "must be given: the model comes without a tokenizer"
            )),
        },
    };
    tokenizer.chat_template()?;
    for (name, value) in &recipe.data.template_args.0 {
        let place = || format!("{}: data.template_args", recipe.place("data.template_args"));
        tokenizer.give(name, value).with_context(place)?;
    }
    Ok(tokenizer)
}

/// The chat template that the recipe gives.
fn chat_template(recipe: &Recipe) -> Result<Option<ChatTemplate>> {
    let text = match recipe.model.chat_template.as_deref() {
        None => return Ok(None),
        Some("plain") => randori_data::PLAIN.to_string(),
        Some(file) => {
            let path = recipe.path(file);
            std::fs::read_to_string(&path).with_context(|| {
                format!(
                    "{}: model.chat_template {}",
                    recipe.place("model.chat_template"),
                    path.display()
                )
            })?
        }
    };
    Ok(Some(ChatTemplate::new(&text)?))
}
