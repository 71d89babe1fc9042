//! Vocabularies of GGUF files, by their kind (`tokenizer.ggml.model`): the model, normalizer,
//! pre-tokenizer and decoder of an equivalent `tokenizer.json`.

use std::collections::{HashMap, HashSet};

use base64::{Engine, engine::general_purpose::STANDARD};
use randori_formats::gguf::{
    GgufTokenizer,
    token::{CONTROL, NORMAL, UNUSED, USER_DEFINED},
};
use serde_json::{Map, Value, json};

use super::known::{LINES, OF_TEXT};
use super::pretokenizers::pre_tokenizer;
use crate::{Error, Result};

/// Kinds that llama.cpp knows and that are not supported, with the reason.
const REFUSED: [(&str, &str); 6] = [
    (
        "rwkv",
        "it takes the longest tokens of bytes, which no tokenizer.json can say",
    ),
    (
        "plamo2",
        "it cuts by scores of suffixes, which no tokenizer.json can say",
    ),
    (
        "hybriddna",
        "it reads DNA in sixes, which no tokenizer.json can say",
    ),
    (
        "whitespace",
        "it drops white space, so that a text does not come back from its tokens",
    ),
    ("none", "the file has no vocabulary"),
    ("no_vocab", "the file has no vocabulary"),
];

/// The parts of `tokenizer.json` that depend on the kind.
///
/// # Errors
/// A kind that is unknown or not supported, by name; lists that do not fit it.
pub(super) fn parts(gguf: &GgufTokenizer) -> Result<Map<String, Value>> {
    let parts = match gguf.model.as_str() {
        _ if is_of_text(gguf) => bpe_of_text(gguf)?,
        "gpt2" => byte_level(gguf)?,
        "llama" => sentence_piece(gguf),
        "t5" => unigram(gguf)?,
        "bert" => word_piece(gguf)?,
        other => {
            let why = REFUSED.iter().find(|(name, _)| *name == other);
            let what = match why {
                Some((_, why)) => format!(
                    "the tokenizer model `{other}` (tokenizer.ggml.model) is not supported: {why}"
                ),
                None => format!(
                    "unknown tokenizer model `{other}` (tokenizer.ggml.model); known: gpt2, llama, \
                     gemma4, t5, bert"
                ),
            };
            return Err(Error::Tokenizer(what));
        }
    };
    match parts {
        Value::Object(map) => Ok(map),
        _ => Ok(Map::new()),
    }
}

/// Whether its BPE is over text, with `▁` for spaces and tokens for bytes, instead of over bytes.
pub(super) fn is_of_text(gguf: &GgufTokenizer) -> bool {
    let named = gguf
        .pre
        .as_deref()
        .is_some_and(|pre| OF_TEXT.contains(&pre));
    gguf.model == "gemma4" || (gguf.model == "gpt2" && named)
}

fn wrong(what: &str) -> Error {
    Error::Tokenizer(format!("in the GGUF metadata: {what}"))
}

/// The type of a token.
pub(super) fn kind(gguf: &GgufTokenizer, id: usize) -> i32 {
    gguf.token_types.get(id).copied().unwrap_or(NORMAL)
}

/// Ids by token; of duplicates the first is used.
fn vocabulary(gguf: &GgufTokenizer) -> Map<String, Value> {
    let mut vocab = Map::new();
    for (id, token) in gguf.tokens.iter().enumerate() {
        vocab.entry(token.clone()).or_insert_with(|| id.into());
    }
    vocab
}

fn merges(gguf: &GgufTokenizer) -> Result<Vec<[&str; 2]>> {
    if gguf.merges.is_empty() {
        return Err(wrong("no merges (tokenizer.ggml.merges)"));
    }
    let pairs = gguf.merges.iter().map(|merge| match merge.split_once(' ') {
        Some((left, right)) if !left.is_empty() && !right.is_empty() => Ok([left, right]),
        _ => Err(wrong(&format!("`{merge}` is not a merge of two tokens"))),
    });
    pairs.collect()
}

