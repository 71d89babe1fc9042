//! Jinja's filters on single values: text, numbers, defaults. Filters on sequences are in
//! `sequences`.

use std::cmp::Ordering;
use std::num::IntErrorKind;

use minijinja::{State, Value};

use super::arguments::{Args, as_flag, as_text, as_whole};
use super::objects::{dict, list, text, tuple};
use super::values::{Kind, Number, Outcome, called, items, kind, length, number, wrong};
use super::written::{string, to_json};
use super::{budget, format, markup, methods, names, operators, sequences, words};

/// Names of all of jinja2's filters; those at the end are refused.
pub(super) const NAMES: [&str; 54] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "first",
    "float",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "wordcount",
    "e",
    "escape",
    "forceescape",
    "safe",
    "filesizeformat",
    "pprint",
    "random",
    "striptags",
    "urlencode",
    "urlize",
    "wordwrap",
    "xmlattr",
];

/// `value | name(arguments)`
pub(super) fn call(state: &State<'_, '_>, name: &str, args: &[Value]) -> Outcome {
    let args = Args::new(name, args)?;
    match name {
        "upper" | "lower" | "capitalize" | "title" => cased(name, args),
        "trim" => {
            let [value, chars] = args.bind(["value", "chars"], 1)?;
            let value = value.unwrap_or_default();
            markup::like(&value, methods::stripped(&string(&value)?, chars, name)?)
        }
        "replace" => {
            let [value, old, new, count] = args.bind(["s", "old", "new", "count"], 3)?;
            let [value, old, new] = [value, old, new].map(|part| string(&part.unwrap_or_default()));
            let count = as_whole(count.as_ref().filter(|count| !count.is_none()), -1, name)?;
            methods::replaced(&value?, &old?, &new?, count)
        }
        "truncate" => truncate(args),
        "wordcount" => {
            let whole = string(&args.one("s")?)?;
            let words = whole.split(|c: char| c != '_' && !c.is_alphanumeric());
            Ok(Value::from(words.filter(|word| !word.is_empty()).count()))
        }
        "center" => {
            let [value, width] = args.bind(["value", "width"], 1)?;
            let width = as_whole(width.as_ref(), 80, name)?.max(0) as usize;
            budget::made(width)?;
            let value = value.unwrap_or_default();
            markup::like(&value, words::padded(&string(&value)?, name, width, ' '))
        }
        "indent" => indent(args),
        "format" => formatted(args),
        "string" => {
            let value = args.one("value")?;
            match kind(&value) {
                Kind::Text(_) => Ok(value),
                _ => text(string(&value)?),
            }
        }
        "list" => list(items(&args.one("value")?)?),
        "length" | "count" => counted(&args.one("value")?),
        "default" | "d" => {
            let [value, default, falsy] = args.bind(["value", "default_value", "boolean"], 1)?;
            let value = value.unwrap_or_default();
            match value.is_undefined() || (as_flag(falsy.as_ref()) && !value.is_true()) {
                true => Ok(default.unwrap_or(Value::from(""))),
                false => Ok(value),
            }
        }
        "attr" => attribute(args),
        "tojson" => to_json(args),
        "abs" => magnitude(&args.one("x")?),
        "int" => int(args),
        "float" => float(args),
        "round" => round(args),
        "e" | "escape" | "forceescape" | "safe" => {
            let value = args.one("s")?;
            markup::safe(match name {
                "safe" => string(&value)?,
                "forceescape" => markup::escaped(&string(&value)?),
                _ => markup::escape(&value)?,
            })
        }
        "filesizeformat" | "pprint" | "random" | "striptags" | "urlencode" | "urlize"
        | "wordwrap" | "xmlattr" => wrong(format!("the filter `{name}` is not for chat templates")),
        _ => sequences::call(state, name, args),
    }
}

fn cased(name: &str, args: Args) -> Outcome {
    let value = args.one("s")?;
    let whole = string(&value)?;
    match name {
        "title" => text(words::title_filter(&whole)),
        _ => markup::like(&value, words::cased(&whole, name)),
    }
}

/// `pattern | format(values)`, Python's `%`.
fn formatted(args: Args) -> Outcome {
    let (values, of) = args.positional.split_at(1.min(args.positional.len()));
    let pattern = values.first().cloned().unwrap_or_default();
    let values = match (of, args.named.is_empty()) {
        (_, true) => tuple(of.to_vec())?,
        ([], false) => {
            let named = args.named.iter();
            dict(
                named
                    .map(|(k, v)| (Value::from(k.as_str()), v.clone()))
                    .collect(),
            )?
        }
        _ => return wrong("`format` takes values with or without names, not both"),
    };
    let filled = format::percent(&string(&pattern)?, &values, pattern.is_safe())?;
    markup::like(&pattern, filled)
}

