//! Conversion of a tokenizer to GGUF metadata, the inverse of `gguf.rs`. What llama.cpp cannot
//! reproduce is refused, and the result is read back and compared: a wrong tokenizer gives
//! gibberish, not an error.

use std::collections::HashMap;

use randori_formats::gguf::token::{BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED};
use serde_json::Value;

use super::gguf::PHI3_KEEP;
use super::known::LINES;
use super::pretokenizers::name_of;
use super::spaces::{LeadingSpace, steps};
use super::{GgufTokenizer, Tokenizer, by_tool_use};
use crate::{ChatTemplate, Error, Message, Result};

/// Test texts on which tokenizers differ: contractions, numbers, runs of spaces and signs, line
/// breaks, scripts.
const PROBES: [&str; 9] = [
    "Hello, world! I don't, you're, WE'LL, it's.",
    "1234567 plus 89.5 = 1,234,656.5 (2024-07-26)",
    "two  spaces,   three\t\ttabs \n\n lines\r\n  end  ",
    "def fall(x):\n    return x + 1  # ...!!??\n\n\n",
    "Où est le dojo ? Ünïcödé, 練習 乱取り 柔道, привет, \u{5e9}\u{5dc}\u{5d5}\u{5dd}",
    "😀 ŧĸ€ \u{200b}\u{1f468}\u{200d}\u{1f469}",
    "CamelCaseWords snake_case_words http://example.org/a?b=c&d=e",
    "aaaa bbbbbbb $100 50% #tag @name ~x^2`y` [a] {b} <c>",
    "x",
];

impl Tokenizer {
    /// The `tokenizer.*` metadata of a GGUF file with this tokenizer: `gpt2` for byte-level BPE,
    /// `llama` for BPE with byte fallback, whose merges become scores (SentencePiece merges the
    /// pair that makes the token with the best score), or `gemma4` where scores cannot say them.
    /// Types of tokens are those that llama.cpp's converter gives them.
    ///
    /// A tokenizer that puts a space at the very start of a text but not after special tokens has
    /// no flag in GGUF; it gets the one with which chat prompts come out the same. A byte-level
    /// tokenizer's NFC normalizer is left out, as llama.cpp has none ([`Tokenizer::lost_in_gguf`]).
    ///
    /// # Errors
    /// Another type of tokenizer, a pre-tokenizer or normalizer without a name in GGUF, merges that
    /// scores cannot express, added tokens that absorb spaces, or a result that does not give the
    /// same ids.
    pub fn to_gguf(&self) -> Result<GgufTokenizer> {
        let json: Value =
            serde_json::from_str(&self.core.to_string(false).map_err(Error::tokenizer)?)
                .map_err(Error::tokenizer)?;
        let kind = json["model"]["type"].as_str().unwrap_or("BPE");
        if kind != "BPE" {
            return refused(format!("its model is {kind}, and only BPE can be"));
        }
        let byte_level = steps(&json["pre_tokenizer"])
            .iter()
            .any(|s| s["type"] == "ByteLevel");
        let mut gguf = self.tokens()?;
        if byte_level {
            self.byte_level(&json, &mut gguf)?;
        } else {
            self.sentence_piece(&json, &mut gguf)?;
        }
        self.special_ids(&mut gguf)?;
        self.choose_prefix(&mut gguf, byte_level)?;
        Ok(gguf)
    }

