//! Errors from file to token ids, each with the place and the rule.

use crate::{Counts, Place};

/// Result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// Every error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be opened or read.
    #[error("{file}: {source}")]
    Io {
        /// The file's path, as given.
        file: String,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A whole file is invalid.
    #[error("{file}: {what}")]
    File {
        /// The file's path, as given.
        file: String,
        /// The rule it breaks.
        what: String,
    },
    /// An example is invalid.
    #[error("{place}: {what}")]
    Example {
        /// Its place.
        place: Place,
        /// The rule it breaks.
        what: String,
    },
    /// A file is unreadable from here on: the number of rows lost is unknown, so they never count
    /// as dropped.
    #[error("{place}: {what}")]
    Broken {
        /// Place where reading ended.
        place: Place,
        /// The cause.
        what: String,
    },
    /// The tokenizer's files or metadata are invalid or unsupported.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The chat template is invalid, or refuses a conversation.
    #[error("chat template: {0}")]
    Template(String),
    /// A task's template is invalid, or fails.
    #[error("task's template: {0}")]
    TaskTemplate(String),
    /// The chat template refuses one example's conversation.
    #[error("{place}: chat template: {what}")]
    Refused {
        /// The example's place.
        place: Place,
        /// The template's or its engine's message.
        what: String,
    },
    /// The tokenizer has no chat template.
    #[error(
        "the tokenizer has no chat template: set model.chat_template to a file (\"template.jinja\"), or to \"plain\" \
         for a model that takes the text as it is"
    )]
    NoTemplate,
    /// No example is left after limits and policies.
    #[error("no example is left: {0}")]
    NothingLeft(Box<Counts>),
}

/// Maximum length of an example's fault in a message, in characters.
const SHOWN: usize = 1000;

/// Truncates a text to `most` characters and adds how long it is.
pub(crate) fn shortened(text: String, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text,
        Some((at, _)) => format!("{}… ({} characters)", &text[..at], text.chars().count()),
    }
}

impl Error {
    pub(crate) fn io(file: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io {
            file: file.into(),
            source,
        }
    }

    pub(crate) fn file(file: impl Into<String>, what: impl Into<String>) -> Self {
        Self::File {
            file: file.into(),
            what: what.into(),
        }
    }

    /// An error of the tokenizers crate, or of JSON that describes a tokenizer.
    pub(crate) fn tokenizer(cause: impl std::fmt::Display) -> Self {
        Self::Tokenizer(cause.to_string())
    }

    pub(crate) fn example(place: &Place, what: impl Into<String>) -> Self {
        Self::Example {
            place: place.clone(),
            what: shortened(what.into(), SHOWN),
        }
    }

    pub(crate) fn broken(place: &Place, what: impl Into<String>) -> Self {
        Self::Broken {
            place: place.clone(),
            what: shortened(what.into(), SHOWN),
        }
    }

    /// Adds the place of the example to the error, unless it has one.
    pub(crate) fn at(self, place: &Place) -> Self {
        match self {
            Self::Example { .. }
            | Self::Broken { .. }
            | Self::Refused { .. }
            | Self::Io { .. }
            | Self::File { .. }
            | Self::NoTemplate => self,
            Self::Template(what) => Self::Refused {
                place: place.clone(),
                what,
            },
            other => Self::example(place, other.to_string()),
        }
    }
}
