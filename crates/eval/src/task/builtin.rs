//! What the definitions of the six tasks call in Python, written anew: by the name of the folder
//! that the Python file is in, the file and the function. What is called by another name is
//! refused where the task is asked for.

use serde_json::{Value, json};

use super::doc::{Doc, Render, Wrong};

/// A function of lm-eval 0.4.13's tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// HellaSwag's cleaning: `query` and `choices` from `activity_label`, `ctx_a`, `ctx_b` and
    /// `endings`.
    HellaswagDocs,
    /// WinoGrande's question: the number of the right option, since options are put into contexts.
    WinograndeText,
    /// WinoGrande's target: what follows the blank.
    WinograndeTarget,
    /// WinoGrande's contexts: what is before the blank, with each option behind.
    WinograndeChoices,
    /// TruthfulQA's mc2: the share of the probability that is on true answers.
    TruthfulqaMc2,
}

/// A Python file whose functions are built in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PythonFile {
    /// Its folder and name.
    pub name: &'static str,
    /// SHA-256 of the file in lm-eval 0.4.13, which was read for what is built in.
    pub sha256: &'static str,
}

/// The files whose functions are built in.
pub const PYTHON_FILES: [PythonFile; 3] = [
    PythonFile {
        name: "hellaswag/utils.py",
        sha256: "07d23b60b28f2a4f658dcf8440623a63fe6644854ce9b846a114dde980dc1214",
    },
    PythonFile {
        name: "truthfulqa/utils.py",
        sha256: "d3c827d1e2cd442a1e4738b527a18effd48cbb2aed478c12a652311b5ea4dbc8",
    },
    PythonFile {
        name: "winogrande/preprocess_winogrande.py",
        sha256: "e55327629264a98f1d383fda24645b6779afb53fa0bce2150042b9416b1ae006",
    },
];

impl Function {
    /// The function called by this name: `hellaswag/utils.process_docs`.
    pub fn named(name: &str) -> Option<Function> {
        Some(match name {
            "hellaswag/utils.process_docs" => Function::HellaswagDocs,
            "winogrande/preprocess_winogrande.doc_to_text" => Function::WinograndeText,
            "winogrande/preprocess_winogrande.doc_to_target" => Function::WinograndeTarget,
            "winogrande/preprocess_winogrande.doc_to_choice" => Function::WinograndeChoices,
            "truthfulqa/utils.process_results_mc2" => Function::TruthfulqaMc2,
            _ => return None,
        })
    }

    /// Whether it is for the key of a definition.
    pub(super) fn is_for(self, key: &str) -> bool {
        match self {
            Function::HellaswagDocs => key == "process_docs",
            Function::WinograndeText => key == "doc_to_text",
            Function::WinograndeTarget => key == "doc_to_target",
            Function::WinograndeChoices => key == "doc_to_choice",
            Function::TruthfulqaMc2 => key == "process_results",
        }
    }

    /// What it makes of a document, of those for `doc_to_text`, `doc_to_target` and
    /// `doc_to_choice`.
    pub(super) fn of(self, doc: &Doc) -> Result<Value, String> {
        match self {
            Function::WinograndeText => match text(doc, "answer")? {
                "1" => Ok(0.into()),
                "2" => Ok(1.into()),
                other => Err(format!("`answer` must be \"1\" or \"2\", is {other:?}")),
            },
            Function::WinograndeTarget => {
                let (_, after) = blank(doc)?;
                Ok(super::doc::stripped(after).into())
            }
            Function::WinograndeChoices => {
                let (before, _) = blank(doc)?;
                let options = [text(doc, "option1")?, text(doc, "option2")?];
                Ok(json!(options.map(|option| format!("{before}{option}"))))
            }
            Function::HellaswagDocs | Function::TruthfulqaMc2 => {
                Err("no function of a document's text".into())
            }
        }
    }

    /// The documents that it makes of a split's.
    pub(super) fn docs(self, docs: Vec<Doc>, render: Render) -> Result<Vec<Doc>, Wrong> {
        let each = docs.into_iter().enumerate();
        each.map(|(i, doc)| match self {
            Function::HellaswagDocs => hellaswag(doc, render).map_err(|what| Wrong::at(i, what)),
            _ => Ok(doc),
        })
        .collect()
    }
}

fn text<'a>(doc: &'a Doc, column: &str) -> Result<&'a str, String> {
    let value = doc.get(column).ok_or(format!("has no `{column}`"))?;
    value
        .as_str()
        .ok_or(format!("`{column}` must be a text, is {value}"))
}

/// A sentence before and after its blank.
fn blank(doc: &Doc) -> Result<(&str, &str), String> {
    let sentence = text(doc, "sentence")?;
    sentence
        .split_once('_')
        .ok_or(format!("`sentence` has no `_`: {sentence:?}"))
}

fn hellaswag(mut doc: Doc, render: Render) -> Result<Doc, String> {
    let endings = doc.get("endings").and_then(Value::as_array);
    let endings = endings.ok_or("`endings` must be a list of texts")?;
    let endings: Option<Vec<String>> = endings
        .iter()
        .map(|ending| ending.as_str().map(cleaned))
        .collect();
    let endings = endings.ok_or("`endings` must be a list of texts")?;
    // Python's `capitalize`, which templates have
    let b = Doc::from_iter([("b".to_owned(), text(&doc, "ctx_b")?.into())]);
    let b = render("{{ b.capitalize() }}", &b)?;
    let (label, a) = (text(&doc, "activity_label")?, text(&doc, "ctx_a")?);
    let query = cleaned(&format!("{label}: {a} {b}"));
    let gold = match doc.get("label") {
        Some(Value::String(label)) => label.trim().parse().ok(),
        Some(label) => label.as_i64(),
        None => None,
    };
    let gold: i64 = gold.ok_or("`label` must be a whole number")?;
    doc.insert("query".into(), query.into());
    doc.insert("choices".into(), json!(endings));
    doc.insert("gold".into(), gold.into());
    Ok(doc)
}

/// A text of HellaSwag without the marks of its source.
fn cleaned(text: &str) -> String {
    let text = super::doc::stripped(text).replace(" [title]", ". ");
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some(open) = rest.find('[') {
        let inside = &rest[open..];
        // a mark is on one line
        let close = inside
            .find(']')
            .filter(|end| !inside[..*end].contains('\n'));
        let kept = match close {
            Some(_) => open,
            None => open + 1,
        };
        out.push_str(&rest[..kept]);
        rest = &inside[close.map_or(1, |end| end + 1)..];
    }
    (out + rest).replace("  ", " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against `re.sub("\\[.*?\\]", "", text)` between the two replacements of lm-eval's
    /// `preprocess`, in Python 3.11.
    #[test]
    fn hellaswags_marks_are_removed() {
        for (text, clean) in [
            ("  a [title] b [step] c  ", "a. b c"),
            ("a [x\ny] [z]b", "a [x\ny] b"),
            ("[[a]] b", "] b"),
            ("a [ b", "a [ b"),
            ("a [header]  b   c", "a  b  c"),
        ] {
            assert_eq!(cleaned(text), clean, "{text}");
        }
    }
}
