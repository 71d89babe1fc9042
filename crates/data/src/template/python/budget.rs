//! Limits on a template's work: templates come with models from anywhere, and a loop in one must
//! neither block the program nor exhaust memory. minijinja counts its own instructions; the work of
//! our functions and the text they make are counted here.

use std::cell::Cell;

use minijinja::{Error, ErrorKind};

/// Limits of one rendering.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// Instructions, and items processed by filters, operators and methods.
    pub(crate) steps: u64,
    /// Bytes of intermediate text.
    pub(crate) made: u64,
    /// Bytes of the result.
    pub(crate) output: usize,
}

impl Default for Budget {
    /// About a hundred times the needs of a conversation of a million tokens.
    fn default() -> Self {
        Self {
            steps: 20_000_000,
            made: 512 << 20,
            output: 64 << 20,
        }
    }
}

/// Maximum nesting depth of lists, tuples and mappings.
pub(super) const DEEPEST: u32 = 200;

thread_local! {
    /// Remaining steps and bytes of this thread's rendering.
    static LEFT: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// Resets the budget for a rendering.
pub(super) fn begin(budget: Budget) {
    LEFT.set((budget.steps, budget.made));
}

/// Spends steps.
pub(super) fn steps(count: usize) -> Result<(), Error> {
    let (steps, made) = LEFT.get();
    match steps.checked_sub(count as u64) {
        Some(left) => {
            LEFT.set((left, made));
            Ok(())
        }
        None => Err(spent("steps")),
    }
}

/// Spends the steps of scanning a text.
pub(super) fn reading(bytes: usize) -> Result<(), Error> {
    steps(1 + bytes / 64)
}

/// Spends bytes of text.
pub(super) fn made(bytes: usize) -> Result<(), Error> {
    let (steps, made) = LEFT.get();
    match made.checked_sub(bytes as u64) {
        Some(left) => {
            LEFT.set((steps, left));
            Ok(())
        }
        None => Err(spent("bytes of text on the way")),
    }
}

fn spent(of: &str) -> Error {
    Error::new(
        ErrorKind::OutOfFuel,
        format!("it takes more {of} than a chat template may"),
    )
}

/// A writer that stops a rendering when its text exceeds a limit.
#[derive(Debug)]
pub(super) struct Limited {
    pub(super) text: Vec<u8>,
    pub(super) most: usize,
}

impl std::io::Write for Limited {
    fn write(&mut self, part: &[u8]) -> std::io::Result<usize> {
        if self.text.len() + part.len() > self.most {
            return Err(std::io::Error::other("full"));
        }
        self.text.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The error of an output that is too long.
pub(super) fn output_is_full() -> Error {
    Error::new(
        ErrorKind::OutOfFuel,
        "it writes more text than a chat template may",
    )
}
