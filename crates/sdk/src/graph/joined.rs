//! Full names of weights: a scope and a name, joined in a buffer that is used again.

use std::cell::Cell;

use crate::abi;

/// A weight's full name; puts the buffer back into the session on drop.
pub(super) enum Joined<'a> {
    Plain(&'a str),
    Scoped(String, &'a Cell<String>),
}

impl Joined<'_> {
    /// As it crosses the ABI, for as long as this lives.
    pub(super) fn text(&self) -> abi::Str {
        match self {
            Joined::Plain(name) => abi::Str::new(name),
            Joined::Scoped(name, _) => abi::Str::new(name),
        }
    }
}

impl Drop for Joined<'_> {
    fn drop(&mut self) {
        if let Joined::Scoped(buffer, home) = self {
            home.set(std::mem::take(buffer));
        }
    }
}
