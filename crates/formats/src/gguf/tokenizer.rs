//! The tokenizer in a GGUF's metadata: `tokenizer.ggml.*` and the chat template.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Value, bytes::Read, header::Header, parts};
use crate::{Error, Result};

/// The `tokenizer.*` metadata of a GGUF file, in fields named like its keys.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GgufTokenizer {
    /// `general.name`, the model's: llama.cpp knows by it which special tokens of Phi-3 take the
    /// white space behind them. Read only; an export has a name of its own.
    pub model_name: Option<String>,
    /// `tokenizer.ggml.model`: `gpt2` (byte-level BPE), `llama` (SentencePiece's BPE), `t5`
    /// (SentencePiece's unigram), `bert` (WordPiece) or `gemma4` (BPE of text, not of bytes).
    pub model: String,
    /// `tokenizer.ggml.pre`: the pre-tokenizer of a byte-level tokenizer.
    pub pre: Option<String>,
    /// `tokenizer.ggml.tokens`, in the order of their ids.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.scores`; only `llama` and `t5` need them.
    pub scores: Vec<f32>,
    /// `tokenizer.ggml.token_type`: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6
    /// byte.
    pub token_types: Vec<i32>,
    /// `tokenizer.ggml.merges`, best first; only `gpt2` and `gemma4` need them.
    pub merges: Vec<String>,
    /// `tokenizer.ggml.bos_token_id`.
    pub bos: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`.
    pub eos: Option<u32>,
    /// `tokenizer.ggml.eot_token_id`: the end-of-turn token, if it is not the end-of-text token.
    pub eot: Option<u32>,
    /// `tokenizer.ggml.unknown_token_id`.
    pub unk: Option<u32>,
    /// `tokenizer.ggml.padding_token_id`.
    pub pad: Option<u32>,
    /// `tokenizer.ggml.seperator_token_id` (spelt so): between the texts of `bert`, and at the end.
    pub sep: Option<u32>,
    /// `tokenizer.ggml.cls_token_id`: before the text of `bert`.
    pub cls: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`; absent means yes for `llama` and some pre-tokenizers.
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_eos_token`; absent means yes for `t5`, else no.
    pub add_eos: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`; absent means yes for `llama`.
    pub add_space_prefix: Option<bool>,
    /// `tokenizer.ggml.remove_extra_whitespaces`, of `t5`; absent means no.
    pub remove_extra_whitespaces: Option<bool>,
    /// `tokenizer.ggml.precompiled_charsmap`, of `t5`: SentencePiece's table of replacements.
    pub precompiled_charsmap: Vec<u8>,
    /// `tokenizer.ggml.normalizer.lowercase`, of `bert`; absent means yes.
    pub lowercase: Option<bool>,
    /// `tokenizer.ggml.normalizer.strip_accents`, of `bert`; absent means as `lowercase`.
    pub strip_accents: Option<bool>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
    /// `tokenizer.chat_template.tool_use`: the one for conversations with tools.
    pub tool_use: Option<String>,
}

/// Reads the tokenizer of a file, whatever its architecture; `None` if it has none.
///
/// # Errors
/// A file that cannot be read or is damaged, and what is wrong with its tokenizer.
pub fn tokenizer(path: &Path) -> Result<Option<GgufTokenizer>> {
    let (header, _) = parts::read(path)?;
    GgufTokenizer::read(&header).map_err(|what| Error::rule(format!("{}: {what}", path.display())))
}

