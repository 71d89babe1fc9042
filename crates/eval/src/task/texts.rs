//! A document's question, answer and choices: a column, a rendered template, or a function.

use serde_json::Value;

use super::definition::Source;
use super::doc::{Doc, Render};
use super::literal::literal;

/// What a definition's sources give for a document; `columns` are the names that stand for
/// themselves, and `chosen` says that the task has choices, so that a number is one's.
pub struct Texts<'a> {
    pub render: Render<'a>,
    pub columns: &'a [String],
    pub chosen: bool,
}

impl Texts<'_> {
    /// `doc_to_text`: a text, or the number of a choice.
    pub fn text(&self, source: &Source, doc: &Doc) -> Result<Value, String> {
        match source {
            Source::Built(function) => function.of(doc),
            Source::Fixed(value) => Ok(value.clone()),
            Source::Text(text) => match self.column(text, doc) {
                Some(value) => Ok(value),
                None => self.number_or_text(text, doc),
            },
        }
    }

    /// `doc_to_target`: a text, the number of a choice, or a list of either.
    pub fn target(&self, source: &Source, doc: &Doc) -> Result<Value, String> {
        match self.text(source, doc)? {
            Value::String(text)
                if !matches!(source, Source::Text(name) if self.columns.contains(name))
                    && text.len() >= 2
                    && text.starts_with('[')
                    && text.ends_with(']') =>
            {
                Ok(literal(&text).unwrap_or(Value::String(text)))
            }
            other => Ok(other),
        }
    }

    /// `doc_to_choice`.
    pub fn choices(&self, source: &Source, doc: &Doc) -> Result<Vec<String>, String> {
        let value = match source {
            Source::Built(function) => function.of(doc)?,
            Source::Fixed(value) => value.clone(),
            Source::Text(text) => match self.column(text, doc) {
                Some(value) => value,
                None => literal(&(self.render)(text, doc)?)?,
            },
        };
        let list = value.as_array().into_iter().flatten();
        let texts: Option<Vec<String>> = list.map(|v| v.as_str().map(str::to_owned)).collect();
        texts
            .filter(|texts| !texts.is_empty())
            .ok_or_else(|| format!("doc_to_choice must give a list of texts, gives {value}"))
    }

    /// A field that is a column's name or a template: `description`, `gen_prefix`.
    pub fn field(&self, field: &str, doc: &Doc) -> Result<String, String> {
        match self.column(field, doc) {
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(format!("`{field}` must be a text, is {other}")),
            None => (self.render)(field, doc),
        }
    }

    fn column(&self, name: &str, doc: &Doc) -> Option<Value> {
        let known = self.columns.iter().any(|column| column == name);
        doc.get(name).filter(|_| known).cloned()
    }

    fn number_or_text(&self, template: &str, doc: &Doc) -> Result<Value, String> {
        let text = (self.render)(template, doc)?;
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse::<i64>() {
            Ok(number) if digits && self.chosen => Ok(number.into()),
            _ => Ok(text.into()),
        }
    }
}
