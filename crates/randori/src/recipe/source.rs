//! From TOML text and `--set` to a flat list of entries that remember where they stand.

use std::collections::BTreeMap;
use std::ops::Range;

use toml_edit::{Document, Item, Value};

use super::elsewhere::{key_elsewhere, known_elsewhere, value_elsewhere};
use super::plural::PluginOption;
use super::refusal::RecipeError;
use super::setting::{Bound, Key, Raw, RawValue, Setting};
use randori_host::nearest;

/// One `section.key = value`.
#[derive(Debug, Clone)]
struct Entry {
    section: String,
    key: String,
    raw: Raw,
}

/// What a recipe gives, not yet typed.
#[derive(Debug, Default)]
pub(super) struct Entries {
    entries: Vec<Entry>,
    /// Section headers, so that an unknown empty section is refused too.
    sections: Vec<(String, String)>,
}

fn error(place: impl Into<String>, rule: impl Into<String>) -> RecipeError {
    RecipeError {
        place: place.into(),
        rule: rule.into(),
    }
}

/// Full name of a key: `train.lr`, or `seed` at the top.
pub(super) fn full(section: &str, key: &str) -> String {
    if section.is_empty() {
        key.to_string()
    } else {
        format!("{section}.{key}")
    }
}

impl Entries {
    /// Flattens a document; `file` names it in messages.
    pub fn from_toml(file: &str, text: &str) -> Result<Entries, RecipeError> {
        let place = |span: Option<Range<usize>>| match span {
            Some(span) => format!(
                "{file}:{}",
                text[..span.start.min(text.len())].matches('\n').count() + 1
            ),
            None => file.to_string(),
        };
        let document = Document::parse(text.to_string()).map_err(|e| {
            error(
                place(e.span()),
                format!("not TOML: {}", e.message().replace('\n', ", ")),
            )
        })?;
        let mut entries = Entries::default();
        for (name, item) in document.iter() {
            let key_place = || {
                place(
                    document
                        .key(name)
                        .and_then(|k| k.span())
                        .or_else(|| item.span()),
                )
            };
            match item {
                Item::Value(Value::InlineTable(table)) => {
                    entries.sections.push((name.to_string(), key_place()));
                    for (key, value) in table.iter() {
                        entries.push(name, key, Raw::new(value, text, &place));
                    }
                }
                Item::Value(value) => entries.push("", name, Raw::new(value, text, &place)),
                Item::Table(table) => {
                    entries.sections.push((name.to_string(), key_place()));
                    for (key, item) in table.iter() {
                        let at = || {
                            place(
                                table
                                    .key(key)
                                    .and_then(|k| k.span())
                                    .or_else(|| item.span()),
                            )
                        };
                        match Raw::from_item(item, text, &place) {
                            Some(raw) => entries.push(name, key, raw),
                            None => {
                                return Err(error(
                                    at(),
                                    format!("{name}.{key} must be a value, got a table"),
                                ));
                            }
                        }
                    }
                }
                Item::ArrayOfTables(_) => {
                    return Err(error(
                        key_place(),
                        format!("[[{name}]] must be one section [{name}], got a list of tables"),
                    ));
                }
                Item::None => {}
            }
        }
        Ok(entries)
    }

    fn push(&mut self, section: &str, key: &str, raw: Raw) {
        self.entries.push(Entry {
            section: section.to_string(),
            key: key.to_string(),
            raw,
        });
    }

    /// Lays `section.key=value` over what is there. The value is TOML; what is not TOML is taken as
    /// text, so that a shell needs no quotes inside quotes.
    pub fn lay_over(&mut self, text: &str) -> Result<(), RecipeError> {
        let shown = format!("--set {text}");
        let Some((name, value)) = text.split_once('=') else {
            return Err(error(shown, "must be section.key=value"));
        };
        let name = name.trim();
        let (section, key) = name.split_once('.').unwrap_or(("", name));
        let value = value.trim();
        let place = |_: Option<Range<usize>>| shown.clone();
        let raw = match value.parse::<Value>() {
            Ok(_) => {
                // parsed again inside a document so that nested values keep their spans
                let document_text = format!("v = {value}");
                let document = Document::parse(document_text.clone())
                    .map_err(|e| error(shown.clone(), e.message().to_string()))?;
                match document.get("v").and_then(Item::as_value) {
                    Some(v) => Raw::new(v, &document_text, &place),
                    None => return Err(error(shown, "must be section.key=value")),
                }
            }
            Err(_) => Raw::new(&Value::from(value), value, &place),
        };
        let raw = Raw {
            from_command_line: true,
            ..raw
        };
        // `data.template_args.enable_thinking=false` sets one entry of a table
        let (key, raw) = match key.split_once('.') {
            None => (key, raw),
            Some((key, name)) => (key, self.with_entry(section, key, name, raw)),
        };
        self.entries
            .retain(|e| !(e.section == section && e.key == key));
        self.push(section, key, raw);
        Ok(())
    }

