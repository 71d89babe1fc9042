//! Python's two ways to fill values into a text: `'%s' % value` and `'{}'.format(value)`.

use minijinja::Value;

use super::values::{Kind, Number, Outcome, called, items, kind, lookup, number, wrong};
use super::written::{repr, string};
use super::{budget, operators};

/// How one value is to be written.
#[derive(Clone, Debug, Default)]
struct Spec {
    fill: Option<char>,
    /// `<`, `>`, `^` or `=` (between sign and digits).
    align: Option<char>,
    /// `+` or space, before numbers that are not negative.
    sign: Option<char>,
    alternate: bool,
    zeros: bool,
    width: usize,
    /// Between thousands.
    grouping: Option<char>,
    precision: Option<usize>,
    letter: Option<char>,
}

/// The most characters that a width or precision may ask for.
const WIDEST: usize = 100_000;

/// `'%s' % value`
pub(super) fn percent(format: &str, value: &Value) -> Outcome<String> {
    let given = match kind(value) {
        Kind::Tuple => items(value)?,
        _ => vec![value.clone()],
    };
    let is_map = matches!(kind(value), Kind::Dict);
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
        spec.width = digits(&mut chars)?.unwrap_or(0);
        if chars.next_if_eq(&'.').is_some() {
            spec.precision = Some(digits(&mut chars)?.unwrap_or(0));
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
            None => given.next(),
        };
        let Some(next) = next else {
            return wrong("a text with `%` wants more values than it gets");
        };
        out.push_str(&percent_one(&next, spec, letter)?);
    }
    if given.next().is_some() && !used_map && !is_map {
        return wrong("a text with `%` gets more values than it wants");
    }
    Ok(out)
}

