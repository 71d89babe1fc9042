//! How byte-level BPE tokenizers cut text into words before merging, by the name GGUF files give it
//! (`tokenizer.ggml.pre`). A wrong one changes a token here and there without any error.

use serde_json::{Value, json};

use crate::{Error, Result};

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// The tails many share: symbols, line breaks, spaces.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

/// One way of cutting: expressions applied one after another, whether single digits are cut off first, and whether
/// a word that is a token as a whole is taken without merging.
struct Cut {
    names: &'static [&'static str],
    digits: bool,
    patterns: &'static [&'static str],
    whole_words: bool,
}

const KNOWN: [Cut; 10] = [
    Cut {
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
    Cut {
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
    Cut {
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
    Cut {
        names: &["dbrx", "smaug-bpe", "chatglm-bpe", "glm4"],
        digits: false,
        patterns: &[LLAMA3],
        whole_words: false,
    },
    Cut {
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
    Cut {
        names: &["tekken"],
        digits: false,
        patterns: &[TEKKEN],
        whole_words: true,
    },
    Cut {
        names: &["gpt-4o", "llama4"],
        digits: false,
        patterns: &[GPT4O],
        whole_words: false,
    },
    Cut {
        names: &["deepseek-v3"],
        digits: false,
        patterns: &[r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3],
        whole_words: false,
    },
    Cut {
        names: &["falcon"],
        digits: false,
        patterns: &[r"[\p{P}$+<=>^~|`]+", GPT2, r"[0-9][0-9][0-9]"],
        whole_words: false,
    },
    Cut {
        names: &["default"],
        digits: false,
        patterns: &[r"[\p{P}$+<=>^~|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"],
        whole_words: false,
    },
];

/// Every name this knows.
pub fn known_pre_tokenizers() -> Vec<&'static str> {
    let mut names: Vec<&str> = KNOWN
        .iter()
        .flat_map(|cut| cut.names.iter().copied())
        .collect();
    names.sort_unstable();
    names
}

/// The pre-tokenizer of a name as `tokenizer.json` spells it, and whether whole words go before merges.
///
/// # Errors
/// An unknown name, with those that are known.
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
