//! Regular expressions of a `tokenizer.json` with Oniguruma's meaning, which Python's tokenizers
//! library uses. Our engine reads `{1,3}+` as a possessive quantifier; Oniguruma as a repeated
//! group, so that a long number is one word.

use std::borrow::Cow;

/// Rewrites a file's expressions so that both engines read them alike.
pub(super) fn as_oniguruma(file: &[u8]) -> Cow<'_, [u8]> {
    const KEY: &[u8] = b"\"Regex\"";
    let mut out: Option<Vec<u8>> = None;
    let mut copied = 0;
    let mut at = 0;
    while let Some(found) = find(&file[at..], KEY) {
        at += found + KEY.len();
        let Some(range) = string_after_colon(file, at) else {
            continue;
        };
        at = range.end;
        let spelt = serde_json::from_slice::<String>(&file[range.clone()]).unwrap_or_default();
        let changed = repeated_groups(&spelt);
        if changed != spelt
            && let Ok(text) = serde_json::to_vec(&changed)
        {
            let out = out.get_or_insert_default();
            out.extend_from_slice(&file[copied..range.start]);
            out.extend(text);
            copied = range.end;
        }
    }
    match out {
        None => Cow::Borrowed(file),
        Some(mut out) => {
            out.extend_from_slice(&file[copied..]);
            Cow::Owned(out)
        }
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|part| part == wanted)
}

/// Range of the JSON string after a key, with quotes; `None` if the value is no string.
fn string_after_colon(file: &[u8], after_key: usize) -> Option<std::ops::Range<usize>> {
    let skip = |from: usize| {
        let spaces = file[from..].iter().take_while(|b| b.is_ascii_whitespace());
        from + spaces.count()
    };
    let colon = skip(after_key);
    let start = skip(colon + usize::from(file.get(colon) == Some(&b':')));
    if file.get(colon) != Some(&b':') || file.get(start) != Some(&b'"') {
        return None;
    }
    let mut at = start + 1;
    loop {
        match file.get(at)? {
            b'"' => return Some(start..at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// Rewrites `X{1,3}+` to `(?:X{1,3})+`, `{,3}` to `{0,3}`.
fn repeated_groups(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut open = Vec::new();
    // offset in `out` of the last item that a quantifier can apply to
    let mut last: Option<usize> = None;
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        let here = out.len();
        let length = match c {
            '\\' => escape(rest),
            '[' => class(rest),
            _ => c.len_utf8(),
        };
        let interval = if c == '{' { interval(rest) } else { None };
        if let (Some(begin), Some((bounds, length))) = (last, interval) {
            rest = &rest[length..];
            out.push_str(&bounds);
            if rest.starts_with(['+', '*']) {
                out.insert_str(begin, "(?:");
                out.push(')');
            }
            continue;
        }
        match c {
            '(' => {
                open.push(here);
                last = None;
            }
            ')' => last = open.pop(),
            '|' => last = None,
            '*' | '+' | '?' => {}
            _ => last = Some(here),
        }
        out.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    out
}

/// Length of an escape: `\p{N}`, `\x{41}`, `\d`.
fn escape(rest: &str) -> usize {
    let Some(kind) = rest.chars().nth(1) else {
        return rest.len();
    };
    let length = 1 + kind.len_utf8();
    if "pPxugk".contains(kind)
        && rest[length..].starts_with('{')
        && let Some(end) = rest.find('}')
    {
        return end + 1;
    }
    length
}

/// Length of a character class, with nested ones.
fn class(rest: &str) -> usize {
    let mut depth = 0;
    let mut escaped = false;
    let mut first = false;
    for (at, c) in rest.char_indices() {
        let opened = std::mem::take(&mut first);
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '[' => {
                depth += 1;
                first = true;
            }
            '^' if opened => first = true,
            ']' if opened => {}
            ']' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    rest.len()
}

/// The quantifier `{n}`, `{n,}`, `{n,m}` or `{,m}` at the start, with its lower bound, and its
/// length.
fn interval(rest: &str) -> Option<(String, usize)> {
    let end = rest.find('}')?;
    let (low, high) = match rest[1..end].split_once(',') {
        Some((low, high)) => (low, Some(high)),
        None => (&rest[1..end], None),
    };
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let named = !low.is_empty() || high.is_some_and(|high| !high.is_empty());
    if !named || !digits(low) || !high.is_none_or(digits) {
        return None;
    }
    let low = if low.is_empty() { "0" } else { low };
    let bounds = match high {
        Some(high) => format!("{{{low},{high}}}"),
        None => format!("{{{low}}}"),
    };
    Some((bounds, end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_of_repeats_are_groups() {
        for (given, expected) in [
            (r"\p{N}{1,3}+", r"(?:\p{N}{1,3})+"),
            (r"\p{N}{1,3}| ?\p{L}+", r"\p{N}{1,3}| ?\p{L}+"),
            (r"[^\]\d{2}+]{2}+|a++", r"(?:[^\]\d{2}+]{2})+|a++"),
            (r"[]{1}+]{2,}*", r"(?:[]{1}+]{2,})*"),
            (r"(a|(?:b{2}+)){1,2}+c", r"(?:(a|(?:(?:b{2})+)){1,2})+c"),
            (r"\{{1,3}+x{,4}", r"(?:\{{1,3})+x{0,4}"),
            (r"{1}+a{b}+\x{41}{2}?", r"{1}+a{b}+\x{41}{2}?"),
        ] {
            assert_eq!(repeated_groups(given), expected, "{given}");
        }
        let file = br#"{"Regex": 3, "a": {"Regex" : "\\d{1}+\""}, "b": {"Regex":"x"}}"#;
        let changed = r#"{"Regex": 3, "a": {"Regex" : "(?:\\d{1})+\""}, "b": {"Regex":"x"}}"#;
        assert_eq!(as_oniguruma(file), changed.as_bytes());
        assert!(matches!(
            as_oniguruma(b"{\"Regex\": \"a{2}\"}"),
            Cow::Borrowed(_)
        ));
    }
}
