//! Python's literals (`['a', "it's", 3, None]`) as JSON: what a template that prints a list gives,
//! and `ast.literal_eval` reads back.

use serde_json::{Map, Number, Value};

/// Deepest nesting that is read.
const DEEPEST: usize = 100;

/// Reads a text that is one literal.
///
/// # Errors
/// What is no literal, and from where on.
pub fn literal(text: &str) -> Result<Value, String> {
    let mut reader = Reader { rest: text.trim() };
    let value = reader.value(0)?;
    reader.space();
    match reader.rest.is_empty() {
        true => Ok(value),
        false => Err(reader.wrong()),
    }
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn wrong(&self) -> String {
        let from: String = self.rest.chars().take(30).collect();
        format!("no Python literal from `{}` on", from.escape_debug())
    }

    fn space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn is(&mut self, mark: &str) -> bool {
        self.space();
        let rest = self.rest.strip_prefix(mark);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn value(&mut self, depth: usize) -> Result<Value, String> {
        if depth > DEEPEST {
            return Err(format!("nested more than {DEEPEST} deep"));
        }
        for (open, close) in [("[", "]"), ("(", ")")] {
            if self.is(open) {
                return self.items(close, depth);
            }
        }
        if self.is("{") {
            return self.object(depth);
        }
        for (word, value) in [
            ("None", Value::Null),
            ("True", true.into()),
            ("False", false.into()),
        ] {
            if self.is(word) {
                return Ok(value);
            }
        }
        match self.rest.chars().next() {
            Some(quote @ ('\'' | '"')) => self.text(quote).map(Value::String),
            _ => self.number(),
        }
    }

    fn items(&mut self, close: &str, depth: usize) -> Result<Value, String> {
        let mut items = Vec::new();
        while !self.is(close) {
            items.push(self.value(depth + 1)?);
            if !self.is(",") {
                match self.is(close) {
                    true => break,
                    false => return Err(self.wrong()),
                }
            }
        }
        Ok(items.into())
    }

    fn object(&mut self, depth: usize) -> Result<Value, String> {
        let mut map = Map::new();
        while !self.is("}") {
            let key = match self.value(depth + 1)? {
                Value::String(key) => key,
                other => other.to_string(),
            };
            if !self.is(":") {
                return Err(self.wrong());
            }
            map.insert(key, self.value(depth + 1)?);
            if !self.is(",") {
                match self.is("}") {
                    true => break,
                    false => return Err(self.wrong()),
                }
            }
        }
        Ok(map.into())
    }

    fn number(&mut self) -> Result<Value, String> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || "+-._".contains(c);
        let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        let (written, rest) = self.rest.split_at(end);
        let plain = written.replace('_', "");
        let number = match plain.parse::<i64>() {
            Ok(whole) => Some(whole.into()),
            Err(_) => plain.parse().ok().and_then(Number::from_f64),
        };
        let number = number.filter(|_| plain.starts_with(|c: char| "+-.0123456789".contains(c)));
        let Some(number) = number else {
            return Err(self.wrong());
        };
        self.rest = rest;
        Ok(number.into())
    }

    fn text(&mut self, quote: char) -> Result<String, String> {
        let whole = self.rest;
        let mut chars = whole[1..].chars();
        let mut out = String::new();
        let unended = || format!("a text without its end from `{whole:.30}` on");
        loop {
            match chars.next().ok_or_else(unended)? {
                c if c == quote => break,
                '\\' => {
                    let c = chars.next().ok_or_else(unended)?;
                    out.extend(escaped(c, &mut chars)?);
                }
                c => out.push(c),
            }
        }
        self.rest = chars.as_str();
        Ok(out)
    }
}

/// What a character after a backslash means; one that means nothing stays with its backslash.
fn escaped(c: char, rest: &mut std::str::Chars) -> Result<Vec<char>, String> {
    let digits = match c {
        'x' => 2,
        'u' => 4,
        'U' => 8,
        _ => {
            return Ok(match c {
                'n' => vec!['\n'],
                't' => vec!['\t'],
                'r' => vec!['\r'],
                'a' => vec!['\u{7}'],
                'b' => vec!['\u{8}'],
                'f' => vec!['\u{c}'],
                'v' => vec!['\u{b}'],
                '0' => vec!['\0'],
                '\n' => Vec::new(),
                '\\' | '\'' | '"' => vec![c],
                _ => vec!['\\', c],
            });
        }
    };
    let hex: String = rest.take(digits).collect();
    let code = u32::from_str_radix(&hex, 16).ok().and_then(char::from_u32);
    match code.filter(|_| hex.len() == digits) {
        Some(c) => Ok(vec![c]),
        None => Err(format!("`\\{c}{hex}` is no character")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn literals_are_read_as_python_reads_them() {
        for (text, value) in [
            ("['a', \"it's\", 'b\\'c']", json!(["a", "it's", "b'c"])),
            ("['\\n\\t\\\\x', '\\xe9\\u6f22']", json!(["\n\t\\x", "é漢"])),
            (
                "[1, -2, 0.5, None, True, False]",
                json!([1, -2, 0.5, null, true, false]),
            ),
            (" ('a', ['b',],) ", json!(["a", ["b"]])),
            ("{'a': [1], 2: 'b'}", json!({"a": [1], "2": "b"})),
            ("[]", json!([])),
            ("'é, \\q'", json!("é, \\q")),
        ] {
            assert_eq!(literal(text).unwrap(), value, "{text}");
        }
        for wrong in [
            "",
            "[1",
            "['a' 'b'",
            "abc",
            "['a']x",
            "'a",
            "[inf]",
            "\"\\xg0\"",
        ] {
            assert!(literal(wrong).is_err(), "{wrong}");
        }
        assert!(literal(&"[".repeat(10_000)).is_err());
    }
}
