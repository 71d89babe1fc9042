//! The shapes of examples that people have, told apart by their keys.

use serde_json::{Map, Value};

use super::conversation::{Turn, asks, context, kind, messages, split, text_of};
use super::rewards::rewards;
use super::values::present;
use super::{Calculator, ReadOptions};
use crate::{Context, Error, Message, Place, Record, Result};

/// A shape of examples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// Told from each example's keys.
    #[default]
    Auto,
    /// `messages`: a list of role and content, as OpenAI's.
    Messages,
    /// `prompt` and `response` (or `completion`): text, or lists of messages.
    Prompt,
    /// `instruction`, `input`, `output`.
    Alpaca,
    /// `conversations`: a list of from and value.
    ShareGpt,
    /// `real` and `generated`: SPIN's own pairs.
    Spin,
    /// `chosen` and `rejected`: preference pairs.
    Preference,
    /// `question` and `answer`, as GSM8K.
    Question,
}

/// The shapes in the order they are tried: pairs first, since preference sets often carry `messages` too.
const TRIED: [(Format, &str, &[&[&str]]); 7] = [
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
    (Format::Alpaca, "alpaca", &[&["instruction"], &["output"]]),
    (
        Format::Prompt,
        "prompt",
        &[&["prompt"], &["response", "completion"]],
    ),
    (Format::Question, "question", &[&["question"], &["answer"]]),
];

impl Format {
    /// The names a recipe may use.
    pub const NAMES: [&'static str; 8] = [
        "auto",
        "messages",
        "prompt",
        "alpaca",
        "sharegpt",
        "spin",
        "preference",
        "question",
    ];

    /// The name in a recipe.
    pub fn name(self) -> &'static str {
        TRIED
            .iter()
            .find(|(format, ..)| *format == self)
            .map_or("auto", |(_, name, _)| name)
    }

    fn keys(self) -> &'static [&'static [&'static str]] {
        TRIED
            .iter()
            .find(|(format, ..)| *format == self)
            .map_or(&[], |(.., keys)| keys)
    }
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        if name == "auto" {
            return Ok(Self::Auto);
        }
        TRIED
            .iter()
            .find(|(_, known, _)| *known == name)
            .map(|(format, ..)| *format)
            .ok_or_else(|| {
                format!(
                    "unknown data format `{name}`; known: {}",
                    Self::NAMES.join(", ")
                )
            })
    }
}

/// The records of one example.
pub(super) fn records(place: &Place, value: &Value, options: &ReadOptions) -> Result<Vec<Record>> {
    let Value::Object(map) = value else {
        return Err(Error::example(
            place,
            format!("an example should be an object, is {}", kind(value)),
        ));
    };
    let format = match options.format {
        Format::Auto => detect(place, map)?,
        given => {
            check(place, map, given)?;
            given
        }
    };
    let mut records = match format {
        Format::Messages => conversation(place, map, &["messages"], options)?,
        Format::ShareGpt => conversation(place, map, &["conversations", "conversation"], options)?,
        Format::Alpaca => vec![alpaca(place, map)?],
        Format::Question => vec![simple(place, map, "question", &["answer"])?],
        Format::Spin => vec![pair(place, map, "real", "generated")?],
        Format::Preference => vec![pair(place, map, "chosen", "rejected")?],
        Format::Prompt | Format::Auto => {
            vec![simple(place, map, "prompt", &["response", "completion"])?]
        }
    };
    let context = context(place, map)?;
    for record in &mut records {
        record.context.clone_from(&context);
        if !asks(&record.prompt) {
            return Err(Error::example(place, "an empty prompt"));
        }
        if options.calculator == Calculator::Remove {
            let text = without_calculator(record.response.content());
            if text != record.response.content() {
                record.response = std::mem::take(&mut record.response).with("content", text);
            }
        }
    }
    Ok(records)
}

