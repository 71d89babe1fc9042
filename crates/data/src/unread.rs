//! What an example says and its chat template leaves out: nothing of the data vanishes without
//! being counted.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{ChatTemplate, Context, Message, Record, Result, Tokenizer};

/// The keys of an example that the chat template leaves out: of its messages (besides role and
/// content), of what the row gives, and of the variables that a user gave. A key is read if the
/// template names it and the conversation is written otherwise without it; what is empty is not
/// missed.
///
/// # Errors
/// Without a chat template, or when it refuses the conversation.
pub(crate) fn unread(record: &Record, tokenizer: &Tokenizer) -> Result<BTreeSet<String>> {
    let template = tokenizer.chat_template()?;
    let messages = all(record);
    let fields: BTreeSet<&str> = messages
        .iter()
        .chain(&record.rejected)
        .flat_map(|m| m.fields().iter().filter(|(_, value)| !is_empty(value)))
        .map(|(key, _)| key.as_str())
        .filter(|key| !matches!(*key, "role" | "content"))
        .collect();
    let mut unread = BTreeSet::new();
    let mut whole = None;
    let mut same = |others: &[Message], context: &Context| -> Result<bool> {
        if whole.is_none() {
            whole = Some(template.render_in(&messages, &record.context, false)?);
        }
        // a template may refuse what lacks a field: then it reads it
        let without = template.render_in(others, context, false).ok();
        Ok(without == whole)
    };
    for key in fields {
        let without = || messages.iter().map(|m| m.without(key)).collect::<Vec<_>>();
        // of the other response alone, naming it has to do
        let here = messages.iter().any(|m| m.fields().contains_key(key));
        if !names(template, key) || here && same(&without(), &record.context)? {
            unread.insert(key.to_owned());
        }
    }
    for (key, value) in record.context.iter().filter(|(_, value)| !is_empty(value)) {
        match value {
            Value::Object(given) if key == "chat_template_kwargs" => {
                let missed = given.keys().filter(|name| !hears(template, name));
                unread.extend(missed.cloned());
            }
            _ => {
                let mut without = record.context.clone();
                without.shift_remove(key);
                if !template.names(key) || same(&messages, &without)? {
                    unread.insert(key.clone());
                }
            }
        }
    }
    let given = template.given().filter(|name| !hears(template, name));
    unread.extend(given.map(|name| format!("data.template_args.{name}")));
    Ok(unread)
}

/// The whole conversation.
fn all(record: &Record) -> Vec<Message> {
    let mut all = record.prompt.clone();
    all.push(record.response.clone());
    all
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// Whether a variable of this name reaches the template and is named there: the conversation and
/// whether an answer is to begin are not a row's or a recipe's to say.
fn hears(template: &ChatTemplate, name: &str) -> bool {
    !matches!(name, "messages" | "add_generation_prompt") && template.names(name)
}

/// Whether a template names a message's key; reasoning goes by any of its names.
fn names(template: &ChatTemplate, key: &str) -> bool {
    let reasoning = ["reasoning_content", "reasoning", "thinking"];
    match reasoning.contains(&key) {
        true => reasoning.iter().any(|name| template.names(name)),
        false => template.names(key),
    }
}
