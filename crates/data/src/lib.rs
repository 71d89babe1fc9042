//! Data sets as token ids: readers of common formats, the model's own chat template and tokenizer,
//! length limits and policies.
//!
//! One [`Tokenizer`] serves generation and training, so that both see the same prompt; prompt and
//! response are tokenised separately, so that the prompt's ids never depend on the response; and
//! whatever is truncated, dropped or shortened is counted in [`Counts`].
//!
//! This crate must not know: tensors, candle, models, run folders, the terminal, or where a file
//! came from.

mod contain;
mod counts;
mod encode;
mod error;
mod message;
mod modelfile;
mod read;
mod template;
mod tokenizer;
mod unread;

use serde::{Deserialize, Serialize};

pub use counts::Counts;
pub use encode::{Choice, Encoded, Limits, Policy, Rejected, encode, screen};
pub use error::{Error, Result};
pub use message::{Context, Message};
pub use modelfile::{OllamaTemplate, modelfile};
pub use randori_formats::gguf::GgufTokenizer;
pub use read::{
    BadRows, Calculator, Columns, Format, Left, ReadOptions, Reader, Turns, read, read_bytes,
};
pub use template::{ChatTemplate, PLAIN};
pub use tokenizer::{Opened, Response, Tokenizer, known_pre_tokenizers, named_templates};

/// File and line of an example.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The file's path, as given.
    pub file: String,
    /// The line of a text file or the row of a Parquet file, from 1.
    pub line: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// One example: the prompt's messages, the real response, and for pairs the generated or rejected
/// one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Where it was read.
    pub place: Place,
    /// The messages before the response; none where the response is a plain text, all of which is
    /// trained.
    pub prompt: Vec<Message>,
    /// Variables of the row for the chat template, besides the messages.
    #[serde(default, skip_serializing_if = "Context::is_empty")]
    pub context: Context,
    /// The real (human, chosen) response: an assistant's message, which may be a tool call or hold
    /// reasoning.
    pub response: Message,
    /// The rejected response, or SPIN's generated one.
    pub rejected: Option<Message>,
    /// Whether the file says (`truncated: true`) that the rejected response was truncated at a
    /// token limit; it then gets no end-of-turn token.
    #[serde(default)]
    pub rejected_cut: bool,
    /// Rewards of a pair's responses in the data, the real one's first.
    #[serde(default)]
    pub rewards: Option<[f64; 2]>,
}
