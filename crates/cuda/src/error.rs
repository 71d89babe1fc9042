//! What can go wrong between host and device.

/// Errors of this crate: one sentence each.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A rule that was broken.
    #[error("{0}")]
    Rule(String),
    /// Not enough device memory.
    #[error("out of device memory: {0}")]
    OutOfMemory(String),
    /// What candle says.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl Error {
    pub(crate) fn rule(sentence: impl Into<String>) -> Error {
        Error::Rule(sentence.into())
    }
}

/// Of this crate.
pub type Result<T> = std::result::Result<T, Error>;
