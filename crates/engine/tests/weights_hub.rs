//! The hub's way, against a small server in this process: what is downloaded, what is cached, what
//! an error says.
//!
//! The hub's address and cache come from the environment, so each case runs in a process of its
//! own: this test program started again with [`CASE`] set. The cache's layout (blobs, snapshots by
//! commit, refs, trees) and what is found in it are those of huggingface_hub 2.4.0's
//! `snapshot_download`, run against such a server.
#![cfg(unix)]

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use crate::model::*;
use crate::server::{Files, Hub, REPO};
use candle_core::DType;
use randori_engine::hub::{Kind, Snapshot};
use randori_engine::weights::{LoadOptions, Source, TokenizerSource, open};

const CASE: &str = "RANDORI_HUB_CASE";
const FIRST: &str = "1111111111111111111111111111111111111111";
const SECOND: &str = "2222222222222222222222222222222222222222";

/// Runs in the processes started by the tests below.
#[test]
fn case() {
    let Ok(case) = std::env::var(CASE) else {
        return;
    };
    let said = match case.split_once(' ').unwrap() {
        ("dataset", revision) => dataset(revision),
        (_, revision) => whole_model(revision),
    };
    match said {
        Ok(said) => println!("LOADED {said}"),
        Err(e) => println!("FAILED {e}"),
    }
}

fn whole_model(revision: &str) -> randori_engine::Result<String> {
    let checkpoint = open(
        Source::Hub {
            repo: REPO.into(),
            revision: revision.into(),
        },
        &[],
    )?;
    let TokenizerSource::Folder(dir) = checkpoint.tokenizer() else {
        panic!("no folder")
    };
    let has = dir.join("tokenizer.json").exists();
    let window = checkpoint.config()["max_position_embeddings"].clone();
    let base = load(checkpoint, LoadOptions::default())?;
    let same = tensors().iter().all(|(n, t)| weight(&base, n) == values(t));
    Ok(format!(
        "same weights: {same}, tokenizer: {has}, window {window}"
    ))
}

fn dataset(revision: &str) -> randori_engine::Result<String> {
    let snapshot = Snapshot::open(Kind::Dataset, REPO, revision)?;
    let names: Vec<&str> = snapshot.names().collect();
    let mut said = format!("{} {}", snapshot.commit(), names.join(","));
    for name in names.iter().filter(|n| n.ends_with(".jsonl")) {
        said += &format!(" {}", fs::read_to_string(snapshot.get(name)?).unwrap());
    }
    Ok(said)
}

fn run(case: &str, endpoint: &str, home: &Path, vars: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "weights_hub::case",
            "--exact",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(CASE, case)
        .env("HF_ENDPOINT", endpoint)
        .env("HF_HOME", home);
    for name in [
        "http_proxy",
        "https_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "all_proxy",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
    ] {
        command.env_remove(name);
    }
    let out = command.envs(vars.iter().copied()).output().unwrap();
    let text =
        String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    let line = text.lines().find_map(|l| {
        l.find("LOADED")
            .or(l.find("FAILED"))
            .map(|at| l[at..].to_string())
    });
    line.unwrap_or(text)
}

const NOBODY: &str = "http://127.0.0.1:9"; // nobody listens on the discard port
const OFFLINE: &[(&str, &str)] = &[("HF_HUB_OFFLINE", "True")];
const WHOLE: &str = "LOADED same weights: true, tokenizer: true, window 64";

fn files() -> Files {
    let mut config = config();
    config["max_position_embeddings"] = 64.into();
    BTreeMap::from([
        ("config.json".to_string(), config.to_string().into_bytes()),
        (
            "model.safetensors".to_string(),
            safetensors_bytes(&tensors(), DType::F32),
        ),
        ("tokenizer.json".to_string(), b"{}".to_vec()),
        ("README.md".to_string(), b"not fetched".to_vec()),
    ])
}

/// Another commit: a longer window, other weights.
fn other_files() -> Files {
    let mut files = files();
    let mut config = config();
    config["max_position_embeddings"] = 128.into();
    files.insert("config.json".into(), config.to_string().into_bytes());
    let doubled: Tensors = tensors()
        .into_iter()
        .map(|(n, t)| (n, (t * 2.0).unwrap()))
        .collect();
    files.insert(
        "model.safetensors".into(),
        safetensors_bytes(&doubled, DType::F32),
    );
    files
}

