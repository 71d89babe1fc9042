//! Lenient conversion of values: numbers where text is expected, 0 and 1 for booleans, lists of
//! text parts. A value without such a meaning is an error that names the field; it is never treated
//! as absent.

use serde_json::{Map, Number, Value};

use super::NO_TEXT;
use super::conversation::kind;
use crate::template::python_float;
use crate::{Error, Place, Result};

/// Text: a string, a number as Python prints it, or concatenated text parts. `at` names it in
/// errors.
pub(super) fn text(place: &Place, at: &str, value: &Value) -> Result<String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(python_number(number)),
        Value::Array(parts) => joined(place, at, parts),
        other => Err(wrong(place, at, "text", other)),
    }
}

/// Types of text parts, in OpenAI's chat completions and responses.
const TEXTS: [&str; 3] = ["text", "input_text", "output_text"];

/// Concatenates text parts (`{"type": "text", "text": …}`). Several bare strings are refused: their
/// separator is unknown. A part of another type is refused even if it has a text: reasoning is not
/// content.
fn joined(place: &Place, at: &str, parts: &[Value]) -> Result<String> {
    if let [Value::String(only)] = parts {
        return Ok(only.clone());
    }
    let mut out = String::new();
    for part in parts {
        match part {
            Value::Object(map) => match (present(map, "type"), map.get("text")) {
                (Some(other), _) if other.as_str().is_none_or(|t| !TEXTS.contains(&t)) => {
                    let found = shown(other);
                    let what =
                        format!("`{at}` has a part of type {found}; only text can be trained");
                    return Err(Error::example(place, what));
                }
                (_, Some(Value::String(text))) => out.push_str(text),
                _ => {
                    let what =
                        format!("`{at}` has a part that is not text; only text can be trained");
                    return Err(Error::example(place, what));
                }
            },
            Value::String(_) => {
                let what = format!(
                    "`{at}` is a list of {} texts: write one text, or parts {{\"type\": \"text\", \"text\": …}}",
                    parts.len()
                );
                return Err(Error::example(place, what));
            }
            other => {
                let what = format!("`{at}` has a part that is {}", kind(other));
                return Err(Error::example(place, what));
            }
        }
    }
    Ok(out)
}

/// A boolean: true, false, 0, 1, or these as text in any case. Blank text (an empty cell of a CSV)
/// is `None`.
pub(super) fn flag(place: &Place, at: &str, value: &Value) -> Result<Option<bool>> {
    match plain_flag(value) {
        Some(flag) => Ok(Some(flag)),
        None if blank(value) => Ok(None),
        None => Err(wrong(place, at, "true or false (or 1 or 0)", value)),
    }
}

/// A value's boolean meaning, if it has one.
pub(super) fn plain_flag(value: &Value) -> Option<bool> {
    let number = match value {
        Value::Bool(flag) => return Some(*flag),
        Value::Number(number) => number.as_f64(),
        Value::String(text) => match text.trim().to_ascii_lowercase().as_str() {
            "true" | "yes" => return Some(true),
            "false" | "no" => return Some(false),
            other => other.parse().ok(),
        },
        _ => None,
    };
    match number {
        Some(0.0) => Some(false),
        Some(1.0) => Some(true),
        _ => None,
    }
}

/// A finite number, or text that spells one. Blank text (an empty cell of a CSV) is `None`.
pub(super) fn number(place: &Place, at: &str, value: &Value) -> Result<Option<f64>> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    match number.filter(|x| x.is_finite()) {
        Some(number) => Ok(Some(number)),
        None if blank(value) => Ok(None),
        None => Err(wrong(place, at, "a number", value)),
    }
}

/// The error for a value of the wrong kind.
pub(super) fn wrong(place: &Place, at: &str, wanted: &str, value: &Value) -> Error {
    let found = shown(value);
    Error::example(place, format!("`{at}` should be {wanted}, is {found}"))
}

/// A value for errors: itself if short, else its type.
fn shown(value: &Value) -> String {
    match value {
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => match text.strip_prefix(NO_TEXT) {
            Some(number) => number.to_owned(),
            None if text.chars().count() <= 40 => format!("{text:?}"),
            None => kind(value).to_owned(),
        },
        other => kind(other).to_owned(),
    }
}

/// A key's value unless null: Parquet and JSON exports write "absent" as null.
pub(super) fn present<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    map.get(key).filter(|v| !v.is_null())
}

fn blank(value: &Value) -> bool {
    matches!(value, Value::String(text) if text.trim().is_empty())
}

/// Formats a number like Python's `str`.
pub(super) fn python_number(number: &Number) -> String {
    match number.as_f64().filter(|_| number.is_f64()) {
        Some(float) => python_float(float),
        None => number.to_string(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test that cannot go on should say where
mod tests {
    use super::*;

    /// Expected values: Python 3.12, `str(json.loads(text))`.
    #[test]
    fn numbers_print_as_in_python() {
        for (json, python) in [
            ("12", "12"),
            ("-3", "-3"),
            ("18446744073709551615", "18446744073709551615"),
            ("5.0", "5.0"),
            ("1.50", "1.5"),
            ("1e3", "1000.0"),
            ("0.0001", "0.0001"),
            ("0.00001", "1e-05"),
            ("1.25e-7", "1.25e-07"),
            ("1.5e-100", "1.5e-100"),
            ("-0.0", "-0.0"),
            ("123456789.125", "123456789.125"),
            ("0.1", "0.1"),
            ("1e16", "1e+16"),
            ("1.7976931348623157e308", "1.7976931348623157e+308"),
        ] {
            let number: Number = serde_json::from_str(json).unwrap();
            assert_eq!(python_number(&number), python, "{json}");
        }
    }
}