fn byte_level(gguf: &GgufTokenizer) -> Result<Value> {
    let (pre, whole_words) = pre_tokenizer(gguf.pre.as_deref().unwrap_or("default"))?;
    Ok(json!({
        "pre_tokenizer": pre,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "model": {"type": "BPE", "ignore_merges": whole_words, "vocab": vocabulary(gguf), "merges": merges(gguf)?},
    }))
}

/// The step that writes `▁` for a space.
fn spaces() -> Value {
    json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})
}

/// The decoder of tokens with `▁` for spaces; `prefix` if text begins with one that it has not.
fn decoder(prefix: bool) -> Value {
    let mut steps = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": steps})
}

/// BPE over text: lines and runs of line breaks are its words.
fn bpe_of_text(gguf: &GgufTokenizer) -> Result<Value> {
    Ok(json!({
        "normalizer": spaces(),
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": LINES},
                          "behavior": "Isolated", "invert": false},
        "decoder": decoder(false),
        "model": {
            "type": "BPE",
            "unk_token": unknown(gguf),
            "fuse_unk": true,
            "byte_fallback": true,
            "vocab": vocabulary(gguf),
            "merges": merges(gguf)?,
        },
    }))
}

fn unknown(gguf: &GgufTokenizer) -> Option<&String> {
    gguf.unk.and_then(|id| gguf.tokens.get(id as usize))
}

fn sentence_piece(gguf: &GgufTokenizer) -> Value {
    let prefix = gguf.add_space_prefix.unwrap_or(true);
    let instruct =
        (0..gguf.tokens.len()).any(|id| gguf.tokens[id] == "[INST]" && kind(gguf, id) == CONTROL);
    let mut parts = json!({
        "decoder": decoder(prefix),
        "model": {
            "type": "BPE",
            "unk_token": unknown(gguf),
            "fuse_unk": true,
            "byte_fallback": true,
            "vocab": vocabulary(gguf),
            "merges": merges_of_scores(gguf),
        },
    });
    // Mistral's, where marks of turns are tokens, puts a space at the very start only; llama.cpp
    // puts one after every special token
    if prefix && instruct {
        parts["pre_tokenizer"] = json!({"type": "Metaspace", "replacement": "▁",
                                        "prepend_scheme": "first", "split": false});
        return parts;
    }
    let mut steps = vec![spaces()];
    if prefix {
        // also after every special token, as in SentencePiece and llama.cpp
        steps.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
    }
    parts["normalizer"] = json!({"type": "Sequence", "normalizers": steps});
    parts
}

/// Converts scores to merges: SentencePiece merges the pair that makes the token with the best
/// score, BPE needs the pairs listed. Every split of a normal token into two tokens becomes a
/// merge, better tokens first, as in transformers' conversion.
fn merges_of_scores(gguf: &GgufTokenizer) -> Vec<[&str; 2]> {
    let ids: HashMap<&str, usize> = gguf
        .tokens
        .iter()
        .enumerate()
        .rev() // of tokens that occur twice the first counts
        .filter(|(id, _)| kind(gguf, *id) == NORMAL)
        .map(|(id, token)| (token.as_str(), id))
        .collect();
    // halves whose length no token has are skipped: a token of 20,000 letters would take seconds
    let lengths: HashSet<usize> = ids.keys().map(|token| token.len()).collect();
    let mut merges: Vec<(f32, [usize; 2], [&str; 2])> = Vec::new();
    for (id, token) in gguf.tokens.iter().enumerate() {
        if ids.get(token.as_str()) != Some(&id) {
            continue;
        }
        for (at, _) in token.char_indices().skip(1) {
            if !lengths.contains(&at) || !lengths.contains(&(token.len() - at)) {
                continue;
            }
            let (left, right) = token.split_at(at);
            if let (Some(&l), Some(&r)) = (ids.get(left), ids.get(right)) {
                merges.push((gguf.scores[id], [l, r], [left, right]));
            }
        }
    }
    let score = |id: usize| gguf.scores[id];
    merges.sort_by(|(a, [al, ar], _), (b, [bl, br], _)| {
        b.total_cmp(a)
            .then(score(*bl).total_cmp(&score(*al)))
            .then(score(*br).total_cmp(&score(*ar)))
    });
    merges.into_iter().map(|(.., pair)| pair).collect()
}

