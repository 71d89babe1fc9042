//! `randori serve` among clients of all kinds: those who say nothing, have no key, send what every
//! library sends, or too much.
#![cfg(unix)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::serve::{Server, played};

const CHAT: &str = "/v1/chat/completions";
const COMPLETION: &str = "/v1/completions";

/// All that the server sends to these bytes until it closes; the rest of a request never comes.
fn told(server: &Server, bytes: &str) -> String {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let wait = Some(Duration::from_secs(20));
    stream.set_read_timeout(wait).unwrap();
    stream.write_all(bytes.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

/// Head of a request whose body has so many bytes.
fn head(server: &Server, method: &str, path: &str, fields: &str, length: usize) -> String {
    let host = &server.address;
    format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{fields}Content-Length: {length}\r\n\r\n")
}

#[test]
fn a_head_that_says_enough_is_answered_without_its_body() {
    let w = played();
    let server = Server::of(&w, &["--api-key", "secret"]);
    let key = "Authorization: Bearer secret\r\n";
    let json = "Content-Type: application/json\r\n";
    let both = format!("{key}{json}");
    for (method, path, fields, length, status, part) in [
        (
            "POST",
            CHAT,
            json,
            9_000_000,
            401,
            "WWW-Authenticate: Bearer",
        ),
        ("POST", CHAT, key, 9_000_000, 415, "application/json"),
        ("POST", CHAT, &both, 90_000_000, 413, "16777216 bytes"),
        (
            "POST",
            "/",
            key,
            9_000_000,
            404,
            "there is no / here, but /v1/models",
        ),
        ("GET", CHAT, key, 9, 405, "Allow: POST\r\n"),
        ("DELETE", "/v1/models", key, 9, 405, "Allow: GET\r\n"),
    ] {
        let began = Instant::now();
        let answer = told(&server, &head(&server, method, path, fields, length));
        let begin = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&begin), "{method} {path} {answer}");
        assert!(answer.contains(part), "{method} {path} {answer}");
        assert!(began.elapsed() < Duration::from_secs(15), "{method} {path}");
    }
}

/// Whoever says nothing is sent off within seconds once half of the places are taken, and others
/// are answered meanwhile.
#[test]
fn silent_clients_do_not_keep_others_out() {
    let w = played();
    let server = Server::of(&w, &[]);
    let silent: Vec<TcpStream> = (0..300)
        .map(|_| TcpStream::connect(&server.address).unwrap())
        .collect();
    assert_eq!(server.asked("GET", "/v1/models", "", "").0, 200);
    // of 512 places 256 may be kept for half a minute
    let sent_off = |mut stream: &TcpStream| {
        stream.set_nonblocking(true).unwrap();
        stream.read(&mut [0]).is_ok_and(|read| read == 0)
    };
    let began = Instant::now();
    while silent.iter().filter(|s| sent_off(s)).count() < 300 - 256 {
        assert!(began.elapsed() < Duration::from_secs(15));
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(server.asked("GET", "/v1/models", "", "").0, 200);
}

/// What libraries send beside a request without asking for anything by it changes no answer; the
/// same fields are refused by name where they ask for something.
#[test]
fn fields_that_ask_for_nothing_are_taken() {
    let w = played();
    let server = Server::of(&w, &[]);
    let asked = |path: &str, more: &Value| {
        let mut body = match path {
            CHAT => json!({"model": "r", "messages": [{"role": "user", "content": "one"}]}),
            _ => json!({"model": "r", "prompt": "one"}),
        };
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        server.post(path, &body)
    };
    let plain = asked(CHAT, &json!({})).1["choices"].clone();
    let idle = json!({"tools": [], "functions": [], "tool_choice": "none", "n": 1,
        "parallel_tool_calls": true, "service_tier": "auto", "metadata": {}, "store": false,
        "user": "me", "logit_bias": {}, "response_format": {"type": "text"}, "stop": null,
        "modalities": ["text"], "presence_penalty": 0, "stream": false, "temperature": 1e-6});
    let (status, answer) = asked(CHAT, &idle);
    assert_eq!((status, &answer["choices"]), (200, &plain), "{answer}");
    let few = json!({"best_of": 1, "suffix": null, "metadata": {"a": "b"}});
    assert_eq!(asked(COMPLETION, &few).0, 200);
    for (path, name, value) in [
        (CHAT, "tools", json!([{"type": "function"}])),
        (CHAT, "tool_choice", json!("required")),
        (CHAT, "modalities", json!(["text", "audio"])),
        (CHAT, "response_format", json!({"type": "json_object"})),
        (CHAT, "logit_bias", json!({"5": 1})),
        (COMPLETION, "suffix", json!("x")),
    ] {
        let (status, answer) = asked(path, &json!({name: value}));
        assert_eq!(
            (status, &answer["error"]["param"]),
            (400, &name.into()),
            "{answer}"
        );
    }
}

#[test]
fn numbers_that_cannot_be_meant_are_refused_in_plain_words() {
    let w = played();
    let server = Server::of(&w, &["--context", "64"]);
    let long = "word ".repeat(1_200_000);
    for (fields, words) in [
        (
            json!({"max_tokens": -1}),
            "max_tokens must be a whole number of at least 1, or left out, got -1",
        ),
        (
            json!({"max_tokens": 0}),
            "max_tokens must be a whole number of at least 1, or left out, got 0",
        ),
        (
            json!({"temperature": 1000}),
            "temperature: option `t` is 1000",
        ),
        (
            json!({"prompt": long}),
            "prompt has 6000000 bytes, and no prompt here may have more than 8192",
        ),
        (
            json!({"prompt": vec![1; 65]}),
            "prompt has 65 tokens, and no prompt here may have more than 64",
        ),
    ] {
        let mut body = json!({"model": "r", "prompt": "x"});
        body.as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        let (status, answer) = server.post(COMPLETION, &body);
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(status == 400 && message.contains(words), "{message}");
        assert!(!message.contains("temperature: temperature"), "{message}");
    }
    let messages = json!([{"role": "user", "content": "one"}]);
    let mut body = json!({"model": "r", "messages": messages, "max_tokens": 3,
        "max_completion_tokens": 4});
    let (status, answer) = server.post(CHAT, &body);
    assert_eq!(status, 400);
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains("which mean the same"), "{message}");
    body["max_completion_tokens"] = 3.into();
    assert_eq!(server.post(CHAT, &body).0, 200);
    let much = json!({"model": "r", "messages": [{"role": "user", "content": long}]});
    assert_eq!(
        server.post(CHAT, &much).1["error"]["code"],
        "context_length_exceeded"
    );
}

/// As schedulers and containers end what they started.
#[test]
fn a_request_to_end_ends_it_cleanly() {
    let w = played();
    let mut server = Server::of(&w, &[]);
    server.chat("r", "one");
    let kill = format!("kill -TERM {}", server.child.id());
    assert!(
        Command::new("sh")
            .args(["-c", &kill])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}
