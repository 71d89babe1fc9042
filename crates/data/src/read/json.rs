//! Parser of one example's JSON with the extensions of Python's `json`. That module writes NaN and
//! Infinity, and lone surrogates where a text was cut inside a pair; strict JSON has neither, and
//! one such row would make a whole file unreadable. It also writes integers beyond 64 bits.

use std::borrow::Cow;

use serde::de::IgnoredAny;
use serde_json::Value;

use super::conversation::role_name;
use super::{NO_TEXT, Row, unkept};
use crate::{Error, Place, Result};

/// Why a string in a row read by [`json`] is invalid.
const HALF: &str = "half of a surrogate pair";

/// Likewise for a number; its spelling follows the mark.
pub(super) const NUMBER: &str = "a number that 64 bits do not keep";

/// Parses a row.
pub(super) fn json(place: Place, bytes: &[u8]) -> Result<Row> {
    row(place, bytes, false)
}

/// Parses a file's last row, if it has no line end: one that ends half-way means that the file is
/// truncated.
pub(super) fn last(place: Place, bytes: &[u8]) -> Result<Row> {
    row(place, bytes, true)
}

fn row(place: Place, bytes: &[u8], last: bool) -> Result<Row> {
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let what = format!("not UTF-8: a wrong byte at column {}", e.valid_up_to() + 1);
        // no length: the bytes end inside a character
        match last && e.error_len().is_none() {
            true => Error::broken(&place, what),
            false => Error::example(&place, what),
        }
    })?;
    let Fault { error, cut } = match parsed(text.trim()) {
        Ok((value, no_text)) => {
            return Ok(Row {
                no_text,
                ..Row::new(place, value)
            });
        }
        Err(fault) => fault,
    };
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

/// A syntax error.
struct Fault {
    error: serde_json::Error,
    /// Whether the text ends too early.
    cut: bool,
}

/// Parses a value; also returns why a string in it is invalid, if one is.
fn parsed(text: &str) -> std::result::Result<(Value, Option<&'static str>), Fault> {
    let plain: std::result::Result<Value, _> = serde_json::from_str(text);
    let mut cut = plain.as_ref().is_err_and(serde_json::Error::is_eof);
    // an integer that is too large was parsed as a float
    let spelt = match plain.as_ref().is_ok_and(|value| !has_float(value)) {
        true => None,
        false => strict(text),
    };
    let Some(strict) = spelt else {
        return match plain {
            Ok(value) => Ok((value, None)),
            Err(error) => Err(Fault { error, cut }),
        };
    };
    match serde_json::from_str(&strict.text) {
        Ok(value) => Ok((value, strict.no_text)),
        Err(error) => {
            cut |= error.is_eof();
            let error = plain.err().unwrap_or(error);
            Err(Fault { error, cut })
        }
    }
}

fn has_float(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(items) => items.iter().any(has_float),
        Value::Object(map) => map.values().any(has_float),
        _ => false,
    }
}

/// Parses a text that holds JSON, as in a table whose columns have one type; `at` names the text in
/// errors.
///
/// # Errors
/// The inner one for invalid JSON, the outer one for an invalid string or number in it.
pub(super) fn inner(
    place: &Place,
    at: &str,
    text: &str,
) -> Result<std::result::Result<Value, serde_json::Error>> {
    match parsed(text.trim()) {
        Ok((value, None)) => Ok(Ok(value)),
        Ok((value, Some(why))) if value.to_string().contains(NO_TEXT) => {
            Err(unkept(place, &format!("`{at}`"), why, &value))
        }
        Ok((value, Some(_))) => Ok(Ok(value)),
        Err(Fault { error, .. }) => Ok(Err(error)),
    }
}

/// Parses a text that holds a JSON list: how CSV and some Parquet files store messages.
///
/// # Errors
/// As the outer one of [`inner`].
pub(super) fn list_in(place: &Place, at: &str, text: &str) -> Result<Option<Value>> {
    let value = inner(place, at, text)?.ok();
    Ok(value.filter(Value::is_array))
}

/// Parses a table's cell that holds a message or a list of messages as JSON; also returns why a
/// string in it is invalid. An object is a message if its role is known; others are a response in
/// JSON.
pub(super) fn cell(text: &str) -> Option<(Value, Option<&'static str>)> {
    let text = text.trim();
    if !text.starts_with(['[', '{']) {
        return None;
    }
    let (value, no_text) = parsed(text).ok()?;
    let messages = match &value {
        Value::Array(list) => !list.is_empty() && list.iter().all(|item| role(item).is_some()),
        one => role(one).is_some_and(|role| role_name(role).is_some()),
    };
    messages.then_some((value, no_text))
}

