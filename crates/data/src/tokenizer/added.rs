//! Special and added tokens that files other than `tokenizer.json` name, added as in transformers
//! 5.24: tokens missing from `tokenizer.json` get the next ids after its vocabulary.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tokenizers::{AddedToken, Tokenizer as Core};

use super::said::{flags, settle, wrong};
use crate::{Error, Result};

/// Keys of special tokens, in the order in which missing ones are added.
pub(super) const NAMED: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// Variables of a chat template that are set by other means.
const TAKEN: [&str; 4] = ["messages", "tools", "documents", "add_generation_prompt"];

/// Tokens named by the files besides `tokenizer.json`.
pub(super) struct Named {
    /// `bos_token` and similar; a model's own names come after [`NAMED`].
    tokens: Vec<(String, AddedToken)>,
    /// `extra_special_tokens`, formerly `additional_special_tokens`.
    extra: Vec<AddedToken>,
    /// Tokens with an id, which only gives their order.
    numbered: BTreeMap<u64, AddedToken>,
}

impl Named {
    /// Reads the files. Neither `special_tokens_map.json` nor `added_tokens.json` is used if the
    /// config has `added_tokens_decoder`.
    pub(super) fn read(core: &Core, config: &Value, map: &Value, added: &Value) -> Result<Self> {
        const CONFIG: &str = "tokenizer_config.json";
        let padding = core.get_padding().map(|padding| padding.pad_token.as_str());
        let settled = settle(config, map, padding)?;
        let mut tokens = Vec::new();
        for (name, said) in settled.named {
            if TAKEN.contains(&name.as_str()) {
                let what = format!("`{name}` cannot name a token: chat templates have it already");
                return Err(Error::file(said.file(), what));
            }
            tokens.push((name, said.token()?));
        }
        let extra = settled.extra.map(|said| said.list()).transpose()?;
        let extra = extra.unwrap_or_default();
        let mut numbered = BTreeMap::new();
        if let Some(decoder) = config.get("added_tokens_decoder") {
            for (id, value) in fields(decoder) {
                let place = id.parse().map_err(|_| {
                    wrong(CONFIG, "added_tokens_decoder", &Value::from(id.as_str()))
                })?;
                numbered.insert(place, flags(value, "added_tokens_decoder", CONFIG)?);
            }
        } else {
            let special: BTreeSet<&str> = tokens
                .iter()
                .filter(|(name, _)| NAMED.contains(&name.as_str()))
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

    /// Adds the missing tokens to the tokenizer.
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
        core.add_tokens(missing).map_err(Error::tokenizer)?;
        Ok(())
    }

    /// Id and text of the token of this name, if the tokenizer has it.
    pub(super) fn get(&self, core: &Core, name: &str) -> Option<(u32, String)> {
        let mut tokens = self.tokens.iter();
        let (_, token) =
            tokens.find(|(known, token)| known == name && !token.content.is_empty())?;
        core.token_to_id(&token.content)
            .map(|id| (id, token.content.clone()))
    }

    /// Names and texts of the tokens: variables of the chat template.
    pub(super) fn variables(self) -> Vec<(String, String)> {
        let texts = self.tokens.into_iter();
        texts.map(|(name, token)| (name, token.content)).collect()
    }
}

fn fields(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn same(a: &AddedToken, b: &AddedToken) -> bool {
    let flags = |t: &AddedToken| (t.single_word, t.lstrip, t.rstrip, t.normalized, t.special);
    a.content == b.content && flags(a) == flags(b)
}