    /// What [`Tokenizer::to_gguf`] leaves out because llama.cpp has no equivalent: NFC.
    pub fn lost_in_gguf(&self) -> Option<&'static str> {
        let normalizer = self.core.get_normalizer();
        let normalizer = normalizer.and_then(|n| serde_json::to_value(n).ok());
        let lost = steps(&normalizer.unwrap_or_default())
            .iter()
            .any(|step| step["type"] == "NFC");
        lost.then_some(
            "the tokenizer brings text into Unicode's form NFC and llama.cpp does not: text in another form gets \
             other ids there",
        )
    }

    /// Texts and types by id; unused ids get a token that never occurs in text.
    fn tokens(&self) -> Result<GgufTokenizer> {
        let mut tokens: Vec<Option<String>> = vec![None; self.vocab_size()];
        for (text, id) in self.core.get_vocab(true) {
            if let Some(slot) = tokens.get_mut(id as usize) {
                *slot = Some(text);
            }
        }
        let mut types = vec![NORMAL; tokens.len()];
        let added = self.core.get_added_tokens_decoder();
        let phi3 = added.values().any(|token| token.rstrip);
        for (id, token) in added {
            let strips = phi3 && !PHI3_KEEP.contains(&token.content.as_str());
            if token.single_word || token.lstrip || token.rstrip != strips {
                return refused(format!(
                    "its token `{}` takes white space around it or only whole words, which GGUF cannot say",
                    token.content
                ));
            }
            if let Some(kind) = types.get_mut(id as usize) {
                let special = token.special || looks_special(&token.content);
                *kind = if special { CONTROL } else { USER_DEFINED };
            }
        }
        for (kind, token) in types.iter_mut().zip(&tokens) {
            if token.is_none() {
                *kind = UNUSED;
            }
        }
        let named = tokens.into_iter().enumerate();
        Ok(GgufTokenizer {
            tokens: named
                .map(|(id, token)| token.unwrap_or_else(|| format!("[PAD{id}]")))
                .collect(),
            token_types: types,
            model_name: phi3.then(|| "Phi-3".into()),
            ..GgufTokenizer::default()
        })
    }

    fn byte_level(&self, json: &Value, gguf: &mut GgufTokenizer) -> Result<()> {
        plain_bpe(&json["model"])?;
        for step in steps(&json["normalizer"]) {
            if step["type"] != "NFC" {
                return refused(format!(
                    "its normalizer {} has no form in GGUF",
                    step["type"]
                ));
            }
        }
        let whole_words = json["model"]["ignore_merges"] == true;
        gguf.model = "gpt2".into();
        gguf.pre = Some(name_of(&json["pre_tokenizer"], whole_words)?.to_owned());
        gguf.merges = listed(&merges(&json["model"])?)?;
        Ok(())
    }

    fn sentence_piece(&self, json: &Value, gguf: &mut GgufTokenizer) -> Result<()> {
        plain_bpe(&json["model"])?;
        if json["model"]["byte_fallback"] != true {
            return refused(
                "its BPE has neither bytes as characters nor byte tokens to fall back to".into(),
            );
        }
        let (mut spaces, mut lines) = (0, false);
        for step in steps(&json["normalizer"])
            .into_iter()
            .chain(steps(&json["pre_tokenizer"]))
        {
            match step["type"].as_str().unwrap_or_default() {
                "Prepend" if step["prepend"] == "▁" => {}
                "Replace" if step["pattern"]["String"] == " " && step["content"] == "▁" => {
                    spaces += 1;
                }
                "Metaspace" if step["replacement"] == "▁" && step["split"] == false => {
                    spaces += 1
                }
                // Gemma's, which finds none
                "Split" if step["pattern"]["String"] == " " && spaces > 0 => {}
                "Split" if step["pattern"]["Regex"] == LINES && step["behavior"] == "Isolated" => {
                    lines = true;
                }
                _ => return refused(format!("its step {step} has no form in GGUF")),
            }
        }
        if spaces != 1 {
            return refused("it does not spell a space as ▁ once".into());
        }
        for (kind, token) in gguf.token_types.iter_mut().zip(&mut gguf.tokens) {
            match *kind {
                NORMAL if is_byte(token) => *kind = BYTE,
                // found in text, where a space is a space
                USER_DEFINED => *token = token.replace('▁', " "),
                _ => {}
            }
        }
        let unknown = json["model"]["unk_token"].as_str();
        let unknown = unknown.and_then(|text| self.core.token_to_id(text)).or(self
            .special
            .unk
            .as_ref()
            .map(|(id, _)| *id));
        if let Some(kind) = unknown.and_then(|id| gguf.token_types.get_mut(id as usize)) {
            *kind = UNKNOWN;
        }
        gguf.unk = unknown;
        let merges = merges(&json["model"])?;
        match scores(gguf, &merges) {
            Ok(scores) if !lines => {
                gguf.model = "llama".into();
                gguf.scores = scores;
            }
            // its merges stand as they are, and llama.cpp always puts bos before a text
            _ if self.leading == LeadingSpace::Never && self.adds_bos => {
                gguf.model = "gemma4".into();
                gguf.merges = listed(&merges)?;
            }
            Err(why) => return Err(why),
            Ok(_) => {
                return refused(
                    "its words are lines, which only a kind that puts bos first has".into(),
                );
            }
        }
        Ok(())
    }

    fn special_ids(&self, gguf: &mut GgufTokenizer) -> Result<()> {
        let id = |token: &Option<(u32, String)>| token.as_ref().map(|(id, _)| *id);
        gguf.bos = id(&self.special.bos);
        gguf.eos = id(&self.special.eos);
        gguf.pad = id(&self.special.pad);
        gguf.unk = id(&self.special.unk).or(gguf.unk);
        let hello = [Message::user("Hello")];
        gguf.eot = self
            .end_of_turn(&hello)
            .or_else(|_| self.end_of_turn_in(&hello, &by_tool_use()))
            .ok()
            .filter(|id| Some(*id) != gguf.eos);
        let with = self.core.encode_fast("x", true).map_err(Error::tokenizer)?;
        let without = self.ids("x")?;
        gguf.add_bos = Some(self.adds_bos);
        gguf.add_eos = Some(
            with.get_ids().last() == gguf.eos.as_ref()
                && gguf.eos.is_some()
                && without.last() != gguf.eos.as_ref(),
        );
        let template = self.template.as_ref();
        let default = template.filter(|t| t.has_default());
        gguf.chat_template = default.map(|t| self.exported(t));
        let tools = template.and_then(ChatTemplate::tool_use);
        gguf.tool_use = tools.map(|t| t.source().to_owned());
        Ok(())
    }

    /// Sets `add_space_prefix`, and compares the result with this tokenizer.
    fn choose_prefix(&self, gguf: &mut GgufTokenizer, byte_level: bool) -> Result<()> {
        let choices: &[Option<bool>] = match self.leading {
            _ if byte_level => &[None],
            LeadingSpace::Never => &[Some(false)],
            LeadingSpace::Segments => &[Some(true)],
            // right for one text that begins with no special token, wrong after every other
            LeadingSpace::Start if self.template.is_none() => &[Some(true)],
            LeadingSpace::Start => &[Some(false), Some(true)],
        };
        let mut wrong = None;
        for choice in choices {
            gguf.add_space_prefix = *choice;
            let chat_only = self.leading == LeadingSpace::Start && *choice == Some(false);
            match self.differs(gguf, chat_only)? {
                None => return Ok(()),
                some => wrong = wrong.or(some),
            }
        }
        refused(format!(
            "read back, it gives other ids for {:?}",
            wrong.unwrap_or_default()
        ))
    }

    /// The first text for which a tokenizer read from the metadata gives other ids.
    fn differs(&self, gguf: &GgufTokenizer, chat_only: bool) -> Result<Option<String>> {
        let twin = super::gguf::build(gguf, None)?;
        let plain = PROBES
            .iter()
            .filter(|_| !chat_only)
            .map(|t| (*t).to_owned());
        let chats = PROBES.iter().filter_map(|text| {
            let template = self.template.as_ref()?;
            let turns = [
                Message::user(*text),
                Message::assistant(*text),
                Message::user(*text),
            ];
            template.render(&turns, true).ok()
        });
        for text in plain.chain(chats) {
            if self.ids(&text)? != twin.ids(&text)? {
                return Ok(Some(text));
            }
        }
        Ok(None)
    }
}

