//! Loads a tokenizer from GGUF metadata: byte-level BPE ("gpt2") and SentencePiece-style BPE
//! ("llama"), converted to an equivalent `tokenizer.json`.

use std::collections::{BTreeMap, HashMap, HashSet};

use randori_formats::gguf::{
    GgufTokenizer,
    token::{CONTROL, NORMAL, UNKNOWN, USER_DEFINED},
};
use serde_json::{Map, Value, json};
use tokenizers::Tokenizer as Core;

use super::files::both;
use super::pretokenizers::pre_tokenizer;
use super::{Special, Tokenizer};
use crate::contain::contain;
use crate::{ChatTemplate, Error, Result};

/// Builds the tokenizer; a template that is given takes the place of the file's, which are not
/// read.
pub(super) fn build(gguf: &GgufTokenizer, given: Option<ChatTemplate>) -> Result<Tokenizer> {
    check(gguf)?;
    let mut parts = match gguf.model.as_str() {
        "gpt2" => byte_level(gguf)?,
        "llama" => sentence_piece(gguf)?,
        other => {
            let what = format!(
                "unknown tokenizer model `{other}` (tokenizer.ggml.model); known: gpt2, llama"
            );
            return Err(Error::Tokenizer(what));
        }
    };
    let text = |id: Option<u32>| {
        id.and_then(|id| gguf.tokens.get(id as usize).map(|text| (id, text.clone())))
    };
    let mut special = Special {
        bos: text(gguf.bos),
        eos: text(gguf.eos),
        pad: text(gguf.pad),
        unk: text(gguf.unk),
        variables: Vec::new(),
    };
    special.variables = named(&special);
    parts.insert("version".into(), "1.0".into());
    parts.insert("added_tokens".into(), added_tokens(gguf));
    parts.insert("post_processor".into(), post_processor(gguf, &special));
    let bytes = serde_json::to_vec(&parts).map_err(Error::tokenizer)?;
    let core = contain(|| Core::from_bytes(bytes).map_err(|e| e.to_string()))
        .and_then(|core| core)
        .map_err(|e| Error::Tokenizer(format!("in the GGUF metadata: {e}")))?;
    let template = match given {
        Some(given) => Some(given),
        None => template(gguf)?,
    };
    let files = BTreeMap::from([("tokenizer_config.json".to_owned(), config(gguf, &special)?)]);
    Tokenizer::assemble(
        core,
        special,
        gguf.eot.into_iter().collect(),
        template,
        files,
    )
}

/// The file's own chat template. As in llama.cpp, `tool_use` renders conversations with tools, and
/// all of them where it is the only template.
fn template(gguf: &GgufTokenizer) -> Result<Option<ChatTemplate>> {
    let tools = gguf.tool_use.as_deref().filter(|text| !text.is_empty());
    let default = gguf.chat_template.as_deref();
    match default.filter(|text| tools.is_none() || !text.is_empty()) {
        Some(default) => both(default, tools).map(Some),
        None => tools.map(ChatTemplate::new).transpose(),
    }
}

/// Names and texts of the special tokens in the metadata.
fn named(special: &Special) -> Vec<(String, String)> {
    let tokens = [
        ("bos_token", &special.bos),
        ("eos_token", &special.eos),
        ("pad_token", &special.pad),
        ("unk_token", &special.unk),
    ];
    let there = tokens.into_iter().filter_map(|(name, token)| {
        let (_, text) = token.as_ref()?;
        Some((name.to_owned(), text.clone()))
    });
    there.collect()
}

/// Checks the lists' lengths and the ids' ranges.
fn check(gguf: &GgufTokenizer) -> Result<()> {
    let count = gguf.tokens.len();
    let wrong = |what: String| Err(Error::Tokenizer(format!("in the GGUF metadata: {what}")));
    if count == 0 {
        return wrong("no tokens (tokenizer.ggml.tokens)".into());
    }
    if gguf.model == "llama" && gguf.scores.len() != count {
        return wrong(format!("{count} tokens but {} scores", gguf.scores.len()));
    }
    gguf.check().or_else(wrong)
}

