//! Conversations in their spellings (role/content, from/value, content in parts) and the turns that are trained.

use serde_json::{Map, Value};

use super::Turns;
use super::values::present;
use crate::{Context, Error, Message, Place, Result};

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
    let given = text_of(map, &["role", "from"])
        .ok_or_else(|| Error::example(place, format!("`{at}` has no role (`role` or `from`)")))?;
    let role = role_name(given).ok_or_else(|| {
        Error::example(
            place,
            format!("`{at}` has the unknown role `{given}`; known: {ROLES}"),
        )
    })?;
    let spoken = ["content", "value"]
        .into_iter()
        .find(|key| present(map, key).is_some());
    let content = match spoken.and_then(|key| map.get(key)) {
        Some(value) => Some(Value::String(content_text(place, at, value)?)),
        None if role == "assistant" && SPOKEN.iter().any(|key| present(map, key).is_some()) => None,
        None => {
            return Err(Error::example(
                place,
                format!("`{at}` has no content (`content` or `value`)"),
            ));
        }
    };
    let trained = map.get("weight").and_then(Value::as_f64) != Some(0.0);
    Ok(Turn {
        message: Message::of(fields(map, role, spoken, content)),
        trained,
    })
}

/// Fields by which an assistant says something without `content`.
const SPOKEN: [&str; 6] = [
    "tool_calls",
    "function_call",
    "tool_plan",
    "reasoning_content",
    "reasoning",
    "thinking",
];

/// The message's fields under the names that templates know, in the data's order: role and content in their
/// usual spelling, whatever else is not null as it is. A null content stays where the data have one.
fn fields(
    map: &Map<String, Value>,
    role: &str,
    spoken: Option<&str>,
    mut content: Option<Value>,
) -> Map<String, Value> {
    let named = if map.get("role").is_some_and(Value::is_string) {
        "role"
    } else {
        "from"
    };
    let mut fields = Map::new();
    for (key, value) in map {
        match key.as_str() {
            key if key == named => _ = fields.insert("role".to_owned(), role.into()),
            key if Some(key) == spoken => {
                fields.extend(content.take().map(|text| ("content".to_owned(), text)));
            }
            "content" | "value" if spoken.is_none() => {
                _ = fields.insert("content".to_owned(), Value::Null);
            }
            // said to whoever trains, not to the model
            "weight" => {}
            _ if value.is_null() => {}
            _ => _ = fields.insert(key.clone(), value.clone()),
        }
    }
    fields
}

/// What a row gives its template besides the messages. Tools are often kept as their JSON text, since a column
/// of a table has one type: that text is read.
///
/// # Errors
/// `tools` that are text but no JSON, `chat_template_kwargs` that are no object.
pub(super) fn context(place: &Place, map: &Map<String, Value>) -> Result<Context> {
    let mut context = Context::new();
    for key in ["tools", "documents", "chat_template_kwargs"] {
        let value = match present(map, key) {
            None => continue,
            Some(Value::String(text)) if text.trim().is_empty() => continue,
            Some(Value::String(text)) => serde_json::from_str(text).map_err(|e| {
                Error::example(place, format!("`{key}` is text, but not JSON: {e}"))
            })?,
            Some(value) => value.clone(),
        };
        if key == "chat_template_kwargs" && !value.is_object() {
            let what = format!("`{key}` should be an object, is {}", kind(&value));
            return Err(Error::example(place, what));
        }
        context.insert(key.to_owned(), value);
    }
    Ok(context)
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
) -> Result<Vec<(Vec<Message>, Message)>> {
    let candidates: Vec<usize> = (0..turns.len())
        .filter(|&i| turns[i].message.role() == "assistant" && turns[i].trained)
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
        .map(|i| (messages[..i].to_vec(), messages[i].clone()))
        .collect())
}

/// Whether these messages ask for something: one that is neither the system's nor the assistant's, and not blank.
pub(super) fn asks(messages: &[Message]) -> bool {
    messages.iter().any(|m| {
        !matches!(m.role(), "system" | "developer" | "assistant") && !m.content().trim().is_empty()
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
