//! Messages of a conversation with all their fields, and a row's variables for its chat template.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Variables that a row gives its chat template besides the messages: `tools` and `documents` as in
/// transformers' `apply_chat_template`, and `chat_template_kwargs`, whose entries become variables.
pub type Context = Map<String, Value>;

/// One message of a conversation: an object with a `role`, usually a `content`, and any other
/// fields of the data (`tool_calls`, `tool_call_id`, `name`, `reasoning_content`), in the data's
/// order, as passed to the chat template.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Message(Map<String, Value>);

impl Message {
    /// A message of any role (`system`, `user`, `assistant`, `tool`, or another that the template
    /// knows).
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        let fields = [("role", role.into()), ("content", content.into())];
        let fields = fields.map(|(key, text)| (key.to_owned(), Value::String(text)));
        Self(Map::from_iter(fields))
    }

    /// A message of the user.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// A message of the assistant.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }

    /// A message with these fields, which include `role`.
    pub fn of(fields: Map<String, Value>) -> Self {
        Self(fields)
    }

    /// The role; empty if the data have none.
    pub fn role(&self) -> &str {
        self.text("role")
    }

    /// The content; empty if it is null or absent, as beside a tool call.
    pub fn content(&self) -> &str {
        self.text("content")
    }

    /// A field's text; empty if it is absent or not a string.
    pub fn text(&self, key: &str) -> &str {
        self.0.get(key).and_then(Value::as_str).unwrap_or("")
    }

    /// All fields, with `role` and `content`.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.0
    }

    /// A copy without the field `key`.
    #[must_use]
    pub fn without(&self, key: &str) -> Self {
        let mut fields = self.0.clone();
        fields.shift_remove(key);
        Self(fields)
    }

    /// Sets a field.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.insert(key.to_owned(), value.into());
        self
    }

    /// The message as transformers 5 passes it to a template: without fields that are null, and
    /// with reasoning under any of its names copied to `reasoning_content` and `thinking`, so that
    /// templates find it under either.
    pub(crate) fn for_template(&self) -> Self {
        let given = self.0.iter().filter(|(_, value)| !value.is_null());
        let given: Map<String, Value> = given.map(|(k, v)| (k.clone(), v.clone())).collect();
        let names = ["reasoning_content", "thinking", "reasoning"];
        let Some(reasoning) = names.iter().find_map(|name| given.get(*name)).cloned() else {
            return Self(given);
        };
        let mut fields = Map::new();
        fields.insert("thinking".to_owned(), reasoning.clone());
        fields.extend(given);
        fields.insert("reasoning_content".to_owned(), reasoning);
        Self(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The result of `_normalize_chat_messages`, then `_alias_reasoning_fields`, in transformers
    /// 5.24.0.
    #[test]
    fn a_template_reads_no_null_and_reasoning_by_its_names() {
        for (given, expected) in [
            (
                r#"{"role":"assistant","reasoning":"r","content":"c"}"#,
                r#"{"thinking":"r","role":"assistant","reasoning":"r","content":"c","reasoning_content":"r"}"#,
            ),
            (
                r#"{"role":"assistant","reasoning_content":null,"thinking":"t"}"#,
                r#"{"thinking":"t","role":"assistant","reasoning_content":"t"}"#,
            ),
            (
                r#"{"thinking":"","reasoning":"x"}"#,
                r#"{"thinking":"","reasoning":"x","reasoning_content":""}"#,
            ),
            (
                r#"{"role":"assistant","content":null,"tool_calls":[{"id":null}],"name":null}"#,
                r#"{"role":"assistant","tool_calls":[{"id":null}]}"#,
            ),
            (r#"{"role":"user"}"#, r#"{"role":"user"}"#),
        ] {
            let message: Message = serde_json::from_str(given).unwrap();
            let named = serde_json::to_string(&message.for_template()).unwrap();
            assert_eq!(named, expected);
        }
    }
}
