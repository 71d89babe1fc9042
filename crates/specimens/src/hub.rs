//! A hub of one repository, with commits and the branch `main`, that counts what it is asked.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Its only repository.
pub const REPO: &str = "someone/small";

/// Names and bytes.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Serves until it is dropped.
pub struct Hub {
    /// `http://127.0.0.1:PORT`.
    pub address: String,
    asked: Arc<AtomicUsize>,
}

impl Hub {
    /// `main` is the last commit.
    pub fn serve(commits: &[(&str, Files)]) -> Hub {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let commits: Vec<(String, Files)> = commits
            .iter()
            .map(|(commit, files)| (commit.to_string(), files.clone()))
            .collect();
        let (commits, asked) = (Arc::new(commits), Arc::new(AtomicUsize::new(0)));
        let count = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (commits, count) = (commits.clone(), count.clone());
                std::thread::spawn(move || answer(stream, &commits, &count));
            }
        });
        Hub { address, asked }
    }

    /// Requests so far.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

type Commits = [(String, Files)];

/// Answers as the hub does: a commit's list of files, and files by range.
fn answer(mut stream: TcpStream, commits: &Commits, count: &AtomicUsize) -> Option<()> {
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
        count.fetch_add(1, Ordering::SeqCst);
        let (status, extra, body) = page(&path, range, commits);
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

/// Status, further headers and body.
fn page(
    path: &str,
    range: Option<(usize, Option<usize>)>,
    commits: &Commits,
) -> (&'static str, String, Vec<u8>) {
    let at = |revision: &str| match revision {
        "main" => commits.last(),
        other => commits.iter().find(|(commit, _)| commit == other),
    };
    let not_found = |code: &str| {
        let code = format!("x-error-code: {code}\r\n");
        ("404 Not Found", code, Vec::new())
    };
    let path = path.split('?').next().unwrap_or_default();
    for kind in ["models", "datasets"] {
        if let Some(revision) = path.strip_prefix(&format!("/api/{kind}/{REPO}/revision/")) {
            let Some((commit, files)) = at(revision) else {
                return not_found("RevisionNotFound");
            };
            let list: Vec<_> = files
                .iter()
                .map(|(f, bytes)| {
                    serde_json::json!({"rfilename": f, "size": bytes.len(), "blobId": "ab"})
                })
                .collect();
            let body = serde_json::json!({"siblings": list, "sha": commit}).to_string();
            return ("200 OK", String::new(), body.into_bytes());
        }
    }
    let rest = path.trim_start_matches("/datasets");
    let named = rest
        .strip_prefix(&format!("/{REPO}/resolve/"))
        .and_then(|rest| rest.split_once('/'));
    let found = named.and_then(|(revision, name)| {
        let ((commit, files), name) = (at(revision)?, decoded(name)?);
        let bytes = files.get(&name)?;
        Some((commit, name, bytes))
    });
    let Some((commit, name, bytes)) = found else {
        return not_found("EntryNotFound");
    };
    let (a, b) = range.unwrap_or((0, None));
    let b = b.unwrap_or(bytes.len() - 1).min(bytes.len() - 1);
    let extra = format!(
        "x-repo-commit: {commit}\r\netag: \"{commit:.4}{:x}\"\r\ncontent-range: bytes {a}-{b}/{}\r\n",
        bytes.len() * 31 + name.len(),
        bytes.len()
    );
    ("206 Partial Content", extra, bytes[a..=b].to_vec())
}

/// A name whose address spells bytes as `%20`.
fn decoded(name: &str) -> Option<String> {
    let mut parts = name.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend(part[2..].bytes());
    }
    String::from_utf8(bytes).ok()
}
