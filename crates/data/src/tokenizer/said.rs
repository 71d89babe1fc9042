//! Special tokens declared in `tokenizer_config.json` and `special_tokens_map.json`, merged with
//! the precedence of transformers 5.24.

use indexmap::IndexMap;
use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::added::NAMED;
use crate::{Error, Result};

const CONFIG: &str = "tokenizer_config.json";
const MAP: &str = "special_tokens_map.json";
/// Key of special tokens beyond the named ones: a list, or a mapping that names them.
const EXTRA: &str = "extra_special_tokens";
/// Older name of the same key.
const FORMERLY: &str = "additional_special_tokens";
/// Key of a model's own names and tokens.
const OWN: &str = "model_specific_special_tokens";

/// A declared value, with its key and file.
#[derive(Clone)]
pub(super) struct Declaration {
    value: Value,
    key: String,
    file: &'static str,
}

/// The merged declarations.
pub(super) struct Declarations {
    /// Names and tokens; a later one replaces an earlier one of the same name.
    pub named: Vec<(String, Declaration)>,
    /// `extra_special_tokens` as a list.
    pub extra: Option<Declaration>,
}

/// Merges the declarations. `padding` is the padding token of `tokenizer.json`; the `map` is not
/// used if the config has `added_tokens_decoder`.
pub(super) fn settle(config: &Value, map: &Value, padding: Option<&str>) -> Result<Declarations> {
    let (mut keys, mut own) = of_config(config)?;
    if keys.get("added_tokens_decoder").is_none() {
        keys.add_map(map, &mut own)?;
    }
    if let Some(padding) = padding
        && keys.get("pad_token").is_none()
    {
        let said = Declaration::new("pad_token", &Value::from(padding), "tokenizer.json");
        keys.set("pad_token", said);
    }
    if keys.get(EXTRA).is_none()
        && let Some(said) = keys.take(FORMERLY)
    {
        keys.set(EXTRA, said);
    }
    let mut named = Keys::default();
    for name in NAMED {
        if let Some(said) = keys.get(name).filter(|said| !said.value.is_null()) {
            named.set(name, said.clone());
        }
    }
    keys.name_extra(&mut named);
    let extra = keys.take(EXTRA);
    let later = keys.into_each().filter(|(name, said)| said.is_own(name));
    for (name, said) in later.chain(own.into_each()) {
        named.set(&name, said);
    }
    Ok(Declarations {
        named: named.into_each().collect(),
        extra,
    })
}

/// The config's keys, and separately its own named tokens, which take precedence over the map.
fn of_config(config: &Value) -> Result<(Keys, Keys)> {
    let mut keys = Keys::default();
    for (name, value) in config.as_object().into_iter().flatten() {
        // ignored with a tokenizer.json
        if !["add_bos_token", "add_eos_token"].contains(&name.as_str()) {
            keys.set(name, Declaration::new(name, value, CONFIG));
        }
    }
    let extra = keys.get(EXTRA);
    if extra.is_none_or(Declaration::is_empty)
        && let Some(said) = keys.take(FORMERLY)
    {
        keys.set(EXTRA, said);
    }
    let (mut own, mut rest) = (Keys::default(), Keys::default());
    for (name, said) in keys.into_each() {
        match is_own(&name) && said.value.is_string() {
            true => own.set(&name, said),
            false => rest.set(&name, said),
        }
    }
    rest.name_extra(&mut own);
    match rest.take(OWN) {
        // used only if no token has a key of its own
        Some(said) if own.0.is_empty() => match &said.value {
            Value::Null => {}
            Value::Object(tokens) => own.set_each(tokens, CONFIG),
            other => return Err(said.wrong(other)),
        },
        _ => {}
    }
    Ok((rest, own))
}

/// Keys and their declarations, in order; `None` once it was taken.
#[derive(Default)]
struct Keys(IndexMap<String, Option<Declaration>>);

impl Keys {
    fn get(&self, name: &str) -> Option<&Declaration> {
        self.0.get(name)?.as_ref()
    }

    /// Sets a declaration; a key that exists keeps its position.
    fn set(&mut self, name: &str, said: Declaration) {
        self.0.insert(name.to_owned(), Some(said));
    }

    fn take(&mut self, name: &str) -> Option<Declaration> {
        self.0.get_mut(name)?.take()
    }

    fn into_each(self) -> impl Iterator<Item = (String, Declaration)> {
        let said = self.0.into_iter();
        said.filter_map(|(name, said)| Some((name, said?)))
    }

