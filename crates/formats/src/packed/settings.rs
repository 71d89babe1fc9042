//! `quantization_config` of `config.json`, key by key: what it does not say is not guessed.

use serde_json::{Map, Value};

use crate::{Error, Result};

/// The section of one method.
pub(super) struct Settings<'a> {
    /// `quant_method`.
    pub(super) method: &'a str,
    /// Where in the configuration it is.
    place: String,
    keys: &'a Map<String, Value>,
}

impl<'a> Settings<'a> {
    /// The section of `config.json`.
    pub(super) fn new(method: &'a str, keys: &'a Map<String, Value>) -> Self {
        Settings {
            method,
            place: format!("config.json's quantization_config ({method})"),
            keys,
        }
    }

    /// A section within this one; `path` leads to it.
    pub(super) fn within(&self, path: &str, keys: &'a Map<String, Value>) -> Self {
        Settings {
            method: self.method,
            place: format!("{}: {path}", self.place),
            keys,
        }
    }

    /// A key's value; null counts as absent.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.keys.get(key).filter(|value| !value.is_null())
    }

    /// All keys.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.keys.keys().map(String::as_str)
    }

    /// An error about a key: its value, or that it is absent, and why that cannot be.
    pub(super) fn refuse<T>(&self, key: &str, why: &str) -> Result<T> {
        let said = match self.keys.get(key) {
            Some(value) => format!("is {value}"),
            None => "is absent".into(),
        };
        Err(Error::rule(format!("{}: {key} {said}: {why}", self.place)))
    }

    /// An error about the section.
    pub(super) fn error<T>(&self, what: &str) -> Result<T> {
        Err(Error::rule(format!("{}: {what}", self.place)))
    }

    fn typed<T>(
        &self,
        key: &str,
        read: impl Fn(&'a Value) -> Option<T>,
        wanted: &str,
    ) -> Result<Option<T>> {
        match self.get(key).map(read) {
            None => Ok(None),
            Some(Some(value)) => Ok(Some(value)),
            Some(None) => self.refuse(key, &format!("it must be {wanted}")),
        }
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, Value::as_bool, "true or false")
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, Value::as_str, "text")
    }

    pub(super) fn whole(&self, key: &str) -> Result<Option<i64>> {
        self.typed(key, Value::as_i64, "a whole number")
    }

    pub(super) fn section(&self, key: &str) -> Result<Option<Settings<'a>>> {
        let section = self.typed(key, Value::as_object, "an object")?;
        Ok(section.map(|keys| self.within(key, keys)))
    }

    /// Two positive sizes, rows and columns.
    pub(super) fn pair(&self, key: &str) -> Result<Option<[usize; 2]>> {
        let size = |v: &Value| usize::try_from(v.as_u64()?).ok().filter(|&n| n > 0);
        let read = |v: &'a Value| -> Option<[usize; 2]> {
            match v.as_array()?.as_slice() {
                [rows, columns] => Some([size(rows)?, size(columns)?]),
                _ => None,
            }
        };
        self.typed(key, read, "two sizes above 0")
    }

    /// A number of bits that is one of these.
    pub(super) fn bits(&self, key: &str, of: &[i64]) -> Result<u32> {
        match self.whole(key)? {
            Some(bits) if of.contains(&bits) => Ok(bits as u32),
            _ => self.refuse(key, &format!("of {of:?} bits one can be read")),
        }
    }

    /// A flag that must be there.
    pub(super) fn stated(&self, key: &str) -> Result<bool> {
        match self.flag(key)? {
            Some(flag) => Ok(flag),
            None => self.refuse(key, "how codes are read depends on it"),
        }
    }

    /// Columns of a group; `None` for -1, which is all of a row.
    pub(super) fn group(&self, key: &str) -> Result<Option<usize>> {
        match self.whole(key)? {
            Some(-1) => Ok(None),
            Some(n) if n > 0 => Ok(usize::try_from(n).ok()),
            _ => self.refuse(key, "it must be above 0, or -1 for a whole row"),
        }
    }

    /// Refuses keys that are set to anything but null, false, or an empty object or list.
    pub(super) fn refuse_set(&self, keys: &[&str], why: &str) -> Result<()> {
        let empty = |value: &Value| match value {
            Value::Bool(set) => !set,
            Value::Object(keys) => keys.is_empty(),
            Value::Array(list) => list.is_empty(),
            _ => false,
        };
        let set = |key: &&&str| self.get(key).is_some_and(|value| !empty(value));
        match keys.iter().find(set) {
            Some(key) => self.refuse(key, why),
            None => Ok(()),
        }
    }

    /// A list of texts; empty where it is absent.
    pub(super) fn list(&self, key: &str) -> Result<Vec<&'a str>> {
        let texts = |v: &'a Value| -> Option<Vec<&'a str>> {
            v.as_array()?.iter().map(Value::as_str).collect()
        };
        Ok(self
            .typed(key, texts, "a list of texts")?
            .unwrap_or_default())
    }
}