/// The role of a value that has one, and content.
fn role(value: &Value) -> Option<&str> {
    let has = |keys: &[&str]| keys.iter().find_map(|key| value.get(key));
    has(&["content", "value", "tool_calls"])?;
    has(&["role", "from"])?.as_str()
}

/// Python's JSON converted to strict JSON.
struct Strict {
    text: String,
    /// Why a string with [`NO_TEXT`] in it is invalid.
    no_text: Option<&'static str>,
}

/// Converts a text; `None` if it is strict JSON already.
fn strict(text: &str) -> Option<Strict> {
    let mut out = Strict {
        text: String::with_capacity(text.len() + 16),
        no_text: None,
    };
    let (mut changed, mut depth) = (false, 0_usize);
    let mut rest = text;
    while let Some(first) = rest.as_bytes().first() {
        let length = match first {
            b'"' => string(rest, &mut out),
            b'N' | b'I' | b'-' | b'0'..=b'9' => {
                let end = rest
                    .find(|c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c)))
                    .unwrap_or(rest.len());
                let spelling = number(&rest[..end], depth);
                changed |= spelling != rest[..end];
                if spelling.contains(NO_TEXT) {
                    out.no_text.get_or_insert(NUMBER);
                }
                out.text.push_str(&spelling);
                end
            }
            _ => {
                let end = rest
                    .find(|c: char| matches!(c, '"' | 'N' | 'I' | '-' | '0'..='9'))
                    .unwrap_or(rest.len());
                for byte in rest[..end].bytes() {
                    match byte {
                        b'{' | b'[' => depth += 1,
                        b'}' | b']' => depth = depth.saturating_sub(1),
                        _ => {}
                    }
                }
                out.text.push_str(&rest[..end]);
                end
            }
        };
        rest = &rest[length..];
    }
    (changed || out.no_text.is_some()).then_some(out)
}

/// Converts a number. NaN in a row's column becomes null, which is pandas' meaning of it. Numbers
/// beyond 64 bits become marked strings, which whoever reads them refuses.
fn number(token: &str, depth: usize) -> Cow<'_, str> {
    let whole = || token.bytes().all(|b| b == b'-' || b.is_ascii_digit());
    let kept = match token {
        "NaN" if depth <= 1 => return Cow::Borrowed("null"),
        "NaN" | "Infinity" | "-Infinity" => false,
        // Python's integers have one zero
        "-0" => return Cow::Borrowed("0"),
        // an invalid number is left to the parser
        _ if serde_json::from_str::<IgnoredAny>(token).is_err() => true,
        _ if whole() => token.parse::<i64>().is_ok() || token.parse::<u64>().is_ok(),
        _ => token.parse::<f64>().is_ok_and(f64::is_finite),
    };
    match kept {
        true => Cow::Borrowed(token),
        false => Cow::Owned(format!("\"{NO_TEXT}{token}\"")),
    }
}

/// Copies the string at the start of `rest` and returns its length in bytes, with quotes.
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
                out.no_text = Some(HALF);
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

/// The number in `\uXXXX` at the start of a text.
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

    /// Expected values: Python 3.12, `json.loads` (a column's NaN as null).
    #[test]
    fn what_python_writes_is_read() {
        for (text, same, no_text) in [
            (r#"{"a": NaN, "b": -0}"#, r#"{"a": null, "b": 0}"#, None),
            (r#"[NaN,-0.0,1.5]"#, r#"[null, -0.0, 1.5]"#, None),
            (
                r#"{"NaN": "NaN \" NaN", "b": NaN}"#,
                r#"{"NaN": "NaN \" NaN", "b": null}"#,
                None,
            ),
            (
                r#"{"a": "é\\", "b": NaN}"#,
                r#"{"a": "é\\", "b": null}"#,
                None,
            ),
            (
                r#"[18446744073709551615, -9223372036854775808, 1e16]"#,
                r#"[18446744073709551615, -9223372036854775808, 1e16]"#,
                None,
            ),
            (
                r#"[18446744073709551616, -9223372036854775809]"#,
                r#"["\uffff18446744073709551616", "\uffff-9223372036854775809"]"#,
                Some(NUMBER),
            ),
            (
                r#"[Infinity, -1e400, {"a": NaN}]"#,
                r#"["\uffffInfinity", "\uffff-1e400", {"a": "\uffffNaN"}]"#,
                Some(NUMBER),
            ),
        ] {
            let row = read(text).unwrap();
            assert_eq!(row.value, serde_json::from_str::<Value>(same).unwrap());
            assert_eq!(row.no_text, no_text, "{text}");
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
            "[Inf]",
            "[012345678901234567890123]",
            "[1.e400]",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