fn kind(gguf: &GgufTokenizer, id: usize) -> i32 {
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

fn byte_level(gguf: &GgufTokenizer) -> Result<Map<String, Value>> {
    let (pre, whole_words) = pre_tokenizer(gguf.pre.as_deref().unwrap_or("default"))?;
    let merges = gguf
        .merges
        .iter()
        .map(|merge| match merge.split_once(' ') {
            Some((left, right)) if !left.is_empty() && !right.is_empty() => {
                Ok(json!([left, right]))
            }
            _ => Err(Error::Tokenizer(format!(
                "in the GGUF metadata: `{merge}` is not a merge of two tokens"
            ))),
        })
        .collect::<Result<Vec<_>>>()?;
    if merges.is_empty() {
        return Err(Error::Tokenizer(
            "in the GGUF metadata: no merges (tokenizer.ggml.merges)".into(),
        ));
    }
    let parts = json!({
        "pre_tokenizer": pre,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "model": {"type": "BPE", "ignore_merges": whole_words, "vocab": vocabulary(gguf), "merges": merges},
    });
    Ok(object(parts))
}

fn sentence_piece(gguf: &GgufTokenizer) -> Result<Map<String, Value>> {
    let prefix = gguf.add_space_prefix.unwrap_or(true);
    let mut normalizers =
        vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})];
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        // Also after every special token, as in SentencePiece and llama.cpp.
        normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let parts = json!({
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "unk_token": gguf.unk.map(|id| &gguf.tokens[id as usize]),
            "fuse_unk": true,
            "byte_fallback": true,
            "vocab": vocabulary(gguf),
            "merges": merges_of_scores(gguf),
        },
    });
    Ok(object(parts))
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

/// Control, unknown and user-defined tokens, which are matched in text before anything else, as in
/// llama.cpp.
fn added_tokens(gguf: &GgufTokenizer) -> Value {
    let mut seen = HashSet::new();
    let added = gguf.tokens.iter().enumerate().filter_map(|(id, token)| {
        let named = [gguf.bos, gguf.eos, gguf.eot, gguf.unk, gguf.pad].contains(&Some(id as u32));
        let special = matches!(kind(gguf, id), CONTROL | UNKNOWN) || (named && gguf.token_types.is_empty());
        let wanted = (special || kind(gguf, id) == USER_DEFINED) && !token.is_empty() && seen.insert(token.as_str());
        wanted.then(|| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": special})
        })
    });
    Value::Array(added.collect())
}

/// The post-processor that adds special tokens around text on request.
fn post_processor(gguf: &GgufTokenizer, special: &Special) -> Value {
    let llama3 = matches!(
        gguf.pre.as_deref(),
        Some("llama-bpe" | "llama3" | "llama-v3")
    );
    let add_bos = gguf.add_bos.unwrap_or(gguf.model == "llama" || llama3);
    let bos = special.bos.as_ref().filter(|_| add_bos);
    let eos = special
        .eos
        .as_ref()
        .filter(|_| gguf.add_eos.unwrap_or(false));
    if bos.is_none() && eos.is_none() {
        return Value::Null;
    }
    let token = |token: &(u32, String)| json!({"SpecialToken": {"id": token.1, "type_id": 0}});
    let around = |part: Value| -> Vec<Value> {
        bos.map(token)
            .into_iter()
            .chain([part])
            .chain(eos.map(token))
            .collect()
    };
    let known: Map<String, Value> = bos
        .into_iter()
        .chain(eos)
        .map(|(id, text)| {
            (
                text.clone(),
                json!({"id": text, "ids": [id], "tokens": [text]}),
            )
        })
        .collect();
    json!({
        "type": "TemplateProcessing",
        "single": around(json!({"Sequence": {"id": "A", "type_id": 0}})),
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": known,
    })
}

/// The `tokenizer_config.json` of an export.
fn config(gguf: &GgufTokenizer, special: &Special) -> Result<Vec<u8>> {
    let mut config = Map::new();
    config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    let tokens = special.variables.iter();
    config.extend(tokens.map(|(name, text)| (name.clone(), text.as_str().into())));
    config.extend(
        gguf.chat_template
            .iter()
            .map(|text| ("chat_template".to_owned(), text.as_str().into())),
    );
    serde_json::to_vec_pretty(&config).map_err(Error::tokenizer)
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