fn detect(place: &Place, map: &Map<String, Value>) -> Result<Format> {
    let has = |any: &&[&str]| any.iter().any(|key| present(map, key).is_some());
    if let Some((format, ..)) = TRIED.iter().find(|(.., keys)| keys.iter().all(has)) {
        return Ok(*format);
    }
    // The first half of a shape without the second is an example without response.
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
            "no known shape has the keys {}. Known: {}",
            keys_of(map),
            shapes.join(", ")
        ),
    ))
}

fn check(place: &Place, map: &Map<String, Value>, format: Format) -> Result<()> {
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

fn spell(any: &[&str]) -> String {
    any.iter()
        .map(|key| format!("`{key}`"))
        .collect::<Vec<_>>()
        .join(" or ")
}

fn keys_of(map: &Map<String, Value>) -> String {
    match map.is_empty() {
        true => "(none)".to_owned(),
        false => map
            .keys()
            .map(|key| format!("`{key}`"))
            .collect::<Vec<_>>()
            .join(", "),
    }
}

fn conversation(
    place: &Place,
    map: &Map<String, Value>,
    keys: &[&str],
    options: &ReadOptions,
) -> Result<Vec<Record>> {
    let (key, value) = keys
        .iter()
        .find_map(|key| present(map, key).map(|value| (*key, value)))
        .ok_or_else(|| Error::example(place, format!("no {}", spell(keys))))?;
    let turns = messages(place, key, value)?;
    let parts = split(place, key, turns, options.turns)?;
    Ok(parts
        .into_iter()
        .map(|(prompt, response)| record(place, with_system(map, prompt), response))
        .collect())
}

fn alpaca(place: &Place, map: &Map<String, Value>) -> Result<Record> {
    let mut prompt = Vec::new();
    // LLaMA-Factory's earlier rounds: a list of [instruction, output].
    for round in present(map, "history")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        match round.as_array().map(Vec::as_slice) {
            Some([Value::String(asked), Value::String(answered)]) => {
                prompt.extend([Message::user(asked), Message::assistant(answered)]);
            }
            _ => {
                return Err(Error::example(
                    place,
                    "`history` should be a list of [instruction, output]",
                ));
            }
        }
    }
    let mut asked = text(place, map, "instruction")?.to_owned();
    if let Some(input) = text_of(map, &["input"]).filter(|input| !input.trim().is_empty()) {
        if !asked.is_empty() {
            asked.push_str("\n\n");
        }
        asked.push_str(input);
    }
    prompt.push(Message::user(asked.clone()));
    if asked.trim().is_empty() {
        return Err(Error::example(
            place,
            "an empty prompt: `instruction` and `input` are blank",
        ));
    }
    Ok(record(
        place,
        with_system(map, prompt),
        Message::assistant(text(place, map, "output")?),
    ))
}

/// A prompt under one key, a response under another.
fn simple(place: &Place, map: &Map<String, Value>, ask: &str, answers: &[&str]) -> Result<Record> {
    let prompt = prompt_of(place, ask, present(map, ask))?.unwrap_or_default();
    let answer = answers
        .iter()
        .find(|key| present(map, key).is_some())
        .copied()
        .unwrap_or(answers[0]);
    let (prompt, response) = side(place, answer, present(map, answer), Some(prompt))?;
    Ok(record(place, with_system(map, prompt), response))
}

/// Two responses to one prompt, each text or a list of messages that may carry the prompt.
fn pair(place: &Place, map: &Map<String, Value>, real: &str, other: &str) -> Result<Record> {
    let mut prompt = None;
    for key in ["prompt", "question", "instruction"] {
        if prompt.is_none() {
            prompt = prompt_of(place, key, present(map, key))?;
        }
    }
    let (head, response) = side(place, real, present(map, real), prompt.clone())?;
    let (other_head, rejected) = side(place, other, present(map, other), prompt)?;
    if head != other_head {
        let at = head
            .iter()
            .zip(&other_head)
            .take_while(|(a, b)| a == b)
            .count()
            + 1;
        let what =
            format!("`{real}` and `{other}` answer different prompts: they part at message {at}");
        return Err(Error::example(place, what));
    }
    let mut record = record(place, with_system(map, head), response);
    record.rejected = Some(rejected);
    record.rejected_cut = present(map, "truncated")
        .and_then(Value::as_bool)
        .unwrap_or(false);
    record.rewards = rewards(place, map)?.map(|(values, _)| values);
    Ok(record)
}

