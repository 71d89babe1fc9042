//! Splits Rust source into code, string literals and comments, to search each for a word or a long
//! line.

/// Kind of a stretch of source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Neither of the others.
    Code,
    /// A string literal, or a character that is a quotation mark.
    Text,
    /// From `//` to the end of the line, or a block comment.
    Comment,
}

/// The source as stretches, in order; joined they are the source.
pub fn stretches(source: &str) -> Vec<(Kind, &str)> {
    let mut found = Vec::new();
    let (mut start, mut at) = (0, 0);
    while at < source.len() {
        match other_than_code(source, at) {
            Some((kind, length)) => {
                found.push((Kind::Code, &source[start..at]));
                found.push((kind, &source[at..at + length]));
                at += length;
                start = at;
            }
            None => at += source[at..].chars().next().map_or(1, char::len_utf8),
        }
    }
    found.push((Kind::Code, &source[start..]));
    found
}

/// The text or comment that begins at this place, and its length in bytes.
fn other_than_code(source: &str, at: usize) -> Option<(Kind, usize)> {
    let rest = &source[at..];
    if rest.starts_with("//") {
        return Some((Kind::Comment, rest.find('\n').unwrap_or(rest.len())));
    }
    if rest.starts_with("/*") {
        let length = rest.find("*/").map_or(rest.len(), |end| end + 2);
        return Some((Kind::Comment, length));
    }
    let raw = rest
        .strip_prefix('r')
        .map(|tail| tail.len() - tail.trim_start_matches('#').len());
    let in_a_word = source[..at].ends_with(char::is_alphanumeric);
    if let Some(hashes) = raw.filter(|n| rest[1 + n..].starts_with('"') && !in_a_word) {
        let (open, close) = (hashes + 2, format!("\"{}", "#".repeat(hashes)));
        let length = rest[open..]
            .find(&close)
            .map_or(rest.len(), |end| open + end + close.len());
        return Some((Kind::Text, length));
    }
    if rest.starts_with('"') {
        return Some((Kind::Text, string_length(rest)));
    }
    let quoted = rest.starts_with("'\"'") || rest.starts_with("'\\\"'");
    quoted.then(|| {
        let length = rest[1..].find('\'').map_or(rest.len(), |end| end + 2);
        (Kind::Text, length)
    })
}

/// Length of the string literal at the beginning of `text`, quotation marks included.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '"' if !escaped => return at + 1,
            _ => escaped = c == '\\' && !escaped,
        }
    }
    text.len()
}

/// Whether the word `unsafe` is in the code: not in a comment, a string, or a longer word.
pub fn has_unsafe(source: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    stretches(source).into_iter().any(|(kind, text)| {
        kind == Kind::Code
            && text.match_indices("unsafe").any(|(at, found)| {
                !text[..at].ends_with(word) && !text[at + found.len()..].starts_with(word)
            })
    })
}

/// Numbers, from 1, of the lines that a comment is on.
pub fn lines_with_comments(source: &str) -> Vec<usize> {
    let (mut line, mut found) = (1, Vec::new());
    for (kind, text) in stretches(source) {
        let breaks = text.matches('\n').count();
        if kind == Kind::Comment {
            found.extend(line..=line + breaks);
        }
        line += breaks;
    }
    found
}