fn refused<T>(why: String) -> Result<T> {
    Err(Error::Tokenizer(format!(
        "this tokenizer cannot be written as GGUF: {why}"
    )))
}

/// Refuses extras of BPE that GGUF cannot express.
fn plain_bpe(model: &Value) -> Result<()> {
    for key in ["continuing_subword_prefix", "end_of_word_suffix", "dropout"] {
        let value = &model[key];
        if !value.is_null() && value != "" && value != 0.0 {
            return refused(format!("its BPE has {key} {value}"));
        }
    }
    Ok(())
}

/// `"left right"` in older files, a pair in newer ones.
fn merges(model: &Value) -> Result<Vec<(&str, &str)>> {
    let list = model["merges"].as_array().map(Vec::as_slice);
    list.unwrap_or_default()
        .iter()
        .map(|merge| {
            let found = match merge {
                Value::String(text) => text.split_once(' '),
                pair => pair[0].as_str().zip(pair[1].as_str()),
            };
            found.ok_or_else(|| Error::Tokenizer(format!("{merge} is not a merge of two tokens")))
        })
        .collect()
}

/// Merges as GGUF lists them.
fn listed(merges: &[(&str, &str)]) -> Result<Vec<String>> {
    let mut list = Vec::with_capacity(merges.len());
    for (left, right) in merges {
        if left.contains(' ') || right.contains(' ') {
            return refused(format!(
                "its merge of `{left}` and `{right}` has a space in it"
            ));
        }
        list.push(format!("{left} {right}"));
    }
    Ok(list)
}

