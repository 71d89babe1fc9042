//! `randori serve`: what clients are told is what `chat` and scoring say, alone and among others;
//! and who is refused, with which words. Over the loopback, at a port that is free.
#![cfg(unix)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::program::World;

/// A game of three players, `start`, `iter-0` and `iter-1`, which answer differently.
pub fn played() -> World {
    let w = World::new();
    let set = [
        "adapter.kind=lora",
        "game.iterations=2",
        "train.lr=3e-2",
        "train.epochs=3",
    ];
    let mut args = vec!["run", "r.toml", "-q"];
    for key in set {
        args.extend(["--set", key]);
    }
    w.accepted(&args);
    w
}

pub struct Server {
    pub child: Child,
    pub address: String,
}

impl Server {
    pub fn of(w: &World, args: &[&str]) -> Server {
        // not deaf to Ctrl-C as whoever runs the tests in the background may have made it
        let mut child = Command::new("env")
            .arg("--default-signal=INT,TERM,HUP")
            .arg(env!("CARGO_BIN_EXE_randori"))
            .args(["serve", "runs/r", "-q", "--port", "0"])
            .args(args)
            .current_dir(w.dir())
            .env("XDG_CONFIG_HOME", w.dir().join("config"))
            .env_remove("RANDORI_API_KEY")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening at http://");
        let address = address.and_then(|a| a.strip_suffix("/v1"));
        let address = address.unwrap_or_else(|| {
            let mut said = String::new();
            child
                .stderr
                .take()
                .unwrap()
                .read_to_string(&mut said)
                .unwrap();
            panic!("{line:?} {said}")
        });
        Server {
            address: address.to_owned(),
            child,
        }
    }

    /// Status and body of a request.
    pub fn asked(&self, method: &str, path: &str, fields: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(120)))
            .unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{fields}Content-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all([&head, body].concat().as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }

    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let kind = "Content-Type: application/json\r\n";
        let (status, text) = self.asked("POST", path, kind, &body.to_string());
        (status, serde_json::from_str(&text).unwrap())
    }

    fn accepted(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.post(path, body);
        assert_eq!(status, 200, "{body} {answer}");
        answer
    }

    pub fn chat(&self, model: &str, text: &str) -> String {
        let messages = json!([{"role": "user", "content": text}]);
        let body = json!({"model": model, "messages": messages});
        let answer = self.accepted("/v1/chat/completions", &body);
        answer["choices"][0]["message"]["content"]
            .as_str()
            .unwrap()
            .to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const PLAYERS: [(&str, &str); 4] = [
    ("r:start", "start"),
    ("r:iter-0", "0"),
    ("r:iter-1", "1"),
    ("r", "1"), // the last one
];
const PROMPTS: [&str; 4] = [
    "Reverse 8351.",
    "Which is largest, 73, 7 or 30?",
    "one",
    "Add 1.",
];

/// The answers of `chat --prompt`, whichever slots and neighbours a request has.
#[test]
fn answers_are_those_of_chat_alone_and_among_others() {
    let w = played();
    let server = Server::of(&w, &["--slots", "5"]);
    let (status, list) = server.asked("GET", "/v1/models", "", "");
    let list: Value = serde_json::from_str(&list).unwrap();
    let ids = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["id"].as_str().unwrap());
    assert_eq!(
        (status, ids.collect::<Vec<_>>()),
        (200, vec!["r", "r:start", "r:iter-0", "r:iter-1"])
    );
    let mut wanted = Vec::new();
    for (model, iteration) in PLAYERS {
        for prompt in PROMPTS {
            let args = [
                "chat",
                "runs/r",
                "-q",
                "--iteration",
                iteration,
                "--prompt",
                prompt,
            ];
            let said = w.accepted(&args);
            wanted.push((model, prompt, said.strip_suffix('\n').unwrap().to_owned()));
        }
    }
    let different: std::collections::HashSet<&str> = wanted.iter().map(|w| w.2.as_str()).collect();
    assert!(
        different.len() >= 3,
        "players that answer alike show nothing: {different:?}"
    );
    for (model, prompt, answer) in &wanted {
        assert_eq!(
            &server.chat(model, prompt),
            answer,
            "{model} {prompt} alone"
        );
    }
    std::thread::scope(|scope| {
        for (model, prompt, answer) in &wanted {
            let server = &server;
            scope.spawn(move || {
                for _ in 0..3 {
                    assert_eq!(
                        &server.chat(model, prompt),
                        answer,
                        "{model} {prompt} among others"
                    );
                }
            });
        }
    });
}

