//! The hub's way, against a small server in this process: what is downloaded, what is cached, what an error says.
//!
//! The hub's address and cache come from the environment, so each case runs in a process of its own: this test program
//! started again with [`CASE`] set.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::Arc,
};

#[path = "weights/model.rs"]
mod model;

use candle_core::DType;
use model::*;
use randori_engine::weights::{LoadOptions, Source, TokenizerSource, open};

const CASE: &str = "RANDORI_HUB_CASE";
const REPO: &str = "someone/small";

/// Runs in the processes started by the tests below.
#[test]
fn case() {
    if std::env::var(CASE).is_err() {
        return;
    }
    let source = Source::Hub {
        repo: REPO.into(),
        revision: "main".into(),
    };
    match open(source).and_then(|c| {
        let TokenizerSource::Folder(dir) = c.tokenizer() else {
            panic!("no folder")
        };
        let has = dir.join("tokenizer.json").exists();
        Ok((load(c, LoadOptions::default())?, has))
    }) {
        Ok((base, has)) => {
            let same = tensors().iter().all(|(n, t)| weight(&base, n) == values(t));
            println!("LOADED same weights: {same}, tokenizer: {has}");
        }
        Err(e) => println!("FAILED {e}"),
    }
}

fn run(endpoint: &str, home: &Path) -> String {
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["case", "--exact", "--nocapture", "--test-threads=1"])
        .env(CASE, "1")
        .env("HF_ENDPOINT", endpoint)
        .env("HF_HOME", home)
        .env_remove("http_proxy")
        .env_remove("https_proxy")
        .env_remove("HTTP_PROXY")
        .env_remove("HTTPS_PROXY")
        .env_remove("ALL_PROXY")
        .env_remove("all_proxy")
        .output()
        .unwrap();
    let text =
        String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    let line = text.lines().find_map(|l| {
        l.find("LOADED")
            .or(l.find("FAILED"))
            .map(|at| l[at..].to_string())
    });
    line.unwrap_or(text)
}

/// Answers as the hub does: a repository's list of files, and files by range.
fn serve(files: HashMap<String, Vec<u8>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let files = Arc::new(files);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let files = files.clone();
            std::thread::spawn(move || answer(stream, &files));
        }
    });
    address
}

fn answer(mut stream: TcpStream, files: &HashMap<String, Vec<u8>>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let (mut line, mut range) = (String::new(), None);
        reader.read_line(&mut line).ok().filter(|&n| n > 0)?;
        let path = line.split_whitespace().nth(1)?.to_string();
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).ok()?;
            if header.trim().is_empty() {
                break;
            }
            if let Some(r) = header.to_lowercase().trim().strip_prefix("range: bytes=") {
                let (a, b) = r.split_once('-')?;
                range = Some((a.parse::<usize>().ok()?, b.parse::<usize>().ok()));
            }
        }
        let list = format!("/api/models/{REPO}/revision/main");
        let file = path
            .strip_prefix(&format!("/{REPO}/resolve/main/"))
            .and_then(|name| files.get(name));
        let (status, extra, body) = match file {
            _ if path == list => {
                let names: Vec<_> = files
                    .keys()
                    .map(|f| serde_json::json!({"rfilename": f}))
                    .collect();
                let body = serde_json::json!({"siblings": names, "sha": "0123abcd"}).to_string();
                ("200 OK", String::new(), body.into_bytes())
            }
            Some(bytes) => {
                let (a, b) = range.unwrap_or((0, None));
                let b = b.unwrap_or(bytes.len() - 1).min(bytes.len() - 1);
                let extra = format!(
                    "x-repo-commit: 0123abcd\r\netag: \"{:x}\"\r\ncontent-range: bytes {a}-{b}/{}\r\n",
                    bytes.len() * 31 + path.len(),
                    bytes.len()
                );
                ("206 Partial Content", extra, bytes[a..=b].to_vec())
            }
            None => ("404 Not Found", String::new(), Vec::new()),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\n{extra}content-length: {}\r\n\r\n",
            body.len()
        );
        stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.write_all(&body))
            .ok()?;
    }
}

fn whole() -> HashMap<String, Vec<u8>> {
    HashMap::from([
        ("config.json".to_string(), config().to_string().into_bytes()),
        (
            "model.safetensors".to_string(),
            safetensors_bytes(&tensors(), DType::F32),
        ),
        ("tokenizer.json".to_string(), b"{}".to_vec()),
        ("README.md".to_string(), b"not fetched".to_vec()),
    ])
}

#[test]
fn downloads_then_needs_no_network() {
    let home = tempfile::tempdir().unwrap();
    let offline = "http://127.0.0.1:9"; // nobody listens on the discard port
    let refused = run(offline, home.path());
    assert!(
        refused.starts_with(&format!(
            "FAILED cannot get {REPO} (revision main) from the hub"
        )),
        "{refused}"
    );
    assert!(
        refused.contains("name a local folder or GGUF file"),
        "{refused}"
    );
    assert_eq!(
        run(&serve(whole()), home.path()),
        "LOADED same weights: true, tokenizer: true"
    );
    assert_eq!(
        run(offline, home.path()),
        "LOADED same weights: true, tokenizer: true"
    );
}

#[test]
fn shards_by_their_index() {
    let home = tempfile::tempdir().unwrap();
    let mut files = whole();
    files.remove("model.safetensors");
    let all = tensors();
    let file = |name: &str| {
        if name.contains("layers.0") {
            "a.safetensors"
        } else {
            "b.safetensors"
        }
    };
    for shard in ["a.safetensors", "b.safetensors"] {
        let part: Tensors = all
            .iter()
            .filter(|(n, _)| file(n) == shard)
            .map(|(n, t)| (n.clone(), t.clone()))
            .collect();
        files.insert(shard.into(), safetensors_bytes(&part, DType::F32));
    }
    let map: HashMap<&String, &str> = all.keys().map(|n| (n, file(n))).collect();
    let index = serde_json::json!({"metadata": {}, "weight_map": map}).to_string();
    files.insert("model.safetensors.index.json".into(), index.into_bytes());
    assert_eq!(
        run(&serve(files), home.path()),
        "LOADED same weights: true, tokenizer: true"
    );
}

#[test]
fn a_repository_without_weights() {
    let home = tempfile::tempdir().unwrap();
    let mut files = whole();
    files.remove("model.safetensors");
    let e = run(&serve(files), home.path());
    assert!(
        e.contains("it has neither model.safetensors nor model.safetensors.index.json"),
        "{e}"
    );
}
