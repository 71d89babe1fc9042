//! Tasks as lm-evaluation-harness 0.4.13 defines them: what is asked of a model for each document,
//! and what its answers count. Plain values in and out: a definition's YAML, documents, log-probs
//! and responses come from elsewhere, and so does whoever renders Jinja ([`Render`]).

mod ask;
mod builtin;
mod definition;
mod doc;
mod filter;
mod literal;
mod pattern;
mod random;
mod result;
mod texts;

pub use ask::{Item, Pool, Question};
pub use builtin::{Function, PYTHON_FILES, PythonFile};
pub use definition::{Dataset, Definition, Fewshot, Metric, Output, Source};
pub use doc::{Doc, FUNCTION, Render, Wrong};
pub use filter::Step;
pub use result::{Figure, Score, Scored, pooled};

use doc::is_space;

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
