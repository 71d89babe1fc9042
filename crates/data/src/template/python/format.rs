//! Python's two string formatting methods: `'%s' % value` and `'{}'.format(value)`.

use std::iter::Peekable;
use std::str::Chars;

use minijinja::Value;

use super::arguments::as_whole;
use super::objects::Range;
use super::spec::{Spec, WIDEST, digits, fitted, numeric, read_spec, too_wide, worded};
use super::values::{Kind, Number, Outcome, called, items, kind, lookup, number, wrong};
use super::written::{by_code, repr, string};
use super::{budget, markup, operators};

/// `'%s' % value`; arguments of a `safe` text are escaped.
pub(super) fn percent(format: &str, value: &Value, safe: bool) -> Outcome<String> {
    let given = match kind(value) {
        Kind::Tuple => items(value)?,
        _ => vec![value.clone()],
    };
    // Python tests for items by key or index, and then allows unused arguments
    let is_map = match kind(value) {
        Kind::Dict | Kind::List | Kind::Undefined => true,
        Kind::Series => value.downcast_object_ref::<Range>().is_some(),
        _ => false,
    };
    let mut given = given.into_iter();
    let mut used_map = false;
    let mut out = String::new();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut key = None;
        if chars.next_if_eq(&'(').is_some() {
            key = Some(chars.by_ref().take_while(|c| *c != ')').collect::<String>());
        }
        let mut spec = flags(&mut chars);
        if chars.next_if_eq(&'*').is_some() {
            let width = starred(given.next())?;
            spec.width = width.unsigned_abs() as usize;
            spec.align = spec.align.or((width < 0).then_some('<'));
        } else {
            spec.width = digits(&mut chars)?.unwrap_or(0);
        }
        if chars.next_if_eq(&'.').is_some() {
            spec.precision = Some(match chars.next_if_eq(&'*') {
                Some(_) => starred(given.next())?.max(0) as usize,
                None => digits(&mut chars)?.unwrap_or(0),
            });
        }
        let letter = chars.find(|c| !"hlL".contains(*c));
        if letter == Some('%') {
            out.push('%');
            continue;
        }
        let next = match &key {
            Some(key) => {
                used_map = true;
                lookup(value, &Value::from(key.as_str()))
            }
            None if used_map => None,
            None => given.next(),
        };
        let Some(next) = next else {
            return wrong("a text with `%` wants more values than it gets");
        };
        out.push_str(&percent_one(&next, spec, letter, safe)?);
    }
    if given.next().is_some() && !used_map && !is_map {
        return wrong("a text with `%` gets more values than it wants");
    }
    Ok(out)
}

/// Reads the flags behind a `%`.
fn flags(chars: &mut Peekable<Chars<'_>>) -> Spec {
    let mut spec = Spec::default();
    while let Some(flag) = chars.next_if(|c| "-+ #0".contains(*c)) {
        match flag {
            '-' => spec.align = Some('<'),
            '#' => spec.alternate = true,
            '0' => spec.zeros = true,
            '+' => spec.sign = Some('+'),
            _ => spec.sign = spec.sign.or(Some(' ')),
        }
    }
    spec
}

/// A width or precision taken from the arguments.
fn starred(value: Option<Value>) -> Outcome<i64> {
    let Some(value) = value else {
        return wrong("a text with `%` wants more values than it gets");
    };
    match as_whole(Some(&value), 0, "%*")? {
        size if size.unsigned_abs() > WIDEST as u64 => too_wide(),
        size => Ok(size),
    }
}

fn percent_one(value: &Value, mut spec: Spec, letter: Option<char>, safe: bool) -> Outcome<String> {
    let words = |out: String, mut spec: Spec| {
        spec.align = spec.align.or(Some('>'));
        spec.zeros = false;
        let cut = spec.precision.unwrap_or(usize::MAX);
        fitted("", &out.chars().take(cut).collect::<String>(), &spec)
    };
    match letter {
        Some('s') if safe => words(markup::escape(value)?, spec),
        Some('s') => words(string(value)?, spec),
        Some('r') if safe => words(markup::escaped(&repr(value)?), spec),
        Some('r') => words(repr(value)?, spec),
        Some('a' | 'c' | 'x' | 'X' | 'o') if safe => {
            wrong("a safe text with `%` takes only `%s`, `%r`, `%d` and those of floats")
        }
        Some('a') => words(ascii(&repr(value)?), spec),
        Some('c') => match (kind(value), number(kind(value))) {
            (Kind::Text(text), _) if text.chars().count() == 1 => words(text.to_owned(), spec),
            (_, Some(Number::Whole(code))) => words(character(code)?, spec),
            _ => wrong("`%c` wants one character"),
        },
        Some(letter @ ('d' | 'i' | 'u' | 'x' | 'X' | 'o')) => {
            let whole = match (number(kind(value)), letter) {
                (Some(Number::Whole(whole)), _) => whole,
                (Some(Number::Float(float)), 'd' | 'i' | 'u') => operators::truncated(float)?,
                _ => return wrong(format!("`%{letter}` wants a number, got {}", called(value))),
            };
            spec.letter = Some(if matches!(letter, 'i' | 'u') {
                'd'
            } else {
                letter
            });
            spec.zeros &= spec.align.is_none();
            numeric(Number::Whole(whole), &spec)
        }
        Some(letter @ ('e' | 'E' | 'f' | 'F' | 'g' | 'G')) => match number(kind(value)) {
            Some(number) => {
                spec.letter = Some(letter);
                spec.zeros &= spec.align.is_none();
                numeric(Number::Float(number.float()), &spec)
            }
            None => wrong(format!("`%{letter}` wants a number, got {}", called(value))),
        },
        _ => wrong("a text with `%` has an unknown letter after it"),
    }
}