/// Sums over an echoed answer are what the game scored; as lm_eval asks for them, with token ids
/// and one more token, they are the same.
#[test]
fn log_probs_are_those_of_the_game() {
    let w = played();
    let server = Server::of(&w, &[]);
    for (place, model) in [("iter-0", "r:start"), ("iter-1", "r:iter-0")] {
        let file = w.dir().join("runs/r").join(place).join("pairs.jsonl");
        let rows: Vec<Value> = fs::read_to_string(file)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let rows: Vec<&Value> = rows
            .iter()
            .filter(|row| row["iteration"] == json!(if place == "iter-0" { 0 } else { 1 }))
            .take(3)
            .collect();
        assert!(!rows.is_empty(), "{place}");
        let whole = |row: &Value| {
            let ids = |key: &str| row[key].as_array().unwrap().clone();
            json!([ids("prompt"), ids("real")].concat())
        };
        let prompts: Vec<Value> = rows.iter().map(|row| whole(row)).collect();
        for new in [0, 1] {
            let body = json!({"model": model, "prompt": prompts, "max_tokens": new, "echo": true,
                "logprobs": 1, "temperature": 0, "seed": 1234});
            let answer = server.accepted("/v1/completions", &body);
            let choices = answer["choices"].as_array().unwrap();
            assert_eq!(choices.len(), rows.len());
            for ((row, choice), ids) in rows.iter().zip(choices).zip(&prompts) {
                let logprobs = &choice["logprobs"];
                let list = |key: &str| logprobs[key].as_array().unwrap();
                let logps = list("token_logprobs");
                let length = ids.as_array().unwrap().len();
                assert_eq!(logps.len(), length + new);
                for key in ["tokens", "top_logprobs", "text_offset"] {
                    assert_eq!(list(key).len(), length + new, "{key}");
                }
                assert!(logps[0].is_null() && list("top_logprobs")[0].is_null());
                let asked = row["prompt"].as_array().unwrap().len();
                let sum: f64 = logps[asked..length]
                    .iter()
                    .map(|l| l.as_f64().unwrap())
                    .sum();
                let scored = row["ref_real"].as_f64().unwrap();
                assert!((sum - scored).abs() < 1e-4, "{sum} is not {scored}");
                // the likeliest is at least as likely, and the drawn one is the likeliest
                for (logp, top) in logps.iter().zip(list("top_logprobs")).skip(1) {
                    let top = top.as_object().unwrap().values().next().unwrap();
                    assert!(top.as_f64() >= logp.as_f64());
                }
                if new == 1 {
                    let top = list("top_logprobs")[length].as_object().unwrap();
                    assert_eq!(top.values().next(), Some(&logps[length]));
                }
            }
        }
    }
}

/// A continuation by text, by ids, and after an echo is the same one; pieces are all of it.
#[test]
fn streams_are_the_answer_in_pieces() {
    let w = played();
    let server = Server::of(&w, &[]);
    let whole = server.chat("r", PROMPTS[0]);
    let messages = json!([{"role": "user", "content": PROMPTS[0]}]);
    let body = json!({"model": "r", "messages": messages, "stream": true,
        "stream_options": {"include_usage": true}});
    let kind = "Content-Type: application/json\r\n";
    let (status, text) = server.asked("POST", "/v1/chat/completions", kind, &body.to_string());
    assert_eq!(status, 200);
    let events: Vec<&str> = text
        .split_terminator("\n\n")
        .map(|event| event.strip_prefix("data: ").unwrap())
        .collect();
    let (done, events) = events.split_last().unwrap();
    assert_eq!(*done, "[DONE]");
    let events: Vec<Value> = events
        .iter()
        .map(|e| serde_json::from_str(e).unwrap())
        .collect();
    let (usage, pieces) = events.split_last().unwrap();
    let drawn = usage["usage"]["completion_tokens"].as_u64().unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(pieces[0]["choices"][0]["delta"]["role"], "assistant");
    let said = pieces
        .iter()
        .map(|p| p["choices"][0]["delta"]["content"].as_str().unwrap());
    assert_eq!(said.collect::<String>(), whole);
    assert!(
        drawn > 1 && pieces.len() as u64 <= drawn + 2,
        "{drawn} {}",
        pieces.len()
    );
    let last = &pieces[pieces.len() - 1]["choices"][0]["finish_reason"];
    assert!(last == "stop" || last == "length", "{last}");

    // what stops an answer is not part of it
    let (stop, begin) = (&whole[whole.len() - 1..], &whole[..whole.len() - 1]);
    let before = &begin[..begin.find(stop).unwrap_or(begin.len())];
    let body = json!({"model": "r", "messages": messages, "stop": [stop]});
    let choice = &server.accepted("/v1/chat/completions", &body)["choices"][0];
    assert_eq!(choice["message"]["content"], before);
    assert_eq!(choice["finish_reason"], "stop");
}