fn percent_one(value: &Value, mut spec: Spec, letter: Option<char>) -> Outcome<String> {
    let words = |out: String, mut spec: Spec| {
        spec.align = spec.align.or(Some('>'));
        spec.zeros = false;
        let cut = spec.precision.unwrap_or(usize::MAX);
        fitted("", &out.chars().take(cut).collect::<String>(), &spec)
    };
    match letter {
        Some('s') => words(string(value)?, spec),
        Some('r' | 'a') => words(repr(value)?, spec),
        Some('c') => match kind(value) {
            Kind::Text(text) if text.chars().count() == 1 => words(text.to_owned(), spec),
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

fn digits(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Outcome<Option<usize>> {
    let mut value = None;
    while let Some(digit) = chars.next_if(char::is_ascii_digit) {
        let digit = digit.to_digit(10).unwrap_or(0) as usize;
        let now = value.unwrap_or(0_usize) * 10 + digit;
        if now > WIDEST {
            return wrong("a text is to be filled up to more than 100,000 characters");
        }
        value = Some(now);
    }
    Ok(value)
}

/// `'{}'.format(value)`
pub(super) fn braces(
    format: &str,
    positional: &[Value],
    named: &[(String, Value)],
) -> Outcome<String> {
    let mut out = String::new();
    let mut next = 0;
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
        let (true, Some(end)) = (sign == "{", after.find('}')) else {
            return wrong("a text for `format` has a single `{` or `}`");
        };
        let (field, spec) = after[..end].split_once(':').unwrap_or((&after[..end], ""));
        let (name, conversion) = field.split_once('!').unwrap_or((field, ""));
        let value = field_value(name, positional, named, &mut next)?;
        let spec = read_spec(spec)?;
        out.push_str(&match conversion {
            "" => formatted(&value, &spec)?,
            "s" => worded(&string(&value)?, &spec)?,
            "r" | "a" => worded(&repr(&value)?, &spec)?,
            other => return wrong(format!("unknown conversion `!{other}`")),
        });
        budget::made(out.len())?;
        rest = &after[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

/// `name.attribute[key]`, the name a number, empty for the next one, or a keyword's.
fn field_value(
    path: &str,
    positional: &[Value],
    named: &[(String, Value)],
    next: &mut usize,
) -> Outcome {
    let end = path.find(['.', '[']).unwrap_or(path.len());
    let (name, mut rest) = path.split_at(end);
    let found = if name.is_empty() {
        *next += 1;
        positional.get(*next - 1)
    } else if let Ok(at) = name.parse::<usize>() {
        positional.get(at)
    } else {
        named
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

/// `[[fill]align][sign][#][0][width][,][.precision][letter]`
fn read_spec(text: &str) -> Outcome<Spec> {
    let mut spec = Spec::default();
    let mut rest = text;
    let mut first = text.chars();
    if let (Some(fill), Some(align)) = (first.next(), first.next())
        && "<>^=".contains(align)
    {
        (spec.fill, spec.align) = (Some(fill), Some(align));
        rest = first.as_str();
    } else if let Some(align) = text.chars().next().filter(|c| "<>^=".contains(*c)) {
        spec.align = Some(align);
        rest = &text[1..];
    }
    let mut chars = rest.chars().peekable();
    spec.sign = chars.next_if(|c| "+- ".contains(*c)).filter(|c| *c != '-');
    spec.alternate = chars.next_if_eq(&'#').is_some();
    spec.zeros = chars.next_if_eq(&'0').is_some();
    spec.width = digits(&mut chars)?.unwrap_or(0);
    spec.grouping = chars.next_if(|c| ",_".contains(*c));
    if chars.next_if_eq(&'.').is_some() {
        spec.precision = digits(&mut chars)?;
    }
    spec.letter = chars.next();
    match chars.next() {
        None => Ok(spec),
        Some(_) => wrong(format!("unknown format `{text}`")),
    }
}

fn formatted(value: &Value, spec: &Spec) -> Outcome<String> {
    match kind(value) {
        Kind::Text(text) => worded(text, spec),
        Kind::Whole(whole) => numeric(Number::Whole(whole), spec),
        Kind::Bool(value) if spec.letter.is_some() => {
            numeric(Number::Whole(i128::from(value)), spec)
        }
        Kind::Float(float) => numeric(Number::Float(float), spec),
        _ => worded(&string(value)?, spec),
    }
}

fn worded(text: &str, spec: &Spec) -> Outcome<String> {
    if spec.letter.is_some_and(|letter| letter != 's') {
        return wrong("a text cannot be formatted as a number");
    }
    let cut = spec.precision.unwrap_or(usize::MAX);
    let mut spec = spec.clone();
    spec.align = spec.align.or(Some('<'));
    fitted("", &text.chars().take(cut).collect::<String>(), &spec)
}

fn numeric(value: Number, spec: &Spec) -> Outcome<String> {
    let (negative, mut digits) = match (value, spec.letter) {
        (Number::Whole(whole), None | Some('d' | 'n')) => {
            (whole < 0, whole.unsigned_abs().to_string())
        }
        (Number::Whole(whole), Some('x')) => (whole < 0, format!("{:x}", whole.unsigned_abs())),
        (Number::Whole(whole), Some('X')) => (whole < 0, format!("{:X}", whole.unsigned_abs())),
        (Number::Whole(whole), Some('o')) => (whole < 0, format!("{:o}", whole.unsigned_abs())),
        (Number::Whole(whole), Some('b')) => (whole < 0, format!("{:b}", whole.unsigned_abs())),
        (value, letter) => {
            let float = value.float();
            (
                float.is_sign_negative(),
                float_digits(float.abs(), letter, spec)?,
            )
        }
    };
    if let Some(mark) = spec.grouping {
        digits = grouped(&digits, mark);
    }
    if let (true, Number::Whole(_), Some(letter @ ('x' | 'X' | 'o' | 'b'))) =
        (spec.alternate, value, spec.letter)
    {
        digits = format!("0{letter}{digits}");
    }
    let sign = match (negative, spec.sign) {
        (true, _) => "-".to_owned(),
        (false, sign) => sign.map(String::from).unwrap_or_default(),
    };
    let mut spec = spec.clone();
    if spec.zeros && spec.align.is_none() {
        (spec.fill, spec.align) = (spec.fill.or(Some('0')), Some('='));
    }
    spec.align = spec.align.or(Some('>'));
    fitted(&sign, &digits, &spec)
}

fn float_digits(value: f64, letter: Option<char>, spec: &Spec) -> Outcome<String> {
    if !value.is_finite() {
        return Ok(if value.is_nan() { "nan" } else { "inf" }.to_owned());
    }
    let precision = spec.precision.unwrap_or(6);
    let exponent = |precision: usize| {
        let text = format!("{value:.precision$e}");
        let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, size) = match power.strip_prefix('-') {
            Some(size) => ('-', size),
            None => ('+', power),
        };
        (
            digits.to_owned(),
            format!("e{sign}{size:0>2}"),
            power.parse::<i64>().unwrap_or(0),
        )
    };
    Ok(match letter {
        None if spec.precision.is_none() => super::written::float(value),
        Some('f' | 'F') => format!("{value:.precision$}"),
        Some('%') => format!("{:.precision$}%", value * 100.0),
        Some(letter @ ('e' | 'E')) => {
            let (digits, power, _) = exponent(precision);
            let shown = digits + &power;
            if letter == 'E' {
                shown.to_uppercase()
            } else {
                shown
            }
        }
        None | Some('g' | 'G' | 'n') => {
            let precision = precision.max(1);
            let (digits, mark, power) = exponent(precision - 1);
            let bare = |digits: &str| match digits.contains('.') && !spec.alternate {
                true => digits
                    .trim_end_matches('0')
                    .trim_end_matches('.')
                    .to_owned(),
                false => digits.to_owned(),
            };
            let shown = match (-4..precision as i64).contains(&power) {
                true => {
                    let after = (precision as i64 - 1 - power).max(0) as usize;
                    bare(&format!("{value:.after$}"))
                }
                false => bare(&digits) + &mark,
            };
            if letter == Some('G') {
                shown.to_uppercase()
            } else {
                shown
            }
        }
        Some(other) => return wrong(format!("a number has no format `{other}`")),
    })
}

/// Digits with a mark between thousands.
fn grouped(digits: &str, mark: char) -> String {
    let end = digits
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(digits.len());
    let (whole, rest) = digits.split_at(end);
    let mut out = String::new();
    for (i, c) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            out.push(mark);
        }
        out.push(c);
    }
    out + rest
}

fn fitted(sign: &str, body: &str, spec: &Spec) -> Outcome<String> {
    let missing = spec.width.saturating_sub(sign.len() + body.chars().count());
    budget::made(missing)?;
    let fill = spec.fill.unwrap_or(' ');
    let fills = |count: usize| std::iter::repeat_n(fill, count).collect::<String>();
    Ok(match spec.align {
        Some('<') => format!("{sign}{body}{}", fills(missing)),
        Some('^') => {
            let left = missing / 2;
            format!("{}{sign}{body}{}", fills(left), fills(missing - left))
        }
        Some('=') => format!("{sign}{}{body}", fills(missing)),
        _ => format!("{}{sign}{body}", fills(missing)),
    })
}