/// SentencePiece's unigram: the cut whose tokens' scores sum up to the most.
fn unigram(gguf: &GgufTokenizer) -> Result<Value> {
    let Some(unk) = gguf.unk else {
        return Err(wrong("no tokenizer.ggml.unknown_token_id, which t5 needs"));
    };
    let normal = |id: &usize| kind(gguf, *id) == NORMAL;
    let scores = (0..gguf.tokens.len()).filter(normal);
    let least = scores
        .map(|id| gguf.scores[id])
        .fold(f32::INFINITY, f32::min);
    if !least.is_finite() {
        return Err(wrong(
            "no normal token with a finite score (tokenizer.ggml.scores)",
        ));
    }
    // the unknown token's score is below the least of all, so none but normal ones may be that
    let pieces = gguf.tokens.iter().zip(&gguf.scores).enumerate();
    let vocab: Vec<Value> = pieces
        .map(|(id, (text, score))| match kind(gguf, id) {
            NORMAL => json!([text, score]),
            USER_DEFINED => json!([text, 0.0]),
            // a space, which never reaches the model, keeps it out of text
            UNUSED => json!([format!(" {text}"), score.max(least)]),
            _ => json!([text, score.max(least)]),
        })
        .collect();
    let merges_spaces = gguf.remove_extra_whitespaces == Some(true);
    let prefix = merges_spaces || gguf.add_space_prefix == Some(true);
    let replace = |pattern: &str, content: &str| json!({"type": "Replace", "pattern": {"Regex": pattern}, "content": content});
    let mut steps = Vec::new();
    if !gguf.precompiled_charsmap.is_empty() {
        let table = STANDARD.encode(&gguf.precompiled_charsmap);
        steps.push(json!({"type": "Precompiled", "precompiled_charsmap": table}));
    }
    if merges_spaces {
        steps.extend([replace(r"\A +| +\z", ""), replace(" +", " ")]);
    }
    if prefix {
        steps.push(json!({"type": "Prepend", "prepend": " "}));
    }
    steps.push(spaces());
    Ok(json!({
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "decoder": decoder(prefix),
        "model": {"type": "Unigram", "unk_id": unk, "vocab": vocab, "byte_fallback": false},
    }))
}

/// BERT's WordPiece. GGUF marks the beginnings of words with `▁`, `tokenizer.json` the rest with
/// `##`.
fn word_piece(gguf: &GgufTokenizer) -> Result<Value> {
    let Some(unk) = unknown(gguf) else {
        return Err(wrong(
            "no tokenizer.ggml.unknown_token_id, which bert needs",
        ));
    };
    let mut vocab = Map::new();
    for (id, token) in gguf.tokens.iter().enumerate() {
        let bracketed = token.len() > 1 && token.starts_with('[') && token.ends_with(']');
        let spelt = match token.strip_prefix('▁') {
            _ if bracketed || kind(gguf, id) != NORMAL => token.clone(),
            Some(begins) => begins.to_owned(),
            None => format!("##{token}"),
        };
        vocab.entry(spelt).or_insert_with(|| id.into());
    }
    let lowercase = gguf.lowercase.unwrap_or(true);
    let strip_accents = gguf.strip_accents.unwrap_or(lowercase);
    Ok(json!({
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                       "strip_accents": strip_accents, "lowercase": lowercase},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": unk, "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 1_000_000, "vocab": vocab},
    }))
}
