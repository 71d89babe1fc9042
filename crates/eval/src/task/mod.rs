//! Tasks as lm-evaluation-harness 0.4.13 defines them: what is asked of a model for each document,
//! and what its answers count. Plain values in and out: a definition's YAML, documents, log-probs
//! and responses come from elsewhere, and so does whoever renders Jinja ([`Render`]).

mod ask;
mod builtin;
mod definition;
mod filter;
mod literal;
mod pattern;
mod random;
mod result;
mod texts;

use serde_json::{Map, Value};

pub use ask::{Item, Pool, Question};
pub use builtin::{Function, PYTHON_FILES, PythonFile};
pub use definition::{Dataset, Definition, Fewshot, Metric, Output, Source};
pub use filter::Step;
pub use result::{Figure, Score, Scored, pooled};

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
    fn of(what: impl Into<String>) -> Wrong {
        Wrong {
            task: String::new(),
            document: None,
            what: what.into(),
        }
    }

    fn at(document: usize, what: impl Into<String>) -> Wrong {
        Wrong {
            document: Some(document),
            ..Wrong::of(what)
        }
    }

    fn in_task(self, task: &str) -> Wrong {
        Wrong {
            task: task.to_owned(),
            ..self
        }
    }
}

/// Python's white space, which is Unicode's and four control characters.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Python's `strip`.
fn stripped(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// A context and what follows it, as lm-eval divides them for the tokenizer: white space at the
/// context's end begins what follows.
pub fn divided(context: &str, continuation: &str) -> (String, String) {
    let body = context.trim_end_matches(is_space);
    let moved = &context[body.len()..];
    (body.to_owned(), format!("{moved}{continuation}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// lm-eval's `_encode_pair` moves what `rstrip` takes off.
    #[test]
    fn white_space_moves_to_what_follows() {
        for (context, follows, divided) in [
            ("Answer:", " B", ("Answer:", " B")),
            ("Answer: ", "B", ("Answer:", " B")),
            ("A\n \t\u{1f}\u{a0}", " B", ("A", "\n \t\u{1f}\u{a0} B")),
            ("  ", "B", ("", "  B")),
        ] {
            let divided = (divided.0.to_owned(), divided.1.to_owned());
            assert_eq!(super::divided(context, follows), divided, "{context:?}");
        }
    }

    #[test]
    fn an_error_names_task_and_document() {
        let wrong = Wrong::at(3, "has no `x`").in_task("mine");
        assert_eq!(wrong.to_string(), "task mine: document 3: has no `x`");
        assert_eq!(
            Wrong::of("is empty").in_task("m").to_string(),
            "task m: is empty"
        );
    }
}
