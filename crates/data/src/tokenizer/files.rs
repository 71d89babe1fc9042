//! A tokenizer from Hugging Face files: which one says what, and which goes before which.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use tokenizers::Tokenizer as Core;

use super::{Special, Tokenizer};
use crate::contain::contain;
use crate::{Error, Result};

/// The files that matter, as far as they exist.
const WANTED: [&str; 7] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
    "config.json",
    "tokenizer.model",
];

/// Reads a folder.
pub(super) fn from_folder(dir: &Path) -> Result<Tokenizer> {
    let mut files = BTreeMap::new();
    for name in WANTED {
        let path = dir.join(name);
        match std::fs::read(&path) {
            Ok(bytes) => {
                files.insert(name.to_owned(), bytes);
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io(path.display().to_string(), e)),
        }
    }
    if !files.contains_key("tokenizer.json") {
        let what = match files.contains_key("tokenizer.model") {
            true => {
                "has a tokenizer.model but no tokenizer.json; load and save it once with transformers' AutoTokenizer"
            }
            false => "has no tokenizer.json",
        };
        return Err(Error::file(dir.display().to_string(), what));
    }
    from_files(files).map_err(|e| match e {
        Error::File { file, what } => Error::file(dir.join(file).display().to_string(), what),
        other => other,
    })
}

/// Builds from files in memory. Errors name the file without its folder.
pub(super) fn from_files(mut files: BTreeMap<String, Vec<u8>>) -> Result<Tokenizer> {
    let bytes = files
        .get("tokenizer.json")
        .map(Vec::as_slice)
        .unwrap_or_default();
    let core = contain(|| Core::from_bytes(bytes).map_err(|e| e.to_string()))
        .and_then(|core| core)
        .map_err(|e| Error::file("tokenizer.json", format!("not a tokenizer: {e}")))?;
    let config = json(&files, "tokenizer_config.json")?;
    let map = json(&files, "special_tokens_map.json")?;
    let generation = json(&files, "generation_config.json")?;
    let model = json(&files, "config.json")?;

    let mut special = Special::default();
    for (slot, name) in [
        (&mut special.bos, "bos_token"),
        (&mut special.eos, "eos_token"),
        (&mut special.pad, "pad_token"),
        (&mut special.unk, "unk_token"),
    ] {
        for (file, source) in [
            ("tokenizer_config.json", &config),
            ("special_tokens_map.json", &map),
        ] {
            if slot.is_none()
                && let Some(text) = token_text(&source[name])
            {
                let id = core.token_to_id(text).ok_or_else(|| {
                    Error::file(
                        file,
                        format!("{name} is `{text}`, which is not in the vocabulary"),
                    )
                })?;
                *slot = Some((id, text.to_owned()));
            }
        }
    }
    // as transformers: where there are generation settings, nothing is read of the configuration's
    let settings = match files.contains_key("generation_config.json") {
        true => &generation,
        false => &model,
    };
    let named_stops = eos_ids(&settings["eos_token_id"]);
    if special.eos.is_none() {
        // The config's first is the model's end of text.
        let first = eos_ids(&model["eos_token_id"])
            .first()
            .or(named_stops.first())
            .copied();
        special.eos = first.and_then(|id| core.id_to_token(id).map(|text| (id, text)));
    }
    let template = template(&files, &config)?;
    for not_ours in ["config.json", "chat_template.jinja"] {
        files.remove(not_ours);
    }
    Tokenizer::assemble(core, special, named_stops, template.as_deref(), files)
}

/// A JSON file that may be absent.
fn json(files: &BTreeMap<String, Vec<u8>>, name: &str) -> Result<Value> {
    match files.get(name) {
        Some(bytes) => {
            serde_json::from_slice(bytes).map_err(|e| Error::file(name, format!("not JSON: {e}")))
        }
        None => Ok(Value::Null),
    }
}

/// A special token is its text, or an object with the text in it.
fn token_text(value: &Value) -> Option<&str> {
    value
        .as_str()
        .or_else(|| value["content"].as_str())
        .filter(|text| !text.is_empty())
}

/// One id or a list of them.
fn eos_ids(value: &Value) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Array(list) => list.iter().filter_map(id).collect(),
        one => id(one).into_iter().collect(),
    }
}

/// The chat template: its own file (transformers 5), else the config's text, or `default` of the config's list.
fn template(files: &BTreeMap<String, Vec<u8>>, config: &Value) -> Result<Option<String>> {
    if let Some(bytes) = files.get("chat_template.jinja") {
        let text = std::str::from_utf8(bytes)
            .map_err(|_| Error::file("chat_template.jinja", "not UTF-8"))?;
        return Ok(Some(text.to_owned()));
    }
    match &config["chat_template"] {
        Value::String(text) => Ok(Some(text.clone())),
        Value::Array(list) => {
            let named = |name: &str| list.iter().find(|t| t["name"] == name);
            let chosen = named("default").or(if list.len() == 1 { list.first() } else { None });
            match chosen.and_then(|t| t["template"].as_str()) {
                Some(text) => Ok(Some(text.to_owned())),
                None => Err(Error::file(
                    "tokenizer_config.json",
                    "has several chat templates and none is called `default`; give one as model.chat_template",
                )),
            }
        }
        _ => Ok(None),
    }
}
