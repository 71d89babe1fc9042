//! The pre-tokenizers that llama.cpp knows by name (release b11549), as data: what
//! `tokenizer.ggml.pre` says of words. A wrong one changes some tokens without any error.

use super::expressions::*;

/// A pre-tokenizer.
pub(super) struct PreTokenizer {
    /// Its names in GGUF files; an export writes the first.
    pub names: &'static [&'static str],
    /// What is done to a text, one step after the other.
    pub steps: &'static [Step],
    /// The expressions in models' own `tokenizer.json`, where they are not those of the steps;
    /// empty if they are.
    pub folder: &'static [&'static str],
    /// Whether a word that is a token is taken whole, whatever the merges.
    pub whole_words: bool,
    /// Whether a text gets the beginning-of-text token where the file does not say.
    pub adds_bos: bool,
}

/// A step: matches of its expression become words of their own.
pub(super) enum Step {
    /// And so does the text between them.
    Cut(&'static str),
    /// But the text before a match stays with it.
    Join(&'static str),
}

use Step::{Cut, Join};

impl Step {
    /// Its expression.
    pub(super) fn expression(&self) -> &'static str {
        match self {
            Cut(expression) | Join(expression) => expression,
        }
    }
}

/// Names of BPE over text with `▁` for spaces, whose words are lines; they need no expressions.
pub(super) const OF_TEXT: [&str; 3] = ["gemma4", "granite-embed-multi-311m", "sarvam-moe"];

/// The words of [`OF_TEXT`]: lines, and runs of line breaks.
pub(super) const LINES: &str = r"[^\n]+|\n+";

/// Names that llama.cpp knows and that are not supported, with the reason.
pub(super) const REFUSED: [(&str, &str); 1] = [(
    "whitespace",
    "it drops white space, so that a text does not come back from its tokens",
)];

/// All rows.
pub(super) const KNOWN: &[PreTokenizer] = &[
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
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
            "jina-v1-en",
            "jina-v2-code",
            "modern-bert",
            "exaone4",
            "trillion",
            "granite-docling",
        ],
        steps: &[Cut(GPT2)],
        ..PLAIN
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
            "mellum2",
        ],
        steps: &[Cut(r"\p{N}"), Cut(GPT2)],
        ..PLAIN
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
            "midm-2.0",
            "jina-v5-nano",
        ],
        steps: &[Cut(LLAMA3)],
        whole_words: true,
        adds_bos: true,
        ..PLAIN
    },
    PreTokenizer {
        names: &["glm4", "glm5"],
        steps: &[Cut(LLAMA3)],
        whole_words: true,
        ..PLAIN
    },
    PreTokenizer {
        names: &["dbrx", "smaug-bpe", "chatglm-bpe"],
        steps: &[Cut(LLAMA3)],
        ..PLAIN
    },
    PreTokenizer {
        names: &[
            "qwen2",
            "deepseek-r1-qwen",
            "stablelm2",
            "megrez",
            "hunyuan",
            "kormo",
            "f2llmv2",
            "solar-open",
            "grok-2",
        ],
        steps: &[Cut(QWEN2)],
        ..PLAIN
    },
    PreTokenizer {
        names: &["qwen35"],
        steps: &[Cut(QWEN35)],
        ..PLAIN
    },
    PreTokenizer {
        names: &["tekken"],
        steps: &[Cut(TEKKEN)],
        folder: &[TEKKEN_IN_FOLDERS],
        whole_words: true,
        adds_bos: true,
    },
    PreTokenizer {
        names: &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
        steps: &[Cut(GPT4O)],
        folder: &[GPT4O_IN_FOLDERS],
        ..PLAIN
    },
    PreTokenizer {
        names: &["granite-embed-multi-97m"],
        steps: &[Cut(GRANITE_97M)],
        folder: &[GPT4O_IN_FOLDERS],
        whole_words: true,
        ..PLAIN
    },
    PreTokenizer {
        names: &["tiny_aya", "cohere2moe"],
        steps: &[Join(FROM_THE_LAST), Cut(TINY_AYA)],
        folder: &[r"\d{1,3}(?=(?:\d{3})*\b)", GPT4O_IN_FOLDERS],
        ..PLAIN
    },
    PreTokenizer {
        names: &["youtu"],
        steps: &[Cut(KOREAN_AND_SIGNS), Cut(YOUTU)],
        folder: &[KOREAN_AND_SIGNS, YOUTU_IN_FOLDERS],
        whole_words: true,
        ..PLAIN
    },
    PreTokenizer {
        names: &["kimi-k2"],
        steps: &[Cut(KIMI_K2)],
        ..PLAIN
    },
    PreTokenizer {
        names: &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        steps: &[Cut(r"\p{N}{1,3}"), Cut(CJK), Cut(DEEPSEEK3)],
        ..PLAIN
    },
    PreTokenizer {
        names: &["spark2_5"],
        steps: &[Cut(r"\p{N}{1,3}"), Cut(CJK), Cut(SPARK), Cut(r"\p{N}")],
        ..PLAIN
    },
    PreTokenizer {
        names: &["afmoe"],
        steps: &[Join(FROM_THE_LAST), Cut(ASIAN), Cut(DEEPSEEK3)],
        ..PLAIN
    },
    PreTokenizer {
        names: &["deepseek-llm"],
        steps: &[
            Cut(r"[\r\n]"),
            Cut(CASED_SCRIPTS),
            Cut(WIDE_SIGNS),
            Cut(r"\s+$"),
            Cut(WIDE),
            Cut(r"\p{N}+"),
        ],
        folder: &[
            r"[\r\n]",
            CASED_SCRIPTS,
            WIDE_SIGNS_IN_FOLDERS,
            r"\s+$",
            WIDE_IN_FOLDERS,
            r"\p{N}+",
        ],
        ..PLAIN
    },
    PreTokenizer {
        names: &["deepseek-coder"],
        steps: &[
            Cut(r"[\r\n]"),
            Cut(r"\s?\p{L}+"),
            Cut(r"\s?\p{P}+"),
            Cut(WIDE),
            Cut(r"\p{N}"),
        ],
        folder: &[
            r"[\r\n]",
            r"\s?\p{L}+",
            r"\s?\p{P}+",
            WIDE_IN_FOLDERS,
            r"\p{N}",
        ],
        ..PLAIN
    },
    PreTokenizer {
        names: &["falcon"],
        steps: &[
            Cut(r"[\p{P}$+<=>^~|`]+"),
            Cut(GPT2),
            Cut(r"[0-9][0-9][0-9]"),
        ],
        ..PLAIN
    },
    PreTokenizer {
        names: &["default"],
        steps: &[
            Cut(r"[\p{P}$+<=>^~|]+"),
            Cut(GPT2),
            Cut(r"\p{N}+"),
            Cut(r"[0-9][0-9][0-9]"),
        ],
        ..PLAIN
    },
    PreTokenizer {
        names: &["poro-chat", "bloom", "gpt3-finnish"],
        steps: &[Cut(BLOOM)],
        ..PLAIN
    },
    PreTokenizer {
        names: &["viking"],
        steps: &[Cut(BLOOM), Cut(r"\p{N}")],
        ..PLAIN
    },
    PreTokenizer {
        names: &["chameleon"],
        steps: &[
            Cut(r"<sentinel:[0-9]+>"),
            Cut(r"IMGIMG[A-I]{1,4}Z"),
            Cut(r"[\t\n]|    |  "),
            Cut(r"\p{N}"),
            Cut(r"[\p{P}!-/:-@\[-`{-~]"),
            Cut(GPT2),
        ],
        adds_bos: true,
        ..PLAIN
    },
    PreTokenizer {
        names: &["superbpe"],
        steps: &[Cut(r"\p{N}+"), Cut(r"(?=([0-9]{3})+(?![0-9]))")],
        folder: &[r"\p{N}+", r"(?=(\d{3})+(?!\d))"],
        ..PLAIN
    },
    PreTokenizer {
        names: &["bailingmoe", "bailingmoe2", "llada-moe"],
        steps: &[Cut(BAILING)],
        folder: &[BAILING_IN_FOLDERS],
        ..PLAIN
    },
    PreTokenizer {
        names: &["seed-coder"],
        steps: &[Cut(SEED_CODER)],
        ..PLAIN
    },
    PreTokenizer {
        names: &["ufakzeka"],
        steps: &[Cut(UFAKZEKA)],
        ..PLAIN
    },
    PreTokenizer {
        names: &["laguna"],
        steps: &[Cut(r"[^\n]+|[\n]+"), Cut(QWEN2)],
        ..PLAIN
    },
    PreTokenizer {
        names: &["exaone-moe"],
        steps: &[Cut(EXAONE_MOE)],
        ..PLAIN
    },
    PreTokenizer {
        names: &["minicpm5"],
        steps: &[Cut(r"\p{N}{1,3}"), Cut(MINICPM5)],
        whole_words: true,
        ..PLAIN
    },
    PreTokenizer {
        names: &["jais-2"],
        steps: &[Cut(JAIS2)],
        ..PLAIN
    },
];

/// What most rows are.
const PLAIN: PreTokenizer = PreTokenizer {
    names: &[],
    steps: &[],
    folder: &[],
    whole_words: false,
    adds_bos: false,
};
