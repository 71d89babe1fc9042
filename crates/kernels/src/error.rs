//! The error of kernels and engine; every message states the rule, the value and the place.

/// Errors of kernels and of the engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// candle refused an operation.
    #[error("tensor operation failed: {0}")]
    Candle(#[source] candle_core::Error),
    /// Not enough memory.
    #[error("{0}")]
    OutOfMemory(String),
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

/// Result of these crates' functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An [`Error::Rule`] from one sentence.
    pub fn rule(sentence: impl Into<String>) -> Self {
        Error::Rule(sentence.into())
    }

    /// Whether memory has run out. An error that has passed through a plugin is text, so texts are
    /// searched too.
    pub fn is_out_of_memory(&self) -> bool {
        match self {
            Error::OutOfMemory(_) => true,
            Error::Rule(sentence) => speaks_of_memory(sentence),
            Error::Candle(_) | Error::Io { .. } => false,
        }
    }
}

/// The error of an op that has no kernel on a GPU.
pub(super) fn on_processor(op: &str) -> Error {
    Error::rule(format!(
        "the op {op} runs on the processor only: take model.device = \"cpu\""
    ))
}

impl From<randori_formats::Error> for Error {
    fn from(error: randori_formats::Error) -> Self {
        match error {
            randori_formats::Error::Io { path, source } => Error::Io { path, source },
            randori_formats::Error::Rule(sentence) => Error::Rule(sentence),
        }
    }
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        let text = error.to_string();
        match speaks_of_memory(&text) {
            // candle adds a backtrace where it is asked to
            true => Error::OutOfMemory(text.lines().next().unwrap_or_default().to_string()),
            false => Error::Candle(error),
        }
    }
}

/// Whether a text of the CUDA driver, cuBLAS or candle reports a lack of memory.
fn speaks_of_memory(text: &str) -> bool {
    ["out of memory", "OUT_OF_MEMORY"]
        .iter()
        .any(|t| text.contains(t))
}

#[cfg(feature = "cuda")]
impl From<randori_cuda::Error> for Error {
    fn from(e: randori_cuda::Error) -> Error {
        Error::rule(e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_ran_out_is_told_from_other_failures() {
        let of = |text: &str| Error::from(candle_core::Error::Msg(text.into()));
        for text in [
            "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")",
            "CUDA_ERROR_OUT_OF_MEMORY",
            "out of memory",
        ] {
            assert!(matches!(of(text), Error::OutOfMemory(_)), "{text}");
            assert!(of(text).is_out_of_memory());
            assert!(Error::rule(format!("`llama`, block 3: {text}")).is_out_of_memory());
        }
        assert!(matches!(of("shape mismatch"), Error::Candle(_)));
        assert!(!of("shape mismatch").is_out_of_memory());
        assert!(!Error::rule("the loss is NaN").is_out_of_memory());
    }
}
