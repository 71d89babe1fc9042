//! What a request wants continued: texts, token ids or a conversation, as token ids.

use randori_data::Message;
use serde_json::{Map, Value};

use super::house::House;
use super::refusal::{Refusal, wrong};

/// Most prompts of a request.
const PROMPTS: usize = 256;
/// Most bytes of text for each token that a sequence may have. No text of that length is so few
/// tokens, and it is refused before it is split into them, which takes a second for each megabyte.
const TOKEN: usize = 128;

/// The prompts of a completion: a text, texts, token ids, or lists of them.
pub fn prompts(
    house: &House,
    fields: &Map<String, Value>,
) -> Result<Vec<(Vec<u32>, String)>, Refusal> {
    let Some(value) = fields.get("prompt") else {
        return Err(Refusal::field("prompt", "prompt must be given"));
    };
    let wrong = || wrong("prompt", "a string, token ids, or a list of either", value);
    let all: Vec<Value> = match value {
        Value::String(_) => vec![value.clone()],
        Value::Array(all) if all.iter().all(Value::is_number) => vec![value.clone()],
        Value::Array(all) => all.clone(),
        _ => return Err(wrong()),
    };
    if all.len() > PROMPTS {
        let text = format!(
            "a request may have {PROMPTS} prompts, this one has {}",
            all.len()
        );
        return Err(Refusal::field("prompt", text));
    }
    let one = |value: &Value| match value {
        Value::String(text) => {
            fits("prompt", text.len(), TOKEN * house.context, "bytes")?;
            of_text(house, text)
        }
        Value::Array(ids) => {
            fits("prompt", ids.len(), house.context, "tokens")?;
            let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
            let ids: Option<Vec<u32>> = ids.iter().map(id).collect();
            let ids = ids.ok_or_else(wrong)?;
            let text = house.tokenizer.decode(&ids);
            Ok((ids, text))
        }
        _ => Err(wrong()),
    };
    let all = all.iter().map(one).collect::<Result<Vec<_>, Refusal>>()?;
    let most = house.usual.vocabulary;
    for (ids, _) in &all {
        if ids.is_empty() {
            let text = "a prompt must have a token to be continued; this one is empty";
            return Err(Refusal::field("prompt", text));
        }
        if let Some(id) = ids.iter().find(|id| **id as usize >= most) {
            let text = format!("token {id} must be below {most}, the tokenizer's vocabulary");
            return Err(Refusal::field("prompt", text));
        }
    }
    Ok(all)
}

/// Refuses what is so long that it cannot be a prompt of this server, before anything is done with
/// it.
fn fits(field: &str, length: usize, most: usize, unit: &str) -> Result<(), Refusal> {
    if length <= most {
        return Ok(());
    }
    let text = format!("{field} has {length} {unit}, and no prompt here may have more than {most}");
    Err(Refusal {
        param: Some(field.into()),
        ..Refusal::new(400, "context_length_exceeded", text)
    })
}

/// A text's ids, after the beginning-of-text token where the tokenizer adds one.
fn of_text(house: &House, text: &str) -> Result<(Vec<u32>, String), Refusal> {
    let tokenizer = &house.tokenizer;
    let ids = tokenizer.ids(text);
    let mut ids = ids.map_err(|e| Refusal::field("prompt", format!("prompt: {e}")))?;
    let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    if let Some(bos) = bos.filter(|bos| ids.first() != Some(bos)) {
        ids.insert(0, bos);
    }
    Ok((ids, text.to_owned()))
}

/// The ids of a conversation up to where the answer begins; the recipe's system message stands
/// before one that has none.
pub fn conversation(house: &House, fields: &Map<String, Value>) -> Result<Vec<u32>, Refusal> {
    let messages = fields.get("messages").and_then(Value::as_array);
    let messages = messages.filter(|all| !all.is_empty()).ok_or_else(|| {
        Refusal::field(
            "messages",
            "messages must be a list of at least one message",
        )
    })?;
    let mut all = messages
        .iter()
        .enumerate()
        .map(|(i, m)| message(i, m))
        .collect::<Result<Vec<_>, _>>()?;
    let bytes = messages.iter().map(said).sum();
    fits("messages", bytes, TOKEN * house.context, "bytes")?;
    if let (Some(text), Some("user" | "assistant")) =
        (&house.system, all.first().map(Message::role))
    {
        all.insert(0, Message::new("system", text.clone()));
    }
    let ids = house.tokenizer.prompt(&all);
    ids.map_err(|e| Refusal::field("messages", format!("messages: {e}")))
}

/// Bytes of text in a message.
fn said(message: &Value) -> usize {
    match &message["content"] {
        Value::String(text) => text.len(),
        Value::Array(parts) => parts
            .iter()
            .filter_map(|part| part["text"].as_str())
            .map(str::len)
            .sum(),
        _ => 0,
    }
}

fn message(number: usize, value: &Value) -> Result<Message, Refusal> {
    let place = format!("messages[{number}]");
    let Some(map) = value.as_object() else {
        return Err(wrong(&place, "an object with role and content", value));
    };
    let known = ["role", "content", "name"];
    let stray = map
        .iter()
        .find(|(name, value)| !known.contains(&name.as_str()) && !value.is_null());
    if let Some((name, value)) = stray {
        return Err(wrong(
            &format!("{place}.{name}"),
            "left out: it is not done here",
            value,
        ));
    }
    let role = match value["role"].as_str() {
        Some("developer") => "system",
        Some(role @ ("system" | "user" | "assistant")) => role,
        _ => {
            let what = "system, developer, user or assistant";
            return Err(wrong(&format!("{place}.role"), what, &value["role"]));
        }
    };
    let text = |part: &Value| match part["type"] == "text" {
        true => part["text"].as_str().map(str::to_owned),
        false => None,
    };
    let content: Option<String> = match &value["content"] {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => parts.iter().map(text).collect(),
        _ => None,
    };
    match content {
        Some(content) => Ok(Message::new(role, content)),
        None => Err(wrong(
            &format!("{place}.content"),
            "a string, or a list of parts of type text",
            &value["content"],
        )),
    }
}
