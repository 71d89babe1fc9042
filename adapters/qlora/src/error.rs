//! The crate's error; every message states the rule, the value and the place.

/// Errors of a quantised matrix.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// candle refused an operation.
    #[error("tensor operation failed: {0}")]
    Candle(#[from] candle_core::Error),
    /// Stored tensors that do not fit together.
    #[error(transparent)]
    Formats(#[from] randori_formats::Error),
    /// Anything else: one complete sentence.
    #[error("{0}")]
    Rule(String),
}

/// Result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn rule(sentence: impl Into<String>) -> Self {
        Error::Rule(sentence.into())
    }
}
