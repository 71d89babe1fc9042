//! Checks the source tree against ARCHITECTURE.md: dependencies, forbidden ones, where `unsafe` is,
//! length and names of files. Each rule is a fenced block of that page, read by this test, so the
//! page cannot go stale. Documents and comments are checked by `graph/prose.rs`, imports inside
//! crates by `graph/circles.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

#[path = "graph/circles.rs"]
mod circles;
#[path = "graph/families.rs"]
mod families;
#[path = "graph/prose.rs"]
mod prose;
#[path = "graph/rust.rs"]
mod rust;

use rust::has_unsafe;

/// Folders of source files.
const SOURCES: [&str; 5] = ["adapters", "benches", "crates", "plugins", "tests"];

/// Package -> what it depends on, by short name: `randori-core` is `core`, `candle-core` stays.
type Graph = BTreeMap<String, BTreeSet<String>>;

#[test]
fn dependencies_are_as_written() {
    let metadata = metadata();
    let all: BTreeSet<&String> = metadata.normal.keys().collect();
    check_block("graph", &internal(&metadata.normal, &all));
    check_block("graph-of-tests", &internal(&metadata.dev, &all));
}

/// Every crate with tests is a default member, since `cargo test` at the root silently skips
/// others.
#[test]
fn every_crate_with_tests_is_a_default_member() {
    let json = metadata_json();
    let members = json["workspace_default_members"].as_array().unwrap();
    let packages = json["packages"].as_array().unwrap().iter();
    let left: BTreeSet<String> = packages
        .filter(|package| !members.contains(&package["id"]))
        .map(|package| short(&package["name"]))
        .collect();
    assert_eq!(left, ["benches", "specimens"].map(str::to_owned).into());
}

