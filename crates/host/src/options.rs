//! Checks a recipe's options against an item's declarations.

use randori_sdk::seam::{OptionSpec, Value};

use crate::nearest::nearest;
use crate::{Error, ItemInfo, Result};

/// Returns one value per declared option, in order: the given one, or the default. Refuses unknown
/// names, wrong types and values out of bounds.
pub(crate) fn check(item: &ItemInfo, given: &[(String, Value)]) -> Result<Vec<Value>> {
    for (i, (name, _)) in given.iter().enumerate() {
        if !item.options.iter().any(|option| option.name == *name) {
            let has: Vec<_> = item.options.iter().map(|o| o.name.as_str()).collect();
            return Err(unknown(&item.name, name, &has));
        }
        if given[..i].iter().any(|(other, _)| other == name) {
            return Err(rule(item, name, "is set twice".into()));
        }
    }
    let value = |option: &OptionSpec| match given.iter().find(|(name, _)| *name == option.name) {
        Some((name, value)) => fit(option, value).map_err(|what| rule(item, name, what)),
        None => Ok(option.default.clone()),
    };
    item.options.iter().map(value).collect()
}

/// Declared options with their values: `beta=0.1, form="hinge"`.
pub(crate) fn in_words(item: &ItemInfo, values: &[Value]) -> String {
    let options = item.options.iter().zip(values);
    let each = options.map(|(option, value)| match value {
        Value::Float(x) => format!("{}={x:?}", option.name),
        Value::Int(n) => format!("{}={n}", option.name),
        Value::Bool(b) => format!("{}={b}", option.name),
        Value::Str(text) => format!("{}={text:?}", option.name),
    });
    each.collect::<Vec<_>>().join(", ")
}

fn unknown(item: &str, name: &str, has: &[&str]) -> Error {
    let list = match has {
        [] => "it has none".to_owned(),
        _ => format!("it has: {}", has.join(", ")),
    };
    let hint = match nearest(name, has.iter().copied()) {
        Some(near) if has.len() > 1 => format!("; did you mean `{near}`?"),
        _ => String::new(),
    };
    Error::Rule(format!("{item} has no option `{name}`; {list}{hint}"))
}

fn rule(item: &ItemInfo, name: &str, what: String) -> Error {
    Error::Rule(format!("{}: option `{name}` {what}", item.name))
}

/// Converts the value to the declared type; an integer is accepted for a real number.
fn fit(option: &OptionSpec, value: &Value) -> std::result::Result<Value, String> {
    let value = match (&option.default, value) {
        (Value::Float(_), Value::Int(n)) => Value::Float(*n as f64),
        _ => value.clone(),
    };
    let number = match (&option.default, &value) {
        (Value::Float(_), Value::Float(x)) => *x,
        (Value::Int(_), Value::Int(n)) => *n as f64,
        (Value::Bool(_), Value::Bool(_)) => return Ok(value),
        (Value::Str(_), Value::Str(text)) => {
            if option.choices.is_empty() || option.choices.contains(text) {
                return Ok(value);
            }
            let choices: Vec<_> = option.choices.iter().map(String::as_str).collect();
            let hint = nearest(text, choices.iter().copied())
                .map_or(String::new(), |near| format!("; did you mean `{near}`?"));
            return Err(format!(
                "is \"{text}\", must be one of: {}{hint}",
                choices.join(", ")
            ));
        }
        _ => {
            return Err(format!(
                "is {}, must be {}",
                show(&value),
                kind(&option.default)
            ));
        }
    };
    let low = option.min.is_some_and(|min| number < min);
    let high = option.max.is_some_and(|max| number > max);
    if low || high || number.is_nan() {
        return Err(format!("is {}, must be {}", show(&value), range(option)));
    }
    Ok(value)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Float(_) => "a number",
        Value::Int(_) => "a whole number",
        Value::Bool(_) => "true or false",
        Value::Str(_) => "text",
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::Float(x) => x.to_string(),
        Value::Int(n) => n.to_string(),
        Value::Bool(b) => b.to_string(),
        Value::Str(text) => format!("\"{text}\""),
    }
}

fn range(option: &OptionSpec) -> String {
    match (option.min, option.max) {
        (Some(min), Some(max)) => format!("from {min} to {max}"),
        (Some(min), None) => format!("at least {min}"),
        (None, Some(max)) => format!("at most {max}"),
        (None, None) => "a number".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    fn item() -> ItemInfo {
        let option = |name: &str, default, min, max, choices: &[&str]| OptionSpec {
            name: name.into(),
            doc: String::new(),
            default,
            min,
            max,
            choices: choices.iter().map(|c| c.to_string()).collect(),
        };
        ItemInfo {
            kind: Kind::Loss,
            name: "spin".into(),
            doc: String::new(),
            options: vec![
                option("beta", Value::Float(0.1), Some(0.0), Some(100.0), &[]),
                option("count", Value::Int(4), Some(1.0), None, &[]),
                option("flag", Value::Bool(false), None, None, &[]),
                option(
                    "word",
                    Value::Str("mean".into()),
                    None,
                    None,
                    &["mean", "sum"],
                ),
            ],
        }
    }

    fn set(name: &str, value: Value) -> Result<Vec<Value>> {
        check(&item(), &[(name.into(), value)])
    }

    #[test]
    fn defaults_fill_what_is_not_given() {
        let values = set("beta", Value::Int(2)).unwrap();
        let rest = [Value::Int(4), Value::Bool(false), Value::Str("mean".into())];
        assert_eq!(values[0], Value::Float(2.0));
        assert_eq!(values[1..], rest);
    }

    #[test]
    fn each_mistake_has_its_sentence() {
        for (name, value, says) in [
            (
                "betta",
                Value::Float(0.1),
                "spin has no option `betta`; it has: beta, count, flag, word; did you mean `beta`?",
            ),
            (
                "beta",
                Value::Float(-1.0),
                "spin: option `beta` is -1, must be from 0 to 100",
            ),
            (
                "beta",
                Value::Float(f64::NAN),
                "spin: option `beta` is NaN, must be from 0 to 100",
            ),
            (
                "beta",
                Value::Str("x".into()),
                "spin: option `beta` is \"x\", must be a number",
            ),
            (
                "count",
                Value::Float(2.5),
                "spin: option `count` is 2.5, must be a whole number",
            ),
            (
                "count",
                Value::Int(0),
                "spin: option `count` is 0, must be at least 1",
            ),
            (
                "flag",
                Value::Int(1),
                "spin: option `flag` is 1, must be true or false",
            ),
            (
                "word",
                Value::Str("som".into()),
                "spin: option `word` is \"som\", must be one of: mean, sum; did you mean `sum`?",
            ),
        ] {
            assert_eq!(set(name, value).unwrap_err().to_string(), says);
        }
        let twice = [
            ("beta".to_owned(), Value::Int(1)),
            ("beta".to_owned(), Value::Int(2)),
        ];
        let error = check(&item(), &twice).unwrap_err().to_string();
        assert_eq!(error, "spin: option `beta` is set twice");
        let mut one = item();
        one.options.truncate(1);
        let error = check(&one, &[("betta".into(), Value::Int(1))]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "spin has no option `betta`; it has: beta"
        );
    }
}