fn cache(home: &Path) -> std::path::PathBuf {
    home.join("hub/models--someone--small")
}

#[test]
fn downloads_then_needs_no_network() {
    let home = tempfile::tempdir().unwrap();
    let refused = run("model main", NOBODY, home.path(), &[]);
    assert!(
        refused.starts_with(&format!(
            "FAILED cannot get {REPO} (revision main) from the hub"
        )),
        "{refused}"
    );
    assert!(refused.contains("name a local folder or file"), "{refused}");
    let hub = Hub::serve(&[(FIRST, files())]);
    assert_eq!(run("model main", &hub.address, home.path(), &[]), WHOLE);
    assert_eq!(run("model main", NOBODY, home.path(), &[]), WHOLE);
    let names: Vec<_> = fs::read_dir(cache(home.path()).join("snapshots").join(FIRST))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names.len(), 3, "{names:?}");
}

/// As transformers 5.24 does: every template right in the folder, and no other file.
#[test]
fn chat_templates_with_names_are_fetched() {
    let home = tempfile::tempdir().unwrap();
    let mut all = files();
    for name in ["default.jinja", "rag.jinja", "notes.txt", "more/x.jinja"] {
        let name = format!("additional_chat_templates/{name}");
        all.insert(name, b"{{ 1 }}".to_vec());
    }
    let hub = Hub::serve(&[(FIRST, all)]);
    assert_eq!(run("model main", &hub.address, home.path(), &[]), WHOLE);
    let folder = format!("snapshots/{FIRST}/additional_chat_templates");
    let mut names: Vec<_> = fs::read_dir(cache(home.path()).join(folder))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["default.jinja", "rag.jinja"]);
    assert_eq!(run("model main", NOBODY, home.path(), &[]), WHOLE);
}

#[test]
fn shards_by_their_index() {
    let home = tempfile::tempdir().unwrap();
    let mut files = files();
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
    let map: BTreeMap<&String, &str> = all.keys().map(|n| (n, file(n))).collect();
    let index = serde_json::json!({"metadata": {}, "weight_map": map}).to_string();
    files.insert("model.safetensors.index.json".into(), index.into_bytes());
    let hub = Hub::serve(&[(FIRST, files)]);
    assert_eq!(run("model main", &hub.address, home.path(), &[]), WHOLE);
}

/// transformers would play it; nothing is fetched of a model that is refused.
#[test]
fn an_adapter_beside_the_model() {
    let home = tempfile::tempdir().unwrap();
    let mut with = files();
    with.insert("adapter_config.json".into(), b"{}".to_vec());
    let hub = Hub::serve(&[(FIRST, with)]);
    let said = run("model main", &hub.address, home.path(), &[]);
    let why = format!("FAILED {REPO}: adapter_config.json: an adapter beside the model");
    assert!(said.starts_with(&why), "{said}");
    let snapshot = cache(home.path()).join("snapshots").join(FIRST);
    assert!(!snapshot.join("model.safetensors").exists());
}

#[test]
fn a_repository_without_weights() {
    let home = tempfile::tempdir().unwrap();
    let mut files = files();
    files.remove("model.safetensors");
    let hub = Hub::serve(&[(FIRST, files)]);
    let e = run("model main", &hub.address, home.path(), &[]);
    assert!(
        e.contains("it has neither model.safetensors nor model.safetensors.index.json"),
        "{e}"
    );
}

/// hf-hub 0.4.3's own `get` would take the cached config.json of the first commit and fetch the
/// weights of the second.
#[test]
fn a_branch_that_moves_never_mixes_two_commits() {
    let home = tempfile::tempdir().unwrap();
    let hub = Hub::serve(&[(FIRST, files())]);
    assert_eq!(run("model main", &hub.address, home.path(), &[]), WHOLE);
    // a part of the first commit is left in the cache
    let first = cache(home.path()).join("snapshots").join(FIRST);
    fs::remove_file(first.join("model.safetensors")).unwrap();
    let hub = Hub::serve(&[(FIRST, files()), (SECOND, other_files())]);
    let second = "LOADED same weights: false, tokenizer: true, window 128";
    assert_eq!(run("model main", &hub.address, home.path(), &[]), second);
    let by_commit = format!("model {FIRST}");
    assert_eq!(run(&by_commit, &hub.address, home.path(), &[]), WHOLE);
    // without a network a branch is what it last was, a commit itself
    assert_eq!(run("model main", NOBODY, home.path(), &[]), second);
    assert_eq!(run(&by_commit, NOBODY, home.path(), &[]), WHOLE);
    let asked = hub.asked();
    let again = run(&by_commit, &hub.address, home.path(), &[]);
    assert_eq!((again.as_str(), hub.asked()), (WHOLE, asked));
}

