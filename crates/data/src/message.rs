//! One message of a conversation with all that its data hold, and what a whole row gives its template.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What a row gives its chat template besides the messages: `tools` and `documents` as transformers'
/// `apply_chat_template` takes them, and `chat_template_kwargs`, whose entries are variables of their own.
pub type Context = Map<String, Value>;

/// One turn of a conversation: an object with a `role`, mostly a `content`, and whatever else its data
/// hold (`tool_calls`, `tool_call_id`, `name`, `reasoning_content`), in the data's order, as the chat
/// template is to see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Message(Map<String, Value>);

impl Message {
    /// A message of any role (`system`, `user`, `assistant`, `tool`, or whatever the template knows).
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
}