impl GgufTokenizer {
    /// Reads the metadata; `None` if the file has no tokenizer.
    pub(super) fn read(header: &Header) -> Read<Option<Self>> {
        let Some(model) = header.text(&key("model"))? else {
            return Ok(None);
        };
        let id = |name: &str| -> Read<Option<u32>> {
            let key = key(name);
            let beyond = |id| format!("{key} is {id}, which 32 bits do not hold");
            let id = header.whole(&key)?;
            id.map(|id| u32::try_from(id).map_err(|_| beyond(id)))
                .transpose()
        };
        let texts = |name| Ok::<_, String>(header.texts(&key(name))?.unwrap_or_default().to_vec());
        let flag = |name| Ok::<_, String>(header.flag(&key(name))?.copied());
        let types = header.ints(&key("token_type"))?.unwrap_or_default();
        let charsmap = header.ints(&key("precompiled_charsmap"))?;
        let read = GgufTokenizer {
            model_name: header.text("general.name")?.map(str::to_string),
            model: model.to_string(),
            pre: header.text(&key("pre"))?.map(str::to_string),
            tokens: texts("tokens")?,
            scores: header.floats(&key("scores"))?.unwrap_or_default().to_vec(),
            token_types: types.iter().map(|t| *t as i32).collect(),
            merges: texts("merges")?,
            bos: id("bos_token_id")?,
            eos: id("eos_token_id")?,
            eot: id("eot_token_id")?,
            unk: id("unknown_token_id")?,
            pad: id("padding_token_id")?,
            sep: id("seperator_token_id")?,
            cls: id("cls_token_id")?,
            add_bos: flag("add_bos_token")?,
            add_eos: flag("add_eos_token")?,
            add_space_prefix: flag("add_space_prefix")?,
            remove_extra_whitespaces: flag("remove_extra_whitespaces")?,
            // bytes, which llama.cpp takes as signed or unsigned ones
            precompiled_charsmap: charsmap
                .unwrap_or_default()
                .iter()
                .map(|b| *b as u8)
                .collect(),
            lowercase: flag("normalizer.lowercase")?,
            strip_accents: flag("normalizer.strip_accents")?,
            chat_template: header.text(TEMPLATE)?.map(str::to_string),
            tool_use: header.text(TOOL_USE)?.map(str::to_string),
        };
        read.check()?;
        Ok(Some(read))
    }

    /// The metadata keys, without empty lists and without the model's name.
    /// `precompiled_charsmap` is left out too: no tokenizer with one is written.
    pub fn keys(&self) -> Vec<(String, Value)> {
        let text = |t: &String| Value::Text(t.clone());
        let types = self.token_types.iter().map(|t| i64::from(*t)).collect();
        let lists = [
            (
                "scores",
                Value::Floats(self.scores.clone()),
                self.scores.is_empty(),
            ),
            (
                "token_type",
                Value::Ints(types),
                self.token_types.is_empty(),
            ),
            (
                "merges",
                Value::Texts(self.merges.clone()),
                self.merges.is_empty(),
            ),
        ];
        let lists = lists.into_iter().filter(|(.., empty)| !empty);
        let flags = [
            ("add_bos_token", self.add_bos),
            ("add_eos_token", self.add_eos),
            ("add_space_prefix", self.add_space_prefix),
            ("remove_extra_whitespaces", self.remove_extra_whitespaces),
            ("normalizer.lowercase", self.lowercase),
            ("normalizer.strip_accents", self.strip_accents),
        ];
        let mut keys = vec![("model", text(&self.model))];
        keys.extend(self.pre.iter().map(|pre| ("pre", text(pre))));
        keys.push(("tokens", Value::Texts(self.tokens.clone())));
        keys.extend(lists.map(|(name, list, _)| (name, list)));
        let ids = self.ids().into_iter();
        keys.extend(ids.filter_map(|(name, id)| Some((name, Value::Int(id?.into())))));
        let flags = flags.into_iter();
        keys.extend(flags.filter_map(|(name, flag)| Some((name, Value::Bool(flag?)))));
        let named = keys.into_iter().map(|(name, value)| (key(name), value));
        let mut keys: Vec<(String, Value)> = named.collect();
        let template = self.chat_template.iter();
        keys.extend(template.map(|t| (TEMPLATE.to_string(), text(t))));
        if let Some(template) = &self.tool_use {
            // with the list of names that gguf-py writes
            let names = vec!["tool_use".to_string()];
            keys.push((NAMES.to_string(), Value::Texts(names)));
            keys.push((TOOL_USE.to_string(), text(template)));
        }
        keys
    }

