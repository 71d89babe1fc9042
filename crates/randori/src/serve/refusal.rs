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
}

impl Refusal {
    /// With this status, about no field.
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> Refusal {
        Refusal {
            status,
            code,
            param: None,
            message: message.into(),
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