    /// The table that a key holds (an empty one where it holds none), with one entry set.
    fn with_entry(&self, section: &str, key: &str, name: &str, raw: Raw) -> Raw {
        let of = |e: &&Entry| e.section == section && e.key == key;
        let mut rows = match self.entries.iter().find(of).map(|e| &e.raw.value) {
            Some(RawValue::Table(rows)) => rows.clone(),
            _ => Vec::new(),
        };
        let (place, text) = (raw.place.clone(), format!("{{{name} = {}}}", raw.text));
        match rows.iter_mut().find(|(other, _)| other == name) {
            Some((_, old)) => *old = raw, // in its place: the same values are the same recipe
            None => rows.push((name.to_string(), raw)),
        }
        Raw {
            value: RawValue::Table(rows),
            text,
            place,
            from_command_line: true,
        }
    }

    /// Where every given key stands.
    pub fn places(&self) -> BTreeMap<String, String> {
        self.entries
            .iter()
            .map(|e| (full(&e.section, &e.key), e.raw.place.clone()))
            .collect()
    }

    /// Takes one key out and types it; its default where it is not given.
    pub fn take<T: Setting>(
        &mut self,
        section: &str,
        key: &str,
        default: &str,
        bound: &Bound,
    ) -> Result<T, RecipeError> {
        let found = self
            .entries
            .iter()
            .position(|e| e.section == section && e.key == key);
        let raw = match found {
            Some(i) => Some(self.entries.remove(i).raw),
            None if default.is_empty() => None,
            None => Some(Raw::from_text(default).map_err(|rule| error(full(section, key), rule))?),
        };
        T::read(raw.as_ref(), bound).map_err(|fault| {
            let name = full(section, key);
            let mut rule = format!("{name} {}", fault.rule);
            if let Some(RawValue::Text(text)) = raw.as_ref().map(|raw| &raw.value)
                && let Some(said) = value_elsewhere(&name, text)
            {
                rule = format!("{rule}; {said}");
            }
            let place = raw.map(|r| r.place).unwrap_or_default();
            error(fault.place.unwrap_or(place), rule)
        })
    }

    /// Takes what is left in a section: a plugin's options.
    pub fn plugin_options(&mut self, section: &str) -> Result<Vec<PluginOption>, RecipeError> {
        let (mine, rest) = std::mem::take(&mut self.entries)
            .into_iter()
            .partition(|e| e.section == section);
        self.entries = rest;
        let mine: Vec<Entry> = mine;
        mine.iter()
            .map(|e| {
                PluginOption::read(&e.key, &e.raw).map_err(|rule| {
                    error(e.raw.place.clone(), format!("{section}.{} {rule}", e.key))
                })
            })
            .collect()
    }

    /// What nobody asked for is an error: it says what the name is here, where another trainer has
    /// it, or else the valid name that is near, or else the valid names.
    pub fn refuse_the_rest(&self, keys: &[Key]) -> Result<(), RecipeError> {
        let mut sections: Vec<&str> = keys.iter().map(|key| key.section).collect();
        sections.dedup();
        sections.retain(|section| !section.is_empty());
        let unknown = |what: String, more: String| format!("unknown {what}; {more}");
        for (name, place) in &self.sections {
            if !sections.contains(&name.as_str()) {
                let near = nearest(name, sections.iter().copied());
                let more = match (near, key_elsewhere(name, "", None)) {
                    (Some(near), _) => format!("nearest: `[{near}]`"),
                    (None, Some(said)) => said,
                    (None, None) => format!("there are [{}]", sections.join("], [")),
                };
                return Err(error(
                    place.clone(),
                    unknown(format!("section `[{name}]`"), more),
                ));
            }
        }
        match self.entries.first() {
            None => Ok(()),
            Some(e) => {
                let what = format!("key `{}`", full(&e.section, &e.key));
                let more = e.instead(keys, &sections);
                Err(error(e.raw.place.clone(), unknown(what, more)))
            }
        }
    }
}