/// `snapshot_download(REPO, revision=COMMIT)` writes no ref; older ones no list of files either.
#[test]
fn what_python_fetched_by_commit_is_found_offline() {
    for listed in [true, false] {
        let home = tempfile::tempdir().unwrap();
        let hub = Hub::serve(&[(FIRST, files())]);
        let dir = cache(home.path());
        fs::create_dir_all(dir.join("snapshots").join(FIRST)).unwrap();
        fs::create_dir_all(dir.join("blobs")).unwrap();
        fs::create_dir_all(dir.join("trees")).unwrap();
        for (i, (name, bytes)) in files().iter().enumerate() {
            fs::write(dir.join(format!("blobs/{i}")), bytes).unwrap();
            let link = dir.join("snapshots").join(FIRST).join(name);
            std::os::unix::fs::symlink(format!("../../blobs/{i}"), link).unwrap();
        }
        if listed {
            let entry = |f: &Vec<u8>| serde_json::json!({"size": f.len(), "blob_id": "ab"});
            let files: BTreeMap<_, _> =
                files().iter().map(|(n, f)| (n.clone(), entry(f))).collect();
            let tree = serde_json::json!({"format_version": 1, "files": files});
            let path = dir.join(format!("trees/{FIRST}.json"));
            fs::write(path, tree.to_string()).unwrap();
        }
        let case = format!("model {FIRST}");
        assert_eq!(run(&case, &hub.address, home.path(), OFFLINE), WHOLE);
        assert_eq!(run(&case, NOBODY, home.path(), &[]), WHOLE);
        assert_eq!(hub.asked(), 0);
        // a cache elsewhere
        let vars = [OFFLINE[0], ("HF_HUB_CACHE", "$HF_HOME/moved")];
        fs::rename(home.path().join("hub"), home.path().join("moved")).unwrap();
        assert_eq!(run(&case, &hub.address, home.path(), &vars), WHOLE);
    }
}

#[test]
fn offline_means_that_nobody_is_asked() {
    let home = tempfile::tempdir().unwrap();
    let hub = Hub::serve(&[(FIRST, files())]);
    for vars in [OFFLINE, &[("TRANSFORMERS_OFFLINE", "yes")]] {
        let e = run("model main", &hub.address, home.path(), vars);
        assert!(
            e.contains("HF_HUB_OFFLINE is set and the cache does not have it"),
            "{e}"
        );
    }
    assert_eq!(hub.asked(), 0);
    let vars = [("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")];
    assert_eq!(run("model main", &hub.address, home.path(), &vars), WHOLE);
    let asked = hub.asked();
    assert!(asked > 0);
    assert_eq!(run("model main", &hub.address, home.path(), OFFLINE), WHOLE);
    assert_eq!(hub.asked(), asked);
}

#[test]
fn a_part_of_a_commit_does_not_pass_for_the_whole() {
    let home = tempfile::tempdir().unwrap();
    let mut files = files();
    files.insert("chat_template.jinja".into(), b"{{ 1 }}".to_vec());
    let hub = Hub::serve(&[(FIRST, files)]);
    assert_eq!(run("model main", &hub.address, home.path(), &[]), WHOLE);
    let dir = cache(home.path()).join("snapshots").join(FIRST);
    for name in ["model.safetensors", "chat_template.jinja"] {
        // the name is gone; its blob is gone; its blob was cut short
        for harm in 0..3 {
            let link = dir.join(name);
            let blob = fs::canonicalize(&link).unwrap();
            match harm {
                0 => fs::remove_file(&link).unwrap(),
                1 => fs::remove_file(&blob).unwrap(),
                _ => fs::write(&blob, b"{{").unwrap(),
            }
            for (endpoint, vars) in [(NOBODY, &[][..]), (hub.address.as_str(), OFFLINE)] {
                let e = run("model main", endpoint, home.path(), vars);
                let named = e.starts_with("FAILED cannot get someone/small (revision main)");
                assert!(named && e.contains(name), "{harm}: {e}");
            }
            assert_eq!(
                run("model main", &hub.address, home.path(), &[]),
                WHOLE,
                "{name} {harm}"
            );
        }
    }
}

