//! Reader of a data set that is one JSON array (such as Alpaca's): its elements with the line each
//! starts on.

use super::Row;
use super::json::json;
use crate::{Error, Place, Result};

/// Iterator over the top-level elements of an array's text, without parsing it as a whole.
pub(super) struct Elements {
    text: Vec<u8>,
    at: usize,
    line: usize,
    state: State,
    /// Whether a comma was read, after which another element must follow.
    promised: bool,
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
            promised: false,
        }
    }

    /// Parses the next element.
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
        let place = self.place(file);
        let first = match self.text.get(self.at).copied() {
            None => return self.broken(&place, "the array that starts the file never ends"),
            Some(b']') if self.promised => {
                return self.broken(&place, "an array's last comma has no element behind it");
            }
            Some(b']') => return self.end(file),
            Some(first) => first,
        };
        if matches!(first, b',' | b'}') {
            let what = format!("an array's element cannot begin with {}", spell(first));
            return self.broken(&place, &what);
        }
        let start = self.at;
        self.skip_element();
        let end = self.at;
        self.promised = self.text.get(end) == Some(&b',');
        match self.text.get(end).copied() {
            None => return self.broken(&place, "the array that starts the file never ends"),
            Some(b',') => self.at += 1,
            Some(b']') => {}
            Some(other) => {
                let what = format!(
                    "an array's element is followed by {}; only a comma or `]` may be there",
                    spell(other)
                );
                let here = self.place(file);
                return self.broken(&here, &what);
            }
        }
        let bytes = &self.text[start..end];
        match json(place, bytes) {
            // after invalid UTF-8 in a string the element's end is still known; after invalid JSON
            // it is not
            Err(Error::Example { place, what }) if std::str::from_utf8(bytes).is_ok() => {
                self.state = State::Ended;
                Some(Err(Error::Broken { place, what }))
            }
            element => Some(element),
        }
    }

    /// Handles the closing bracket: anything but white space after it is an error, so that it is
    /// not lost.
    fn end(&mut self, file: &str) -> Option<Result<Row>> {
        self.at += 1;
        self.skip_space();
        self.state = State::Ended;
        let other = *self.text.get(self.at)?;
        let what = format!(
            "the array that starts the file is followed by {}; only white space may be there",
            spell(other)
        );
        let here = self.place(file);
        self.broken(&here, &what)
    }

    /// Place of the next byte.
    fn place(&self, file: &str) -> Place {
        Place {
            file: file.to_owned(),
            line: self.line,
        }
    }

    /// Ends a damaged array, since the start of its next element is unknown.
    fn broken(&mut self, place: &Place, what: &str) -> Option<Result<Row>> {
        self.state = State::Ended;
        Some(Err(Error::broken(place, format!("not JSON: {what}"))))
    }

    fn skip_space(&mut self) {
        while let Some(byte) = self.text.get(self.at).filter(|b| b.is_ascii_whitespace()) {
            self.line += usize::from(*byte == b'\n');
            self.at += 1;
        }
    }

    /// Moves to the comma or bracket that ends this element.
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

/// Formats a byte for errors.
fn spell(byte: u8) -> String {
    match byte.is_ascii_graphic() {
        true => format!("`{}`", char::from(byte)),
        false => format!("the byte 0x{byte:02x}"),
    }
}
