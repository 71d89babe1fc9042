//! One message of a conversation with all that its data hold, and what a whole row gives its
//! template.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What a row gives its chat template besides the messages: `tools` and `documents` as
/// transformers' `apply_chat_template` takes them, and `chat_template_kwargs`, whose entries are
/// variables of their own.
pub type Context = Map<String, Value>;

/// One turn of a conversation: an object with a `role`, mostly a `content`, and whatever else its
/// data hold (`tool_calls`, `tool_call_id`, `name`, `reasoning_content`), in the data's order, as
/// the chat template is to see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Message(Map<String, Value>);

impl Message {
    /// A message of any role (`system`, `user`, `assistant`, `tool`, or whatever the template
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

    /// A message of the model.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }

    /// A message of these fields, `role` among them.
    pub fn of(fields: Map<String, Value>) -> Self {
        Self(fields)
    }

    /// Who speaks; empty where the data do not say.
    pub fn role(&self) -> &str {
        self.text("role")
    }

    /// What is said; empty where the content is null or absent, as beside a tool call.
    pub fn content(&self) -> &str {
        self.text("content")
    }

    /// A field's text; empty where it is absent or no text.
    pub fn text(&self, key: &str) -> &str {
        self.0.get(key).and_then(Value::as_str).unwrap_or("")
    }

    /// All fields, `role` and `content` included.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.0
    }

    /// The same message without a field.
    #[must_use]
    pub fn without(&self, key: &str) -> Self {
        let mut fields = self.0.clone();
        fields.shift_remove(key);
        Self(fields)
    }

    /// The same message with a field set.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.insert(key.to_owned(), value.into());
        self
    }

    /// The message as transformers 5 hands it to a template: reasoning under any of its names is
    /// there as `reasoning_content` and as `thinking`, whichever the template reads.
    pub(crate) fn with_reasoning_named(&self) -> Self {
        let given = ["reasoning_content", "thinking", "reasoning"].map(|name| self.0.get(name));
        let Some(reasoning) = given.into_iter().flatten().find(|value| !value.is_null()) else {
            return self.clone();
        };
        let mut fields = Map::new();
        fields.insert("thinking".to_owned(), reasoning.clone());
        fields.extend(self.0.clone());
        fields.insert("reasoning_content".to_owned(), reasoning.clone());
        Self(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `_alias_reasoning_fields` of transformers 5.24.0 answers.
    #[test]
    fn reasoning_has_the_names_that_templates_read() {
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
            (r#"{"role":"user"}"#, r#"{"role":"user"}"#),
        ] {
            let message: Message = serde_json::from_str(given).unwrap();
            let named = serde_json::to_string(&message.with_reasoning_named()).unwrap();
            assert_eq!(named, expected);
        }
    }
}
