//! Formats of examples, detected by their keys.

use serde_json::{Map, Value};

use super::columns::{Columns, keys_of};
use super::values::present;
use crate::{Error, Place, Result};

/// Format of examples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// Detected from each example's keys.
    #[default]
    Auto,
    /// `messages`: a list of role and content, as in OpenAI's API.
    Messages,
    /// `prompt` and `response` (or `completion`): text, or lists of messages.
    Prompt,
    /// `instruction`, `input`, `output`, or Dolly's `instruction`, `context`, `response`.
    Alpaca,
    /// `conversations`: a list of from and value.
    ShareGpt,
    /// `real` and `generated`: SPIN's own pairs.
    Spin,
    /// `chosen` and `rejected`: preference pairs.
    Preference,
    /// `question` with `answer`, as in GSM8K, or with `response`, as in Orca.
    Question,
    /// `input` and `output`, without another prompt.
    InputOutput,
    /// `text` alone: a plain text without a prompt, all of which is trained.
    Text,
}

/// Formats in the order of detection: pairs first, since preference sets often have `messages` too.
const TRIED: [(Format, &str, &[&[&str]]); 9] = [
    (Format::Spin, "spin", &[&["real"], &["generated"]]),
    (
        Format::Preference,
        "preference",
        &[&["chosen"], &["rejected"]],
    ),
    (Format::Messages, "messages", &[&["messages"]]),
    (
        Format::ShareGpt,
        "sharegpt",
        &[&["conversations", "conversation"]],
    ),
    (
        Format::Alpaca,
        "alpaca",
        &[&["instruction"], &["output", "response"]],
    ),
    (
        Format::Prompt,
        "prompt-response",
        &[&["prompt"], &["response", "completion"]],
    ),
    (
        Format::Question,
        "question-answer",
        &[&["question"], &["answer", "response"]],
    ),
    (
        Format::InputOutput,
        "input-output",
        &[&["input"], &["output"]],
    ),
    (Format::Text, "text", &[&["text"]]),
];

impl Format {
    /// Name in a recipe.
    pub fn name(self) -> &'static str {
        TRIED
            .iter()
            .find(|(format, ..)| *format == self)
            .map_or("auto", |(_, name, _)| name)
    }

    /// Keys that a row of this format must have: one of each list.
    pub(super) fn keys(self) -> &'static [&'static [&'static str]] {
        TRIED
            .iter()
            .find(|(format, ..)| *format == self)
            .map_or(&[], |(.., keys)| keys)
    }
}

/// Detects the format of a row from its keys: one with a key of `columns`, if any fits.
pub(super) fn detect(place: &Place, map: &Map<String, Value>, columns: &Columns) -> Result<Format> {
    let has = |any: &&[&str]| any.iter().any(|key| present(map, key).is_some());
    let any = |keys: &[&str]| has(&keys);
    let other = |format: Format| match format {
        // with a `prompt`, `response` belongs to it, and `instruction` is something else
        Format::Alpaca => !columns.has("instruction") && any(&["prompt"]) && !any(&["output"]),
        // what is there besides would not be read, and may be the prompt
        Format::InputOutput => !columns.has("input") && any(&["prompt", "question", "instruction"]),
        Format::Text => {
            let others = TRIED.iter().filter(|(format, ..)| *format != Format::Text);
            !columns.has("text") && others.flat_map(|(.., keys)| *keys).any(has)
        }
        _ => false,
    };
    let fits =
        |(format, _, keys): &&(Format, &str, &[&[&str]])| keys.iter().all(has) && !other(*format);
    let said = |(.., keys): &&(Format, &str, &[&[&str]])| {
        let mut keys = keys.iter().flat_map(|any| any.iter());
        keys.any(|key| columns.has(key))
    };
    let of_columns = TRIED.iter().filter(fits).find(said);
    if let Some((format, ..)) = of_columns.or_else(|| TRIED.iter().find(fits)) {
        return Ok(*format);
    }
    // The first half of a format's keys without the second: an example without a response.
    if let Some((_, name, keys)) = TRIED
        .iter()
        .find(|(.., keys)| keys.len() == 2 && has(&keys[0]))
    {
        let (first, second) = (spell(keys[0]), spell(keys[1]));
        return Err(Error::example(
            place,
            format!("an example without response: {first} but no {second} (shape {name})"),
        ));
    }
    let shapes: Vec<String> = TRIED
        .iter()
        .map(|(_, name, keys)| {
            format!(
                "{name} ({})",
                keys.iter()
                    .map(|k| spell(k))
                    .collect::<Vec<_>>()
                    .join(" + ")
            )
        })
        .collect();
    Err(Error::example(
        place,
        format!(
            "no known shape has the keys {}. Known: {}; data.columns = {{prompt = …, \
             response = …}} says which columns are which",
            keys_of(map),
            shapes.join(", ")
        ),
    ))
}

/// Refuses a row without the keys of the given format.
pub(super) fn check(place: &Place, map: &Map<String, Value>, format: Format) -> Result<()> {
    for any in format.keys() {
        if !any.iter().any(|key| present(map, key).is_some()) {
            let what = format!(
                "no {} (the format is set to {}); keys found: {}",
                spell(any),
                format.name(),
                keys_of(map)
            );
            return Err(Error::example(place, what));
        }
    }
    Ok(())
}

/// Lists keys of which one is needed, for errors.
pub(super) fn spell(any: &[&str]) -> String {
    any.iter()
        .map(|key| format!("`{key}`"))
        .collect::<Vec<_>>()
        .join(" or ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_can_be_read_as_any_key_of_a_shape() {
        let keys = TRIED.iter().flat_map(|(.., keys)| keys.iter().copied());
        for any in keys {
            let known = |key: &&str| Columns::names().any(|name| name == *key);
            assert!(any.iter().any(known), "{any:?}");
            assert!(
                any.iter().all(known) || any.contains(&"conversations"),
                "{any:?}"
            );
        }
    }
}
