//! How much a template may do: it comes with a model from anywhere, and a loop in it must not hold
//! the program or fill the machine. minijinja counts its own instructions; what functions of ours
//! do and the text they make is counted here.

use std::cell::Cell;

use minijinja::{Error, ErrorKind};

/// What one rendering may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// Instructions, and items that filters, operators and methods look at.
    pub(crate) steps: u64,
    /// Bytes of text made on the way, counted wherever it is put together.
    pub(crate) made: u64,
    /// Bytes of the result.
    pub(crate) output: usize,
}

impl Default for Budget {
    /// Some hundred times what a conversation of a million tokens takes.
    fn default() -> Self {
        Self {
            steps: 20_000_000,
            made: 512 << 20,
            output: 64 << 20,
        }
    }
}

/// How deep lists, tuples and mappings may hold one another.
pub(super) const DEEPEST: u32 = 200;

thread_local! {
    /// What the rendering of this thread has left: steps, bytes.
    static LEFT: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// Begins a rendering.
pub(super) fn begin(budget: Budget) {
    LEFT.set((budget.steps, budget.made));
}

/// Takes steps.
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

/// Takes the steps of reading through a text.
pub(super) fn reading(bytes: usize) -> Result<(), Error> {
    steps(1 + bytes / 64)
}

/// Takes bytes of text.
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

/// A writer that ends a rendering when its text grows past a limit.
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

/// The error of a result that is too long.
pub(super) fn output_is_full() -> Error {
    Error::new(
        ErrorKind::OutOfFuel,
        "it writes more text than a chat template may",
    )
}
