//! What a long stage tells while it runs.

/// How far scoring or generating has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Progress {
    /// Items or responses finished.
    pub done: usize,
    /// Rows computed, or tokens drawn.
    pub tokens: usize,
    /// Rows, or sequences, taken at a time: fewer than asked for once memory has run out.
    pub at_once: usize,
}
