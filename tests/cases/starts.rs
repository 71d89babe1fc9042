//! Run folders and adapters as starting points: a run stands for what it made, never for its bare
//! base; its start is exported unchanged or refused; a recipe cannot contradict its adapter.

use std::fs;

use serde_json::Value;

use super::reuse::adapter;
use crate::program::World;

const TENSORS: &str = "adapter_model.safetensors";

#[test]
fn a_run_without_a_finished_iteration_is_nobodys_start() {
    let w = World::new();
    w.accepted(&["run", "r.toml", "-q"]);
    // as a run that was stopped in its first iteration leaves it
    let path = w.dir().join("runs/r/manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let stages = manifest["stages"].as_array_mut().unwrap();
    stages.retain(|done| done["place"] == "start");
    assert!(!stages.is_empty());
    fs::write(&path, manifest.to_string()).unwrap();
    let pair = "{\"prompt\": \"Reverse abc.\", \"chosen\": \"cba\", \"rejected\": \"abc\"}\n";
    w.file("a.jsonl", pair);
    let train = ["train", "runs/r", "--pairs", "a.jsonl", "--out", "q"];
    for args in [
        &train[..],
        &["sft", "runs/r", "--out", "q"],
        &["generate", "runs/r", "--out", "q"],
        &["score", "runs/r", "--pairs", "a.jsonl", "--out", "q"],
        &["export", "runs/r", "--out", "q"],
    ] {
        w.refused(args, "runs/r: no iteration is finished here yet");
        for name in ["q", "runs/r-train", "runs/r-sft"] {
            assert!(!w.dir().join(name).exists(), "{args:?} began {name}");
        }
    }
    // one that is named is a start, and so is the recipe
    let named = [
        "--set",
        "train.warmup=0",
        "--adapter",
        "runs/r/iter-0/adapter",
    ];
    w.accepted(&[&train[..], &named].concat());
    let sft = ["sft", "runs/r/recipe.toml", "-q", "--out", "s"];
    w.accepted(&[&sft[..], &["--set", "sft.warmup=0"]].concat());
}

#[test]
fn the_start_of_a_run_is_exported_as_it_was_or_not_at_all() {
    let w = World::new();
    adapter(&w, "a", "1e-3");
    adapter(&w, "b", "2e-3");
    let lora = ["--set", "adapter.kind=lora", "-q"];
    let init = ["run", "r.toml", "--set", "adapter.init=a"];
    let given = ["run", "r.toml", "--adapter", "a", "--set", "name=g"];
    w.accepted(&[&init[..], &lora].concat());
    w.accepted(&[&given[..], &lora].concat());
    let export =
        |run: &'static str, out: &'static str| ["export", run, "-q", "--to", "peft", "--out", out];
    let start = |run: &'static str, out: &'static str| {
        [&export(run, out)[..], &["--iteration", "start"]].concat()
    };
    let [a, b] = ["a", "b"].map(|name| fs::read(w.dir().join(name).join(TENSORS)).unwrap());
    let exported = |out: &str| fs::read(w.dir().join(out).join(TENSORS)).unwrap();
    assert_ne!(a, b);
    w.accepted(&start("runs/r", "s"));
    assert_eq!(exported("s"), a);

    // the recipe does not say what --adapter said
    let line = w.refused(&start("runs/g", "none"), "runs/g: --iteration start: ");
    assert!(line.contains("started with --adapter"), "{line}");
    assert!(line.contains(&format!("start {TENSORS} was ")), "{line}");
    w.accepted(&[&export("runs/g", "t")[..], &["--adapter", "a"]].concat());
    assert_eq!(exported("t"), a);

    // another adapter in the same folder
    fs::write(w.dir().join("a").join(TENSORS), &b).unwrap();
    let line = w.refused(&start("runs/r", "none"), "runs/r: --iteration start: ");
    assert!(line.contains(&format!("start {TENSORS} was ")), "{line}");
    assert!(!w.dir().join("none").exists());
    w.accepted(&export("runs/r", "last"));
    fs::remove_dir_all(w.dir().join("a")).unwrap();
    w.refused(&start("runs/r", "none"), "runs/r: --iteration start: ");
}

/// Beside the adapter `a`, which has another value, the setting is refused with both.
#[track_caller]
fn refused(w: &World, args: &[&str], set: &str, has: &str) {
    let lora = ["--set", "adapter.kind=lora", "--set"];
    let line = w.refused(
        &[args, &lora, &[set]].concat(),
        "a/adapter_config.json) has ",
    );
    let key = set.split_once('=').unwrap().0;
    assert!(line.contains(&format!("{key} is ")), "{line}");
    assert!(line.contains(&format!(" has {has}")), "{line}");
}

#[test]
fn a_recipe_says_nothing_else_of_an_adapter_than_the_adapter() {
    let w = World::new();
    adapter(&w, "a", "1e-3"); // rank 2, all else by default
    w.file(
        "p.jsonl",
        "{\"prompt\": \"Reverse abc.\", \"chosen\": \"cba\", \"rejected\": \"abc\"}\n",
    );
    let lora = ["--set", "adapter.kind=lora", "--set"];
    let other = |args: &[&str], set: &str, has: &str| refused(&w, args, set, has);
    let run = ["run", "r.toml", "--set", "adapter.init=a"];
    for (set, has) in [
        ("adapter.rank=4", "2:"),
        ("adapter.rank=16", "2:"), // the default, but said
        ("adapter.alpha=8", "32.0:"),
        ("adapter.rslora=true", "false:"),
        ("adapter.targets=['q_proj']", "["),
        ("adapter.exclude=['q_proj']", "none:"),
        ("adapter.rank_pattern=['q_proj=3']", "[]:"),
        ("adapter.alpha_pattern=['q_proj=3']", "[]:"),
        ("adapter.dora=true", "false:"),
        ("adapter.modules_to_save=['norm']", "[]:"),
    ] {
        other(&run, set, has);
    }
    w.nothing_written();
    let pairs = ["--pairs", "p.jsonl", "--set", "train.warmup=0"];
    let given = ["--adapter", "a", "--out", "q"];
    other(&["fit", "r.toml", "--adapter", "a"], "adapter.rank=4", "2:");
    other(
        &[&["sft", "r.toml", "--set", "sft.warmup=0"][..], &given].concat(),
        "adapter.rank=4",
        "2:",
    );
    other(
        &[&["train", "r.toml"][..], &pairs, &given].concat(),
        "adapter.rank=4",
        "2:",
    );
    // another spelling of the same is the same
    let same = ["adapter.rank=2", "--set", "adapter.exclude=['lm_head']"];
    w.accepted(&[&run[..], &lora, &same, &["-q"]].concat());
    // a run's own recipe spells out the default of a rank that nobody said
    w.accepted(&[&run[..], &lora, &["name=n", "-q"]].concat());
    w.accepted(&["run", "runs/n/recipe.toml", "-q", "--runs", "again"]);
}

/// Nor for who plays with it and does not train it.
#[test]
fn a_recipe_says_nothing_else_of_an_adapter_that_plays() {
    let w = World::new();
    adapter(&w, "a", "1e-3"); // rank 2, all else by default
    w.file(
        "p.jsonl",
        "{\"prompt\": \"Reverse abc.\", \"chosen\": \"cba\", \"rejected\": \"abc\"}\n",
    );
    for verb in [
        &["eval", "r.toml", "--adapter", "a"][..],
        &["generate", "r.toml", "--adapter", "a", "--out", "q"],
        &[
            "score",
            "r.toml",
            "--pairs",
            "p.jsonl",
            "--adapter",
            "a",
            "--out",
            "q",
        ],
        &[
            "export",
            "r.toml",
            "--to",
            "peft",
            "--adapter",
            "a",
            "--out",
            "q",
        ],
        &[
            "export",
            "r.toml",
            "--to",
            "gguf",
            "--adapter",
            "a",
            "--out",
            "q",
        ],
        &["chat", "r.toml", "--adapter", "a"],
    ] {
        for (set, has) in [
            ("adapter.rank=4", "2:"),
            ("adapter.alpha=8", "32.0:"),
            ("adapter.targets=['q_proj']", "["),
        ] {
            refused(&w, verb, set, has);
        }
    }
    assert!(!w.dir().join("q").exists());
}

#[test]
fn dropout_is_the_recipes_or_else_the_adapters() {
    let w = World::new();
    adapter(&w, "a", "1e-3");
    adapter(&w, "b", "1e-3");
    let path = w.dir().join("b/adapter_config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(config["lora_dropout"], 0.0);
    config["lora_dropout"] = 0.5.into();
    fs::write(&path, config.to_string()).unwrap();
    let trained = |name: &str, from: &str, more: &[&str]| {
        let out = format!("{name}-out");
        let args = ["sft", "r.toml", "-q", "--adapter", from, "--out", &out];
        let sets = ["--runs", name, "--set", "adapter.kind=lora"];
        let steps = ["--set", "sft.warmup=0", "--set", "sft.batch=8"];
        w.accepted(&[&args[..], &sets, &steps, more].concat());
        fs::read(w.dir().join(out).join(TENSORS)).unwrap()
    };
    let without = trained("w", "a", &[]);
    let with = trained("x", "b", &[]);
    assert_ne!(without, with, "the adapter's own dropout was not used");
    let half = ["--set", "adapter.dropout=0.5"];
    assert_eq!(trained("y", "a", &half), with);
    let none = ["--set", "adapter.dropout=0"];
    assert_eq!(trained("z", "b", &none), without);
}
