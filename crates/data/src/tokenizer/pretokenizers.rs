//! Pre-tokenizers of byte-level BPE, which split text into words before merging: from their names
//! in GGUF files (`tokenizer.ggml.pre`) to steps of `tokenizer.json` and back.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::expressions::{GPT2, SHORT, SHORT_IN_FOLDERS};
use super::known::{KNOWN, OF_TEXT, PreTokenizer, REFUSED, Step};
use super::spaces::steps;
use crate::{Error, Result};

/// Expression that a `Digits` step of single digits says too.
const DIGIT: &str = r"\p{N}";

/// All names of `tokenizer.ggml.pre` that are supported.
pub fn known_pre_tokenizers() -> Vec<&'static str> {
    let mut names: Vec<&str> = KNOWN
        .iter()
        .flat_map(|row| row.names.iter().copied())
        .chain(OF_TEXT)
        .collect();
    names.sort_unstable();
    names
}

/// The row of a name; of text, not of bytes, it is none.
fn row(name: &str) -> Option<&'static PreTokenizer> {
    KNOWN.iter().find(|row| row.names.contains(&name))
}

/// Whether a text gets the beginning-of-text token where the file does not say.
pub(super) fn adds_bos(name: &str) -> bool {
    row(name).is_some_and(|row| row.adds_bos)
}

/// The pre-tokenizer of a name as in `tokenizer.json`, and whether whole words take precedence over
/// merges.
///
/// # Errors
/// An unknown name, with the known ones, or one that is not supported, with the reason.
pub(super) fn pre_tokenizer(name: &str) -> Result<(Value, bool)> {
    if let Some((_, why)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
        return Err(Error::Tokenizer(format!(
            "the pre-tokenizer `{name}` (tokenizer.ggml.pre) is not supported: {why}"
        )));
    }
    let row = row(name).ok_or_else(|| {
        Error::Tokenizer(format!(
            "unknown pre-tokenizer `{name}` (tokenizer.ggml.pre); known: {}. Use the model's Hugging Face folder instead",
            known_pre_tokenizers().join(", ")
        ))
    })?;
    let mut steps: Vec<Value> = row.steps.iter().map(step).collect();
    steps.push(json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}));
    Ok((
        json!({"type": "Sequence", "pretokenizers": steps}),
        row.whole_words,
    ))
}

/// A step as in `tokenizer.json`.
fn step(step: &Step) -> Value {
    let (expression, behavior) = match step {
        Step::Cut(DIGIT) => return json!({"type": "Digits", "individual_digits": true}),
        Step::Cut(expression) => (expression, "Isolated"),
        Step::Join(expression) => (expression, "MergedWithPrevious"),
    };
    json!({"type": "Split", "pattern": {"Regex": expression}, "behavior": behavior, "invert": false})
}

/// The expressions of a row as models' own files have them.
fn in_folders(row: &PreTokenizer) -> Vec<&'static str> {
    match row.folder {
        [] => row.steps.iter().map(Step::expression).collect(),
        own => own.to_vec(),
    }
}

/// An expression of a model's file as the expressions here spell it: contractions, and line breaks
/// that stand in it as themselves.
fn respelt(expression: &str) -> Cow<'_, str> {
    let same = |text: &str| !text.contains(['\r', '\n']) && !text.contains(SHORT_IN_FOLDERS);
    match same(expression) {
        true => Cow::Borrowed(expression),
        false => Cow::Owned(
            expression
                .replace('\r', r"\r")
                .replace('\n', r"\n")
                .replace(SHORT_IN_FOLDERS, SHORT),
        ),
    }
}

/// The inverse of [`pre_tokenizer`]: llama.cpp's name for a pre-tokenizer as in `tokenizer.json`;
/// `whole_words` is its model's `ignore_merges`. Its steps may be those of a row or what models'
/// own files have for it.
///
/// # Errors
/// A pre-tokenizer without a name, or a step that is part of none.
pub(super) fn name_of(pre: &Value, whole_words: bool) -> Result<&'static str> {
    let unknown = |what: String| {
        Err(Error::Tokenizer(format!(
            "llama.cpp has no name for this tokenizer's way of cutting words: {what}"
        )))
    };
    let mut joins = false;
    let mut patterns: Vec<Cow<str>> = Vec::new();
    for step in steps(pre) {
        let pattern = step["pattern"]["Regex"].as_str();
        let behavior = (step["behavior"].as_str(), step["invert"].as_bool());
        match (step["type"].as_str().unwrap_or_default(), pattern) {
            ("Digits", _) if step["individual_digits"] == true => patterns.push(DIGIT.into()),
            ("Digits", _) => patterns.push(r"\p{N}+".into()),
            // both keep every piece
            ("Split", Some(pattern))
                if [
                    (Some("Isolated"), Some(false)),
                    (Some("Removed"), Some(true)),
                ]
                .contains(&behavior) =>
            {
                patterns.push(respelt(pattern));
            }
            // what reading a row makes
            ("Split", Some(pattern)) if behavior == (Some("MergedWithPrevious"), Some(false)) => {
                joins = true;
                patterns.push(pattern.into());
            }
            ("ByteLevel", _) if step["add_prefix_space"] == false => {
                if step["use_regex"] == true {
                    patterns.push(GPT2.into());
                }
            }
            _ => return unknown(format!("the step {step}")),
        }
    }
    let as_ours = |row: &PreTokenizer| {
        let joined = row.steps.iter().any(|s| matches!(s, Step::Join(_)));
        joined == joins && row.steps.iter().map(Step::expression).eq(patterns.iter())
    };
    let as_theirs = |row: &PreTokenizer| !joins && in_folders(row).iter().eq(patterns.iter());
    let found = KNOWN
        .iter()
        .find(|row| row.whole_words == whole_words && (as_ours(row) || as_theirs(row)));
    match found.and_then(|row| row.names.first()) {
        Some(name) => Ok(name),
        None => unknown(format!(
            "the patterns {patterns:?}{}",
            if whole_words {
                " with words that are tokens taken whole (ignore_merges)"
            } else {
                ""
            }
        )),
    }
}