impl Entry {
    /// What may be meant by this key, which there is not; `sections` are those with a name.
    fn instead(&self, keys: &[Key], sections: &[&str]) -> String {
        if let Some(elsewhere) = keys.iter().find(|key| key.name == self.key) {
            return format!("nearest: `{}`", full(elsewhere.section, elsewhere.name));
        }
        let value = match &self.raw.value {
            RawValue::Text(text) => Some(text.as_str()),
            _ => None,
        };
        // in its own section first: `train.betas` means `train.beta1`, not `loss.name`
        let own = keys.iter().filter(|key| key.section == self.section);
        let own: Vec<&str> = own.map(|key| key.name).collect();
        let near = match own.is_empty() {
            false => nearest(&self.key, own.iter().copied()).map(|key| full(&self.section, key)),
            true => {
                let all: Vec<String> = keys.iter().map(|k| full(k.section, k.name)).collect();
                let name = full(&self.section, &self.key);
                nearest(&name, all.iter().map(String::as_str)).map(str::to_string)
            }
        };
        // a name that another trainer has is not misspelt
        if let Some(said) = known_elsewhere(&self.key, &self.section, value) {
            return said;
        }
        if let Some(near) = near {
            return format!("nearest: `{near}`");
        }
        if let Some(said) = key_elsewhere(&self.key, &self.section, value) {
            return said;
        }
        match (self.section.as_str(), own.is_empty()) {
            ("", _) => format!(
                "there are {} and [{}]",
                own.join(", "),
                sections.join("], [")
            ),
            (_, true) => format!("there are [{}]", sections.join("], [")),
            (section, false) => format!("[{section}] has {}", own.join(", ")),
        }
    }
}

impl Raw {
    /// From a parsed value; `text` is the document it stands in.
    pub(super) fn new(
        value: &Value,
        text: &str,
        place: &dyn Fn(Option<Range<usize>>) -> String,
    ) -> Raw {
        let span = value.span();
        let written = span.clone().and_then(|s| text.get(s));
        let shown = written.unwrap_or(text).trim().to_string();
        let each = |v: &Value| Raw::new(v, text, place);
        let kind = match value {
            Value::String(v) => RawValue::Text(v.value().clone()),
            Value::Integer(v) => RawValue::Int(*v.value()),
            Value::Float(v) => RawValue::Float(*v.value()),
            Value::Boolean(v) => RawValue::Bool(*v.value()),
            Value::Datetime(_) => RawValue::Other,
            Value::Array(list) => RawValue::List(list.iter().map(each).collect()),
            Value::InlineTable(table) => RawValue::Table(
                table
                    .iter()
                    .map(|(k, v)| (k.to_string(), each(v)))
                    .collect(),
            ),
        };
        Raw {
            value: kind,
            text: shown,
            place: place(span),
            from_command_line: false,
        }
    }

    /// From an item; `[[generate.sampling]]` reads like a list of inline tables.
    fn from_item(
        item: &Item,
        text: &str,
        place: &dyn Fn(Option<Range<usize>>) -> String,
    ) -> Option<Raw> {
        match item {
            Item::Value(value) => Some(Raw::new(value, text, place)),
            Item::Table(table) => {
                let row =
                    |(key, item)| Some((str::to_string(key), Raw::from_item(item, text, place)?));
                Some(Raw {
                    value: RawValue::Table(table.iter().map(row).collect::<Option<_>>()?),
                    text: "a table".into(),
                    place: place(table.span()),
                    from_command_line: false,
                })
            }
            Item::ArrayOfTables(tables) => {
                let mut list = Vec::new();
                for table in tables.iter() {
                    let mut rows = Vec::new();
                    for (key, item) in table.iter() {
                        rows.push((key.to_string(), Raw::new(item.as_value()?, text, place)));
                    }
                    let raw = RawValue::Table(rows);
                    list.push(Raw {
                        value: raw,
                        text: "{…}".into(),
                        place: place(table.span()),
                        from_command_line: false,
                    });
                }
                let at = place(tables.span());
                Some(Raw {
                    value: RawValue::List(list),
                    text: "[…]".into(),
                    place: at,
                    from_command_line: false,
                })
            }
            _ => None,
        }
    }

    /// From the text of a declared default.
    pub(super) fn from_text(default: &str) -> Result<Raw, String> {
        let text = format!("v = {default}");
        let document = Document::parse(text.clone())
            .map_err(|e| format!("default `{default}`: {}", e.message()))?;
        let value = document
            .get("v")
            .and_then(Item::as_value)
            .ok_or_else(|| format!("default `{default}`"))?;
        Ok(Raw::new(value, &text, &|_| "default".to_string()))
    }
}