    /// Checks the lists and the special tokens' ids against the tokens.
    ///
    /// # Errors
    /// A list of another length, an id that no token has.
    pub fn check(&self) -> std::result::Result<(), String> {
        let count = self.tokens.len();
        for (what, len) in [
            ("scores", self.scores.len()),
            ("token_type", self.token_types.len()),
        ] {
            if len != 0 && len != count {
                return Err(format!(
                    "{} has {len} entries for {count} tokens",
                    key(what)
                ));
            }
        }
        for (name, id) in self.ids() {
            if let Some(id) = id.filter(|id| *id as usize >= count) {
                return Err(format!(
                    "{} is {id}, but there are {count} tokens",
                    key(name)
                ));
            }
        }
        Ok(())
    }

    /// A copy padded to one token per row of the embedding, as llama.cpp requires: added tokens
    /// never occur in text. Special tokens behind the last row are left out of a SentencePiece-like
    /// vocabulary, as llama.cpp's converter does (Gemma 3's `<image_soft_token>` in models that see
    /// no images): no input of the model can have them.
    ///
    /// # Errors
    /// Other tokens behind the last row.
    pub fn padded(&self, rows: usize) -> Result<Self> {
        let have = self.tokens.len();
        if have > rows && !self.may_end_at(rows) {
            return Err(Error::rule(format!(
                "the tokenizer has {have} tokens, but the embedding {rows} rows: llama.cpp needs as many"
            )));
        }
        let mut padded = self.clone();
        padded.tokens.truncate(rows);
        padded
            .tokens
            .extend((have..rows).map(|id| format!("[PAD{id}]")));
        if !padded.token_types.is_empty() {
            padded.token_types.resize(rows, token::UNUSED);
        }
        if !padded.scores.is_empty() {
            let least = padded.scores.iter().copied().fold(0.0, f32::min);
            padded.scores.resize(rows, least - 1.0);
        }
        Ok(padded)
    }

    /// Whether all tokens from `end` on are special ones that nothing names.
    fn may_end_at(&self, end: usize) -> bool {
        let special = |kind: &i32| [token::CONTROL, token::USER_DEFINED].contains(kind);
        let beyond = self.token_types.get(end..).unwrap_or_default();
        self.model != "gpt2"
            && !beyond.is_empty()
            && beyond.iter().all(special)
            && self
                .ids()
                .iter()
                .all(|(_, id)| id.is_none_or(|id| (id as usize) < end))
    }

    /// Whether the special tokens take the white space behind them as Phi-3's do, which llama.cpp
    /// knows by the model's name.
    pub fn is_phi3(&self) -> bool {
        self.model_name.as_deref().is_some_and(names_phi3)
    }

    /// `general.name` of a file with this tokenizer, of a model called `name`: with the family's
    /// where llama.cpp needs it.
    pub(super) fn title(&self, name: &str) -> String {
        match self.is_phi3() && !names_phi3(name) {
            true => format!("{name} (Phi-3)"),
            false => name.to_string(),
        }
    }