#[test]
fn forbidden_dependencies_are_absent() {
    let metadata = metadata();
    let reach = reachable(&metadata.normal, &locked());
    let rules = block("never");
    assert!(rules.len() >= 5, "{rules:?}");
    let mut broken = Vec::new();
    for rule in &rules {
        let (arrow, through) = if rule.contains("=>") {
            ("=>", true)
        } else {
            ("->", false)
        };
        let (left, right) = rule.split_once(arrow).expect(rule);
        let (left, right) = (Pattern::parse(left), Pattern::parse(right));
        let edges = if through { &reach } else { &metadata.normal };
        for (from, to) in edges.iter().filter(|(from, _)| left.matches(from)) {
            let bad = to.iter().filter(|to| *to != from && right.matches(to));
            broken.extend(bad.map(|to| format!("{from} {arrow} {to}, against `{rule}`")));
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// Negative test: an edge of each forbidden kind is found.
#[test]
fn the_rules_bite() {
    let rule = |text: &str, name: &str| Pattern::parse(text).matches(name);
    assert!(rule("*", "serde") && !rule("* except sdk", "sdk") && rule("* except sdk", "serde"));
    assert!(rule("core plugin-*", "plugin-llama") && !rule("core plugin-*", "sdk"));
    let edge = |to: &str| BTreeSet::from([to.to_owned()]);
    let graph = Graph::from([("data".into(), edge("tokenizers"))]);
    let lock = Graph::from([("tokenizers".into(), edge("candle-nn"))]);
    assert!(reachable(&graph, &lock)["data"].contains("candle-nn"));
    assert!(has_unsafe("fn f() { unsafe { g() } }"));
    assert!(!has_unsafe(
        "// unsafe\n/* unsafe */ let s = \"unsafe\"; let r = r#\"unsafe\"#; #![deny(unsafe_code)]"
    ));
    assert!(has_unsafe("let q = '\"'; unsafe impl Send for X {} // \""));
}

#[test]
fn no_grab_bags() {
    let banned = ["utils", "common", "helpers", "types", "misc"];
    let bags: Vec<_> = sources("")
        .into_iter()
        .flat_map(|path| path.ancestors().map(Path::to_owned).collect::<Vec<_>>())
        .filter(|path| {
            path.file_stem()
                .is_some_and(|stem| banned.contains(&&*stem.to_string_lossy()))
        })
        .collect();
    assert!(bags.is_empty(), "name these after what they hold: {bags:?}");
}

#[test]
fn files_fit_in_a_head() {
    const MOST: usize = 500;
    let long: BTreeMap<String, usize> = sources("rs")
        .iter()
        .map(|path| (path.display().to_string(), text(path).lines().count()))
        .filter(|(_, lines)| *lines > MOST)
        .collect();
    let excepted: BTreeSet<String> = block("longer-than-500-lines")
        .iter()
        .map(|line| first_word(line))
        .collect();
    let over: Vec<_> = long
        .iter()
        .filter(|(path, _)| !excepted.contains(*path))
        .collect();
    assert!(
        over.is_empty(),
        "split these, or say in ARCHITECTURE.md why not: {over:?}"
    );
    for path in excepted {
        assert!(
            long.contains_key(&path),
            "{path} is short enough now: remove the exception"
        );
    }
}

#[test]
fn unsafe_is_where_it_may_be() {
    let allowed: Vec<String> = block("unsafe")
        .iter()
        .map(|line| first_word(line))
        .collect();
    let found: Vec<String> = sources("rs")
        .iter()
        .filter(|path| has_unsafe(&text(path)))
        .map(|path| path.display().to_string())
        .collect();
    for path in &found {
        let ok = allowed
            .iter()
            .any(|place| path == place || path.starts_with(&format!("{place}/")));
        assert!(ok, "{path} has `unsafe`; it may only be in {allowed:?}");
    }
    for place in allowed {
        let used = found
            .iter()
            .any(|path| *path == place || path.starts_with(&format!("{place}/")));
        assert!(
            used,
            "{place} has no `unsafe` any more: remove it from the list"
        );
    }
}

/// Every file of tests belongs to a program: where cargo looks for none by itself (`autotests =
/// false`, and tests/ at the root) it would be skipped silently.
#[test]
fn every_test_file_is_run() {
    let all = sources("rs");
    for path in &all {
        let (dir, stem) = (path.parent().unwrap(), path.file_stem().unwrap());
        if !dir.ends_with("tests") {
            continue;
        }
        let (root, stem) = (dir == Path::new("tests"), stem.to_string_lossy());
        let manifest = match root {
            true => text(Path::new("crates/cli/Cargo.toml")),
            false => text(&dir.with_file_name("Cargo.toml")),
        };
        let found = !root && !manifest.contains("autotests = false");
        let program = found || manifest.contains(&format!("tests/{stem}.rs\""));
        let line = format!("mod {stem};");
        let mut beside = all.iter().filter(|other| other.parent() == Some(dir));
        let module = beside.any(|other| text(other).lines().any(|l| l == line));
        assert!(program || module, "no program runs {}", path.display());
    }
}

/// Every crate says what it must not know, where a reader looks first.
#[test]
fn every_crate_opens_with_its_purpose() {
    for path in sources("rs")
        .iter()
        .filter(|path| path.ends_with("src/lib.rs") || path.ends_with("src/main.rs"))
    {
        assert!(
            text(path).starts_with("//! "),
            "{} does not open with `//! ` and what it is for",
            path.display()
        );
    }
}

/// docs/how-to/add-an-op.md lists the files in which its example stands: these, no other but those
/// of architectures that use it, six at most.
#[test]
fn an_op_stands_where_its_page_says() {
    let page = block_of("docs/how-to/add-an-op.md", "an-op gelu_tanh");
    let listed: BTreeSet<String> = page.iter().map(|line| first_word(line)).collect();
    assert!((1..=6).contains(&listed.len()), "{listed:?}");
    let names = |path: &PathBuf| {
        let text = text(path).to_lowercase().replace('_', "");
        text.contains("gelutanh")
    };
    let uses = |path: &PathBuf| {
        let parts = ["crates/sdk/src/dense.rs", "crates/sdk/src/gemma.rs"];
        path.starts_with("plugins") || parts.iter().any(|part| path.ends_with(part))
    };
    let files = ["rs", "cu", "hpp", "cpp", "h", "c"].into_iter();
    let found: BTreeSet<String> = files
        .flat_map(sources)
        .filter(|path| !uses(path))
        .filter(|path| path.components().all(|part| part.as_os_str() != "tests"))
        .filter(names)
        .map(|path| path.display().to_string())
        .collect();
    assert_eq!(
        listed, found,
        "docs/how-to/add-an-op.md against the sources"
    );
}

// ---- ARCHITECTURE.md

/// The lines of a fenced block (```` ```NAME ````), comments and blank lines aside.
fn block(name: &str) -> Vec<String> {
    block_of("ARCHITECTURE.md", name)
}

fn block_of(page: &str, name: &str) -> Vec<String> {
    let written = text(Path::new(page));
    let fence = format!("```{name}");
    let lines = written.lines().skip_while(|line| *line != fence);
    assert!(
        lines.clone().next().is_some(),
        "{page} has no block {fence}"
    );
    lines
        .skip(1)
        .take_while(|line| *line != "```")
        .map(|line| line.split('#').next().unwrap().trim().to_owned())
        .filter(|line| !line.is_empty())
        .collect()
}

fn check_block(name: &str, is: &Graph) {
    let written: Graph = block(name)
        .iter()
        .map(|line| {
            let (from, to) = line
                .split_once("->")
                .unwrap_or_else(|| panic!("{name}: {line}"));
            (
                from.trim().to_owned(),
                to.split_whitespace().map(str::to_owned).collect(),
            )
        })
        .collect();
    let lines: Vec<String> = is
        .iter()
        .map(|(from, to)| {
            format!(
                "{from} -> {}",
                to.iter().cloned().collect::<Vec<_>>().join(" ")
            )
        })
        .collect();
    assert!(
        written == *is,
        "ARCHITECTURE.md, block {name}, is not what Cargo.toml files say, which is:\n{}",
        lines.join("\n")
    );
}

/// `a b-* except c`
struct Pattern {
    any: Vec<String>,
    except: Vec<String>,
}

impl Pattern {
    fn parse(text: &str) -> Pattern {
        let (any, except) = text.split_once(" except ").unwrap_or((text, ""));
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        Pattern {
            any: words(any),
            except: words(except),
        }
    }

    fn matches(&self, name: &str) -> bool {
        let one = |pattern: &String| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == pattern,
        };
        self.any.iter().any(one) && !self.except.iter().any(one)
    }
}

fn first_word(line: &str) -> String {
    line.split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned()
}

// ---- cargo

struct Metadata {
    /// Dependencies that are linked or run at build time.
    normal: Graph,
    /// Dependencies of tests and benches alone.
    dev: Graph,
}

fn metadata_json() -> serde_json::Value {
    let cargo = std::env::var("CARGO").unwrap_or("cargo".into());
    let out = Command::new(cargo)
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version",
            "1",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    serde_json::from_slice(&out.stdout).unwrap()
}

fn metadata() -> Metadata {
    let json = metadata_json();
    let edges = |dev: bool| {
        let of = |package: &serde_json::Value| {
            let dependencies = package["dependencies"].as_array().unwrap().iter();
            let wanted = dependencies.filter(|dependency| (dependency["kind"] == "dev") == dev);
            (
                short(&package["name"]),
                wanted
                    .map(|dependency| short(&dependency["name"]))
                    .collect(),
            )
        };
        json["packages"]
            .as_array()
            .unwrap()
            .iter()
            .map(of)
            .collect()
    };
    Metadata {
        normal: edges(false),
        dev: edges(true),
    }
}

/// Edges between this workspace's packages, and to candle; packages without any left out.
fn internal(graph: &Graph, all: &BTreeSet<&String>) -> Graph {
    let inside = |to: &String| match to.starts_with("candle-") {
        true => Some("candle".to_owned()),
        false => all.contains(to).then(|| to.clone()),
    };
    let kept = graph
        .iter()
        .map(|(from, to)| (from.clone(), to.iter().filter_map(inside).collect()));
    kept.filter(|(_, to): &(String, BTreeSet<String>)| !to.is_empty())
        .collect()
}

/// Everything that each of our packages depends on, directly or through others. Beyond our own
/// packages the edges are those of Cargo.lock, which for them holds no dev-dependencies.
fn reachable(ours: &Graph, lock: &Graph) -> Graph {
    let edges = |from: &String| {
        ours.get(from)
            .or(lock.get(from))
            .cloned()
            .unwrap_or_default()
    };
    let close = |from: &String| {
        let mut seen = BTreeSet::new();
        let mut open: Vec<String> = edges(from).into_iter().collect();
        while let Some(next) = open.pop() {
            if seen.insert(next.clone()) {
                open.extend(edges(&next));
            }
        }
        (from.clone(), seen)
    };
    ours.keys().map(close).collect()
}

/// Cargo.lock's edges by name; versions do not matter here.
fn locked() -> Graph {
    let mut graph = Graph::new();
    for package in text(Path::new("Cargo.lock")).split("[[package]]").skip(1) {
        let quoted = |line: &str| {
            line.split('"')
                .nth(1)
                .and_then(|text| text.split(' ').next())
                .map(str::to_owned)
        };
        let name = package
            .lines()
            .find(|line| line.starts_with("name = "))
            .and_then(quoted)
            .unwrap();
        let dependencies = package
            .lines()
            .skip_while(|line| *line != "dependencies = [")
            .skip(1);
        let dependencies = dependencies
            .take_while(|line| *line != "]")
            .filter_map(quoted);
        graph
            .entry(name)
            .or_default()
            .extend(dependencies.map(|name| strip(&name)));
    }
    assert!(graph.len() > 50, "Cargo.lock was not understood");
    graph
}

fn short(name: &serde_json::Value) -> String {
    strip(name.as_str().unwrap())
}

fn strip(name: &str) -> String {
    name.strip_prefix("randori-").unwrap_or(name).to_owned()
}

// ---- source files

fn root() -> PathBuf {
    let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").to_owned());
    Path::new(&here).join("../..").canonicalize().unwrap()
}

fn text(path: &Path) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Files with this extension (all, if empty) in the source folders, relative to the root, sorted.
fn sources(extension: &str) -> Vec<PathBuf> {
    let mut found = files(&SOURCES);
    found.retain(|path| extension.is_empty() || path.extension().is_some_and(|e| e == extension));
    found
}

/// Every file in these folders, relative to the root, sorted; hidden ones and builds left out.
fn files(folders: &[&str]) -> Vec<PathBuf> {
    let root = root();
    let mut found = BTreeSet::new();
    let mut open: Vec<PathBuf> = folders.iter().map(|folder| root.join(folder)).collect();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.starts_with('.') || name == "target" {
                continue;
            }
            if path.is_dir() {
                open.push(path);
            } else {
                found.insert(path.strip_prefix(&root).unwrap().to_owned());
            }
        }
    }
    found.into_iter().collect()
}
