//! One example of a data set, with its place.

use serde::{Deserialize, Serialize};

use crate::{Context, Message};

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