fn counted(value: &Value) -> Outcome {
    if let Kind::Text(text) = kind(value) {
        budget::reading(text.len())?;
    }
    match length(value) {
        Some(length) => Ok(Value::from(length)),
        None => wrong(format!("{} has no length", called(value))),
    }
}

fn attribute(args: Args) -> Outcome {
    let [value, name] = args.bind(["obj", "name"], 2)?;
    let value = value.unwrap_or_default();
    let name = string(&name.unwrap_or_default())?;
    match kind(&value) {
        // keys of a mapping are not attributes
        Kind::Dict if !names::DICT.contains(&name.as_str()) => Ok(Value::UNDEFINED),
        _ => operators::attribute(&value, &name),
    }
}

fn magnitude(value: &Value) -> Outcome {
    match number(kind(value)) {
        Some(Number::Whole(whole)) => match whole.checked_abs() {
            Some(whole) => Ok(operators::whole_value(whole)),
            None => operators::too_large(),
        },
        Some(Number::Float(float)) => Ok(Value::from(float.abs())),
        None => wrong("`abs` wants a number"),
    }
}

fn truncate(args: Args) -> Outcome {
    let [value, most, cut, end, leeway] =
        args.bind(["s", "length", "killwords", "end", "leeway"], 1)?;
    let value = value.unwrap_or_default();
    let most = as_whole(most.as_ref(), 255, "truncate")?;
    let leeway = as_whole(leeway.as_ref().filter(|v| !v.is_none()), 5, "truncate")?;
    let end = end.unwrap_or(Value::from("..."));
    let Some(mark) = length(&end) else {
        return wrong(format!("`truncate` ends with {}", called(&end)));
    };
    let room = most.saturating_sub(mark as i64);
    if room < 0 || leeway < 0 {
        return wrong("`truncate` leaves no room for its end");
    }
    // a list or mapping that is short enough is returned unchanged
    if length(&value).is_some_and(|length| length as i64 <= most.saturating_add(leeway)) {
        return Ok(value);
    }
    let whole = as_text(&value, "truncate")?;
    let kept: String = whole.chars().take(room as usize).collect();
    let kept = match as_flag(cut.as_ref()) {
        true => kept.as_str(),
        false => kept
            .rsplit_once(' ')
            .map_or(kept.as_str(), |(words, _)| words),
    };
    let kept = markup::like(&value, kept)?;
    operators::math(&[kept, Value::from("+"), end])
}

fn indent(args: Args) -> Outcome {
    let [value, width, first, blank] = args.bind(["s", "width", "first", "blank"], 1)?;
    let value = value.unwrap_or_default();
    let whole = as_text(&value, "indent")?.to_owned() + "\n";
    let margin = match width.as_ref().map(kind) {
        Some(Kind::Text(margin)) => margin.to_owned(),
        _ => {
            let width = as_whole(width.as_ref(), 4, "indent")?.max(0) as usize;
            budget::made(width)?;
            " ".repeat(width)
        }
    };
    let lines = words::lines(&whole, false);
    budget::made(margin.len().saturating_mul(lines.len()))?;
    let mut out = String::new();
    for (i, line) in lines.iter().enumerate() {
        let wanted = match i {
            0 => as_flag(first.as_ref()),
            _ => as_flag(blank.as_ref()) || !line.is_empty(),
        };
        if i > 0 {
            out.push('\n');
        }
        if wanted {
            out.push_str(&margin);
        }
        out.push_str(line);
    }
    markup::like(&value, out)
}

/// Parses an integer: white space around it, a sign and underscores between digits are allowed.
///
/// # Errors
/// One beyond 128 bits; `None` for a text that is not an integer.
fn whole_of(text: &str, radix: i64) -> Outcome<Option<i128>> {
    let plain = words::ascii_digits(text);
    let trimmed = words::stripped(&plain, None, true, true).to_lowercase();
    let (negative, digits) = match trimmed.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, trimmed.strip_prefix('+').unwrap_or(&trimmed)),
    };
    let marked = [("0x", 16), ("0o", 8), ("0b", 2)];
    let (digits, radix) = match (
        marked.iter().find(|(mark, _)| digits.starts_with(mark)),
        radix,
    ) {
        (Some((_, own)), 0) => (&digits[2..], *own),
        (Some((_, own)), radix) if radix == i64::from(*own) => (&digits[2..], *own),
        (_, 0) => (digits, 10),
        (_, radix) => match u32::try_from(radix) {
            Ok(radix @ 2..=36) => (digits, radix),
            _ => return Ok(None),
        },
    };
    let misplaced =
        digits.starts_with(['_', '+', '-']) || digits.ends_with('_') || digits.contains("__");
    if misplaced {
        return Ok(None);
    }
    let sign = if negative { "-" } else { "" };
    match i128::from_str_radix(&format!("{sign}{}", digits.replace('_', "")), radix) {
        Ok(value) => Ok(Some(value)),
        Err(error) => match error.kind() {
            IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => operators::too_large(),
            _ => Ok(None),
        },
    }
}