/// Whether llama.cpp's converter takes an added token for a control token though its file does not
/// call it special.
fn looks_special(token: &str) -> bool {
    let between = |start: &str, end: &str| token.starts_with(start) && token.ends_with(end);
    ["<pad>", "<mask>", "<2mass>", "[@BOS@]"].contains(&token)
        || between("<|", "|>")
        || between("<\u{ff5c}", "\u{ff5c}>")
        || between("<unused", ">")
}

fn is_byte(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|t| t.strip_suffix('>'));
    digits.is_some_and(|d| d.len() == 2 && d.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Scores with which SentencePiece merges in the order of these merges: minus the index of the
/// first merge that makes a token.
///
/// That requires every split of a token into two tokens to be a merge, and a token's merges to be
/// consecutive, as in tokenizers converted from a SentencePiece model.
fn scores(gguf: &GgufTokenizer, merges: &[(&str, &str)]) -> Result<Vec<f32>> {
    let normal = |id: &usize| gguf.token_types[*id] == NORMAL;
    let ids: HashMap<&str, usize> = (0..gguf.tokens.len())
        .filter(normal)
        .map(|id| (gguf.tokens[id].as_str(), id))
        .collect();
    // for every token: its first and last merge, and their number
    let mut made: HashMap<usize, (usize, usize, usize)> = HashMap::new();
    for (rank, (left, right)) in merges.iter().enumerate() {
        let id = ids.get(format!("{left}{right}").as_str());
        if let Some(&id) = id.filter(|_| ids.contains_key(left) && ids.contains_key(right)) {
            let (_, last, count) = made.entry(id).or_insert((rank, rank, 0));
            (*last, *count) = (rank, *count + 1);
        }
    }
    for (&token, &id) in &ids {
        let cuts = token.char_indices().skip(1).filter(|(at, _)| {
            let (left, right) = token.split_at(*at);
            ids.contains_key(left) && ids.contains_key(right)
        });
        if cuts.count() != made.get(&id).map_or(0, |(.., count)| *count) {
            return refused(format!(
                "`{token}` can be put together in a way that its merges do not have, and SentencePiece would"
            ));
        }
    }
    let mut order: Vec<(usize, usize, usize)> =
        made.iter().map(|(id, (a, b, _))| (*a, *b, *id)).collect();
    order.sort_unstable();
    if let Some(w) = order.windows(2).find(|w| w[0].1 > w[1].0) {
        return refused(format!(
            "the merges that make `{}` and `{}` stand mixed, which scores cannot say",
            gguf.tokens[w[0].2], gguf.tokens[w[1].2]
        ));
    }
    // single characters result from no merge; control, byte and user-defined tokens have score 0 in
    // SentencePiece
    let least = -(order.len() as f32);
    let mut scores: Vec<f32> = gguf
        .token_types
        .iter()
        .map(|kind| if *kind == NORMAL { least } else { 0.0 })
        .collect();
    for (place, (.., id)) in order.iter().enumerate() {
        scores[*id] = -(place as f32);
    }
    Ok(scores)
}
