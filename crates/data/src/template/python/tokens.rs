//! Lexer of a Jinja tag's content, with the rules of jinja2's.

use std::num::IntErrorKind;

/// An error in a template, with its line.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) line: usize,
    pub(super) what: String,
}

/// A token.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Name(String),
    Text(String),
    /// An integer as decimal digits: Python's have no maximum.
    Whole(String),
    Float(f64),
    Sign(&'static str),
    /// The end of the tag.
    End,
}

/// Longer ones first, so that the longest matches.
const SIGNS: [&str; 26] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}",
    ">", "<", "=", ".", ":", "|", ",", ";",
];

/// A tag's tokens, each with its line.
#[derive(Debug)]
pub(super) struct Tag {
    pub(super) tokens: Vec<(Token, usize)>,
    /// `-`, `+` or nothing before the closing delimiter.
    pub(super) trim: &'static str,
    /// Offset of the text after the tag.
    pub(super) end: usize,
    /// Number of line breaks within the tag.
    pub(super) breaks: usize,
}

/// Reads the tag whose content begins at `start`, up to `close` (`%}` or `}}`) outside brackets.
pub(super) fn read(source: &str, start: usize, close: &str, line: usize) -> Result<Tag, Fault> {
    let mut at = start;
    let mut now = line;
    let mut open: Vec<&str> = Vec::new();
    let mut tokens = Vec::new();
    loop {
        let rest = &source[at..];
        let Some(c) = rest.chars().next() else {
            let what = format!("a tag that begins here is not closed by `{close}`");
            return Err(Fault { line, what });
        };
        if open.is_empty()
            && let Some(trim) = ["-", "+", ""].into_iter().find(|trim| {
                let end = rest.strip_prefix(trim);
                end.is_some_and(|rest| rest.starts_with(close)) && (*trim != "+" || close == "%}")
            })
        {
            tokens.push((Token::End, now));
            return Ok(Tag {
                tokens,
                trim,
                end: at + trim.len() + close.len(),
                breaks: now - line,
            });
        }
        if c.is_whitespace() {
            now += usize::from(c == '\n');
            at += c.len_utf8();
            continue;
        }
        let (token, length) = one(rest).map_err(|what| Fault { line: now, what })?;
        if let Token::Sign(sign) = token {
            balance(&mut open, sign).map_err(|what| Fault { line: now, what })?;
        }
        tokens.push((token, now));
        now += rest[..length].matches('\n').count();
        at += length;
    }
}

fn balance(open: &mut Vec<&'static str>, sign: &'static str) -> Result<(), String> {
    let closing = match sign {
        "(" => Some(")"),
        "[" => Some("]"),
        "{" => Some("}"),
        _ => None,
    };
    open.extend(closing);
    let wanted = match sign {
        ")" | "]" | "}" => sign,
        _ => return Ok(()),
    };
    match open.pop() {
        Some(expected) if expected == wanted => Ok(()),
        Some(expected) => Err(format!("unexpected `{wanted}`, expected `{expected}`")),
        None => Err(format!("unexpected `{wanted}`")),
    }
}

/// The first token of a text without leading white space, and its length in bytes.
fn one(rest: &str) -> Result<(Token, usize), String> {
    let c = rest.chars().next().unwrap_or(' ');
    if c == '"' || c == '\'' {
        return text(rest, c);
    }
    if c.is_ascii_digit() {
        return number(rest);
    }
    if c == '_' || c.is_alphabetic() {
        let length = rest
            .find(|c: char| c != '_' && !c.is_alphanumeric())
            .unwrap_or(rest.len());
        return Ok((Token::Name(rest[..length].to_owned()), length));
    }
    match SIGNS.into_iter().find(|sign| rest.starts_with(sign)) {
        Some(sign) => Ok((Token::Sign(sign), sign.len())),
        None => Err(format!("unexpected character {c:?}")),
    }
}

