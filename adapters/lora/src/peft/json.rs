//! Typed access to the values of a settings file. A value of another type is converted as people
//! mean it, or is an error with key and value; it is never treated as absent. null is absent, as in
//! PEFT.

use serde_json::{Map, Value};

/// A value, or the error with its key.
pub(crate) type Read<T> = std::result::Result<T, String>;

fn get<'a>(config: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    config.get(key).filter(|v| !v.is_null())
}

/// A boolean: true or false, 1 or 0, or either as a string; false if absent.
pub(super) fn flag(config: &Map<String, Value>, key: &str) -> Read<bool> {
    let Some(value) = get(config, key) else {
        return Ok(false);
    };
    let text = match value {
        Value::String(s) => s.to_ascii_lowercase(),
        other => other.to_string(),
    };
    match text.as_str() {
        "true" | "1" | "1.0" => Ok(true),
        "false" | "0" | "0.0" => Ok(false),
        _ => Err(format!("{key} must be true or false, not {value}")),
    }
}

/// An integer of at least 0, also written as 8.0 or "8".
pub(crate) fn count(key: &str, value: &Value) -> Read<usize> {
    let whole = number(key, value)
        .ok()
        .filter(|v| v.fract() == 0.0 && (0.0..1e15).contains(v));
    whole
        .map(|v| v as usize)
        .ok_or_else(|| format!("{key} must be a whole number, not {value}"))
}

/// A number, also written as a string.
pub(crate) fn number(key: &str, value: &Value) -> Read<f64> {
    let found = match value {
        Value::Number(n) => n.as_f64(),
        Value::String(s) => s.trim().parse().ok(),
        _ => None,
    };
    found
        .filter(|v: &f64| v.is_finite())
        .ok_or_else(|| format!("{key} must be a number, not {value}"))
}

/// The value of a key, or PEFT's default.
pub(crate) fn or<T>(
    config: &Map<String, Value>,
    key: &str,
    default: T,
    read: fn(&str, &Value) -> Read<T>,
) -> Read<T> {
    get(config, key).map_or(Ok(default), |v| read(key, v))
}

/// A list of strings; a single string is a list of one.
pub(super) fn texts(config: &Map<String, Value>, key: &str) -> Read<Vec<String>> {
    let wrong = |v: &Value| format!("{key} must be a list of names, not {v}");
    match get(config, key) {
        None => Ok(Vec::new()),
        Some(Value::String(one)) => Ok(vec![one.clone()]),
        Some(Value::Array(list)) => list
            .iter()
            .map(|v| v.as_str().map(str::to_string).ok_or_else(|| wrong(v)))
            .collect(),
        Some(other) => Err(wrong(other)),
    }
}

/// Layer numbers: a list, or one; `None` where the list is empty or absent.
pub(super) fn layers(config: &Map<String, Value>, key: &str) -> Read<Option<Vec<u64>>> {
    let of = |v: &Value| {
        count(key, v)
            .map(|n| n as u64)
            .map_err(|_| format!("{key} must be a list of layer numbers, not {v}"))
    };
    match get(config, key) {
        None => Ok(None),
        Some(Value::Array(list)) if list.is_empty() => Ok(None),
        Some(Value::Array(list)) => list.iter().map(of).collect::<Read<_>>().map(Some),
        Some(one) => of(one).map(|n| Some(vec![n])),
    }
}

/// Patterns with their numbers, in the file's order.
pub(super) fn pattern<T>(
    config: &Map<String, Value>,
    key: &str,
    read: fn(&str, &Value) -> Read<T>,
) -> Read<Vec<(String, T)>> {
    match get(config, key) {
        None => Ok(Vec::new()),
        Some(Value::Object(map)) => map
            .iter()
            .map(|(name, v)| Ok((name.clone(), read(&format!("{key}: {name}"), v)?)))
            .collect(),
        Some(other) => Err(format!(
            "{key} must map patterns to numbers, not be {other}"
        )),
    }
}