#[test]
fn what_cannot_be_answered_is_refused_by_name() {
    let w = played();
    let server = Server::of(&w, &["--context", "64"]);
    let long = vec![1; 64];
    let completion = "/v1/completions";
    for (path, body, status, code, param) in [
        (
            completion,
            json!({"model": "q", "prompt": "x"}),
            404,
            "model_not_found",
            "model",
        ),
        (
            completion,
            json!({"prompt": "x"}),
            400,
            "invalid_value",
            "model",
        ),
        (
            completion,
            json!({"model": "r", "prompt": "x", "top_k": 3}),
            400,
            "unknown_parameter",
            "top_k",
        ),
        (
            completion,
            json!({"model": "r", "prompt": "x", "n": 2}),
            400,
            "invalid_value",
            "n",
        ),
        (
            completion,
            json!({"model": "r", "prompt": "x", "top_p": 7.5}),
            400,
            "invalid_value",
            "top_p",
        ),
        (
            completion,
            json!({"model": "r", "prompt": long}),
            400,
            "context_length_exceeded",
            "prompt",
        ),
        (
            completion,
            json!({"model": "r", "prompt": [[1], []]}),
            400,
            "invalid_value",
            "prompt",
        ),
        (
            completion,
            json!({"model": "r", "prompt": [9_999_999]}),
            400,
            "invalid_value",
            "prompt",
        ),
        (
            "/v1/chat/completions",
            json!({"model": "r", "messages": [{"role": "user", "content": 3}]}),
            400,
            "invalid_value",
            "messages[0].content",
        ),
    ] {
        let (found, answer) = server.post(path, &body);
        let error = &answer["error"];
        assert_eq!(
            (found, &error["code"], &error["param"]),
            (status, &code.into(), &param.into()),
            "{body} {answer}"
        );
        assert_eq!(error["type"], "invalid_request_error");
        assert!(error["message"].as_str().is_some_and(|m| !m.is_empty()));
    }
}

#[test]
fn what_is_no_request_for_an_answer_is_refused() {
    let w = played();
    let server = Server::of(&w, &[]);
    let completion = "/v1/completions";
    let json = "Content-Type: application/json\r\n";
    for (method, path, fields, body, status) in [
        (
            "POST",
            completion,
            "Content-Type: text/plain\r\n",
            "{}",
            415,
        ),
        ("POST", completion, json, "{", 400),
        ("GET", completion, "", "", 405),
        ("GET", "/v2", "", "", 404),
        ("GET", "/v1/models/nobody", "", "", 404),
        ("GET", "/v1/models/r:start", "", "", 200),
    ] {
        let (found, text) = server.asked(method, path, fields, body);
        assert_eq!(found, status, "{method} {path} {text}");
    }
    // a name that was turned to this machine's address is another page's
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream
        .write_all(b"GET /v1/models HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
}

#[test]
fn keys_are_asked_for_and_a_queue_is_full_at_once() {
    let w = played();
    let server = Server::of(&w, &["--api-key", "secret", "--queue", "2"]);
    let wrong = "Authorization: Bearer secreT\r\n";
    for fields in ["", wrong] {
        let (status, text) = server.asked("GET", "/v1/models", fields, "");
        assert!(
            status == 401 && text.contains("invalid_api_key"),
            "{status} {text}"
        );
    }
    let right = "Authorization: Bearer secret\r\nContent-Type: application/json\r\n";
    assert_eq!(server.asked("GET", "/v1/models", right, "").0, 200);
    let three = json!({"model": "r", "prompt": ["a", "b", "c"]}).to_string();
    let (status, text) = server.asked("POST", "/v1/completions", right, &three);
    assert!(
        status == 503 && text.contains("queue_full"),
        "{status} {text}"
    );
    let two = json!({"model": "r", "prompt": ["a", "b"]}).to_string();
    assert_eq!(server.asked("POST", "/v1/completions", right, &two).0, 200);

    let out = w.run(&["serve", "runs/r", "--host", "0.0.0.0", "--port", "0"]);
    assert_eq!(out.code, 1);
    assert!(out.stderr.contains("a key must be given"), "{}", out.stderr);
}

#[test]
fn an_interrupt_ends_it_cleanly() {
    let w = played();
    let mut server = Server::of(&w, &[]);
    server.chat("r", "one");
    let kill = format!("kill -INT {}", server.child.id());
    assert!(
        Command::new("sh")
            .args(["-c", &kill])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    assert!(TcpStream::connect(&server.address).is_err());
}
