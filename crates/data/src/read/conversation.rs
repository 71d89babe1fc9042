//! Conversations in their various spellings (role/content, from/value, content in parts), and the
//! choice of turns to train.

use serde_json::{Map, Value, json};

use super::Turns;
use super::json::{inner, list_in};
use super::values::{self, flag, plain_flag, present, wrong};
use crate::template::{LISTS, unlisted};
use crate::tokenizer::REASONING;
use crate::{Context, Error, Message, Place, Result};

/// A message with its author's setting whether to train it: OpenAI's `weight: 0` and axolotl's
/// `train: false` mean no.
pub(super) struct Turn {
    pub message: Message,
    pub trained: bool,
}

/// Reads a list of messages, or one message; `key` names it in errors. A list may be given as JSON
/// text, since a table's column has one type.
pub(super) fn messages(place: &Place, key: &str, value: &Value) -> Result<Vec<Turn>> {
    let list = match value {
        Value::Array(list) => list,
        Value::Object(_) => return Ok(vec![message(place, key, value)?]),
        other => {
            if let Some(text) = other.as_str()
                && let Some(list) = list_in(place, key, text)?
            {
                return messages(place, key, &list);
            }
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
    let given = match first(map, &["role", "from"]) {
        Some((_, Value::String(role))) => role,
        Some((key, other)) => return Err(wrong(place, &format!("{at}.{key}"), "text", other)),
        None => {
            let what = format!("`{at}` has no role (`role` or `from`)");
            return Err(Error::example(place, what));
        }
    };
    let role = role_name(given).ok_or_else(|| {
        Error::example(
            place,
            format!("`{at}` has the unknown role `{given}`; known: {ROLES}"),
        )
    })?;
    let spoken = ["content", "value"]
        .into_iter()
        .find(|key| present(map, key).is_some());
    let said = spoken.and_then(|key| map.get(key));
    let (reasoning, calls) = match CALLS.contains(&given.trim().to_ascii_lowercase().as_str()) {
        true if present(map, "tool_calls").is_none() => {
            let named = REASONING.iter().any(|key| present(map, key).is_some());
            let (reasoning, said) = match said {
                Some(Value::String(text)) if !named => thought(text),
                said => (None, said.cloned()),
            };
            (reasoning, Some(calls(place, at, said.as_ref())?))
        }
        _ => (None, None),
    };
    let content = match said {
        _ if calls.is_some() => Some(Value::String(String::new())),
        Some(value) => Some(Value::String(content_text(place, at, role, value)?)),
        None if role == "assistant" && SPOKEN.iter().any(|key| present(map, key).is_some()) => None,
        None => {
            return Err(Error::example(
                place,
                format!("`{at}` has no content (`content` or `value`)"),
            ));
        }
    };
    let trained = is_trained(place, at, map)?;
    let mut fields = fields(map, role, spoken, content);
    fields.extend(reasoning.map(|text| (REASONING[0].to_owned(), Value::String(text))));
    fields.extend(calls.map(|calls| ("tool_calls".to_owned(), calls)));
    Ok(Turn {
        message: Message::of(fields),
        trained,
    })
}

/// A text's `<think>…</think>` before all else, where that is not blank, and the text behind it:
/// LLaMA-Factory's data have reasoning there, which it writes before the calls.
fn thought(text: &str) -> (Option<String>, Option<Value>) {
    let begun = text.trim_start().strip_prefix("<think>");
    match begun.and_then(|begun| begun.split_once("</think>")) {
        Some((thought, rest)) => {
            let thought = Some(thought.trim().to_owned()).filter(|thought| !thought.is_empty());
            (thought, Some(rest.into()))
        }
        None => (None, Some(text.into())),
    }
}

/// Reads tool calls from the content of a message with a role in [`CALLS`], into OpenAI's form.
fn calls(place: &Place, at: &str, content: Option<&Value>) -> Result<Value> {
    let wrong = || {
        let what = format!(
            "`{at}` should be a tool call, {{\"name\": …, \"arguments\": …}} or a list of them, as JSON"
        );
        Error::example(place, what)
    };
    let calls = match content {
        Some(Value::String(text)) => inner(place, at, text)?.map_err(|_| wrong())?,
        Some(calls) => calls.clone(),
        None => return Err(wrong()),
    };
    let calls = match calls {
        Value::Array(calls) if calls.is_empty() => return Err(wrong()),
        Value::Array(calls) => calls,
        one => vec![one],
    };
    let calls = calls.into_iter().map(|call| {
        match call["name"].is_string() && !call["arguments"].is_null() {
            true => Ok(json!({"type": "function", "function": call})),
            false => Err(wrong()),
        }
    });
    calls.collect::<Result<Vec<_>>>().map(Value::Array)
}

/// Fields of a message meant for the trainer, not the model: OpenAI's and axolotl's.
const TRAINS: [&str; 3] = ["weight", "train", "training"];

/// Whether a message is to be trained. `loss` is ms-swift's name for it, if boolean.
fn is_trained(place: &Place, at: &str, map: &Map<String, Value>) -> Result<bool> {
    let mut trained = true;
    for key in TRAINS {
        if let Some(value) = present(map, key) {
            trained &= flag(place, &format!("{at}.{key}"), value)?.unwrap_or(true);
        }
    }
    Ok(trained && map.get("loss").and_then(plain_flag).unwrap_or(true))
}

/// Fields that make an assistant's message non-empty without `content`.
const SPOKEN: [&str; 6] = [
    "tool_calls",
    "function_call",
    "tool_plan",
    "reasoning_content",
    "reasoning",
    "thinking",
];

/// The message's fields under the names that templates use, in the data's order: role and content
/// in their usual spelling, all others that are not null unchanged. A null content is kept.
fn fields(
    map: &Map<String, Value>,
    role: &str,
    spoken: Option<&str>,
    mut content: Option<Value>,
) -> Map<String, Value> {
    let named = first(map, &["role", "from"]).map_or("role", |(key, _)| key);
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
            key if TRAINS.contains(&key) => {}
            "loss" if plain_flag(value).is_some() => {}
            _ if value.is_null() => {}
            _ => _ = fields.insert(key.clone(), value.clone()),
        }
    }
    fields
}

