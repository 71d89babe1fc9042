//! What a client is told that cannot be answered: OpenAI's error body, and the status.

use serde_json::{Value, json};

/// One refusal.
#[derive(Debug)]
pub struct Refusal {
    /// Of the HTTP answer.
    pub status: u16,
    /// OpenAI's `code`.
    pub code: &'static str,
    /// The field that is meant.
    pub param: Option<String>,
    /// One line.
    pub message: String,
    /// The methods that the path takes, where it was asked by another one.
    pub allow: Option<&'static str>,
}

impl Refusal {
    /// With this status, about no field.
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> Refusal {
        Refusal {
            status,
            code,
            param: None,
            message: message.into(),
            allow: None,
        }
    }

    /// A field whose value cannot be meant.
    pub fn field(name: &str, message: impl Into<String>) -> Refusal {
        Refusal {
            param: Some(name.to_owned()),
            ..Refusal::new(400, "invalid_value", message)
        }
    }

    /// OpenAI's body.
    pub fn body(&self) -> Value {
        let kind = match self.status {
            401 => "authentication_error",
            status if status < 500 => "invalid_request_error",
            _ => "server_error",
        };
        json!({"error": {
            "message": self.message,
            "type": kind,
            "param": self.param,
            "code": self.code,
        }})
    }
}

/// A field whose value must be something else.
pub fn wrong(name: &str, what: &str, value: &Value) -> Refusal {
    let mut shown = value.to_string();
    if shown.chars().count() > 60 {
        shown = shown.chars().take(60).chain(['…']).collect();
    }
    Refusal::field(name, format!("{name} must be {what}, got {shown}"))
}
