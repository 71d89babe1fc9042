//! Results of the filters `safe`, `escape` and `forceescape`: strings that escape what is joined to
//! them and stay safe through their methods, like markupsafe's `Markup`. minijinja marks a value as
//! safe; its behaviour is defined here.

use minijinja::Value;

use super::arguments::Args;
use super::objects::{self, list, tuple};
use super::values::{Kind, Outcome, items, kind};
use super::written::string;
use super::{budget, methods};

/// A safe string, counted against the budget.
pub(super) fn safe(text: String) -> Outcome {
    budget::made(text.len())?;
    Ok(Value::from_safe_string(text))
}

/// A string derived from a value: safe if the value is.
pub(super) fn marked(of: &Value, text: String) -> Value {
    match of.is_safe() {
        true => Value::from_safe_string(text),
        false => Value::from(text),
    }
}

/// As [`marked`], counted against the budget.
pub(super) fn like(of: &Value, text: impl Into<String>) -> Outcome {
    let text = text.into();
    budget::made(text.len())?;
    Ok(marked(of, text))
}

/// Escapes a text for HTML.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
    out
}

/// A value as inserted into a safe string: escaped unless it is safe itself.
pub(super) fn escape(value: &Value) -> Outcome<String> {
    let whole = string(value)?;
    Ok(match value.is_safe() {
        true => whole,
        false => escaped(&whole),
    })
}

/// Calls a method of a safe string: its arguments are escaped, its result is safe.
pub(super) fn method(whole: &str, name: &str, mut args: Args) -> Outcome {
    if let ("replace" | "ljust" | "rjust" | "center", Some(put)) =
        (name, args.positional.get_mut(1))
    {
        *put = Value::from(escape(put)?);
    }
    if let ("join", Some(parts)) = (name, args.positional.first_mut()) {
        let texts = items(parts)?
            .iter()
            .map(|part| objects::text(escape(part)?))
            .collect::<Outcome<_>>()?;
        *parts = list(texts)?;
    }
    mark_safe(methods::of_text(whole, name, args, true)?)
}

/// Marks every string in a result as safe.
fn mark_safe(answer: Value) -> Outcome {
    let all = |answer: &Value| -> Outcome<Vec<Value>> {
        items(answer)?.into_iter().map(mark_safe).collect()
    };
    match kind(&answer) {
        Kind::Text(text) => safe(text.to_owned()),
        Kind::List => list(all(&answer)?),
        Kind::Tuple => tuple(all(&answer)?),
        _ => Ok(answer),
    }
}
