//! Documents, who renders their templates, and what may be wrong with a task.

use serde_json::{Map, Value};

/// A document: a row of the data set.
pub type Doc = Map<String, Value>;

/// Renders a Jinja template with a document's columns as its variables.
pub type Render<'a> = &'a dyn Fn(&str, &Doc) -> Result<String, String>;

/// The key of an object that stands for a function: `{"!function": "FOLDER/FILE.FUNCTION"}`.
pub const FUNCTION: &str = "!function";

/// What is wrong with a task: its name, the document's number where it is one's, and the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("task {task}: {}{what}", place(.document))]
pub struct Wrong {
    task: String,
    document: Option<usize>,
    what: String,
}

fn place(document: &Option<usize>) -> String {
    document.map_or(String::new(), |n| format!("document {n}: "))
}

impl Wrong {
    pub(super) fn of(what: impl Into<String>) -> Wrong {
        Wrong {
            task: String::new(),
            document: None,
            what: what.into(),
        }
    }

    pub(super) fn at(document: usize, what: impl Into<String>) -> Wrong {
        Wrong {
            document: Some(document),
            ..Wrong::of(what)
        }
    }

    pub(super) fn in_task(self, task: &str) -> Wrong {
        Wrong {
            task: task.to_owned(),
            ..self
        }
    }
}

/// Python's white space, which is Unicode's and four control characters.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Python's `strip`.
pub(super) fn stripped(text: &str) -> &str {
    text.trim_matches(is_space)
}
