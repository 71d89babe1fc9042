//! Keys of `tokenizer_config.json` that change the ids given by `tokenizer.json`: followed as in
//! transformers 5.24, or refused by name. Others change no ids of text without added tokens, or
//! (`legacy`) replace the file's steps with the class's: here the file's are used.

use serde_json::{Value, json};
use tokenizers::{PreTokenizerWrapper, Tokenizer as Core};

use super::spaces::{LeadingSpace, kind, steps};
use crate::{Error, Result};

const FILE: &str = "tokenizer_config.json";

/// Classes that set the leading space of their byte-level step themselves, to false if the key is
/// absent, whatever `tokenizer.json` says.
const BYTE_LEVEL: [&str; 8] = [
    "BartTokenizer",
    "CodeGenTokenizer",
    "CohereTokenizer",
    "GPT2Tokenizer",
    "GPTNeoXTokenizer",
    "Qwen2Tokenizer",
    "RobertaTokenizer",
    "WhisperTokenizer",
];

/// Applies `config`; `model` is the model's configuration.
///
/// # Errors
/// A key with an invalid value, or one that is not supported.
pub(super) fn obey(core: &mut Core, config: &Value, model: &Value) -> Result<()> {
    if flag(config, "split_special_tokens")? == Some(true) {
        return refused(
            "split_special_tokens is true: the chat template's own special tokens would be read as text",
        );
    }
    let wanted = flag(config, "add_prefix_space")?;
    let class = [config, model]
        .into_iter()
        .find_map(|file| file["tokenizer_class"].as_str());
    // a Mistral's tokenizer.json is used unchanged, whatever its class
    let Some(class) = class.filter(|_| model["model_type"] != "mistral") else {
        return Ok(());
    };
    let class = class.strip_suffix("Fast").unwrap_or(class);
    let step = core.get_pre_tokenizer().map(serde_json::to_value);
    let mut step = step
        .transpose()
        .map_err(Error::tokenizer)?
        .unwrap_or_default();
    let byte_level = steps(&step).into_iter().any(|s| kind(s) == "ByteLevel");
    let obeys = BYTE_LEVEL.contains(&class) || class == "LlamaTokenizer" && !byte_level;
    if BYTE_LEVEL.contains(&class) && kind(&step) == "ByteLevel" {
        step["add_prefix_space"] = json!(wanted.unwrap_or(false));
        let changed: PreTokenizerWrapper =
            serde_json::from_value(step).map_err(Error::tokenizer)?;
        core.with_pre_tokenizer(Some(changed));
    }
    let leads = LeadingSpace::of(core) != LeadingSpace::Never;
    match wanted {
        Some(wanted) if obeys && wanted != leads => refused(&format!(
            "add_prefix_space is {wanted} for the class {class}, but the steps of tokenizer.json {} \
             space before text; remove the key if tokenizer.json is right",
            if leads { "put a" } else { "put no" }
        )),
        _ => Ok(()),
    }
}

/// A boolean; null counts as absent.
fn flag(config: &Value, key: &str) -> Result<Option<bool>> {
    match &config[key] {
        Value::Null => Ok(None),
        Value::Bool(flag) => Ok(Some(*flag)),
        other => {
            let what = format!("{key} should be true or false, is {other}");
            Err(Error::file(FILE, what))
        }
    }
}

fn refused(what: &str) -> Result<()> {
    Err(Error::file(FILE, what))
}
