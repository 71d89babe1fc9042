//! Pre-tokenizers of byte-level BPE, which split text into words before merging, by their names in
//! GGUF files (`tokenizer.ggml.pre`). A wrong one changes some tokens without any error.

use serde_json::{Value, json};

use super::spaces::steps;
use crate::{Error, Result};

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// The pattern that many share.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

/// A pre-tokenizer: expressions applied in turn, whether single digits are split off first, and
/// whether a word that is a whole token is taken without merging.
struct PreTokenizer {
    names: &'static [&'static str],
    digits: bool,
    patterns: &'static [&'static str],
    whole_words: bool,
}

const KNOWN: [PreTokenizer; 10] = [
    PreTokenizer {
        names: &[
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "roberta-bpe",
            "gigachat",
            "mellum",
            "a.x-4.0",
        ],
        digits: false,
        patterns: &[GPT2],
        whole_words: false,
    },
    PreTokenizer {
        names: &[
            "smollm",
            "starcoder",
            "refact",
            "command-r",
            "codeshell",
            "exaone",
            "minerva-7b",
        ],
        digits: true,
        patterns: &[GPT2],
        whole_words: false,
    },
    PreTokenizer {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "lfm2",
        ],
        digits: false,
        patterns: &[LLAMA3],
        whole_words: true,
    },
    PreTokenizer {
        names: &["dbrx", "smaug-bpe", "chatglm-bpe", "glm4"],
        digits: false,
        patterns: &[LLAMA3],
        whole_words: false,
    },
    PreTokenizer {
        names: &[
            "qwen2",
            "deepseek-r1-qwen",
            "stablelm2",
            "megrez",
            "hunyuan",
        ],
        digits: false,
        patterns: &[QWEN2],
        whole_words: false,
    },
    PreTokenizer {
        names: &["tekken"],
        digits: false,
        patterns: &[TEKKEN],
        whole_words: true,
    },
    PreTokenizer {
        names: &["gpt-4o", "llama4"],
        digits: false,
        patterns: &[GPT4O],
        whole_words: false,
    },
    PreTokenizer {
        names: &["deepseek-v3"],
        digits: false,
        patterns: &[r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3],
        whole_words: false,
    },
    PreTokenizer {
        names: &["falcon"],
        digits: false,
        patterns: &[r"[\p{P}$+<=>^~|`]+", GPT2, r"[0-9][0-9][0-9]"],
        whole_words: false,
    },
    PreTokenizer {
        names: &["default"],
        digits: false,
        patterns: &[r"[\p{P}$+<=>^~|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"],
        whole_words: false,
    },
];

/// All known names.
pub fn known_pre_tokenizers() -> Vec<&'static str> {
    let mut names: Vec<&str> = KNOWN
        .iter()
        .flat_map(|cut| cut.names.iter().copied())
        .collect();
    names.sort_unstable();
    names
}

/// The pre-tokenizer of a name as in `tokenizer.json`, and whether whole words take precedence over
/// merges.
///
/// # Errors
/// An unknown name, with the known ones.
pub(super) fn pre_tokenizer(name: &str) -> Result<(Value, bool)> {
    let cut = KNOWN.iter().find(|cut| cut.names.contains(&name)).ok_or_else(|| {
        Error::Tokenizer(format!(
            "unknown pre-tokenizer `{name}` (tokenizer.ggml.pre); known: {}. Use the model's Hugging Face folder instead",
            known_pre_tokenizers().join(", ")
        ))
    })?;
    let mut steps = Vec::new();
    if cut.digits {
        steps.push(json!({"type": "Digits", "individual_digits": true}));
    }
    for pattern in cut.patterns {
        steps.push(json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false}));
    }
    steps.push(json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}));
    Ok((
        json!({"type": "Sequence", "pretokenizers": steps}),
        cut.whole_words,
    ))
}

/// The inverse: llama.cpp's name for a pre-tokenizer as in `tokenizer.json`; `whole_words` is its
/// model's `ignore_merges`.
///
/// # Errors
/// A pre-tokenizer without a name, or a step that is part of none.
pub(super) fn name_of(pre: &Value, whole_words: bool) -> Result<&'static str> {
    let unknown = |what: String| {
        Err(Error::Tokenizer(format!(
            "llama.cpp has no name for this tokenizer's way of cutting words: {what}"
        )))
    };
    let mut digits = false;
    let mut patterns: Vec<&str> = Vec::new();
    for step in steps(pre) {
        let pattern = step["pattern"]["Regex"].as_str();
        let behavior = (step["behavior"].as_str(), step["invert"].as_bool());
        match (step["type"].as_str().unwrap_or_default(), pattern) {
            ("Digits", _) if step["individual_digits"] == true && patterns.is_empty() => {
                digits = true;
            }
            // both keep every piece
            ("Split", Some(pattern))
                if [
                    (Some("Isolated"), Some(false)),
                    (Some("Removed"), Some(true)),
                ]
                .contains(&behavior) =>
            {
                patterns.push(pattern);
            }
            ("ByteLevel", _) if step["add_prefix_space"] == false => {
                if step["use_regex"] == true {
                    patterns.push(GPT2);
                }
            }
            _ => return unknown(format!("the step {step}")),
        }
    }
    let found = KNOWN.iter().find(|cut| {
        cut.digits == digits && cut.patterns == patterns && cut.whole_words == whole_words
    });
    match found.and_then(|cut| cut.names.first()) {
        Some(name) => Ok(name),
        None => unknown(format!(
            "the patterns {patterns:?}{}{}",
            if digits { " after single digits" } else { "" },
            if whole_words {
                " with words that are tokens taken whole (ignore_merges)"
            } else {
                ""
            }
        )),
    }
}
