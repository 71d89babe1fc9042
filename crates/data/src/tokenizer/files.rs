//! Loads a tokenizer from Hugging Face files, with the precedence among them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokenizers::Tokenizer as Core;

use super::added::Named;
use super::patterns::as_oniguruma;
use super::{Special, Tokenizer, settings};
use crate::contain::contain;
use crate::{ChatTemplate, Error, Result};

/// File name of the tokenizer's configuration.
const CONFIG: &str = "tokenizer_config.json";
/// File name of the generation settings.
const GENERATION: &str = "generation_config.json";

/// Files read, if they exist.
const WANTED: [&str; 8] = [
    "tokenizer.json",
    CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    GENERATION,
    "config.json",
    "tokenizer.model",
];

/// Reads a folder; a given template replaces the folder's, which are then not read.
pub(super) fn from_folder(dir: &Path, given: Option<ChatTemplate>) -> Result<Tokenizer> {
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
    from_files(files, given).map_err(|e| match e {
        Error::File { file, what } => Error::file(dir.join(file).display().to_string(), what),
        other => other,
    })
}

/// Builds a tokenizer from files in memory. Errors name the file without its folder.
pub(super) fn from_files(
    mut files: BTreeMap<String, Vec<u8>>,
    given: Option<ChatTemplate>,
) -> Result<Tokenizer> {
    let bytes = files
        .get("tokenizer.json")
        .map(Vec::as_slice)
        .unwrap_or_default();
    let mut core = contain(|| Core::from_bytes(as_oniguruma(bytes)).map_err(|e| e.to_string()))
        .and_then(|core| core)
        .map_err(|e| Error::file("tokenizer.json", format!("not a tokenizer: {e}")))?;
    let config = json(&files, CONFIG)?;
    let map = json(&files, "special_tokens_map.json")?;
    let generation = json(&files, GENERATION)?;
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
    // as in transformers: if there are generation settings, the configuration's are ignored
    let configured = eos_ids(&model, "config.json")?;
    let named_stops = match files.contains_key(GENERATION) {
        true => eos_ids(&generation, GENERATION)?,
        false => configured.clone(),
    };
    if special.eos.is_none() {
        // The first id in the config is the model's end of text.
        let first = configured.first().or(named_stops.first()).copied();
        special.eos = first.and_then(|id| core.id_to_token(id).map(|text| (id, text)));
    }
    let template = match given {
        Some(given) => Some(given),
        None => template(&files, &config)?,
    };
    files.retain(|name, _| {
        name != "config.json" && name != "chat_template.jinja" && !name.starts_with(TEMPLATES)
    });
    let mut tokenizer = Tokenizer::assemble(core, special, named_stops, template, files)?;
    tokenizer.notes.extend(unread(&generation));
    Ok(tokenizer)
}

/// Parses a JSON file; null if it is absent.
pub(super) fn json(files: &BTreeMap<String, Vec<u8>>, name: &str) -> Result<Value> {
    match files.get(name) {
        Some(bytes) => {
            serde_json::from_slice(bytes).map_err(|e| Error::file(name, format!("not JSON: {e}")))
        }
        None => Ok(Value::Null),
    }
}

/// The end-of-text ids in a file: one or a list. As in transformers 5.24, the generation settings
/// may write them as 2.0, and a number that no token can have is ignored.
fn eos_ids(settings: &Value, file: &str) -> Result<Vec<u32>> {
    let said = &settings["eos_token_id"];
    let listed = match said {
        Value::Null => return Ok(Vec::new()),
        Value::Array(list) => list.as_slice(),
        one => std::slice::from_ref(one),
    };
    let mut ids = Vec::new();
    for value in listed {
        let spelt = file == GENERATION || !value.is_f64();
        let whole = value.as_f64().filter(|n| spelt && n.fract() == 0.0);
        let Some(number) = whole else {
            let what = format!("eos_token_id must be a token's id or a list of them, is {said}");
            return Err(Error::file(file, what));
        };
        if (0.0..=f64::from(u32::MAX)).contains(&number) {
            ids.push(number as u32);
        }
    }
    Ok(ids)
}

