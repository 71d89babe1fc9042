//! Python's string methods on letters, words, lines and white space.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;

/// Whether Python treats a character as white space.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// Whether a character is a single digit of any script; letters for numbers and fractions are not.
fn is_digit(c: char) -> bool {
    match c {
        '0'..='9' => true,
        '²' | '³' | '¹' | '\u{2070}'..='\u{2089}' => true,
        '\u{bc}'..='\u{be}' | '\u{2150}'..='\u{218b}' | '\u{246a}'..='\u{24ff}' => false,
        '\u{3000}'..='\u{33ff}' | '\u{4e00}'..='\u{9fff}' => false,
        c => !c.is_ascii() && c.is_numeric(),
    }
}

/// Digits of any script.
static DECIMALS: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\p{Nd}").ok());

fn is_decimal(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_digit();
    }
    let decimals = DECIMALS.as_ref();
    decimals.is_some_and(|decimals| decimals.is_match(c.encode_utf8(&mut [0; 4])))
}

/// Replaces the digits of every script by ASCII's, for parsing numbers. Unicode has them in rows of
/// ten.
pub(super) fn ascii_digits(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return Cow::Borrowed(text);
    }
    let plain = |c: char| {
        if c.is_ascii() || !is_decimal(c) {
            return c;
        }
        let code = c as u32;
        let before = (1..code)
            .take_while(|back| char::from_u32(code - back).is_some_and(is_decimal))
            .count();
        char::from_digit(before as u32 % 10, 10).unwrap_or(c)
    };
    Cow::Owned(text.chars().map(plain).collect())
}

/// Whether a character is lower, upper or title case.
fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase() || c.to_lowercase().ne([c])
}

/// `isalpha` and similar methods; `None` for another name.
pub(super) fn about(text: &str, method: &str) -> Option<bool> {
    let all = |test: fn(char) -> bool| !text.is_empty() && text.chars().all(test);
    Some(match method {
        "isalnum" => all(char::is_alphanumeric),
        "isalpha" => all(char::is_alphabetic),
        "isascii" => text.is_ascii(),
        "isdecimal" => all(is_decimal),
        "isdigit" => all(is_digit),
        "isnumeric" => all(char::is_numeric),
        "isspace" => all(is_space),
        "islower" => text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase),
        "isupper" => text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase),
        "istitle" => text.chars().any(is_cased) && titled(text) == text,
        "isprintable" => text.chars().all(super::written::is_printable),
        "isidentifier" => {
            let first = text.chars().next();
            first.is_some_and(|c| c == '_' || c.is_alphabetic())
                && text.chars().all(|c| c == '_' || c.is_alphanumeric())
        }
        _ => return None,
    })
}

pub(super) fn cased(text: &str, method: &str) -> String {
    match method {
        "upper" => text.to_uppercase(),
        "lower" => text.to_lowercase(),
        "casefold" => text.to_lowercase().replace('ß', "ss"),
        "title" => titled(text),
        "swapcase" => text
            .chars()
            .map(|c| match c.is_uppercase() {
                true => c.to_lowercase().collect::<String>(),
                false => c.to_uppercase().collect(),
            })
            .collect(),
        _ => {
            let mut chars = text.chars();
            let first = chars.next().map(titlecase).unwrap_or_default();
            first + &chars.as_str().to_lowercase()
        }
    }
}

/// The title case of a character: of an upper case of two letters only the first is a capital.
/// Digraphs, and Greek letters with an iota below, have a form of their own; Georgian ones have
/// none.
fn titlecase(c: char) -> String {
    let own = match c as u32 {
        code @ 0x1c4..=0x1cc => Some(0x1c5 + (code - 0x1c4) / 3 * 3),
        0x1f1..=0x1f3 => Some(0x1f2),
        code @ (0x10d0..=0x10fa | 0x10fd..=0x10ff) => Some(code),
        code @ 0x1f80..=0x1faf => Some(code | 8),
        code @ (0x1fb3 | 0x1fbc | 0x1fc3 | 0x1fcc | 0x1ff3 | 0x1ffc) => Some((code & !0xf) | 0xc),
        _ => None,
    };
    if let Some(own) = own.and_then(char::from_u32) {
        return own.to_string();
    }
    let upper: Vec<char> = c.to_uppercase().collect();
    match upper.as_slice() {
        [first, rest @ ..] => {
            let rest: String = rest.iter().flat_map(|c| c.to_lowercase()).collect();
            format!("{first}{rest}")
        }
        [] => String::new(),
    }
}

