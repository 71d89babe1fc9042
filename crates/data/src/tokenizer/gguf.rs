//! Loads a tokenizer from GGUF metadata, converted to an equivalent `tokenizer.json`.

use std::collections::{BTreeMap, HashSet};

use randori_formats::gguf::{
    GgufTokenizer,
    token::{CONTROL, UNKNOWN, USER_DEFINED},
};
use serde_json::{Map, Value, json};
use tokenizers::Tokenizer as Core;

use super::files::both;
use super::pretokenizers::adds_bos;
use super::vocabularies::{is_of_text, kind, parts};
use super::{Special, Tokenizer};
use crate::contain::contain;
use crate::counts::counted;
use crate::{ChatTemplate, Error, Result};

/// Builds the tokenizer; a template that is given takes the place of the file's, which are not
/// read.
pub(super) fn build(gguf: &GgufTokenizer, given: Option<ChatTemplate>) -> Result<Tokenizer> {
    check(gguf)?;
    let mut parts = parts(gguf)?;
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
    if ["llama", "t5"].contains(&gguf.model.as_str()) && gguf.scores.len() != count {
        let scores = counted(gguf.scores.len(), "score");
        return wrong(format!("{} but {scores}", counted(count, "token")));
    }
    gguf.check().or_else(wrong)
}

/// Spellings that make a token a control token in llama.cpp, whatever its type: ends of generation,
/// and the marks of OpenAI's harmony format.
const CONTROL_BY_SPELLING: [&str; 25] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
    "[e~[",
    "<|channel|>",
    "<|message|>",
    "<|start|>",
    "<|constrain|>",
];

/// Whether a token is special: by its type or its spelling, or where there are no types, by its
/// name in the metadata.
fn is_special(gguf: &GgufTokenizer, id: usize) -> bool {
    let named = [gguf.bos, gguf.eos, gguf.eot, gguf.unk, gguf.pad].contains(&Some(id as u32));
    matches!(kind(gguf, id), CONTROL | UNKNOWN)
        || (named && gguf.token_types.is_empty())
        || CONTROL_BY_SPELLING.contains(&gguf.tokens[id].as_str())
}

/// Special tokens of Phi-3 that take no white space.
pub(super) const PHI3_KEEP: [&str; 3] = ["<unk>", "<s>", "<|endoftext|>"];

/// Control, unknown and user-defined tokens, which are matched in text before anything else, as in
/// llama.cpp.
fn added_tokens(gguf: &GgufTokenizer) -> Value {
    let mut seen = HashSet::new();
    let strips = gguf.is_phi3();
    let added = gguf.tokens.iter().enumerate().filter_map(|(id, token)| {
        let special = is_special(gguf, id);
        let wanted = (special || kind(gguf, id) == USER_DEFINED) && !token.is_empty() && seen.insert(token.as_str());
        wanted.then(|| {
            let rstrip = strips && !PHI3_KEEP.contains(&token.as_str());
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": rstrip,
                   "normalized": false, "special": special})
        })
    });
    Value::Array(added.collect())
}

/// The post-processor that adds special tokens around text on request.
fn post_processor(gguf: &GgufTokenizer, special: &Special) -> Value {
    let pre = gguf.pre.as_deref().unwrap_or_default();
    let text = |id: Option<u32>| {
        let (id, text) = id.and_then(|id| Some((id, gguf.tokens.get(id as usize)?)))?;
        Some((id, text.clone()))
    };
    let (bos, eos) = match gguf.model.as_str() {
        "bert" => (text(gguf.bos.or(gguf.cls)), text(gguf.sep)),
        model => {
            let always = is_of_text(gguf) && pre != "sarvam-moe";
            let by_default = model == "llama" || (model == "gpt2" && adds_bos(pre));
            let add_bos = always || gguf.add_bos.unwrap_or(by_default);
            let add_eos = gguf.add_eos.unwrap_or(model == "t5");
            (
                special.bos.clone().filter(|_| add_bos),
                special.eos.clone().filter(|_| add_eos),
            )
        }
    };
    if bos.is_none() && eos.is_none() {
        return Value::Null;
    }
    let token = |token: &(u32, String)| json!({"SpecialToken": {"id": token.1, "type_id": 0}});
    let around = |part: Value| -> Vec<Value> {
        let (before, after) = (bos.as_ref().map(token), eos.as_ref().map(token));
        before.into_iter().chain([part]).chain(after).collect()
    };
    let known: Map<String, Value> = bos
        .iter()
        .chain(&eos)
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
