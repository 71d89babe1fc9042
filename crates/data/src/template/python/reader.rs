//! Cursor over a tag's tokens.

use super::tokens::{Fault, Token};

/// The translation of a part of an expression.
pub(super) type Written = Result<String, Fault>;

/// Maximum number of links of chains in one tag (`a.b`, `a[0]`, `a()`, `a|b`, `a is b`, `a and b`):
/// minijinja's parser and compiler recurse once for each, and the stack must suffice.
const MOST_LINKS: usize = 400;

/// Cursor over a tag's tokens.
pub(super) struct Reader<'a> {
    tokens: &'a [(Token, usize)],
    pub(super) at: usize,
    pub(super) depth: usize,
    links: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(tokens: &'a [(Token, usize)]) -> Self {
        let (at, depth, links) = (0, 0, 0);
        Self {
            tokens,
            at,
            depth,
            links,
        }
    }

    /// Counts a link of a chain.
    pub(super) fn link(&mut self) -> Result<(), Fault> {
        self.links += 1;
        match self.links > MOST_LINKS {
            true => self.fault(format!(
                "attributes, calls, filters, `and`s and `or`s in one tag, too many: more than {MOST_LINKS}"
            )),
            false => Ok(()),
        }
    }

    pub(super) fn peek(&self) -> &'a Token {
        self.tokens
            .get(self.at)
            .map_or(&Token::End, |(token, _)| token)
    }

    pub(super) fn ahead(&self) -> &'a Token {
        self.tokens
            .get(self.at + 1)
            .map_or(&Token::End, |(token, _)| token)
    }

    pub(super) fn next(&mut self) -> &'a Token {
        let token = self.peek();
        self.at += 1;
        token
    }

    /// An error at the current token.
    pub(super) fn fault<T>(&self, what: impl Into<String>) -> Result<T, Fault> {
        let last = self.tokens.len().saturating_sub(1);
        let line = self
            .tokens
            .get(self.at.min(last))
            .map_or(1, |(_, line)| *line);
        let what = what.into();
        Err(Fault { line, what })
    }

    pub(super) fn unexpected<T>(&self, wanted: &str) -> Result<T, Fault> {
        let found = match self.peek() {
            Token::Name(name) => format!("`{name}`"),
            Token::Text(_) => "a text".to_owned(),
            Token::Whole(number) => format!("`{number}`"),
            Token::Float(number) => format!("`{number}`"),
            Token::Sign(sign) => format!("`{sign}`"),
            Token::End => "the end of the tag".to_owned(),
        };
        self.fault(format!("unexpected {found}, expected {wanted}"))
    }

    pub(super) fn is_sign(&self, sign: &str) -> bool {
        matches!(self.peek(), Token::Sign(found) if *found == sign)
    }

    pub(super) fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Token::Name(found) if found == name)
    }

    pub(super) fn skip_sign(&mut self, sign: &str) -> bool {
        let found = self.is_sign(sign);
        self.at += usize::from(found);
        found
    }

    pub(super) fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        self.at += usize::from(found);
        found
    }

    pub(super) fn sign(&mut self, sign: &str) -> Result<(), Fault> {
        match self.skip_sign(sign) {
            true => Ok(()),
            false => self.unexpected(&format!("`{sign}`")),
        }
    }

    pub(super) fn name(&mut self) -> Written {
        match self.peek() {
            Token::Name(name) => {
                self.at += 1;
                Ok(name.clone())
            }
            _ => self.unexpected("a name"),
        }
    }

    pub(super) fn end(&self) -> Result<(), Fault> {
        match self.peek() {
            Token::End => Ok(()),
            _ => self.unexpected("the end of the tag"),
        }
    }

    /// Formats all remaining tokens.
    pub(super) fn rest(&mut self) -> String {
        let mut out = String::new();
        while !matches!(self.peek(), Token::End) {
            out.push(' ');
            match self.next() {
                Token::Name(text) | Token::Whole(text) => out.push_str(text),
                Token::Text(text) => out.push_str(&quoted(text)),
                Token::Float(value) => out.push_str(&format!("{value:?}")),
                Token::Sign(sign) => out.push_str(sign),
                Token::End => {}
            }
        }
        out
    }
}

/// A string literal for minijinja, on one line: it reads JSON's escapes.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