/// Generation settings by which transformers bans or forces tokens, or ends a response: its samples
/// then differ from ours.
const UNREAD: [&str; 13] = [
    "bad_words_ids",
    "begin_suppress_tokens",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_decoder_ids",
    "forced_eos_token_id",
    "min_length",
    "min_new_tokens",
    "no_repeat_ngram_size",
    "sequence_bias",
    "stop_strings",
    "suppress_tokens",
    "watermarking_config",
];

/// A note on those that are set.
fn unread(generation: &Value) -> Option<String> {
    let asks = |key: &&str| match &generation[*key] {
        Value::Null | Value::Bool(false) => false,
        Value::Number(number) => number.as_f64() != Some(0.0) || key.ends_with("_id"),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::String(text) => !text.is_empty(),
        Value::Bool(true) => true,
    };
    let keys: Vec<String> = UNREAD
        .iter()
        .filter(|key| asks(key))
        .map(|key| format!("`{key}`"))
        .collect();
    (!keys.is_empty()).then(|| {
        format!(
            "{GENERATION}: not read: {}; no token is banned or forced, and ids alone end an answer",
            keys.join(", ")
        )
    })
}

/// Folder of templates with names other than `default`.
const TEMPLATES: &str = "additional_chat_templates/";

/// The chat templates in a model folder's `additional_chat_templates`, sorted: any of them may
/// decide which template a model has.
///
/// # Errors
/// The folder exists but cannot be listed.
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

/// Chooses the chat template as transformers 5 does: files take precedence over the config; of
/// several templates `default` is used, and `tool_use` for conversations with tools;
/// without a `default` any others are errors.
fn template(files: &BTreeMap<String, Vec<u8>>, config: &Value) -> Result<Option<ChatTemplate>> {
    let text = |name: &str| {
        let text = files.get(name).map(|bytes| std::str::from_utf8(bytes));
        text.transpose().map_err(|_| Error::file(name, "not UTF-8"))
    };
    let no_default = |file: &str| {
        Err(Error::file(
            file,
            "its chat templates have names and none is called `default` or `tool_use`; give one as \
             model.chat_template",
        ))
    };
    // the folder's `default` takes precedence over the file (transformers 5.24)
    for name in [&*format!("{TEMPLATES}default.jinja"), "chat_template.jinja"] {
        if let Some(default) = text(name)? {
            let tools = text(&format!("{TEMPLATES}tool_use.jinja"))?;
            return both(default, tools).map(Some);
        }
    }
    if let Some(tools) = text(&format!("{TEMPLATES}tool_use.jinja"))? {
        return ChatTemplate::of_tools(ChatTemplate::new(tools)?).map(Some);
    }
    if files.keys().any(|name| name.starts_with(TEMPLATES)) {
        return no_default(TEMPLATES);
    }
    let wrong = |what: &str| Error::file(CONFIG, format!("chat_template: {what}"));
    let named: Map<String, Value> = match &config["chat_template"] {
        Value::Null => return Ok(None),
        Value::String(text) => return both(text, None).map(Some),
        Value::Object(named) => named.clone(),
        // of two with one name the last is used
        Value::Array(list) => list
            .iter()
            .map(|t| Some((t["name"].as_str()?.to_owned(), t.get("template")?.clone())))
            .collect::<Option<_>>()
            .ok_or_else(|| wrong("each of a list needs `name` and `template`"))?,
        _ => return Err(wrong("is neither text nor a list or mapping of texts")),
    };
    let text = |name: &str| match named.get(name) {
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(wrong(&format!("`{name}` is no text"))),
        None => Ok(None),
    };
    match (text("default")?, text("tool_use")?) {
        (Some(default), tools) => both(default, tools).map(Some),
        (None, Some(tools)) => ChatTemplate::of_tools(ChatTemplate::new(tools)?).map(Some),
        (None, None) => no_default(CONFIG),
    }
}

/// Compiles a template, and the one for conversations with tools.
pub(super) fn both(default: &str, tools: Option<&str>) -> Result<ChatTemplate> {
    let mut template = ChatTemplate::new(default)?;
    if let Some(tools) = tools {
        template.set_tool_use(ChatTemplate::new(tools)?);
    }
    Ok(template)
}
