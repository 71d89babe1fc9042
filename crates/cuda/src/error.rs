//! Errors of the GPU side.

/// An error of this crate, in one sentence.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A broken rule, with the value that broke it.
    #[error("{0}")]
    Rule(String),
    /// Not enough device memory.
    #[error("out of device memory: {0}")]
    OutOfMemory(String),
    /// An error of candle.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl Error {
    pub(crate) fn rule(sentence: impl Into<String>) -> Error {
        Error::Rule(sentence.into())
    }
}

/// This crate's result.
pub type Result<T> = std::result::Result<T, Error>;
