//! A small JSON reader, so that the SDK needs no dependency.

use crate::{Error, Result};

/// A JSON value; numbers are f64.
#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// Any number.
    Number(f64),
    /// Text.
    Text(String),
    /// `[…]`
    Array(Vec<Json>),
    /// `{…}` in the file's order.
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Parses a whole text; an error names the line.
    pub fn parse(text: &str) -> Result<Json> {
        let mut reader = Reader {
            bytes: text.as_bytes(),
            at: 0,
        };
        let value = reader.value(0)?;
        reader.space();
        if reader.at < reader.bytes.len() {
            return Err(reader.error("something follows the value"));
        }
        Ok(value)
    }

    /// The member `key` of an object; the last one if it is there twice.
    pub fn get(&self, key: &str) -> Option<&Json> {
        match self {
            Json::Object(members) => members.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// For messages: `a number`, `text`, …
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Json::Null => "null",
            Json::Bool(_) => "true or false",
            Json::Number(_) => "a number",
            Json::Text(_) => "text",
            Json::Array(_) => "a list",
            Json::Object(_) => "an object",
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// Deeper nesting is refused rather than overflowing the stack.
const DEPTH: usize = 128;

impl Reader<'_> {
    #[cold]
    fn error(&self, what: &str) -> Error {
        let line = 1 + self.bytes[..self.at]
            .iter()
            .filter(|&&b| b == b'\n')
            .count();
        Error(format!(
            "line {line} of the configuration is not JSON: {what}"
        ))
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn eat(&mut self, byte: u8) -> bool {
        self.space();
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn need(&mut self, byte: u8) -> Result<()> {
        if self.eat(byte) {
            return Ok(());
        }
        Err(self.error(&format!("`{}` is missing", byte as char)))
    }

    fn value(&mut self, depth: usize) -> Result<Json> {
        if depth > DEPTH {
            return Err(self.error("it is nested too deeply"));
        }
        self.space();
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => Ok(Json::Text(self.text()?)),
            Some(b't') => self.word("true", Json::Bool(true)),
            Some(b'f') => self.word("false", Json::Bool(false)),
            Some(b'n') => self.word("null", Json::Null),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(other) => Err(self.error(&format!("`{}` begins no value", other.escape_ascii()))),
            None => Err(self.error("it ends in the middle")),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Json> {
        self.need(b'{')?;
        let mut members = Vec::new();
        if self.eat(b'}') {
            return Ok(Json::Object(members));
        }
        loop {
            self.space();
            let key = self.text()?;
            self.need(b':')?;
            members.push((key, self.value(depth + 1)?));
            if self.eat(b'}') {
                return Ok(Json::Object(members));
            }
            self.need(b',')?;
        }
    }

    fn array(&mut self, depth: usize) -> Result<Json> {
        self.need(b'[')?;
        let mut values = Vec::new();
        if self.eat(b']') {
            return Ok(Json::Array(values));
        }
        loop {
            values.push(self.value(depth + 1)?);
            if self.eat(b']') {
                return Ok(Json::Array(values));
            }
            self.need(b',')?;
        }
    }

    fn word(&mut self, word: &str, value: Json) -> Result<Json> {
        if self.bytes[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            return Ok(value);
        }
        Err(self.error(&format!("`{word}` is cut short")))
    }

    fn number(&mut self) -> Result<Json> {
        let start = self.at;
        while matches!(
            self.peek(),
            Some(b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')
        ) {
            self.at += 1;
        }
        let text = String::from_utf8_lossy(&self.bytes[start..self.at]);
        let number = text.parse();
        number
            .map(Json::Number)
            .map_err(|_| self.error(&format!("`{text}` is no number")))
    }

    fn text(&mut self) -> Result<String> {
        if self.peek() != Some(b'"') {
            return Err(self.error("a name in quotes is missing"));
        }
        self.at += 1;
        let mut out = Vec::new();
        loop {
            let Some(byte) = self.peek() else {
                return Err(self.error("a text does not end"));
            };
            self.at += 1;
            match byte {
                b'"' => break,
                b'\\' => {
                    let c = self.escape()?;
                    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                }
                0..0x20 => return Err(self.error("a text has a control character in it")),
                other => out.push(other),
            }
        }
        // the input was UTF-8 and only whole characters were replaced
        String::from_utf8(out).map_err(|_| self.error("a text is not UTF-8"))
    }

    fn escape(&mut self) -> Result<char> {
        let byte = self.peek();
        self.at += 1;
        Ok(match byte {
            Some(b @ (b'"' | b'\\' | b'/')) => b as char,
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode(),
            _ => {
                self.at = self.at.min(self.bytes.len());
                return Err(self.error("an unknown escape"));
            }
        })
    }

    /// `\uXXXX`, two of them for a surrogate pair.
    fn unicode(&mut self) -> Result<char> {
        let mut code = self.hex4()?;
        if (0xd800..0xdc00).contains(&code) && self.bytes[self.at..].starts_with(b"\\u") {
            self.at += 2;
            let low = self.hex4()?;
            code = 0x10000 + ((code - 0xd800) << 10) + (low.wrapping_sub(0xdc00) & 0x3ff);
        }
        Ok(char::from_u32(code).unwrap_or('\u{fffd}'))
    }

    fn hex4(&mut self) -> Result<u32> {
        let digits = self.bytes.get(self.at..self.at + 4);
        let digits = digits.filter(|d| d.iter().all(u8::is_ascii_hexdigit));
        let Some(digits) = digits else {
            return Err(self.error("`\\u` needs four hexadecimal digits"));
        };
        self.at += 4;
        let value = digits
            .iter()
            .fold(0, |n, &d| n * 16 + (d as char).to_digit(16).unwrap_or(0));
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_json() {
        let text =
            r#" {"a": [1, -2.5e3, true, null], "b": {"c": "x\n\"é\u00e9\ud83d\ude00"}, "a2": []} "#;
        let json = Json::parse(text).unwrap();
        let a = vec![
            Json::Number(1.0),
            Json::Number(-2500.0),
            Json::Bool(true),
            Json::Null,
        ];
        assert_eq!(json.get("a"), Some(&Json::Array(a)));
        let c = json.get("b").and_then(|b| b.get("c"));
        assert_eq!(c, Some(&Json::Text("x\n\"éé😀".into())));
    }

    #[test]
    fn refuses_what_is_not_json() {
        for (text, says) in [
            ("", "ends in the middle"),
            ("{\n\"a\": 1,\n}", "line 3"),
            ("{\"a\" 1}", "`:` is missing"),
            ("[1 2]", "`,` is missing"),
            ("1-2", "`1-2` is no number"),
            ("\"a", "does not end"),
            ("\"\\", "unknown escape"),
            ("\"\\u12\"", "four hexadecimal"),
            ("nul", "cut short"),
            ("{} x", "follows"),
            ("?", "`?` begins no value"),
        ] {
            let error = Json::parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
        let deep = "[".repeat(100_000);
        assert!(Json::parse(&deep).unwrap_err().0.contains("too deeply"));
    }
}
