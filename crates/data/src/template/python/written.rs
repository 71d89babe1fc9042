//! Values converted to text: Python's `str` and `repr`, and `json.dumps`.

use std::sync::LazyLock;

use minijinja::{Output, State, Value};
use regex::Regex;

use super::arguments::{Args, as_flag};
use super::budget;
use super::objects::{Method, Range, View, text};
use super::values::{Kind, Outcome, called, items, kind, order, pairs, wrong};

/// Formatter of an expression's value for minijinja.
pub(super) fn write(out: &mut Output, _state: &State, value: &Value) -> Outcome<()> {
    let written = match kind(value) {
        Kind::Text(text) => {
            budget::made(text.len())?;
            out.write_str(text)
        }
        _ => out.write_str(&string(value)?),
    };
    written.map_err(|_| budget::output_is_full())
}

/// Python's `str`.
pub(super) fn string(value: &Value) -> Outcome<String> {
    let mut out = String::new();
    match kind(value) {
        Kind::Text(text) => out.push_str(text),
        Kind::Undefined => {}
        _ => repr_into(value, &mut out)?,
    }
    budget::made(out.len())?;
    Ok(out)
}

/// Python's `repr`.
pub(super) fn repr(value: &Value) -> Outcome<String> {
    let mut out = String::new();
    repr_into(value, &mut out)?;
    budget::made(out.len())?;
    Ok(out)
}

fn repr_into(value: &Value, out: &mut String) -> Outcome<()> {
    budget::steps(1)?;
    match kind(value) {
        Kind::Undefined => out.push_str("Undefined"),
        Kind::None => out.push_str("None"),
        Kind::Bool(true) => out.push_str("True"),
        Kind::Bool(false) => out.push_str("False"),
        Kind::Whole(whole) => out.push_str(&whole.to_string()),
        Kind::Float(float) => out.push_str(&self::float(float)),
        Kind::Text(text) if value.is_safe() => {
            out.push_str("Markup(");
            quoted(text, out)?;
            out.push(')');
        }
        Kind::Text(text) => quoted(text, out)?,
        Kind::List => row("[", &items(value)?, "]", out)?,
        Kind::Tuple => match items(value)?.as_slice() {
            [one] => row("(", std::slice::from_ref(one), ",)", out)?,
            several => row("(", several, ")", out)?,
        },
        Kind::Dict => {
            out.push('{');
            for (i, (key, value)) in pairs(value)?.iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                repr_into(key, out)?;
                out.push_str(": ");
                repr_into(value, out)?;
            }
            out.push('}');
        }
        Kind::Series => series(value, out)?,
        Kind::Other => match value.downcast_object_ref::<Method>() {
            Some(method) => {
                return wrong(format!("the method `{}` is not called", method.name));
            }
            None => return wrong("a function, macro, namespace or loop has no text"),
        },
    }
    Ok(())
}

fn series(value: &Value, out: &mut String) -> Outcome<()> {
    if let Some(view) = value.downcast_object_ref::<View>() {
        out.push_str(view.name);
        return row("([", &view.items, "])", out);
    }
    if let Some(range) = value.downcast_object_ref::<Range>() {
        out.push_str(&match range.step {
            1 => format!("range({}, {})", range.start, range.stop),
            step => format!("range({}, {}, {step})", range.start, range.stop),
        });
        return Ok(());
    }
    wrong("a filter's results have no text before they are a list: add `| list`")
}

fn row(open: &str, items: &[Value], close: &str, out: &mut String) -> Outcome<()> {
    out.push_str(open);
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        repr_into(item, out)?;
    }
    out.push_str(close);
    Ok(())
}

/// A string's `repr`: single quotes unless it contains those and no double ones.
fn quoted(text: &str, out: &mut String) -> Outcome<()> {
    budget::made(text.len())?;
    let quote = match text.contains('\'') && !text.contains('"') {
        true => '"',
        false => '\'',
    };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            c => out.push_str(&by_code(c)),
        }
    }
    out.push(quote);
    Ok(())
}

/// A character's escape sequence in Python.
pub(super) fn by_code(c: char) -> String {
    match c as u32 {
        code @ ..=0xff => format!("\\x{code:02x}"),
        code @ ..=0xffff => format!("\\u{code:04x}"),
        code => format!("\\U{code:08x}"),
    }
}

/// Characters that Python's `repr` escapes: controls, formats, lone surrogates, private or
/// unassigned ones, and separators.
static HIDDEN: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"[\p{C}\p{Z}]").ok());

/// Whether Python's `repr` leaves a character unescaped. Which are assigned depends on the version
/// of Unicode: the regex crate's is newer than most Pythons'.
pub(super) fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return c == ' ' || c.is_ascii_graphic();
    }
    let hidden = HIDDEN.as_ref();
    hidden.is_some_and(|hidden| !hidden.is_match(c.encode_utf8(&mut [0; 4])))
}