/// A row's variables for its template, besides the messages. Tools are often stored as JSON text,
/// since a table's column has one type: that text is parsed.
///
/// # Errors
/// Text that is not JSON, or holds an unsupported number; `tools` and `documents` that are not
/// lists of objects, also in `chat_template_kwargs`; `chat_template_kwargs` that are no object.
pub(super) fn context(place: &Place, map: &Map<String, Value>) -> Result<Context> {
    let mut context = Context::new();
    for key in LISTS {
        if let Some(value) = parsed(place, key, map.get(key))? {
            context.insert(key.to_owned(), listed(place, key, value)?);
        }
    }
    match parsed(place, KWARGS, map.get(KWARGS))? {
        None => {}
        Some(Value::Object(mut given)) => {
            for key in LISTS {
                let at = format!("{KWARGS}.{key}");
                match parsed(place, &at, given.get(key))? {
                    Some(value) => _ = given.insert(key.to_owned(), listed(place, &at, value)?),
                    // null goes before the row's own; blank text says nothing
                    None if given.get(key).is_some_and(Value::is_string) => {
                        given.shift_remove(key);
                    }
                    None => {}
                }
            }
            context.insert(KWARGS.to_owned(), given.into());
        }
        Some(other) => return Err(wrong(place, KWARGS, "an object", &other)),
    }
    Ok(context)
}

/// The key of a row's further variables.
const KWARGS: &str = "chat_template_kwargs";

/// A value that may be given as JSON text; `None` if it is null or blank.
fn parsed(place: &Place, at: &str, value: Option<&Value>) -> Result<Option<Value>> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
        Some(Value::String(text)) => {
            let value = inner(place, at, text)?
                .map_err(|e| Error::example(place, format!("`{at}` is text, but not JSON: {e}")))?;
            Ok(Some(value))
        }
        Some(value) => Ok(Some(value.clone())),
    }
}

/// A value of [`LISTS`].
fn listed(place: &Place, at: &str, value: Value) -> Result<Value> {
    if let Some((item, should, found)) = unlisted(&value) {
        return Err(wrong(place, &format!("{at}{item}"), should, found));
    }
    Ok(value)
}

