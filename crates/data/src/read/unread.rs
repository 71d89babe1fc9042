//! Detection of a row's unread keys. Those passed to the chat template are checked later, against
//! the template.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::Left;
use super::conversation::first;
use super::format::Format;
use super::rewards::columns;
use super::shapes::{WHOLE, asked, inputs, says};
use crate::{Record, unread::says_nothing};

/// Keys of a pair's prompt; the first one present is read.
pub(super) const PROMPTS: [&str; 3] = ["prompt", "question", "instruction"];

/// Keys of a conversation to which a pair's responses reply.
pub(super) const ROUNDS_ASKED: [&str; 3] = ["conversations", "conversation", "messages"];

/// Keys of a system message beside a conversation; the first one present is read.
pub(super) const SYSTEMS: [&str; 2] = ["system", "system_prompt"];

/// Key of the earlier rounds in Alpaca's format.
pub(super) const ROUNDS: &str = "history";

/// Keys of a row passed to the chat template.
const TEMPLATE: [&str; 3] = ["tools", "documents", "chat_template_kwargs"];

/// Counts the unread keys of one row.
pub(super) fn note(map: &Map<String, Value>, format: Format, records: &[Record], left: &mut Left) {
    let read = read(map, format, records);
    let mut unread = BTreeSet::new();
    for (key, value) in map {
        if says_nothing(value) {
            continue;
        }
        match read.contains(&key.as_str()) {
            true if !TEMPLATE.contains(&key.as_str()) => of_parts(value, &mut unread),
            true => {}
            false => _ = unread.insert(key.clone()),
        }
    }
    for key in unread {
        *left.unread.entry(key).or_default() += 1;
    }
}

/// Unread keys of a message's text parts: all but type and text.
fn of_parts(messages: &Value, unread: &mut BTreeSet<String>) {
    let messages = match messages {
        Value::Array(list) => list.as_slice(),
        one => std::slice::from_ref(one),
    };
    let contents = messages
        .iter()
        .flat_map(|message| ["content", "value"].map(|key| message.get(key)));
    let parts = contents
        .flatten()
        .filter_map(Value::as_array)
        .flatten()
        .filter_map(Value::as_object)
        .flatten();
    for (key, value) in parts {
        if !matches!(key.as_str(), "type" | "text") && !says_nothing(value) {
            unread.insert(format!("content.{key}"));
        }
    }
}

/// The keys that the records were made from.
fn read(map: &Map<String, Value>, format: Format, records: &[Record]) -> Vec<&'static str> {
    let mut read: Vec<&'static str> = format
        .keys()
        .iter()
        .filter_map(|any| first(map, any))
        .map(|(key, _)| key)
        .chain(TEMPLATE)
        .collect();
    let pair = matches!(format, Format::Spin | Format::Preference);
    let prompt = match (pair, format.keys()) {
        (true, [[real, ..], [other, ..]]) => asked(map, [real, other]),
        _ => None,
    };
    let prompt = prompt.map(|(key, _)| key);
    read.extend(prompt);
    if format == Format::Alpaca || prompt == Some("instruction") {
        read.push(ROUNDS);
        read.extend(first(map, inputs(map)).map(|(key, _)| key));
    }
    if pair {
        read.push("truncated");
        read.extend(columns(map).into_iter().flatten());
    }
    read.extend(
        WHOLE
            .into_iter()
            .filter(|key| says(map, key, format).is_some()),
    );
    // a conversation's own system message takes precedence over the column's
    let system = first(map, &SYSTEMS).filter(|(_, value)| {
        records.iter().all(|record| {
            let own = record.prompt.first().filter(|m| m.role() == "system");
            own.is_some_and(|own| value.as_str().is_none_or(|text| text == own.content()))
        })
    });
    read.extend(system.map(|(key, _)| key));
    read
}