/// Capitalises every run of letters.
fn titled(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        match inside {
            true => out.extend(c.to_lowercase()),
            false => out.push_str(&titlecase(c)),
        }
        inside = is_cased(c);
    }
    out
}

/// The filter `title`: capitals after white space, hyphens and opening brackets only.
pub(super) fn title_filter(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        let between = is_space(c) || "-({[<".contains(c);
        match (between, inside) {
            (true, _) => out.push(c),
            (false, true) => out.extend(c.to_lowercase()),
            (false, false) => out.extend(c.to_uppercase()),
        }
        inside = !between;
    }
    out
}

/// Strips these characters, or white space, from a text's ends.
pub(super) fn stripped<'a>(text: &'a str, chars: Option<&str>, left: bool, right: bool) -> &'a str {
    let goes = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if left {
        text.trim_start_matches(goes)
    } else {
        text
    };
    if right {
        text.trim_end_matches(goes)
    } else {
        text
    }
}

/// Splits at white space, at most `most` times.
pub(super) fn split_at_space(text: &str, most: usize, from_right: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = stripped(text, None, !from_right, from_right);
    while !rest.is_empty() {
        let cut = match from_right {
            false => rest.find(is_space),
            true => rest
                .rfind(is_space)
                .map(|at| at + rest[at..].chars().next().map_or(0, char::len_utf8)),
        };
        let Some(at) = cut.filter(|_| parts.len() < most) else {
            parts.push(rest);
            break;
        };
        let (head, tail) = rest.split_at(at);
        let (word, remaining) = if from_right {
            (tail, head)
        } else {
            (head, tail)
        };
        parts.push(word);
        rest = stripped(remaining, None, !from_right, from_right);
    }
    if from_right {
        parts.reverse();
    }
    parts
}

/// The lines of a text, by all of Python's line boundaries.
pub(super) fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let mut out = Vec::new();
    let mut start = 0;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let ends = matches!(
            c,
            '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}'
        );
        if !ends {
            continue;
        }
        let mut next = at + c.len_utf8();
        if c == '\r' && chars.peek().is_some_and(|(_, c)| *c == '\n') {
            chars.next();
            next += 1;
        }
        out.push(&text[start..if keep_ends { next } else { at }]);
        start = next;
    }
    if start < text.len() {
        out.push(&text[start..]);
    }
    out
}

pub(super) fn without_tabs(text: &str, size: usize) -> String {
    let mut out = String::new();
    let mut column = 0;
    for c in text.chars() {
        match c {
            '\t' => {
                let width = if size == 0 { 0 } else { size - column % size };
                out.extend(std::iter::repeat_n(' ', width));
                column += width;
            }
            '\n' | '\r' => {
                out.push(c);
                column = 0;
            }
            c => {
                out.push(c);
                column += 1;
            }
        }
    }
    out
}

pub(super) fn padded(text: &str, method: &str, width: usize, fill: char) -> String {
    let missing = width.saturating_sub(text.chars().count());
    let fills = |count: usize| std::iter::repeat_n(fill, count).collect::<String>();
    match method {
        "ljust" => text.to_owned() + &fills(missing),
        "rjust" => fills(missing) + text,
        "zfill" => {
            let (sign, digits) = match text.starts_with(['+', '-']) {
                true => text.split_at(1),
                false => ("", text),
            };
            format!("{sign}{}{digits}", "0".repeat(missing))
        }
        _ => {
            // if the padding is odd, the extra space goes to the left where the width is odd
            let left = missing / 2 + (missing & width & 1);
            fills(left) + text + &fills(missing - left)
        }
    }
}