const ROLES: &str = "system, developer, user (human), assistant (gpt), function_call (tool_call), \
    tool (function, observation, ipython)";

/// Roles, in LLaMA-Factory and ms-swift, of an assistant's message whose content is a tool call.
const CALLS: [&str; 2] = ["function_call", "tool_call"];

/// The standard role for a spelling; `None` for an unknown one.
pub(super) fn role_name(role: &str) -> Option<&'static str> {
    Some(match role.trim().to_ascii_lowercase().as_str() {
        "system" => "system",
        "developer" => "developer",
        "user" | "human" | "prompter" => "user",
        "assistant" | "gpt" | "chatgpt" | "bing" | "bard" | "model" => "assistant",
        call if CALLS.contains(&call) => "assistant",
        "tool" | "tool_response" => "tool",
        // kept as they are if the template knows them
        "function" => "function",
        "observation" => "observation",
        "ipython" => "ipython",
        _ => return None,
    })
}

/// A message's content: a string, a list of text parts, or a number if the message is not trained.
/// A number's spelling in a response must come from the data: 5 and 5.0 are different tokens.
fn content_text(place: &Place, at: &str, role: &str, value: &Value) -> Result<String> {
    match value {
        Value::String(_) | Value::Array(_) => values::text(place, at, value),
        Value::Number(_) if role != "assistant" => values::text(place, at, value),
        other => {
            let what = format!("the content of `{at}` should be text, is {}", kind(other));
            Err(Error::example(place, what))
        }
    }
}

/// Examples of a conversation.
pub(super) struct Examples {
    /// Prompt and response of each example.
    pub pairs: Vec<(Vec<Message>, Message)>,
    /// Number of responses that their messages exclude from training.
    pub untrained: usize,
    /// Number of responses that `Last` leaves out and `Every` would train.
    pub earlier: usize,
}

/// Splits a conversation into (prompt, response) examples; none if its messages exclude them.
///
/// `Last`: the last assistant turn that is to be trained, whatever follows it. `Every`: each
/// assistant turn that responds to another role; an assistant's opening line is only context.
pub(super) fn split(place: &Place, key: &str, turns: Vec<Turn>, which: Turns) -> Result<Examples> {
    let trained: Vec<bool> = turns.iter().map(|t| t.trained).collect();
    let messages: Vec<Message> = turns.into_iter().map(|t| t.message).collect();
    let mut answers: Vec<usize> = (0..messages.len())
        .filter(|&i| messages[i].role() == "assistant")
        .collect();
    if answers.is_empty() {
        return Err(Error::example(
            place,
            format!("an example without response: `{key}` has no assistant message"),
        ));
    }
    let mut earlier = 0;
    match which {
        // trained turns before the last one become context
        Turns::Last => {
            let last = answers.iter().rposition(|&i| trained[i]);
            let before = answers.drain(..last.unwrap_or(answers.len() - 1));
            earlier = before
                .filter(|&i| trained[i] && asks(&messages[..i]))
                .count();
        }
        Turns::Every => answers.retain(|&i| asks(&messages[..i])),
    }
    if answers.first().is_none_or(|&i| !asks(&messages[..i])) {
        return Err(Error::example(
            place,
            format!("an empty prompt: nobody speaks before the assistant in `{key}`"),
        ));
    }
    let (chosen, not): (Vec<usize>, Vec<usize>) = answers.into_iter().partition(|&i| trained[i]);
    Ok(Examples {
        pairs: chosen
            .into_iter()
            .map(|i| (messages[..i].to_vec(), messages[i].clone()))
            .collect(),
        untrained: not.len(),
        earlier,
    })
}

/// Whether these messages contain a request: one that is not blank, of a role other than system and
/// assistant.
pub(super) fn asks(messages: &[Message]) -> bool {
    messages.iter().any(|m| {
        !matches!(m.role(), "system" | "developer" | "assistant") && !m.content().trim().is_empty()
    })
}

/// The first of these keys that is present and not null, with its value.
pub(super) fn first<'a>(
    map: &'a Map<String, Value>,
    keys: &[&'static str],
) -> Option<(&'static str, &'a Value)> {
    keys.iter()
        .find_map(|key| present(map, key).map(|value| (*key, value)))
}

/// Name of a value's type, for errors.
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