    fn set_each(&mut self, tokens: &Map<String, Value>, file: &'static str) {
        for (name, value) in tokens {
            self.set(name, Declaration::new(name, value, file));
        }
    }

    /// Moves extra tokens that have names to the named ones.
    fn name_extra(&mut self, named: &mut Keys) {
        if let Some(said) = self.get(EXTRA)
            && let Value::Object(tokens) = &said.value
        {
            named.set_each(tokens, said.file);
            self.take(EXTRA);
        }
    }

    /// Adds `special_tokens_map.json`: its extra tokens follow the config's, its other keys replace
    /// the config's.
    fn add_map(&mut self, map: &Value, own: &mut Keys) -> Result<()> {
        for (name, value) in map.as_object().into_iter().flatten() {
            let mut said = Declaration::new(name, value, MAP);
            match (name.as_str(), value) {
                (EXTRA, Value::Array(more)) => {
                    let mut list = match self.get(EXTRA) {
                        Some(before) => {
                            before.list()?;
                            before.value.as_array().cloned().unwrap_or_default()
                        }
                        None => Vec::new(),
                    };
                    list.extend(more.iter().map(as_special));
                    said.list()?;
                    said.value = Value::Array(list);
                }
                (OWN, Value::Null) => continue,
                (OWN, _) | (FORMERLY, Value::Object(_)) => return Err(said.wrong(value)),
                _ => {}
            }
            self.set(name, said);
        }
        self.name_extra(own);
        Ok(())
    }
}

impl Declaration {
    fn new(key: &str, value: &Value, file: &'static str) -> Self {
        Self {
            value: value.clone(),
            key: key.to_owned(),
            file,
        }
    }

    /// The error: this value of the key is no token.
    fn wrong(&self, value: &Value) -> Error {
        wrong(self.file, &self.key, value)
    }

    fn is_empty(&self) -> bool {
        match &self.value {
            Value::Null => true,
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        }
    }

    /// Whether this is a token under the model's own name; in the config an object is one only if
    /// marked as such.
    fn is_own(&self, name: &str) -> bool {
        let typed = self.value["__type"] == "AddedToken";
        let object = self.value.is_object() && (typed || self.file == MAP);
        is_own(name) && (object || self.value.is_string())
    }

    /// The token with its name; always special.
    ///
    /// # Errors
    /// A value that is no token.
    pub(super) fn token(&self) -> Result<AddedToken> {
        self.one(&as_special(&self.value))
    }

    /// The tokens of a list; empty for null.
    ///
    /// # Errors
    /// A value that is not a list, or an item that is no token.
    pub(super) fn list(&self) -> Result<Vec<AddedToken>> {
        match &self.value {
            Value::Null => Ok(Vec::new()),
            Value::Array(list) => list.iter().map(|item| self.one(item)).collect(),
            other => Err(self.wrong(other)),
        }
    }

    fn one(&self, value: &Value) -> Result<AddedToken> {
        match value {
            Value::String(text) => Ok(AddedToken::from(text.as_str(), true)),
            other => flags(other, &self.key, self.file),
        }
    }

    /// Name of its file, for errors.
    pub(super) fn file(&self) -> &'static str {
        self.file
    }
}

/// Whether a key is `foo_token` but none of the seven standard ones.
fn is_own(name: &str) -> bool {
    name.ends_with("_token") && !NAMED.contains(&name)
}

/// The object marked as a special token.
fn as_special(value: &Value) -> Value {
    let mut value = value.clone();
    if let Value::Object(token) = &mut value {
        token.insert("special".to_owned(), Value::Bool(true));
    }
    value
}

pub(super) fn wrong(file: &str, name: &str, value: &Value) -> Error {
    Error::file(file, format!("{name}: {value} is not a token"))
}

/// Parses an object with a token's text and flags.
pub(super) fn flags(value: &Value, name: &str, file: &str) -> Result<AddedToken> {
    let Some(content) = value["content"].as_str() else {
        return Err(wrong(file, name, value));
    };
    let flag = |name: &str, default: bool| value[name].as_bool().unwrap_or(default);
    let special = flag("special", false);
    Ok(AddedToken::from(content, special)
        .single_word(flag("single_word", false))
        .lstrip(flag("lstrip", false))
        .rstrip(flag("rstrip", false))
        .normalized(flag("normalized", !special)))
}