#[test]
fn a_revision_that_is_not_there() {
    let home = tempfile::tempdir().unwrap();
    let hub = Hub::serve(&[(FIRST, files())]);
    assert_eq!(run("model main", &hub.address, home.path(), &[]), WHOLE);
    // a branch that was there once: the cache still names its commit
    let refs = cache(home.path()).join("refs");
    fs::copy(refs.join("main"), refs.join("gone")).unwrap();
    let e = run("model gone", &hub.address, home.path(), &[]);
    assert!(
        e.contains("(revision gone) from the hub: it has no such revision"),
        "{e}"
    );
    for odd in ["../main", "", "a?b", "/etc"] {
        let e = run(&format!("model {odd}"), &hub.address, home.path(), &[]);
        assert!(e.contains("a revision is a branch, tag or commit"), "{e}");
    }
}

#[test]
fn data_sets_are_fetched_likewise() {
    let home = tempfile::tempdir().unwrap();
    let of = |text: &str| {
        Files::from([
            ("data/a.jsonl".to_string(), text.as_bytes().to_vec()),
            ("data/b.parquet".to_string(), b"not asked for".to_vec()),
        ])
    };
    let hub = Hub::serve(&[(FIRST, of("one"))]);
    let first = format!("LOADED {FIRST} data/a.jsonl,data/b.parquet one");
    assert_eq!(run("dataset main", &hub.address, home.path(), &[]), first);
    assert_eq!(run("dataset main", NOBODY, home.path(), &[]), first);
    let hub = Hub::serve(&[(FIRST, of("one")), (SECOND, of("two"))]);
    let second = format!("LOADED {SECOND} data/a.jsonl,data/b.parquet two");
    assert_eq!(run("dataset main", &hub.address, home.path(), &[]), second);
    let by_commit = format!("dataset {FIRST}");
    assert_eq!(run(&by_commit, &hub.address, home.path(), OFFLINE), first);
    // without a list it is what the cache holds
    let trees = home.path().join("hub/datasets--someone--small/trees");
    fs::remove_dir_all(trees).unwrap();
    let held = format!("LOADED {FIRST} data/a.jsonl one");
    assert_eq!(run(&by_commit, NOBODY, home.path(), &[]), held);
}

/// What `snapshot_download` of huggingface_hub 2.4.0 fetches under these names, whose addresses it
/// spells by `urllib.parse.quote`.
#[test]
fn names_that_an_address_spells_otherwise() {
    let home = tempfile::tempdir().unwrap();
    let names = ["a b/50%.jsonl", "a b/c#d?.jsonl", "a b/ü+~&.jsonl"];
    let files: Files = (names.iter())
        .map(|name| (name.to_string(), name.as_bytes().to_vec()))
        .collect();
    let hub = Hub::serve(&[(FIRST, files)]);
    let all = format!("LOADED {FIRST} {} {}", names.join(","), names.join(" "));
    assert_eq!(run("dataset main", &hub.address, home.path(), &[]), all);
    let asked = hub.asked();
    let by_commit = format!("dataset {FIRST}");
    assert_eq!(run(&by_commit, &hub.address, home.path(), &[]), all);
    assert_eq!(hub.asked(), asked);
    let dir = home.path().join("hub/datasets--someone--small/snapshots");
    assert_eq!(fs::read_dir(dir.join(FIRST)).unwrap().count(), 1);
}

#[test]
fn a_name_that_leads_elsewhere_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let hub = Hub::serve(&[(FIRST, Files::from([("../x.jsonl".into(), b"x".to_vec())]))]);
    let e = run("dataset main", &hub.address, home.path(), &[]);
    assert!(
        e.contains("\"../x.jsonl\" is not the name of a file in it"),
        "{e}"
    );
}