/// Parses a float with Python's rules.
fn float_of(text: &str) -> Option<f64> {
    let plain = words::ascii_digits(text);
    let trimmed = words::stripped(&plain, None, true, true);
    let misplaced = trimmed.starts_with('_') || trimmed.ends_with('_') || trimmed.contains("__");
    trimmed.replace('_', "").parse().ok().filter(|_| !misplaced)
}

fn int(args: Args) -> Outcome {
    let [value, default, base] = args.bind(["value", "default", "base"], 1)?;
    let value = value.unwrap_or_default();
    let base = as_whole(base.as_ref(), 10, "int")?;
    let whole = match kind(&value) {
        Kind::Undefined => return wrong("`int` wants a number, got an undefined value"),
        Kind::Text(text) => match (whole_of(text, base)?, float_of(text)) {
            (None, Some(float)) if float.is_finite() => Some(operators::truncated(float)?),
            (whole, _) => whole,
        },
        other => match number(other) {
            Some(Number::Whole(whole)) => Some(whole),
            Some(Number::Float(float)) if float.is_finite() => Some(operators::truncated(float)?),
            _ => None,
        },
    };
    Ok(whole.map_or(default.unwrap_or(Value::from(0)), operators::whole_value))
}

fn float(args: Args) -> Outcome {
    let [value, default] = args.bind(["value", "default"], 1)?;
    let value = value.unwrap_or_default();
    let float = match kind(&value) {
        Kind::Undefined => return wrong("`float` wants a number, got an undefined value"),
        Kind::Text(text) => float_of(text),
        other => number(other).map(Number::float),
    };
    Ok(float.map_or(default.unwrap_or(Value::from(0.0)), Value::from))
}

/// Rounds an integer to `zeros` zeros at its end, halves to even; `None` beyond 128 bits.
fn rounded(whole: i128, zeros: u32) -> Option<i128> {
    let Some(unit) = 10_i128.checked_pow(zeros) else {
        return Some(0);
    };
    let (below, rest) = operators::floor(whole, unit)?;
    let up = match rest.cmp(&(unit - rest)) {
        Ordering::Less => false,
        Ordering::Equal => below % 2 != 0,
        Ordering::Greater => true,
    };
    (below + i128::from(up)).checked_mul(unit)
}

fn round(args: Args) -> Outcome {
    let [value, precision, how] = args.bind(["value", "precision", "method"], 1)?;
    let value = value.unwrap_or_default();
    let precision = as_whole(precision.as_ref(), 0, "round")?.clamp(-300, 300);
    let how = how.map_or(Ok("common".to_owned()), |how| string(&how))?;
    let Some(number) = number(kind(&value)) else {
        return wrong(format!("`round` wants a number, got {}", called(&value)));
    };
    let scale = 10_f64.powi(precision as i32);
    let x = number.float();
    match (how.as_str(), number) {
        ("common", Number::Whole(whole)) if precision >= 0 => Ok(operators::whole_value(whole)),
        ("common", Number::Whole(whole)) => match rounded(whole, precision.unsigned_abs() as u32) {
            Some(whole) => Ok(operators::whole_value(whole)),
            None => operators::too_large(),
        },
        // Rust formats a float's exact value, halves to even, as Python rounds
        ("common", Number::Float(_)) if precision >= 0 && x.is_finite() => {
            let shown = format!("{x:.*}", precision as usize);
            Ok(Value::from(shown.parse::<f64>().unwrap_or(x)))
        }
        ("common", Number::Float(_)) => Ok(Value::from((x * scale).round_ties_even() / scale)),
        ("ceil" | "floor", Number::Whole(_)) if precision >= 0 => Ok(Value::from(x)),
        ("ceil" | "floor", _) if !(x * scale).is_finite() => wrong(format!(
            "`round` takes no whole number of {}",
            called(&value)
        )),
        // through a whole number, of which Python's 0 has no sign
        ("ceil", _) => Ok(Value::from(((x * scale).ceil() + 0.0) / scale)),
        ("floor", _) => Ok(Value::from(((x * scale).floor() + 0.0) / scale)),
        _ => wrong("`round` rounds by `common`, `ceil` or `floor`"),
    }
}
