//! Tokenisation of a response as the continuation of its prompt: text from the template is
//! separated from the author's, in which spelt special tokens are plain text.

use serde_json::Value;
use tokenizers::Tokenizer as Core;

use super::spaces::{LeadingSpace, verbatim};
use super::{Tokenizer, encode};
use crate::contain::contain;
use crate::{Error, Message, Result};

/// A part of a response's text.
pub(super) enum Piece<'a> {
    /// From the template: spelt special tokens are special tokens.
    Written(&'a str),
    /// From the author: spelt special tokens are plain text.
    Said(&'a str),
}

impl Tokenizer {
    /// The added tokens spelt in a text: start and end (in bytes) and id.
    pub(super) fn spelt(&self, text: &str) -> Result<Vec<(usize, usize, u32)>> {
        let encoding = contain(|| self.core.encode(text, false))
            .map_err(Error::Tokenizer)?
            .map_err(Error::tokenizer)?;
        let added = self.core.get_added_vocabulary().get_added_tokens_decoder();
        let ids = encoding.get_ids().iter().zip(encoding.get_offsets());
        Ok(ids
            .filter(|(id, _)| added.contains_key(id))
            .map(|(id, (from, to))| (*from, *to, *id))
            .collect())
    }

    /// Splits a rendered message with fields into pieces, so that special tokens spelt by its
    /// author stay plain text.
    pub(super) fn pieces<'a>(&self, body: &'a str, answer: &Message) -> Vec<Piece<'a>> {
        let mut texts = Vec::new();
        for value in answer.fields().values() {
            strings(value, &mut texts);
        }
        let mut said: Vec<(usize, usize)> = texts
            .into_iter()
            .filter(|text| self.spells_special(text))
            .flat_map(|text| body.match_indices(text).map(|(at, t)| (at, at + t.len())))
            .collect();
        said.sort_unstable();
        let (mut pieces, mut at) = (Vec::new(), 0);
        for (from, to) in said {
            if from >= at {
                pieces.push(Piece::Written(&body[at..from]));
                pieces.push(Piece::Said(&body[from..to]));
                at = to;
            }
        }
        pieces.push(Piece::Written(&body[at..]));
        pieces
    }

    fn spells_special(&self, text: &str) -> bool {
        self.spellings
            .iter()
            .any(|spelling| text.contains(spelling.as_str()))
    }

    /// Token ids of pieces as the continuation of `prompt`.
    pub(super) fn continuation(&self, prompt: &str, pieces: &[Piece]) -> Result<Vec<u32>> {
        let (mut ids, mut text) = (Vec::new(), String::new());
        for piece in pieces {
            match piece {
                Piece::Said(said) => text.push_str(said),
                Piece::Written("") => {}
                Piece::Written(written) => {
                    let mut at = 0;
                    for (from, to, id) in self.spelt(written)? {
                        text.push_str(&written[at..from]);
                        self.go_on(prompt, &mut ids, &std::mem::take(&mut text))?;
                        ids.push(id);
                        at = to;
                    }
                    text.push_str(&written[at..]);
                }
            }
        }
        self.go_on(prompt, &mut ids, &text)?;
        Ok(ids)
    }

    /// Appends the ids of a text without special tokens, as the continuation of `prompt` and `ids`.
    fn go_on(&self, prompt: &str, ids: &mut Vec<u32>, text: &str) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let keep_space = match self.leading {
            LeadingSpace::Never => true,
            LeadingSpace::Start => false,
            LeadingSpace::Segments => !ids.is_empty() || self.ends_special(prompt)?,
        };
        let core = match (keep_space, self.spells_special(text)) {
            (true, false) if self.leading != LeadingSpace::Start => &self.core,
            (true, _) => self.copy(&self.verbatim, true)?,
            (false, _) => self.copy(&self.continuing, false)?,
        };
        ids.extend_from_slice(encode(core, text, false)?.get_ids());
        Ok(())
    }

    /// Whether a rendered prompt ends with a special token.
    fn ends_special(&self, prompt: &str) -> Result<bool> {
        let added = self.core.get_added_vocabulary().get_added_tokens_decoder();
        Ok(self
            .ids(prompt)?
            .last()
            .is_some_and(|id| added.contains_key(id)))
    }

    /// The copy of the tokenizer cached in `slot`.
    fn copy<'a>(&self, slot: &'a std::sync::OnceLock<Core>, keep_space: bool) -> Result<&'a Core> {
        if let Some(copy) = slot.get() {
            return Ok(copy);
        }
        let copy = verbatim(&self.core, keep_space)?;
        Ok(slot.get_or_init(|| copy))
    }
}

/// Collects the strings inside a value.
fn strings<'a>(value: &'a Value, out: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => out.push(text),
        Value::Array(items) => items.iter().for_each(|item| strings(item, out)),
        Value::Object(map) => map.values().for_each(|item| strings(item, out)),
        _ => {}
    }
}
