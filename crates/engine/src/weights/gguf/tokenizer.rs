//! The tokenizer in a GGUF's metadata, as it stands there.

use super::header::Header;

/// `tokenizer.ggml.*` and the chat template.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GgufTokenizer {
    /// `gpt2` (byte-level BPE with merges) or `llama` (SentencePiece with scores).
    pub model: String,
    /// How text is split before BPE (`smollm`, `llama-bpe`, …).
    pub pre: Option<String>,
    /// By id.
    pub tokens: Vec<String>,
    /// By id; for `llama`.
    pub scores: Vec<f32>,
    /// By id: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub types: Vec<i32>,
    /// `"left right"`, best first; for `gpt2`.
    pub merges: Vec<String>,
    /// Beginning of text.
    pub bos: Option<u32>,
    /// End of text (or of the turn, in chat models).
    pub eos: Option<u32>,
    /// End of the turn, where it is told apart.
    pub eot: Option<u32>,
    /// Unknown.
    pub unk: Option<u32>,
    /// Padding.
    pub pad: Option<u32>,
    /// Whether encoding begins with `bos`; `None`: the model's habit.
    pub add_bos: Option<bool>,
    /// Whether encoding ends with `eos`; `None`: the model's habit.
    pub add_eos: Option<bool>,
    /// Whether SentencePiece puts a space before the text; `None`: the model's habit.
    pub add_space_prefix: Option<bool>,
    /// Jinja.
    pub chat_template: Option<String>,
}

/// `None` where the file has no tokenizer.
pub(super) fn tokenizer(header: &Header) -> Result<Option<GgufTokenizer>, String> {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let Some(model) = header.text(&key("model"))? else {
        return Ok(None);
    };
    let tokens = header.texts(&key("tokens"))?;
    let t = GgufTokenizer {
        model: model.to_string(),
        pre: header.text(&key("pre"))?.map(str::to_string),
        scores: header.floats(&key("scores"))?,
        types: header
            .ints(&key("token_type"))?
            .into_iter()
            .map(|t| t as i32)
            .collect(),
        merges: header.texts(&key("merges"))?,
        bos: id(header, "bos_token_id", tokens.len())?,
        eos: id(header, "eos_token_id", tokens.len())?,
        eot: id(header, "eot_token_id", tokens.len())?,
        unk: id(header, "unknown_token_id", tokens.len())?,
        pad: id(header, "padding_token_id", tokens.len())?,
        add_bos: header.flag(&key("add_bos_token"))?,
        add_eos: header.flag(&key("add_eos_token"))?,
        add_space_prefix: header.flag(&key("add_space_prefix"))?,
        chat_template: header.text("tokenizer.chat_template")?.map(str::to_string),
        tokens,
    };
    for (what, len) in [("scores", t.scores.len()), ("token_type", t.types.len())] {
        if len != 0 && len != t.tokens.len() {
            return Err(format!(
                "tokenizer.ggml.{what} has {len} entries for {} tokens",
                t.tokens.len()
            ));
        }
    }
    Ok(Some(t))
}

fn id(header: &Header, name: &str, tokens: usize) -> Result<Option<u32>, String> {
    let key = format!("tokenizer.ggml.{name}");
    match header.whole(&key)? {
        Some(id) if id >= tokens => Err(format!("{key} is {id}, but there are {tokens} tokens")),
        id => Ok(id.map(|id| id as u32)),
    }
}
