//! What can go wrong between a file and token ids, each error naming the place and the rule.

use crate::{Counts, Place};

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Every error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be opened or read.
    #[error("{file}: {source}")]
    Io {
        /// The file, as its path was given.
        file: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file as a whole is not what it should be.
    #[error("{file}: {what}")]
    File {
        /// The file, as its path was given.
        file: String,
        /// The rule it breaks.
        what: String,
    },
    /// One example is not what it should be.
    #[error("{place}: {what}")]
    Example {
        /// Where it stands.
        place: Place,
        /// The rule it breaks.
        what: String,
    },
    /// A file cannot be read from here on: its rows are lost, so they are never counted as dropped.
    #[error("{place}: {what}")]
    Broken {
        /// Where reading ended.
        place: Place,
        /// Why.
        what: String,
    },
    /// The tokenizer's files or metadata cannot be used.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The chat template cannot be read, or refuses a conversation.
    #[error("chat template: {0}")]
    Template(String),
    /// The chat template refuses one example's conversation.
    #[error("{place}: chat template: {what}")]
    Refused {
        /// Where the example stands.
        place: Place,
        /// Why, in the template's or its engine's words.
        what: String,
    },
    /// The tokenizer comes without a chat template.
    #[error(
        "the tokenizer has no chat template: set model.chat_template to a file (\"template.jinja\"), or to \"plain\" \
         for a model that takes the text as it is"
    )]
    NoTemplate,
    /// Limits and policies left nothing.
    #[error("no example is left: {0}")]
    NothingLeft(Box<Counts>),
}

/// The most characters of an example's fault that are shown.
const SHOWN: usize = 1000;

/// A text's beginning, and how long it is, where it has more characters than are shown.
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

    /// The same error with the example it happened at; an error that names a place keeps it.
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
