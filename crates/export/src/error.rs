//! The crate's error; every message states the rule, the value and the place.

/// Errors of an export.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// candle refused an operation.
    #[error("tensor operation failed: {0}")]
    Candle(#[from] candle_core::Error),
    /// A weight could not be read.
    #[error(transparent)]
    Engine(#[from] randori_engine::Error),
    /// A file could not be written, or its format cannot represent the content.
    #[error(transparent)]
    Formats(#[from] randori_formats::Error),
    /// A matrix could not be decoded.
    #[error(transparent)]
    Qlora(#[from] randori_qlora::Error),
    /// An adapter does not fit the base, or could not be written.
    #[error(transparent)]
    Lora(#[from] randori_lora::Error),
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: std::path::PathBuf,
        /// The cause.
        source: std::io::Error,
    },
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

    pub(crate) fn io(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Error::Io { path, source }
    }
}
