//! From files to token ids: data sets in the shapes people have, the model's own chat template and tokenizer,
//! limits and policies.
//!
//! One [`Tokenizer`] serves generation and training, so that both see the same prompt; prompt and response are
//! tokenised apart, so that the prompt's ids never depend on what follows; and nothing is cut, dropped or
//! shortened without being counted in [`Counts`].
//!
//! This crate must not know: tensors, candle, models, run folders, the terminal, or where a file came from.

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
pub use read::{BadRows, Calculator, Format, Left, ReadOptions, Reader, Turns, read, read_bytes};
pub use template::{ChatTemplate, PLAIN};
pub use tokenizer::{Opened, Response, Tokenizer, known_pre_tokenizers, named_templates};

/// Where an example was read.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The file, as its path was given.
    pub file: String,
    /// The line of a text file or the row of a Parquet file, counted from 1.
    pub line: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// One example: a conversation up to the response, the real response, and for pairs the other one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Where it was read.
    pub place: Place,
    /// The conversation before the response.
    pub prompt: Vec<Message>,
    /// What the row gives the chat template besides the messages.
    #[serde(default, skip_serializing_if = "Context::is_empty")]
    pub context: Context,
    /// The real (human, chosen) response: an assistant's message, which may be a tool call or hold
    /// reasoning.
    pub response: Message,
    /// The rejected response, or SPIN's generated one.
    pub rejected: Option<Message>,
    /// Whether the file says (`truncated: true`) that the rejected response was cut at a token limit: it then
    /// gets no end-of-turn.
    #[serde(default)]
    pub rejected_cut: bool,
    /// What the file says the two responses of a pair are worth, the real one's first.
    #[serde(default)]
    pub rewards: Option<[f64; 2]>,
}