    fn ids(&self) -> [(&'static str, Option<u32>); 7] {
        [
            ("bos_token_id", self.bos),
            ("eos_token_id", self.eos),
            ("eot_token_id", self.eot),
            ("unknown_token_id", self.unk),
            ("padding_token_id", self.pad),
            ("seperator_token_id", self.sep),
            ("cls_token_id", self.cls),
        ]
    }
}

fn names_phi3(name: &str) -> bool {
    let name = name.to_lowercase();
    name.contains("phi-3") || name.contains("phi3")
}

const TEMPLATE: &str = "tokenizer.chat_template";
const TOOL_USE: &str = "tokenizer.chat_template.tool_use";
/// The names of those that have one.
const NAMES: &str = "tokenizer.chat_templates";

/// Values of `token_types`.
pub mod token {
    /// Normal text.
    pub const NORMAL: i32 = 1;
    /// The unknown token.
    pub const UNKNOWN: i32 = 2;
    /// A special (control) token.
    pub const CONTROL: i32 = 3;
    /// A user-defined token, matched in text before anything else.
    pub const USER_DEFINED: i32 = 4;
    /// An unused id.
    pub const UNUSED: i32 = 5;
    /// A byte that no other token spells.
    pub const BYTE: i32 = 6;
}

fn key(name: &str) -> String {
    format!("tokenizer.ggml.{name}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn read(t: &GgufTokenizer) -> Read<Option<GgufTokenizer>> {
        GgufTokenizer::read(&Header {
            metadata: t.keys().into_iter().collect(),
            ..Header::default()
        })
    }

    fn whole() -> GgufTokenizer {
        let texts = |all: &[&str]| all.iter().map(|t| (*t).to_string()).collect();
        GgufTokenizer {
            model: "gpt2".into(),
            pre: Some("smollm".into()),
            tokens: texts(&["<s>", "</s>", "a", "b", "ab"]),
            scores: vec![0.0, 0.0, -1.0, -2.0, 0.0],
            token_types: vec![3, 3, 1, 1, 1],
            merges: texts(&["a b"]),
            bos: Some(0),
            eos: Some(1),
            eot: Some(1),
            unk: Some(0),
            pad: Some(4),
            sep: Some(1),
            cls: Some(0),
            add_bos: Some(false),
            add_eos: Some(true),
            add_space_prefix: Some(true),
            remove_extra_whitespaces: Some(true),
            lowercase: Some(false),
            strip_accents: Some(true),
            chat_template: Some("{{ messages }}".into()),
            tool_use: Some("{{ tools }}".into()),
            ..GgufTokenizer::default()
        }
    }

    #[test]
    fn metadata_is_read_as_it_was_written() {
        let bare = GgufTokenizer {
            model: "none".into(),
            ..GgufTokenizer::default()
        };
        for t in [whole(), bare] {
            assert_eq!(read(&t).unwrap(), Some(t));
        }
        assert_eq!(GgufTokenizer::read(&Header::default()).unwrap(), None);
        // what is read and not written
        let mut metadata: Vec<(String, Value)> = whole().keys();
        metadata.push(("general.name".into(), Value::Text("Phi-3".into())));
        metadata.push((key("precompiled_charsmap"), Value::Ints(vec![-1, 7, 255])));
        let header = Header {
            metadata: metadata.into_iter().collect(),
            ..Header::default()
        };
        let read = GgufTokenizer::read(&header).unwrap().unwrap();
        assert_eq!(read.title("mine"), "mine (Phi-3)");
        assert_eq!(read.title("my-phi3"), "my-phi3");
        assert_eq!(whole().title("mine"), "mine");
        assert_eq!(read.precompiled_charsmap, [255, 7, 255]);
    }

    #[test]
    fn lists_and_ids_must_fit_and_rows_get_tokens() {
        let short = GgufTokenizer {
            token_types: vec![1],
            ..whole()
        };
        assert!(
            read(&short)
                .unwrap_err()
                .contains("token_type has 1 entries for 5 tokens")
        );
        let beyond = GgufTokenizer {
            eos: Some(5),
            ..whole()
        };
        assert!(
            read(&beyond)
                .unwrap_err()
                .contains("eos_token_id is 5, but there are 5 tokens")
        );
        let padded = whole().padded(7).unwrap();
        assert_eq!(padded.tokens[5..], ["[PAD5]", "[PAD6]"]);
        assert_eq!(
            (&padded.token_types[5..], &padded.scores[5..]),
            (&[5, 5][..], &[-3.0, -3.0][..])
        );
        assert!(whole().padded(4).is_err());
        // a special token that no row is there for
        let pieces = GgufTokenizer {
            model: "llama".into(),
            pad: None,
            token_types: vec![3, 3, 1, 1, 3],
            ..whole()
        };
        let cut = pieces.padded(4).unwrap();
        assert_eq!(
            (cut.tokens.len(), cut.token_types.len(), cut.scores.len()),
            (4, 4, 4)
        );
        assert!(pieces.padded(3).is_err());
    }
}