/// A prompt given as text or as messages; `None` when the key is absent.
fn prompt_of(place: &Place, key: &str, value: Option<&Value>) -> Result<Option<Vec<Message>>> {
    Ok(match value {
        None => None,
        Some(Value::String(text)) => Some(vec![Message::user(text)]),
        Some(value @ Value::Array(_)) => Some(unwrap(messages(place, key, value)?)),
        Some(other) => {
            return Err(Error::example(
                place,
                format!("`{key}` should be text or messages, is {}", kind(other)),
            ));
        }
    })
}

/// One response and the prompt it answers: the messages before it where it has some, else the given prompt.
fn side(
    place: &Place,
    key: &str,
    value: Option<&Value>,
    prompt: Option<Vec<Message>>,
) -> Result<(Vec<Message>, Message)> {
    match value {
        Some(Value::String(response)) => match prompt {
            Some(prompt) => Ok((prompt, Message::assistant(response))),
            None => Err(Error::example(
                place,
                format!("`{key}` is text, so a `prompt` is needed beside it"),
            )),
        },
        Some(list @ Value::Array(_)) => {
            let mut list = unwrap(messages(place, key, list)?);
            match list.pop() {
                Some(last) if last.role() == "assistant" => {
                    let head = if list.is_empty() {
                        prompt.unwrap_or_default()
                    } else {
                        list
                    };
                    Ok((head, last))
                }
                _ => {
                    let what = format!(
                        "an example without response: `{key}` does not end with an assistant message"
                    );
                    Err(Error::example(place, what))
                }
            }
        }
        Some(other) => Err(Error::example(
            place,
            format!("`{key}` should be text or messages, is {}", kind(other)),
        )),
        None => Err(Error::example(
            place,
            format!("an example without response: no `{key}`"),
        )),
    }
}

fn unwrap(turns: Vec<Turn>) -> Vec<Message> {
    turns.into_iter().map(|turn| turn.message).collect()
}

/// Puts a `system` column before the conversation, unless that has a system message.
fn with_system(map: &Map<String, Value>, mut prompt: Vec<Message>) -> Vec<Message> {
    let system = text_of(map, &["system", "system_prompt"]).filter(|text| !text.trim().is_empty());
    if let (Some(text), Some(first)) = (system, prompt.first())
        && first.role() != "system"
    {
        prompt.insert(0, Message::new("system", text));
    }
    prompt
}

fn text<'a>(place: &Place, map: &'a Map<String, Value>, key: &str) -> Result<&'a str> {
    match map.get(key) {
        Some(Value::String(text)) => Ok(text),
        other => {
            let what = format!(
                "`{key}` should be text, is {}",
                other.map_or("absent", kind)
            );
            Err(Error::example(place, what))
        }
    }
}

fn record(place: &Place, prompt: Vec<Message>, response: Message) -> Record {
    Record {
        place: place.clone(),
        prompt,
        context: Context::new(),
        response,
        rejected: None,
        rejected_cut: false,
        rewards: None,
    }
}

/// The text without `<<48/2=24>>`; an opening without a closing on its line stays.
fn without_calculator(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find("<<") {
        let inside = &rest[open + 2..];
        match inside
            .find(">>")
            .filter(|&close| !inside[..close].contains('\n'))
        {
            Some(close) => {
                out.push_str(&rest[..open]);
                rest = &inside[close + 2..];
            }
            None => {
                out.push_str(&rest[..open + 2]);
                rest = inside;
            }
        }
    }
    out.push_str(rest);
    out
}
