//! One error for the crate; every text states the rule, the value and the place.

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// candle refused an operation.
    #[error("tensor operation failed: {0}")]
    Candle(#[from] candle_core::Error),
    /// Stored parts do not fit together.
    #[error(transparent)]
    Formats(#[from] randori_formats::Error),
    /// Anything else: one complete sentence.
    #[error("{0}")]
    Rule(String),
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn rule(sentence: impl Into<String>) -> Self {
        Error::Rule(sentence.into())
    }
}
