//! One example's JSON as Python's `json` reads it. That module writes NaN and Infinity, and half of
//! a surrogate pair where a text was cut in the middle of one; strict JSON has none of them, and
//! one such row would refuse a whole file.

use serde_json::Value;

use super::{NO_TEXT, Row};
use crate::{Error, Place, Result};

/// Why a text of a row read by [`json`] may be none.
const HALF: &str = "half of a surrogate pair";

/// The row in these bytes.
pub(super) fn json(place: Place, bytes: &[u8]) -> Result<Row> {
    row(place, bytes, false)
}

/// The row in the bytes that a file ends with, without a line's end: where they end in the middle
/// of it, the file breaks off.
pub(super) fn last(place: Place, bytes: &[u8]) -> Result<Row> {
    row(place, bytes, true)
}

fn row(place: Place, bytes: &[u8], last: bool) -> Result<Row> {
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let what = format!("not UTF-8: a wrong byte at column {}", e.valid_up_to() + 1);
        // no length: the bytes end in the middle of a character
        match last && e.error_len().is_none() {
            true => Error::broken(&place, what),
            false => Error::example(&place, what),
        }
    })?;
    let text = text.trim();
    let error = match serde_json::from_str(text) {
        Ok(value) => return Ok(Row::new(place, value)),
        Err(error) => error,
    };
    let mut cut = error.is_eof();
    if let Some(strict) = strict(text) {
        match serde_json::from_str::<Value>(&strict.text) {
            Ok(value) => {
                let no_text = strict.half.then_some(HALF);
                return Ok(Row {
                    no_text,
                    ..Row::new(place, value)
                });
            }
            Err(error) => cut |= error.is_eof(),
        }
    }
    let said = error.to_string();
    let said = said.split(" at line ").next().unwrap_or(&said);
    let hint = match cut {
        true if last => "; the file breaks off here",
        true => "; one whole JSON object is expected on each line",
        false => "",
    };
    let what = format!("not JSON: {said} at column {}{hint}", error.column());
    Err(match last && cut {
        true => Error::broken(&place, what),
        false => Error::example(&place, what),
    })
}

/// The list that a text holds as JSON: how CSV and some Parquet files store messages.
pub(super) fn list_in(text: &str) -> Option<Value> {
    let value = serde_json::from_str(text.trim()).ok()?;
    matches!(value, Value::Array(_)).then_some(value)
}

/// Python's JSON in strict JSON.
struct Strict {
    text: String,
    /// A text in it has half of a surrogate pair, spelt [`NO_TEXT`] here.
    half: bool,
}

/// `None` where nothing is to be spelt otherwise.
fn strict(text: &str) -> Option<Strict> {
    let mut out = Strict {
        text: String::with_capacity(text.len() + 16),
        half: false,
    };
    let mut changed = false;
    let mut rest = text;
    while let Some(first) = rest.as_bytes().first() {
        let (length, spelling) = match first {
            b'"' => {
                let end = string(rest, &mut out);
                (end, None)
            }
            b'N' | b'I' | b'-' | b'0'..=b'9' => {
                let end = rest
                    .find(|c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c)))
                    .unwrap_or(rest.len());
                (end, Some(number(&rest[..end])))
            }
            _ => {
                let end = rest
                    .find(|c: char| matches!(c, '"' | 'N' | 'I' | '-' | '0'..='9'))
                    .unwrap_or(rest.len());
                (end, Some(&rest[..end]))
            }
        };
        if let Some(spelling) = spelling {
            changed |= spelling != &rest[..length];
            out.text.push_str(spelling);
        }
        rest = &rest[length..];
    }
    (changed || out.half).then_some(out)
}

/// NaN is null, which is what pandas means by it; infinities are the text that Python prints, so
/// that a field that takes a number refuses them.
fn number(token: &str) -> &str {
    match token {
        "NaN" => "null",
        "Infinity" => "\"inf\"",
        "-Infinity" => "\"-inf\"",
        number => match number.parse::<f64>() {
            Ok(f64::INFINITY) => "\"inf\"",
            Ok(f64::NEG_INFINITY) => "\"-inf\"",
            _ => number,
        },
    }
}

/// Copies the string that `rest` begins with and answers its length, quotes included.
fn string(rest: &str, out: &mut Strict) -> usize {
    let mut at = 1;
    out.text.push('"');
    while let Some(step) = rest[at..].find(['"', '\\']) {
        out.text.push_str(&rest[at..at + step]);
        at += step;
        if rest.as_bytes()[at] == b'"' {
            out.text.push('"');
            return at + 1;
        }
        let length = match (
            escaped(&rest[at..]),
            escaped(rest.get(at + 6..).unwrap_or("")),
        ) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                out.half = true;
                out.text.push(NO_TEXT);
                at += 6;
                continue;
            }
            (Some(_), _) => 6,
            (None, _) => 1 + rest[at + 1..].chars().next().map_or(0, char::len_utf8),
        };
        out.text.push_str(&rest[at..at + length]);
        at += length;
    }
    out.text.push_str(&rest[at..]);
    rest.len()
}

/// The number in `\uXXXX` at the beginning of a text.
fn escaped(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    let hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
    hex.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test that cannot go on should say where
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Row> {
        let file = "x".to_owned();
        json(Place { file, line: 1 }, text.as_bytes())
    }

    /// Right values: Python 3.12, `json.loads` (NaN as null, infinities as `str` prints them).
    #[test]
    fn what_python_writes_is_read() {
        for (text, same) in [
            (
                r#"{"a": NaN, "b": -Infinity}"#,
                r#"{"a": null, "b": "-inf"}"#,
            ),
            (
                r#"[NaN,Infinity,-1e400,1.5]"#,
                r#"[null, "inf", "-inf", 1.5]"#,
            ),
            (
                r#"{"NaN": "NaN \" NaN", "b": NaN}"#,
                r#"{"NaN": "NaN \" NaN", "b": null}"#,
            ),
            (r#"{"a": "é\\", "b": NaN}"#, r#"{"a": "é\\", "b": null}"#),
        ] {
            let row = read(text).unwrap();
            assert_eq!(row.value, serde_json::from_str::<Value>(same).unwrap());
            assert_eq!(row.no_text, None);
        }
    }

    #[test]
    fn half_a_surrogate_pair_is_marked_and_a_whole_one_is_a_character() {
        let row =
            read(r#"{"a": "cut \ud83d", "b": "\ud83d\ude00", "c": "\ude00\ud83dx"}"#).unwrap();
        assert_eq!(row.value["a"], "cut \u{ffff}");
        assert_eq!(row.value["b"], "😀");
        assert_eq!(row.value["c"], "\u{ffff}\u{ffff}x");
        assert_eq!(row.no_text, Some(HALF));
        assert_eq!(read(r#"{"a": "\ud83d\ude00"}"#).unwrap().no_text, None);
    }

    #[test]
    fn what_python_refuses_is_refused() {
        for text in [
            "{\"a\": nan}",
            "{\"a\": +NaN}",
            "{\"a\": \"\\ud8",
            "{\"a\": \"\\",
            "{\"a\": NaN",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
