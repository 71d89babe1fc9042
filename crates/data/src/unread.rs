//! Detection of an example's fields that its chat template ignores, so that no data is lost
//! uncounted.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::template::NAME;
use crate::{ChatTemplate, Context, Message, Record, Result, Tokenizer};

/// Keys of an example that the chat template ignores: of its messages (besides role and content),
/// of the row's variables, and of the variables set by the user. A key is read if the template
/// names it and renders differently without it; an empty value is not counted.
///
/// # Errors
/// No chat template, or it refuses the conversation.
pub(crate) fn unread(record: &Record, tokenizer: &Tokenizer) -> Result<BTreeSet<String>> {
    let template = tokenizer.chat_template()?;
    // of two templates the other's names are not read
    let chosen = template.chosen(&record.context)?;
    let messages = all(record);
    let fields: BTreeSet<&str> = messages
        .iter()
        .chain(&record.rejected)
        .flat_map(|m| m.fields().iter().filter(|(_, value)| !says_nothing(value)))
        .map(|(key, _)| key.as_str())
        .filter(|key| !matches!(*key, "role" | "content"))
        .collect();
    let mut unread = BTreeSet::new();
    let mut whole = None;
    let mut same = |others: &[Message], context: &Context| -> Result<bool> {
        if whole.is_none() {
            whole = Some(template.render_in(&messages, &record.context, false)?);
        }
        // a template that refuses a message without a field reads the field
        let without = template.render_in(others, context, false).ok();
        Ok(without == whole)
    };
    for key in fields {
        let without = || messages.iter().map(|m| m.without(key)).collect::<Vec<_>>();
        // a key of the other response only: being named must suffice
        let here = messages.iter().any(|m| m.fields().contains_key(key));
        if !names(chosen, key) || here && same(&without(), &record.context)? {
            unread.insert(key.to_owned());
        }
    }
    for (key, value) in record
        .context
        .iter()
        .filter(|(_, value)| !says_nothing(value))
    {
        match value {
            Value::Object(given) if key == "chat_template_kwargs" => {
                let missed = given
                    .keys()
                    .filter(|name| *name != NAME && !hears(chosen, name));
                unread.extend(missed.cloned());
            }
            _ => {
                let mut without = record.context.clone();
                without.shift_remove(key);
                if !chosen.names(key) || same(&messages, &without)? {
                    unread.insert(key.clone());
                }
            }
        }
    }
    let given = template.given().filter(|name| !hears(chosen, name));
    unread.extend(given.map(|name| format!("data.template_args.{name}")));
    Ok(unread)
}

/// The whole conversation, with its response.
fn all(record: &Record) -> Vec<Message> {
    let mut all = record.prompt.clone();
    all.push(record.response.clone());
    all
}

/// Whether a value is null, blank text or empty: what exports write for a missing value.
pub(crate) fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// Whether the template can read a variable of this name: it names it, and neither a row nor a
/// recipe sets the conversation or the generation prompt.
fn hears(template: &ChatTemplate, name: &str) -> bool {
    !matches!(name, "messages" | "add_generation_prompt") && template.names(name)
}

/// Whether a template names a message's key; reasoning counts under any of its names.
fn names(template: &ChatTemplate, key: &str) -> bool {
    let reasoning = ["reasoning_content", "reasoning", "thinking"];
    match reasoning.contains(&key) {
        true => reasoning.iter().any(|name| template.names(name)),
        false => template.names(key),
    }
}