/// Python's `repr` of a float: the shortest digits that read back, an exponent below 1e-4 and from
/// 1e16.
pub(crate) fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    if value == 0.0 || (1e-4..1e16).contains(&value.abs()) {
        let plain = format!("{value}");
        return match plain.contains('.') {
            true => plain,
            false => format!("{plain}.0"),
        };
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let (sign, size) = match exponent.strip_prefix('-') {
        Some(size) => ('-', size),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{size:0>2}")
}

/// Settings of `tojson`.
struct Json {
    ascii: bool,
    sorted: bool,
    indent: Option<String>,
    item: String,
    key: String,
}

/// `tojson` as transformers defines it: `json.dumps` with its own defaults but
/// `ensure_ascii=False`, nothing escaped for HTML.
pub(super) fn to_json(args: Args) -> Outcome {
    let [value, ascii, indent, separators, sorted] = args.bind(
        ["x", "ensure_ascii", "indent", "separators", "sort_keys"],
        1,
    )?;
    let value = value.unwrap_or_default();
    let indent = match indent.as_ref().map(|indent| (kind(indent), indent)) {
        None | Some((Kind::None, _)) => None,
        Some((Kind::Text(text), _)) => Some(text.to_owned()),
        Some((_, width)) => {
            let width = super::arguments::as_whole(Some(width), 0, "indent")?;
            let width = width.max(0) as usize;
            budget::made(width)?;
            Some(" ".repeat(width))
        }
    };
    let parts = match &separators {
        Some(given) if !given.is_none() => items(given)?,
        _ => Vec::new(),
    };
    let (item, key) = match parts.as_slice() {
        [] => (
            if indent.is_some() { "," } else { ", " }.to_owned(),
            ": ".to_owned(),
        ),
        [item, key] => (string(item)?, string(key)?),
        _ => return wrong("`separators` wants two texts"),
    };
    let json = Json {
        ascii: as_flag(ascii.as_ref()),
        sorted: as_flag(sorted.as_ref()),
        indent,
        item,
        key,
    };
    let mut out = String::new();
    json.value(&value, 0, &mut out)?;
    text(out)
}

impl Json {
    fn value(&self, value: &Value, depth: usize, out: &mut String) -> Outcome<()> {
        budget::steps(1)?;
        match kind(value) {
            Kind::None => out.push_str("null"),
            Kind::Bool(true) => out.push_str("true"),
            Kind::Bool(false) => out.push_str("false"),
            Kind::Whole(whole) => out.push_str(&whole.to_string()),
            Kind::Float(float) => out.push_str(&json_float(float)),
            Kind::Text(text) => self.text(text, out)?,
            Kind::List | Kind::Tuple => {
                let items = items(value)?;
                self.block("[", "]", items.len(), depth, out, |at, out| {
                    self.value(&items[at], depth + 1, out)
                })?;
            }
            Kind::Dict => {
                let mut pairs = pairs(value)?;
                if self.sorted {
                    sort_keys(&mut pairs)?;
                }
                self.block("{", "}", pairs.len(), depth, out, |at, out| {
                    let (key, value) = &pairs[at];
                    self.text(&key_text(key)?, out)?;
                    out.push_str(&self.key);
                    self.value(value, depth + 1, out)
                })?;
            }
            _ => return wrong(format!("{} has no form in JSON", called(value))),
        }
        Ok(())
    }

    fn block(
        &self,
        open: &str,
        close: &str,
        count: usize,
        depth: usize,
        out: &mut String,
        mut each: impl FnMut(usize, &mut String) -> Outcome<()>,
    ) -> Outcome<()> {
        out.push_str(open);
        for at in 0..count {
            if at > 0 {
                out.push_str(&self.item);
            }
            self.open_line(depth + 1, out)?;
            each(at, out)?;
        }
        if count > 0 {
            self.open_line(depth, out)?;
        }
        out.push_str(close);
        Ok(())
    }

    fn open_line(&self, depth: usize, out: &mut String) -> Outcome<()> {
        if let Some(indent) = &self.indent {
            budget::made(indent.len() * depth)?;
            out.push('\n');
            out.extend(std::iter::repeat_n(indent.as_str(), depth));
        }
        Ok(())
    }

    fn text(&self, text: &str, out: &mut String) -> Outcome<()> {
        budget::made(text.len())?;
        for c in serde_json::Value::from(text).to_string().chars() {
            if !self.ascii || (' '..='~').contains(&c) {
                out.push(c);
                continue;
            }
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
        Ok(())
    }
}

fn json_float(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned()
    } else {
        float(value)
    }
}

fn key_text(key: &Value) -> Outcome<String> {
    Ok(match kind(key) {
        Kind::Text(text) => text.to_owned(),
        Kind::None => "null".to_owned(),
        Kind::Bool(value) => value.to_string(),
        Kind::Whole(whole) => whole.to_string(),
        Kind::Float(float) => json_float(float),
        _ => return wrong(format!("{} cannot be a key in JSON", called(key))),
    })
}

fn sort_keys(pairs: &mut [(Value, Value)]) -> Outcome<()> {
    let mut failed = None;
    pairs.sort_by(|(a, _), (b, _)| match order(a, b) {
        Ok(order) => order.unwrap_or(std::cmp::Ordering::Equal),
        Err(error) => {
            failed.get_or_insert(error);
            std::cmp::Ordering::Equal
        }
    });
    failed.map_or(Ok(()), Err)
}
