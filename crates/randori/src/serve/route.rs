//! What a request's head tells: what is asked for, and who asks.

use super::http::Asked;
use super::refusal::Refusal;

/// What is asked for, by method and path.
pub enum Route {
    /// All models.
    Models,
    /// The model of this name.
    Model(String),
    /// A continuation of a text, or of a conversation.
    Completion {
        /// Of a conversation.
        chat: bool,
    },
}

const MODELS: &str = "/v1/models";
const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

impl Route {
    /// The one that a request names.
    ///
    /// # Errors
    /// Another path or method, or a body that is not called JSON.
    pub fn of(asked: &Asked) -> Result<Route, Refusal> {
        let path = asked.path.trim_end_matches('/');
        let model = path
            .strip_prefix(MODELS)
            .and_then(|rest| rest.strip_prefix('/'));
        let (route, method) = match (path, model) {
            (MODELS, _) => (Route::Models, "GET"),
            (_, Some(name)) => (Route::Model(name.replace("%3A", ":")), "GET"),
            (CHAT, _) => (Route::Completion { chat: true }, "POST"),
            (COMPLETIONS, _) => (Route::Completion { chat: false }, "POST"),
            _ => {
                let shown = &asked.path;
                let text =
                    format!("there is no {shown} here, but {MODELS}, {CHAT} and {COMPLETIONS}");
                return Err(Refusal::new(404, "unknown_url", text));
            }
        };
        if asked.method != method {
            let text = format!("{path} is asked by {method}, not by {}", asked.method);
            return Err(Refusal {
                allow: Some(method),
                ..Refusal::new(405, "method_not_allowed", text)
            });
        }
        if let Route::Completion { .. } = route {
            says_json(asked)?;
        }
        Ok(route)
    }
}

/// Refuses a body that does not say it is JSON: a page elsewhere cannot have a browser send one
/// that does without being asked first, which is never allowed.
fn says_json(asked: &Asked) -> Result<(), Refusal> {
    let kind = asked.field("content-type").unwrap_or_default();
    match kind
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .eq_ignore_ascii_case("application/json")
    {
        true => Ok(()),
        false => {
            let text = format!("Content-Type must be application/json, got {kind:?}");
            Err(Refusal::new(415, "wrong_content_type", text))
        }
    }
}

/// Compares without telling by the time taken where two differ.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    let differ = a.iter().zip(b).fold(0, |sum, (a, b)| sum | (a ^ b));
    a.len() == b.len() && differ == 0
}

/// Whether a `Host` names the loopback.
pub fn is_here(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let address = name.parse::<std::net::IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|a| a.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::{is_here, same};

    #[test]
    fn hosts_of_this_machine_are_told_from_others() {
        for host in [
            "localhost:8000",
            "127.0.0.1:80",
            "[::1]:8000",
            "127.0.0.1",
            "LOCALHOST",
        ] {
            assert!(is_here(host), "{host}");
        }
        for host in [
            "",
            "example.com:8000",
            "127.0.0.1.example.com",
            "10.0.0.1:8000",
        ] {
            assert!(!is_here(host), "{host}");
        }
    }

    #[test]
    fn keys_are_the_same_or_not() {
        assert!(same(b"key", b"key"));
        assert!(!same(b"key", b"keys") && !same(b"kez", b"key") && !same(b"", b"key"));
    }
}
