//! A data set that is one JSON array (as Alpaca's): its elements with the line each starts on.

use super::Row;
use super::json::json;
use crate::{Error, Place, Result};

/// The top-level elements of an array's text, found without parsing it whole.
pub(super) struct Elements {
    text: Vec<u8>,
    at: usize,
    line: usize,
    state: State,
}

#[derive(PartialEq)]
enum State {
    Before,
    Inside,
    Ended,
}

impl Elements {
    pub(super) fn new(text: Vec<u8>) -> Self {
        Self {
            text,
            at: 0,
            line: 1,
            state: State::Before,
        }
    }

    /// The next element, parsed.
    pub(super) fn next(&mut self, file: &str) -> Option<Result<Row>> {
        if self.state == State::Ended {
            return None;
        }
        if self.state == State::Before {
            self.skip_space();
            self.at += 1; // the bracket that made this an array
            self.state = State::Inside;
        }
        self.skip_space();
        let place = Place {
            file: file.to_owned(),
            line: self.line,
        };
        match self.text.get(self.at) {
            Some(b']') => {
                self.state = State::Ended;
                return None;
            }
            None => {
                self.state = State::Ended;
                return Some(Err(Error::broken(
                    &place,
                    "not JSON: the array that starts the file never ends",
                )));
            }
            Some(_) => {}
        }
        let start = self.at;
        self.skip_element();
        let element = json(place, &self.text[start..self.at]);
        if self.text.get(self.at) == Some(&b',') {
            self.at += 1;
        }
        Some(element)
    }

    fn skip_space(&mut self) {
        while let Some(byte) = self.text.get(self.at).filter(|b| b.is_ascii_whitespace()) {
            self.line += usize::from(*byte == b'\n');
            self.at += 1;
        }
    }

    /// Moves to the comma or bracket that ends the element here.
    fn skip_element(&mut self) {
        let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
        while let Some(&byte) = self.text.get(self.at) {
            self.line += usize::from(byte == b'\n');
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                _ if quoted => {}
                b'{' | b'[' => depth += 1,
                b',' | b']' | b'}' if depth == 0 => return,
                b']' | b'}' => depth -= 1,
                _ => {}
            }
            self.at += 1;
        }
    }
}
