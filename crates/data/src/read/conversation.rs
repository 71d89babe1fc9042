//! Conversations in their spellings (role/content, from/value, content in parts) and the turns that are trained.

use serde_json::{Map, Value};

use super::Turns;
use super::values::present;
use crate::{Error, Message, Place, Result};

/// A message and whether its author wants it trained (OpenAI's `weight: 0` says no).
pub(super) struct Turn {
    pub message: Message,
    pub trained: bool,
}

/// The messages of a list value; `key` names the list in errors.
pub(super) fn messages(place: &Place, key: &str, value: &Value) -> Result<Vec<Turn>> {
    let list = match value {
        Value::Array(list) => list,
        other => {
            return Err(Error::example(
                place,
                format!("`{key}` should be a list of messages, is {}", kind(other)),
            ));
        }
    };
    list.iter()
        .enumerate()
        .map(|(i, item)| message(place, &format!("{key}[{i}]"), item))
        .collect()
}

fn message(place: &Place, at: &str, item: &Value) -> Result<Turn> {
    let Value::Object(map) = item else {
        return Err(Error::example(
            place,
            format!("`{at}` should be a message, is {}", kind(item)),
        ));
    };
    let role = text_of(map, &["role", "from"])
        .ok_or_else(|| Error::example(place, format!("`{at}` has no role (`role` or `from`)")))?;
    let role = role_name(role).ok_or_else(|| {
        Error::example(
            place,
            format!("`{at}` has the unknown role `{role}`; known: {ROLES}"),
        )
    })?;
    let content = present(map, "content").or_else(|| present(map, "value"));
    let content = match content {
        Some(value) => content_text(place, at, value)?,
        None => {
            return Err(Error::example(
                place,
                format!("`{at}` has no content (`content` or `value`)"),
            ));
        }
    };
    let trained = map.get("weight").and_then(Value::as_f64) != Some(0.0);
    Ok(Turn {
        message: Message::new(role, content),
        trained,
    })
}

const ROLES: &str = "system, developer, user (human), assistant (gpt), tool (observation)";

fn role_name(role: &str) -> Option<&'static str> {
    Some(match role.trim().to_ascii_lowercase().as_str() {
        "system" => "system",
        "developer" => "developer",
        "user" | "human" | "prompter" => "user",
        "assistant" | "gpt" | "chatgpt" | "bing" | "bard" | "model" => "assistant",
        "tool" | "function" | "observation" | "ipython" => "tool",
        _ => return None,
    })
}

/// A message's content: text, or a list of text parts.
fn content_text(place: &Place, at: &str, value: &Value) -> Result<String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => parts
            .iter()
            .map(|part| match part {
                Value::String(text) => Ok(text.as_str()),
                Value::Object(map) => text_of(map, &["text"]).ok_or_else(|| {
                    Error::example(
                        place,
                        format!("`{at}` has a part that is not text; only text can be trained"),
                    )
                }),
                other => Err(Error::example(
                    place,
                    format!("`{at}` has a part that is {}", kind(other)),
                )),
            })
            .collect(),
        other => Err(Error::example(
            place,
            format!("the content of `{at}` should be text, is {}", kind(other)),
        )),
    }
}

/// The (prompt, response) pairs that a conversation trains.
///
/// `Last`: the last assistant turn, whatever follows it. `Every`: each assistant turn that answers somebody; an
/// opening line of the assistant is history for the next.
pub(super) fn split(
    place: &Place,
    key: &str,
    turns: Vec<Turn>,
    which: Turns,
) -> Result<Vec<(Vec<Message>, String)>> {
    let candidates: Vec<usize> = (0..turns.len())
        .filter(|&i| turns[i].message.role == "assistant" && turns[i].trained)
        .collect();
    let Some(&last) = candidates.last() else {
        return Err(Error::example(
            place,
            format!("an example without response: `{key}` has no assistant message"),
        ));
    };
    let messages: Vec<Message> = turns.into_iter().map(|t| t.message).collect();
    let chosen: Vec<usize> = match which {
        Turns::Last => vec![last],
        Turns::Every => candidates
            .into_iter()
            .filter(|&i| asks(&messages[..i]))
            .collect(),
    };
    if chosen.is_empty() || !asks(&messages[..chosen[0]]) {
        return Err(Error::example(
            place,
            format!("an empty prompt: nobody speaks before the assistant in `{key}`"),
        ));
    }
    Ok(chosen
        .into_iter()
        .map(|i| (messages[..i].to_vec(), messages[i].content.clone()))
        .collect())
}

/// Whether these messages ask for something: one that is neither the system's nor the assistant's, and not blank.
pub(super) fn asks(messages: &[Message]) -> bool {
    messages.iter().any(|m| {
        !matches!(m.role.as_str(), "system" | "developer" | "assistant")
            && !m.content.trim().is_empty()
    })
}

/// The first of these keys that holds text.
pub(super) fn text_of<'a>(map: &'a Map<String, Value>, keys: &[&str]) -> Option<&'a str> {
    keys.iter()
        .find_map(|key| map.get(*key).and_then(Value::as_str))
}

/// A value's kind, for errors.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
