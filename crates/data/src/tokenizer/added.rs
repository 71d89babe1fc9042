//! Special and added tokens that other files than `tokenizer.json` name, added as transformers 5.24
//! adds them: those that `tokenizer.json` has not get the next ids after its vocabulary.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tokenizers::{AddedToken, Tokenizer as Core};

use crate::{Error, Result};

/// The tokens with a part of their own, in the order in which missing ones are added.
const NAMED: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// What the files say besides `tokenizer.json`.
pub(super) struct Named {
    /// `bos_token` and its like; models' own names for tokens come after [`NAMED`].
    tokens: Vec<(String, AddedToken)>,
    /// `extra_special_tokens`, formerly `additional_special_tokens`.
    extra: Vec<AddedToken>,
    /// Tokens with an id; the ids only give their order.
    numbered: BTreeMap<u64, AddedToken>,
}

impl Named {
    /// Reads the files. `special_tokens_map.json` goes before `tokenizer_config.json`, and neither
    /// it nor `added_tokens.json` is read where the config has `added_tokens_decoder`.
    pub(super) fn read(core: &Core, config: &Value, map: &Value, added: &Value) -> Result<Self> {
        const CONFIG: &str = "tokenizer_config.json";
        let mut parts: BTreeMap<String, (Value, &str)> = fields(config)
            .map(|(name, value)| (name.clone(), (value.clone(), CONFIG)))
            .collect();
        let whole = parts.contains_key("added_tokens_decoder");
        if !whole {
            for (name, value) in fields(map) {
                parts.insert(name.clone(), (value.clone(), "special_tokens_map.json"));
            }
        }
        if let Some(padding) = core.get_padding() {
            let own = Value::from(padding.pad_token.as_str());
            parts
                .entry("pad_token".to_owned())
                .or_insert((own, "tokenizer.json"));
        }
        let mut tokens = Vec::new();
        for name in NAMED {
            if let Some((value, file)) = parts.get(name)
                && let Some(token) = token(value, name, file)?
            {
                tokens.push((name.to_owned(), token));
            }
        }
        for (name, (value, file)) in &parts {
            let own = name.ends_with("_token") && !NAMED.contains(&name.as_str());
            if own
                && value.is_string()
                && let Some(token) = token(value, name, file)?
            {
                tokens.push((name.clone(), token));
            }
        }
        let mut extra = Vec::new();
        let given = ["extra_special_tokens", "additional_special_tokens"]
            .into_iter()
            .find_map(|name| {
                parts
                    .get(name)
                    .filter(|(v, _)| !is_empty(v))
                    .map(|v| (name, v))
            });
        if let Some((name, (value, file))) = given {
            match value {
                Value::Array(list) => {
                    for item in list {
                        extra.extend(token(item, name, file)?);
                    }
                }
                Value::Object(map) => {
                    for (own, item) in map {
                        tokens.extend(token(item, own, file)?.map(|token| (own.clone(), token)));
                    }
                }
                other => return Err(wrong(file, name, other)),
            }
        }
        let mut numbered = BTreeMap::new();
        if whole {
            for (id, value) in fields(&config["added_tokens_decoder"]) {
                let place = id.parse().map_err(|_| {
                    wrong(CONFIG, "added_tokens_decoder", &Value::from(id.as_str()))
                })?;
                numbered.extend(
                    flags(value, "added_tokens_decoder", CONFIG)?.map(|token| (place, token)),
                );
            }
        } else {
            let special: BTreeSet<&str> = tokens
                .iter()
                .map(|(_, token)| token)
                .chain(&extra)
                .map(|token| token.content.as_str())
                .collect();
            for (content, id) in fields(added) {
                let file = "added_tokens.json";
                let place = id.as_u64().ok_or_else(|| wrong(file, content, id))?;
                let token = AddedToken::from(content.as_str(), special.contains(content.as_str()));
                numbered.insert(place, token);
            }
        }
        Ok(Self {
            tokens,
            extra,
            numbered,
        })
    }

    /// Adds to the tokenizer what it has not.
    pub(super) fn add_to(&self, core: &mut Core) -> Result<()> {
        let known: Vec<AddedToken> = core.get_added_tokens_decoder().into_values().collect();
        let mut missing: Vec<AddedToken> = self
            .numbered
            .values()
            .filter(|token| !known.iter().any(|other| same(token, other)))
            .cloned()
            .collect();
        let mut spelt: BTreeSet<String> = known
            .iter()
            .chain(&missing)
            .map(|token| token.content.clone())
            .collect();
        let named: BTreeSet<&str> = self
            .tokens
            .iter()
            .map(|(_, t)| t.content.as_str())
            .collect();
        for token in &mut missing {
            token.special |= named.contains(token.content.as_str());
        }
        for token in self
            .tokens
            .iter()
            .map(|(_, token)| token)
            .chain(&self.extra)
        {
            if spelt.insert(token.content.clone()) {
                missing.push(token.clone());
            }
        }
        missing.retain(|token| !token.content.is_empty());
        core.add_tokens(missing).map_err(super::broken)?;
        Ok(())
    }

    /// The token of this name, where it is in the tokenizer.
    pub(super) fn get(&self, core: &Core, name: &str) -> Option<(u32, String)> {
        let (_, token) = self.tokens.iter().find(|(known, _)| known == name)?;
        core.token_to_id(&token.content)
            .map(|id| (id, token.content.clone()))
    }
}

fn fields(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

fn same(a: &AddedToken, b: &AddedToken) -> bool {
    let flags = |t: &AddedToken| (t.single_word, t.lstrip, t.rstrip, t.normalized, t.special);
    a.content == b.content && flags(a) == flags(b)
}

fn wrong(file: &str, name: &str, value: &Value) -> Error {
    Error::file(file, format!("{name}: {value} is not a token"))
}

/// A special token: its text, or an object with the text and flags; none for null and the empty
/// text.
fn token(value: &Value, name: &str, file: &str) -> Result<Option<AddedToken>> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) if text.is_empty() => Ok(None),
        Value::String(text) => Ok(Some(AddedToken::from(text.as_str(), true))),
        other => Ok(flags(other, name, file)?.map(|token| token.special(true))),
    }
}

/// An object with a token's text and flags.
fn flags(value: &Value, name: &str, file: &str) -> Result<Option<AddedToken>> {
    let Some(content) = value["content"].as_str() else {
        return Err(wrong(file, name, value));
    };
    let flag = |name: &str, default: bool| value[name].as_bool().unwrap_or(default);
    let special = flag("special", false);
    let token = AddedToken::from(content, special)
        .single_word(flag("single_word", false))
        .lstrip(flag("lstrip", false))
        .rstrip(flag("rstrip", false))
        .normalized(flag("normalized", !special));
    Ok((!content.is_empty()).then_some(token))
}
