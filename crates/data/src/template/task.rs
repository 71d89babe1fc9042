//! A template of a benchmark task: a Jinja program over a row's columns, with jinja2 set up as
//! lm-evaluation-harness does it.

use minijinja::value::Value;

use super::python::{Budget, Program};
use crate::contain::contain;
use crate::{Error, Result};

/// A compiled template.
#[derive(Debug)]
pub struct TaskTemplate(Program);

impl TaskTemplate {
    /// Compiles a template's source.
    ///
    /// # Errors
    /// A source that is not a Jinja template.
    pub fn new(source: &str) -> Result<TaskTemplate> {
        contain(|| Program::of_task(source, Budget::default()))
            .and_then(|program| program)
            .map(TaskTemplate)
            .map_err(Error::TaskTemplate)
    }

    /// Renders it with these columns as its variables.
    ///
    /// # Errors
    /// A variable that is not there, or whatever fails.
    pub fn render(&self, columns: &serde_json::Map<String, serde_json::Value>) -> Result<String> {
        contain(|| self.0.render(Value::from_serialize(columns)))
            .and_then(|text| text)
            .map_err(Error::TaskTemplate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rendered(source: &str, columns: serde_json::Value) -> Result<String> {
        TaskTemplate::new(source)?.render(columns.as_object().unwrap())
    }

    /// The values are lm-eval 0.4.13's `apply_template`, whose environment is jinja2's with
    /// `StrictUndefined` and `keep_trailing_newline`.
    #[test]
    fn tasks_are_rendered_as_lm_eval_renders_them() {
        let row = json!({
            "q": " What? ",
            "choices": {"text": ["a", "it's \"so\"", "é\n"], "label": ["A", "B", "C"]},
            "key": "B",
            "n": 3,
        });
        for (source, text) in [
            ("Q: {{q.strip()}}\nA:\n", "Q: What?\nA:\n"),
            ("{{choices.label.index(key)}}", "1"),
            ("{{choices.text}}", r#"['a', 'it\'s "so"', 'é\n']"#),
            (
                "{% set p = 'x\ny\n' %}\n{{p + '\n\nQ: ' + q}}",
                "\nx\ny\n\n\nQ:  What? ",
            ),
            ("{{n if n is defined else m}} {{'ABCD'[n]}}", "3 D"),
            ("{{m if m is defined else key}}", "B"),
            ("  {% if n == 3 %}\n  x{% endif %}\n", "  \n  x\n"),
        ] {
            assert_eq!(rendered(source, row.clone()).unwrap(), text, "{source}");
        }
        for wrong in [
            "{{missing}}",
            "{{choices.nothing}}",
            "{{missing.x}}",
            "{% if",
        ] {
            let error = rendered(wrong, row.clone()).unwrap_err().to_string();
            assert!(error.starts_with("task's template: "), "{error}");
        }
    }
}