/// The character of a code point.
fn character(code: i128) -> Outcome<String> {
    match u32::try_from(code).ok().and_then(char::from_u32) {
        Some(c) => Ok(c.to_string()),
        None => wrong(format!("{code} is no character")),
    }
}

/// A `repr` in ASCII only.
fn ascii(shown: &str) -> String {
    let mut out = String::with_capacity(shown.len());
    for c in shown.chars() {
        match c.is_ascii() {
            true => out.push(c),
            false => out.push_str(&by_code(c)),
        }
    }
    out
}

/// Arguments of `format`.
#[derive(Clone, Copy)]
struct Given<'a> {
    positional: &'a [Value],
    named: &'a [(String, Value)],
    safe: bool,
}

/// `'{}'.format(value)`; arguments of a `safe` text are escaped.
pub(super) fn braces(
    format: &str,
    positional: &[Value],
    named: &[(String, Value)],
    safe: bool,
) -> Outcome<String> {
    let given = Given {
        positional,
        named,
        safe,
    };
    filled(format, given, &mut 0, false)
}

/// Replaces a text's fields; a field's format may contain fields itself, which are `inner`.
fn filled(format: &str, given: Given<'_>, next: &mut usize, inner: bool) -> Outcome<String> {
    let mut out = String::new();
    let mut rest = format;
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        let sign = &rest[at..=at];
        let after = &rest[at + 1..];
        if after.starts_with(sign) {
            out.push_str(sign);
            rest = &after[1..];
            continue;
        }
        let (true, Some(end)) = (sign == "{", closing(after)) else {
            return wrong("a text for `format` has a single `{` or `}`");
        };
        let (field, spec) = after[..end].split_once(':').unwrap_or((&after[..end], ""));
        let (name, conversion) = field.split_once('!').unwrap_or((field, ""));
        let value = field_value(name, given, next)?;
        let spec = match (spec.contains(['{', '}']), inner) {
            (false, _) => read_spec(spec)?,
            (true, false) => read_spec(&filled(spec, given, next, true)?)?,
            (true, true) => return wrong("fields within fields within fields of `format`"),
        };
        let kept = given.safe && value.is_safe() && conversion.is_empty();
        if kept && spec != Spec::default() {
            return wrong("a safe text takes no format in another");
        }
        let shown = match conversion {
            "" => formatted(&value, &spec)?,
            "s" => worded(&string(&value)?, &spec)?,
            "r" => worded(&repr(&value)?, &spec)?,
            "a" => worded(&ascii(&repr(&value)?), &spec)?,
            other => return wrong(format!("unknown conversion `!{other}`")),
        };
        match given.safe && !kept {
            true => out.push_str(&markup::escaped(&shown)),
            false => out.push_str(&shown),
        }
        budget::made(out.len())?;
        rest = &after[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

/// Index of the bracket that closes a field, after those of nested fields.
fn closing(text: &str) -> Option<usize> {
    let mut open = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => open += 1,
            '}' if open == 0 => return Some(at),
            '}' => open -= 1,
            _ => {}
        }
    }
    None
}

/// The value of `name.attribute[key]`; the name is an index, empty for the next one, or a keyword.
fn field_value(path: &str, given: Given<'_>, next: &mut usize) -> Outcome {
    let end = path.find(['.', '[']).unwrap_or(path.len());
    let (name, mut rest) = path.split_at(end);
    let found = if name.is_empty() {
        *next += 1;
        given.positional.get(*next - 1)
    } else if let Ok(at) = name.parse::<usize>() {
        given.positional.get(at)
    } else {
        given
            .named
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value)
    };
    let Some(mut value) = found.cloned() else {
        return wrong(format!("`format` has no value for `{{{name}}}`"));
    };
    while !rest.is_empty() {
        let (key, after) = if let Some(inner) = rest.strip_prefix('[') {
            inner.split_once(']').unwrap_or((inner, ""))
        } else {
            let inner = &rest[1..];
            inner.split_at(inner.find(['.', '[']).unwrap_or(inner.len()))
        };
        value = match (rest.starts_with('['), key.parse::<i64>()) {
            (true, Ok(index)) => operators::item(&value, &Value::from(index))?,
            (true, Err(_)) => operators::item(&value, &Value::from(key))?,
            (false, _) => operators::attribute(&value, key)?,
        };
        if value.is_undefined() {
            return wrong(format!("`format` has no value for `{{{path}}}`"));
        }
        rest = after;
    }
    Ok(value)
}

fn formatted(value: &Value, spec: &Spec) -> Outcome<String> {
    if *spec == Spec::default() {
        return string(value);
    }
    let number = match (kind(value), spec.letter) {
        (Kind::Text(text), _) => return worded(text, spec),
        (Kind::Whole(whole), Some('c')) if spec.sign.is_none() => {
            let mut spec = spec.clone();
            let zeros = spec.zeros && spec.align.is_none();
            spec.fill = spec.fill.or(zeros.then_some('0'));
            spec.align = spec.align.or(Some('>'));
            return fitted("", &character(whole)?, &spec);
        }
        (Kind::Whole(_) | Kind::Bool(_), None | Some('b' | 'd' | 'n' | 'o' | 'x' | 'X'))
            if spec.precision.is_some() =>
        {
            return wrong("a whole number takes no precision");
        }
        (Kind::Bool(value), _) => Number::Whole(i128::from(value)),
        (Kind::Whole(whole), _) => Number::Whole(whole),
        (Kind::Float(float), _) => Number::Float(float),
        _ => return wrong(format!("{} takes no format", called(value))),
    };
    numeric(number, spec)
}
