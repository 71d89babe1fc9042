//! A table of values for somebody else's program: the variables of a chat template.

use serde_json::{Map, Value};

use super::setting::{Bound, Fault, Raw, RawValue, Setting, show_float, toml_text};

/// Names and values, in the recipe's order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Variables(pub Map<String, Value>);

impl Setting for Variables {
    fn shape() -> String {
        "table of values".into()
    }
    fn read(raw: Option<&Raw>, _: &Bound) -> Result<Self, Fault> {
        match raw.map(|raw| (raw, value(raw))) {
            None => Ok(Variables::default()),
            Some((_, Ok(Value::Object(map)))) => Ok(Variables(map)),
            Some((raw, Ok(_))) => Err(raw.expected("a table {name = value, …}")),
            Some((_, Err(fault))) => Err(fault),
        }
    }
    fn show(&self) -> Option<String> {
        Some(table(&self.0))
    }
}

fn value(raw: &Raw) -> Result<Value, Fault> {
    Ok(match &raw.value {
        RawValue::Text(v) => Value::from(v.as_str()),
        RawValue::Int(v) => Value::from(*v),
        RawValue::Float(v) if v.is_finite() => Value::from(*v),
        RawValue::Bool(v) => Value::from(*v),
        RawValue::List(list) => list.iter().map(value).collect::<Result<_, _>>()?,
        RawValue::Table(rows) => rows
            .iter()
            .map(|(name, raw)| Ok((name.clone(), value(raw)?)))
            .collect::<Result<Map<_, _>, _>>()?
            .into(),
        RawValue::Float(_) | RawValue::Other => {
            let what = "made of texts, finite numbers, true, false, lists and tables";
            return Err(raw.expected(what));
        }
    })
}

fn table(map: &Map<String, Value>) -> String {
    let rows = map
        .iter()
        .map(|(name, value)| format!("{} = {}", key(name), text(value)));
    let rows: Vec<String> = rows.collect();
    match rows.is_empty() {
        true => "{}".into(),
        false => format!("{{ {} }}", rows.join(", ")),
    }
}

/// A name as TOML: bare where it may be.
fn key(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    match !name.is_empty() && name.chars().all(bare) {
        true => name.to_owned(),
        false => Value::from(name).to_string(),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "\"\"".into(), // TOML has none, so none was read
        Value::String(text) => toml_text(text),
        Value::Number(n) if n.is_f64() => show_float(n.as_f64().unwrap_or_default()),
        Value::Array(list) => {
            let each: Vec<String> = list.iter().map(text).collect();
            format!("[{}]", each.join(", "))
        }
        Value::Object(map) => table(map),
        other => other.to_string(),
    }
}
