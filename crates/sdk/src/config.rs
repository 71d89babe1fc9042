//! [`Config`]: a model's `config.json`, read key by key with precise errors.

use crate::{Error, Result, json::Json};

/// An object of a configuration. A key whose value is `null` counts as absent.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    json: Json,
    /// Prefix of keys in messages, such as `rope_scaling.`; empty at the top.
    path: String,
}

impl Config {
    /// Parses a file's text.
    pub fn parse(text: &str) -> Result<Config> {
        match Json::parse(text)? {
            json @ Json::Object(_) => Ok(Config {
                json,
                path: String::new(),
            }),
            other => Err(format!("a configuration is an object, this is {}", other.kind()).into()),
        }
    }

    /// The raw value.
    pub fn get(&self, key: &str) -> Option<&Json> {
        self.json.get(key).filter(|value| **value != Json::Null)
    }

    /// Whether the key has a value other than `null`.
    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Whether the key is written, even with the value `null`: to some classes a missing key means
    /// a default, and `null` means none (Mistral's `sliding_window`).
    pub fn names(&self, key: &str) -> bool {
        self.json.get(key).is_some()
    }

    /// Every key whose value is not `null`, with that value, in the file's order.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Json)> {
        let members = match &self.json {
            Json::Object(members) => members.as_slice(),
            _ => &[],
        };
        let there = members.iter().filter(|(_, value)| *value != Json::Null);
        there.map(|(key, value)| (key.as_str(), value))
    }

    /// The object under `key`, if there is one.
    pub fn section(&self, key: &str) -> Result<Option<Config>> {
        match self.get(key) {
            None => Ok(None),
            Some(json @ Json::Object(_)) => Ok(Some(Config {
                json: json.clone(),
                path: format!("{}{key}.", self.path),
            })),
            Some(other) => Err(self.wrong(key, "an object", other)),
        }
    }

    /// A whole number that must be there.
    pub fn usize(&self, key: &str) -> Result<usize> {
        self.usize_opt(key)?.ok_or_else(|| self.missing(key))
    }

    /// A whole number, or `default`.
    pub fn usize_or(&self, key: &str, default: usize) -> Result<usize> {
        Ok(self.usize_opt(key)?.unwrap_or(default))
    }

    /// A whole number, if there is one.
    pub fn usize_opt(&self, key: &str) -> Result<Option<usize>> {
        match self.get(key) {
            None => Ok(None),
            // 2^53: beyond it an f64 no longer counts in ones
            Some(&Json::Number(n)) if n >= 0.0 && n.fract() == 0.0 && n <= 9e15 => {
                Ok(Some(n as usize))
            }
            Some(other) => Err(self.wrong(key, "a whole number", other)),
        }
    }

    /// A whole number, `absent` where the key is not written; `null` means none.
    pub fn usize_unless_null(&self, key: &str, absent: usize) -> Result<Option<usize>> {
        match self.names(key) {
            true => self.usize_opt(key),
            false => Ok(Some(absent)),
        }
    }

    /// A number that must be there.
    pub fn f64(&self, key: &str) -> Result<f64> {
        self.f64_opt(key)?.ok_or_else(|| self.missing(key))
    }

    /// A number, or `default`.
    pub fn f64_or(&self, key: &str, default: f64) -> Result<f64> {
        Ok(self.f64_opt(key)?.unwrap_or(default))
    }

    /// A number, if there is one.
    pub fn f64_opt(&self, key: &str) -> Result<Option<f64>> {
        match self.get(key) {
            None => Ok(None),
            Some(&Json::Number(n)) => Ok(Some(n)),
            Some(other) => Err(self.wrong(key, "a number", other)),
        }
    }

    /// A number, `absent` where the key is not written; `null` means none.
    pub fn f64_unless_null(&self, key: &str, absent: f64) -> Result<Option<f64>> {
        match self.names(key) {
            true => self.f64_opt(key),
            false => Ok(Some(absent)),
        }
    }

    /// True or false, or `default`.
    pub fn bool_or(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(&Json::Bool(b)) => Ok(b),
            Some(other) => Err(self.wrong(key, "true or false", other)),
        }
    }

    /// Text, or `default`.
    pub fn str_or<'a>(&'a self, key: &str, default: &'a str) -> Result<&'a str> {
        Ok(self.str_opt(key)?.unwrap_or(default))
    }

    /// Text, if there is one.
    pub fn str_opt(&self, key: &str) -> Result<Option<&str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Json::Text(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, "text", other)),
        }
    }

    /// A list of numbers, if there is one.
    pub fn f64s(&self, key: &str) -> Result<Option<Vec<f64>>> {
        match self.get(key) {
            None => Ok(None),
            Some(Json::Array(values)) => {
                let number = |value: &Json| match value {
                    Json::Number(n) => Ok(*n),
                    other => Err(self.wrong(key, "a list of numbers", other)),
                };
                values.iter().map(number).collect::<Result<_>>().map(Some)
            }
            Some(other) => Err(self.wrong(key, "a list of numbers", other)),
        }
    }

    /// A list of texts, if there is one.
    pub fn strs(&self, key: &str) -> Result<Option<Vec<&str>>> {
        match self.get(key) {
            None => Ok(None),
            Some(Json::Array(values)) => {
                let texts = values.iter().map(|value| match value {
                    Json::Text(text) => Ok(text.as_str()),
                    other => Err(self.wrong(key, "a list of texts", other)),
                });
                texts.collect::<Result<_>>().map(Some)
            }
            Some(other) => Err(self.wrong(key, "a list of texts", other)),
        }
    }

    /// An error unless `key`'s value is one of those that this architecture computes with.
    pub fn only(&self, key: &str, allowed: &[&str]) -> Result<()> {
        match self.str_opt(key)? {
            Some(value) if !allowed.contains(&value) => Err(self.error(
                key,
                &format!("is \"{value}\"; supported: {}", allowed.join(", ")),
            )),
            _ => Ok(()),
        }
    }

    /// An error about `key`: ``configuration: `key` <what>``.
    pub fn error(&self, key: &str, what: &str) -> Error {
        Error(format!("configuration: `{}{key}` {what}", self.path))
    }

    fn missing(&self, key: &str) -> Error {
        self.error(key, "is missing")
    }

    fn wrong(&self, key: &str, rule: &str, found: &Json) -> Error {
        let found = match found {
            Json::Number(n) => n.to_string(),
            Json::Text(text) => format!("\"{text}\""),
            Json::Bool(b) => b.to_string(),
            other => other.kind().to_owned(),
        };
        self.error(key, &format!("must be {rule}, is {found}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_typed_values_and_names_what_is_wrong() {
        let text = r#"{"n": 12, "x": 0.5, "t": "silu", "none": null, "yes": true, "l": [1, 2], "s": {"f": "a"}}"#;
        let c = Config::parse(text).unwrap();
        assert_eq!(c.usize("n"), Ok(12));
        assert_eq!(c.usize_or("none", 7), Ok(7));
        assert_eq!(c.f64("x"), Ok(0.5));
        assert_eq!(c.f64_or("n", 0.0), Ok(12.0));
        assert_eq!(c.usize_unless_null("none", 7), Ok(None));
        assert_eq!(c.usize_unless_null("other", 7), Ok(Some(7)));
        assert_eq!(c.f64_unless_null("none", 7.5), Ok(None));
        assert_eq!(c.f64_unless_null("x", 7.5), Ok(Some(0.5)));
        assert_eq!(c.f64_unless_null("other", 7.5), Ok(Some(7.5)));
        assert_eq!(c.bool_or("yes", false), Ok(true));
        assert_eq!(c.str_or("t", ""), Ok("silu"));
        assert_eq!(c.f64s("l"), Ok(Some(vec![1.0, 2.0])));
        assert_eq!(c.only("t", &["silu", "gelu"]), Ok(()));
        let s = c.section("s").unwrap().unwrap();
        for (error, says) in [
            (c.usize("none").unwrap_err(), "`none` is missing"),
            (
                c.usize("x").unwrap_err(),
                "`x` must be a whole number, is 0.5",
            ),
            (c.f64("t").unwrap_err(), "`t` must be a number, is \"silu\""),
            (s.f64("f").unwrap_err(), "`s.f` must be a number, is \"a\""),
            (c.section("n").unwrap_err(), "`n` must be an object, is 12"),
            (
                c.only("t", &["gelu"]).unwrap_err(),
                "is \"silu\"; supported: gelu",
            ),
            (
                Config::parse("[]").unwrap_err(),
                "is an object, this is a list",
            ),
        ] {
            assert!(error.0.contains(says), "{error}");
        }
    }
}
