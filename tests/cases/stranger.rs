//! What a new user forgets: nothing stands in for it in silence.

use crate::program::World;

#[test]
fn a_recipe_that_is_forgotten_is_asked_for() {
    let w = World::new();
    w.file("p.jsonl", "");
    for verb in [
        &["run"][..],
        &["inspect"],
        &["fit"],
        &["chat", "--prompt", "x"],
        &["eval"],
        &["sft", "--out", "x"],
        &["export", "--out", "x"],
        &["generate", "--out", "x"],
        &["score", "--pairs", "p.jsonl", "--out", "x"],
        &["train", "--pairs", "p.jsonl", "--out", "x"],
    ] {
        let out = w.run(verb);
        assert_eq!(out.code, 2, "{verb:?}: {}", out.stderr);
        assert!(out.stderr.contains("<RECIPE>"), "{verb:?}: {}", out.stderr);
    }
    assert!(!w.dir().join("x").exists());
}

#[test]
fn a_model_or_data_that_is_forgotten_is_asked_for() {
    let w = World::new();
    w.model("m");
    w.file("no_model.toml", "[data]\ntrain = \"data.jsonl\"\n");
    let player = "name = \"d\"\n[model]\nsource = \"m\"\n[train]\nbatch = 2\nwarmup = 0\n";
    w.file("no_data.toml", player);
    let pair = |i: usize| {
        format!("{{\"prompt\": \"Add {i}.\", \"chosen\": \"{i}\", \"rejected\": \"0\"}}\n")
    };
    w.file("p.jsonl", &(1..5).map(pair).collect::<String>());
    let on_pairs: [&[&str]; 2] = [
        &["train", "--pairs", "p.jsonl", "--out", "t"],
        &["score", "--pairs", "p.jsonl", "--out", "s.jsonl"],
    ];
    let on_data: [&[&str]; 6] = [
        &["run"],
        &["inspect"],
        &["fit"],
        &["eval"],
        &["sft", "--out", "x"],
        &["generate", "--out", "x"],
    ];
    let with = |recipe, verb: &[&'static str]| [&verb[..1], &[recipe], &verb[1..]].concat();
    let talk: &[&str] = &["chat", "--prompt", "Add 1."];
    let export: &[&str] = &["export", "--to", "hf", "--out", "e"];
    for verb in on_pairs.iter().chain(&on_data).chain([&talk, &export]) {
        let why = "no_model.toml: model.source is missing: ";
        w.refused(&with("no_model.toml", verb), why);
    }
    for verb in on_data {
        let why = "no_data.toml: data.train is missing: ";
        w.refused(&with("no_data.toml", verb), why);
    }
    // these read none
    for verb in on_pairs.iter().chain([&talk, &export]) {
        w.accepted(&with("no_data.toml", verb));
    }
}

/// A default never refuses a default: the warm-up of a recipe that names none is not all of its
/// few steps; a single one has the whole rate.
#[test]
fn a_recipe_of_few_steps_learns() {
    let w = World::new();
    w.model("m");
    let recipe = "name = \"f\"\n[model]\nsource = \"m\"\n[data]\ntrain = \"data.jsonl\"\n";
    w.file("f.toml", recipe);
    let rate = |folder: &str| {
        let log = std::fs::read_to_string(w.dir().join(folder).join("metrics.jsonl")).unwrap();
        let rows: Vec<serde_json::Value> = log
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(rows.len(), 1, "{log}");
        rows[0]["learning_rate"].as_f64().unwrap()
    };
    let said = w.run(&["sft", "f.toml", "--out", "s", "--set", "sft.epochs=1"]);
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert!(
        said.stderr.contains("no warm-up: with sft.warmup = 0.05"),
        "{}",
        said.stderr
    );
    assert!((rate("runs/f-sft/sft") - 2e-4).abs() < 1e-9);
    let pair = |i: usize| {
        format!("{{\"prompt\": \"Add {i}.\", \"chosen\": \"{i}\", \"rejected\": \"0\"}}\n")
    };
    w.file("p.jsonl", &(1..5).map(pair).collect::<String>());
    let train = ["train", "f.toml", "--pairs", "p.jsonl"];
    let one = ["--set", "train.epochs=1"];
    let said = w.run(&[&train[..], &one, &["--out", "t"]].concat());
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert!(
        said.stderr.contains("no warm-up: with train.warmup = 0.1"),
        "{}",
        said.stderr
    );
    assert!((rate("runs/f-train/iteration-0") - 5e-5).abs() < 1e-9);
    // who asks for a warm-up has it
    let asked = ["--set", "train.warmup=0.1", "--runs", "o", "--out", "u"];
    w.refused(
        &[&train[..], &one, &asked].concat(),
        "nothing would be learnt",
    );
}

#[test]
fn one_of_several_files_that_is_gone_is_refused_by_whoever_plans_too() {
    let w = World::new();
    w.model("m");
    let set = ["--set", "model.source=m", "--set"];
    let some = ["data.train=[\"data.jsonl\", \"gone.jsonl\"]"];
    let all = ["data.train=[\"away.jsonl\", \"gone.jsonl\"]"];
    for verb in ["run", "inspect", "fit", "sft"] {
        let one = [&[verb, "r.toml"], &set[..], &some].concat();
        w.refused(&one, "gone.jsonl is not there");
        let none = [&[verb, "r.toml"], &set[..], &all].concat();
        match verb {
            "fit" => drop(w.accepted(&none)), // they may lie where it will run
            _ => drop(w.refused(&none, "away.jsonl is not there")),
        }
    }
}

/// Whoever computes nothing says what will be refused.
#[cfg(not(feature = "cuda"))]
#[test]
fn a_device_that_this_program_has_not_is_said_by_whoever_plans() {
    let w = World::new();
    w.model("m");
    let set = ["--set", "model.source=m", "--set", "model.device=cuda"];
    let why = "model.device: this program was built without the feature `cuda`";
    w.refused(&[&["run", "r.toml"], &set[..]].concat(), why);
    for verb in ["inspect", "fit"] {
        let out = w.run(&[&[verb, "r.toml"], &set[..]].concat());
        assert_eq!(out.code, 0, "{}", out.stderr);
        assert!(out.stderr.contains(why), "{verb}: {}", out.stderr);
    }
}
