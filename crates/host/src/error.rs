//! The host's error.

use std::path::PathBuf;

/// An error in one sentence, with the rule, the value and the place.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A plugin was refused.
    #[error("plugin {}: {reason}", path.display())]
    Plugin {
        /// Its file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Any other error.
    #[error("{0}")]
    Rule(String),
}

/// The host's result.
pub type Result<T> = std::result::Result<T, Error>;
