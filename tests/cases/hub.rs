//! Models from the hub: all files of one commit, resolved once and kept for the run's lifetime,
//! with and without a network.

use std::fs;

use serde_json::Value;

use crate::program::World;

use super::server::{Files, Hub, REPO};

const FIRST: &str = "1111111111111111111111111111111111111111";
const SECOND: &str = "2222222222222222222222222222222222222222";

/// A recipe over the hub's model, and the model's files.
fn world() -> (World, Files) {
    let w = World::new();
    let dir = w.model("m");
    let recipe = fs::read_to_string(w.dir().join("r.toml")).unwrap();
    let recipe = recipe
        .replace("random:config.json", REPO)
        .replace("tokenizer = \"tokenizer\"\n", "");
    w.file("r.toml", &recipe);
    let names = [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    let files = names.map(|name| (name.to_string(), fs::read(dir.join(name)).unwrap()));
    (w, Files::from(files))
}

/// The hub's variables, and none of this machine's own.
pub fn variables<'a>(home: &'a str, address: &'a str, offline: &'a str) -> Vec<(&'a str, &'a str)> {
    let hub = [
        ("HF_HOME", home),
        ("HF_ENDPOINT", address),
        ("HF_HUB_OFFLINE", offline),
    ];
    let none = [
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "TRANSFORMERS_OFFLINE",
    ];
    let proxies = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"];
    let without = none.into_iter().chain(proxies).map(|name| (name, ""));
    hub.into_iter().chain(without).collect()
}

/// The commit of the branch is recorded when a run begins, though data are named at several keys.
#[test]
fn a_run_keeps_its_data_sets_commit() {
    let w = World::new();
    let data = fs::read(w.dir().join("data.jsonl")).unwrap();
    let files = Files::from([
        ("train.jsonl".to_string(), data.clone()),
        ("test.jsonl".to_string(), data.clone()),
    ]);
    let home = w.dir().join("home").display().to_string();
    let (train, held_out) = (
        format!("data.train={REPO}"),
        format!("data.held_out={REPO}"),
    );
    let run = |address: &str, offline: &str, args: &[&str]| {
        let sets = ["--set", train.as_str(), "--set", held_out.as_str(), "-q"];
        let args = [&["run", "r.toml"][..], &sets, args].concat();
        let out = w.run_with(&variables(&home, address, offline), &args);
        assert_eq!(out.code, 0, "{args:?}\n{}{}", out.stdout, out.stderr);
    };
    let manifest = || -> Value {
        let bytes = fs::read(w.dir().join("runs/r/manifest.json")).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    };
    let at = |commit: &str| format!("\"{REPO}@{commit}\"");
    let hub = Hub::serve(&[(FIRST, files.clone())]);
    run(&hub.address, "", &[]);
    assert_eq!(manifest()["recipe"]["data.train"], at(FIRST));
    assert_eq!(manifest()["resolved"][format!("data {REPO}@main")], FIRST);

    let mut moved = files;
    moved.insert("train.jsonl".into(), [&data[..], &data[..]].concat());
    let hub = Hub::serve(&[(FIRST, Files::new()), (SECOND, moved)]);
    run(&hub.address, "", &["--set", "game.iterations=2"]);
    run(&hub.address, "yes", &["--set", "game.iterations=2"]);
    assert_eq!(manifest()["recipe"]["data.held_out"], at(FIRST));
    assert_eq!(hub.asked(), 0);
    run(&hub.address, "", &["--fresh"]);
    assert_eq!(manifest()["recipe"]["data.train"], at(SECOND));
}

/// Preference pairs, with a split to measure on: `init` writes the recipe, and `train` goes by it.
#[test]
fn pairs_of_the_hub_become_dpo() {
    let w = World::new();
    let rows = |numbers: std::ops::Range<usize>| {
        let row = |i: usize| {
            let answers = format!("\"chosen\": \"{}\", \"rejected\": \"{i}\"", i + 1);
            format!("{{\"prompt\": \"Add 1 to {i}.\", {answers}}}\n")
        };
        numbers.map(row).collect::<String>().into_bytes()
    };
    let files = Files::from([
        ("train.jsonl".to_string(), rows(10..34)),
        ("validation.jsonl".to_string(), rows(40..48)),
    ]);
    let hub = Hub::serve(&[(FIRST, files)]);
    let home = w.dir().join("home").display().to_string();
    let run = |args: &[&str]| {
        let out = w.run_with(&variables(&home, &hub.address, ""), args);
        assert_eq!(out.code, 0, "{args:?}\n{}{}", out.stdout, out.stderr);
        out.stdout
    };
    run(&[
        "init",
        "builtin:demo",
        REPO,
        "--kind",
        "dpo",
        "--out",
        "p.toml",
    ]);
    let said = run(&["train", "p.toml", "--out", "o"]);
    assert!(said.contains("on 8 pairs, against the start"), "{said}");
    assert!(said.contains("trained on 24 pairs"), "{said}");
}

#[test]
fn a_run_keeps_the_commit_that_it_was_started_with() {
    let (w, files) = world();
    let home = w.dir().join("home").display().to_string();
    let run = |address: &str, offline: &str, args: &[&str]| {
        let out = w.run_with(&variables(&home, address, offline), args);
        assert_eq!(out.code, 0, "{args:?}\n{}{}", out.stdout, out.stderr);
    };
    let manifest = || -> Value {
        let bytes = fs::read(w.dir().join("runs/r/manifest.json")).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    };
    let commit = || manifest()["hashes"]["model.source commit"].clone();

    let hub = Hub::serve(&[(FIRST, files.clone())]);
    run(&hub.address, "0", &["run", "r.toml", "-q"]);
    assert_eq!(commit(), FIRST);
    let recipe = fs::read_to_string(w.dir().join("runs/r/recipe.toml")).unwrap();
    assert!(
        recipe.contains(&format!("source = \"{REPO}@{FIRST}\"")),
        "{recipe}"
    );

    // the branch moves: other weights, another template
    let mut moved = files;
    let weights = moved.get_mut("model.safetensors").unwrap();
    *weights.last_mut().unwrap() ^= 1;
    moved.insert(
        "chat_template.jinja".into(),
        b"{% for m in messages %}{{ m.content }} {% endfor %}".to_vec(),
    );
    let hub = Hub::serve(&[(FIRST, Files::new()), (SECOND, moved)]);
    let more = ["run", "r.toml", "-q", "--set", "game.iterations=2"];
    run(&hub.address, "0", &more);
    run(&hub.address, "ON", &["run", "runs/r", "-q"]);
    let generate = ["generate", "runs/r", "-q", "--out", "g.jsonl"];
    run(&hub.address, "0", &generate);
    assert_eq!((commit(), hub.asked()), (FIRST.into(), 0));

    // another commit by name is another model
    let named = format!("model.source={REPO}@{SECOND}");
    let other = ["run", "r.toml", "-q", "--set", &named];
    let out = w.run_with(&variables(&home, &hub.address, ""), &other);
    assert_eq!(out.code, 1);
    for said in [
        "model.source was \"someone/small@11111",
        "is \"someone/small@22222",
    ] {
        assert!(out.stderr.contains(said), "{}", out.stderr);
    }

    // a run that begins takes what the branch is then
    run(&hub.address, "0", &["run", "r.toml", "-q", "--fresh"]);
    assert_eq!(commit(), SECOND);
}