/// A number: integers in any base and with underscores; floats need digits on both sides of the
/// dot, or an exponent.
fn number(rest: &str) -> Result<(Token, usize), String> {
    let digits = |from: usize, radix: u32| {
        let tail = &rest[from..];
        from + tail
            .find(|c: char| c != '_' && !c.is_digit(radix))
            .unwrap_or(tail.len())
    };
    for (marks, radix) in [(["0x", "0X"], 16), (["0b", "0B"], 2), (["0o", "0O"], 8)] {
        if marks.iter().any(|mark| rest.starts_with(mark)) {
            let end = digits(2, radix);
            let plain = rest[2..end].replace('_', "");
            let value =
                i128::from_str_radix(&plain, radix).map_err(|error| match error.kind() {
                    IntErrorKind::PosOverflow => {
                        format!("`{}` is a whole number past 128 bits", &rest[..end])
                    }
                    _ => format!("`{}` is not a number", &rest[..end]),
                })?;
            return Ok((Token::Whole(value.to_string()), end));
        }
    }
    let whole = digits(0, 10);
    let mut end = whole;
    let next = |at: usize| rest.as_bytes().get(at).copied().unwrap_or(b' ');
    if next(end) == b'.' && next(end + 1).is_ascii_digit() {
        end = digits(end + 1, 10);
    }
    if matches!(next(end), b'e' | b'E') {
        let sign = usize::from(matches!(next(end + 1), b'+' | b'-'));
        if next(end + 1 + sign).is_ascii_digit() {
            end = digits(end + 1 + sign, 10);
        }
    }
    let plain = rest[..end].replace('_', "");
    if end == whole {
        let kept = plain.trim_start_matches('0');
        let shown = if kept.is_empty() { "0" } else { kept };
        if shown.parse::<i128>().is_err() {
            return Err(format!("`{plain}` is a whole number past 128 bits"));
        }
        return Ok((Token::Whole(shown.to_owned()), end));
    }
    let value = plain
        .parse()
        .map_err(|_| format!("`{plain}` is not a number"))?;
    Ok((Token::Float(value), end))
}

/// A string literal, with Python's escapes.
fn text(rest: &str, quote: char) -> Result<(Token, usize), String> {
    let mut out = String::new();
    let mut chars = rest.char_indices();
    chars.next();
    while let Some((at, c)) = chars.next() {
        if c == quote {
            return Ok((Token::Text(out), at + 1));
        }
        if c != '\\' {
            out.push(c);
            continue;
        }
        let Some((_, escaped)) = chars.next() else {
            break;
        };
        match escaped {
            '\n' => {}
            '\\' | '\'' | '"' => out.push(escaped),
            'a' => out.push('\x07'),
            'b' => out.push('\x08'),
            'f' => out.push('\x0c'),
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            'v' => out.push('\x0b'),
            'x' => out.push(code(&mut chars, 2, 16)?),
            'u' => out.push(code(&mut chars, 4, 16)?),
            'U' => out.push(code(&mut chars, 8, 16)?),
            '0'..='7' => {
                let mut value = escaped.to_digit(8).unwrap_or(0);
                for _ in 0..2 {
                    let mut ahead = chars.clone();
                    let Some(digit) = ahead.next().and_then(|(_, c)| c.to_digit(8)) else {
                        break;
                    };
                    value = value * 8 + digit;
                    chars = ahead;
                }
                out.extend(char::from_u32(value));
            }
            'N' => {
                return Err(
                    "`\\N` in a text, a character by its name, is not for chat templates"
                        .to_owned(),
                );
            }
            other => out.extend(['\\', other]),
        }
    }
    Err("a text in quotes is not closed".to_owned())
}

fn code(chars: &mut std::str::CharIndices<'_>, digits: usize, radix: u32) -> Result<char, String> {
    let mut value = 0;
    for _ in 0..digits {
        let digit = chars.next().and_then(|(_, c)| c.to_digit(radix));
        value = value * radix + digit.ok_or("an escape in a text has too few digits")?;
    }
    char::from_u32(value).ok_or_else(|| format!("U+{value:04X} is not a character"))
}
