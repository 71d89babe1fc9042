//! A tokenizer from Hugging Face files: which one says what, and which goes before which.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::Tokenizer as Core;

use super::added::Named;
use super::patterns::as_oniguruma;
use super::{Special, Tokenizer, settings};
use crate::contain::contain;
use crate::{ChatTemplate, Error, Result};

/// The files that matter, as far as they exist.
const WANTED: [&str; 8] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
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
    for path in named_templates(dir)? {
        let bytes = std::fs::read(&path).map_err(|e| Error::io(path.display().to_string(), e))?;
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        files.insert(format!("{TEMPLATES}{file}"), bytes);
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
    let mut core = contain(|| Core::from_bytes(as_oniguruma(bytes)).map_err(|e| e.to_string()))
        .and_then(|core| core)
        .map_err(|e| Error::file("tokenizer.json", format!("not a tokenizer: {e}")))?;
    let config = json(&files, "tokenizer_config.json")?;
    let map = json(&files, "special_tokens_map.json")?;
    let generation = json(&files, "generation_config.json")?;
    let model = json(&files, "config.json")?;

    settings::obey(&mut core, &config, &model)?;
    let named = Named::read(&core, &config, &map, &json(&files, "added_tokens.json")?)?;
    contain(|| named.add_to(&mut core)).map_err(Error::Tokenizer)??;
    let mut special = Special {
        bos: named.get(&core, "bos_token"),
        eos: named.get(&core, "eos_token"),
        pad: named.get(&core, "pad_token"),
        unk: named.get(&core, "unk_token"),
        variables: named.variables(),
    };
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
    files.retain(|name, _| {
        name != "config.json" && name != "chat_template.jinja" && !name.starts_with(TEMPLATES)
    });
    Tokenizer::assemble(core, special, named_stops, template, files)
}

/// A JSON file that may be absent.
pub(super) fn json(files: &BTreeMap<String, Vec<u8>>, name: &str) -> Result<Value> {
    match files.get(name) {
        Some(bytes) => {
            serde_json::from_slice(bytes).map_err(|e| Error::file(name, format!("not JSON: {e}")))
        }
        None => Ok(Value::Null),
    }
}

/// One id or a list of them.
fn eos_ids(value: &Value) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Array(list) => list.iter().filter_map(id).collect(),
        one => id(one).into_iter().collect(),
    }
}

/// The folder with templates of other names than `default`.
const TEMPLATES: &str = "additional_chat_templates/";

/// The chat templates in a model folder's `additional_chat_templates`, in the alphabet's order: any
/// of them decides which template a model has.
///
/// # Errors
/// When that folder is there and cannot be listed.
pub fn named_templates(dir: &Path) -> Result<Vec<PathBuf>> {
    let folder = dir.join(TEMPLATES);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let io = |e| Error::io(folder.display().to_string(), e);
    let entries = std::fs::read_dir(&folder).map_err(io)?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|end| end == "jinja") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The chat template: as transformers 5, files go before the config, and of several templates
/// `default` is taken, for conversations with tools `tool_use`.
fn template(files: &BTreeMap<String, Vec<u8>>, config: &Value) -> Result<Option<ChatTemplate>> {
    let text = |name: &str| {
        let text = files.get(name).map(|bytes| std::str::from_utf8(bytes));
        text.transpose().map_err(|_| Error::file(name, "not UTF-8"))
    };
    let several = |file: &str| {
        Err(Error::file(
            file,
            "has several chat templates and none is called `default`; give one as model.chat_template",
        ))
    };
    // the folder's `default` goes before the file beside it (transformers 5.24)
    for name in [&*format!("{TEMPLATES}default.jinja"), "chat_template.jinja"] {
        if let Some(default) = text(name)? {
            let tools = text(&format!("{TEMPLATES}tool_use.jinja"))?;
            return both(default, tools).map(Some);
        }
    }
    if files.keys().any(|name| name.starts_with(TEMPLATES)) {
        return several(TEMPLATES);
    }
    match &config["chat_template"] {
        Value::String(text) => both(text, None).map(Some),
        Value::Array(list) => {
            let named = |name: &str| list.iter().find(|t| t["name"] == name);
            let chosen = named("default").or(if list.len() == 1 { list.first() } else { None });
            let tools = named("tool_use").and_then(|t| t["template"].as_str());
            match chosen.and_then(|t| t["template"].as_str()) {
                Some(text) => both(text, tools.filter(|_| list.len() > 1)).map(Some),
                None => several("tokenizer_config.json"),
            }
        }
        _ => Ok(None),
    }
}

/// A template, and the one for conversations with tools.
fn both(default: &str, tools: Option<&str>) -> Result<ChatTemplate> {
    let mut template = ChatTemplate::new(default)?;
    if let Some(tools) = tools {
        template.set_tool_use(ChatTemplate::new(tools)?);
    }
    Ok(template)
}
