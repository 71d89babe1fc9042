//! A plugin's error: one sentence.

/// One sentence with the broken rule and the value that broke it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error(pub String);

/// A plugin's result.
pub type Result<T> = std::result::Result<T, Error>;

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

impl From<String> for Error {
    fn from(sentence: String) -> Self {
        Error(sentence)
    }
}

impl From<&str> for Error {
    fn from(sentence: &str) -> Self {
        Error(sentence.to_owned())
    }
}
