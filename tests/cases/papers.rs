//! What a player's papers say: the record of the trainings that made it, wherever it goes; the card
//! that tells them; a seed's folder in a run folder's place; what an export says first.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::reuse::adapter;
use crate::program::World;

const RECORD: &str = "randori.json";
const LORA: [&str; 4] = ["-q", "--set", "adapter.kind=lora", "--set"];

fn trainings(w: &World, folder: &str) -> Vec<Value> {
    let text = fs::read(w.dir().join(folder).join(RECORD)).unwrap();
    let file: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(file["format"], 1);
    file["trainings"].as_array().unwrap().clone()
}

fn card(w: &World, folder: &str) -> String {
    fs::read_to_string(w.dir().join(folder).join("README.md")).unwrap()
}

fn sha256(path: &Path) -> String {
    randori_store::hash(path).unwrap().sha256
}

/// Supervised fine-tuning, then a game from it, then pairs from that: each goes on with the list,
/// and a sum of two has both.
#[test]
fn a_player_goes_with_the_trainings_that_made_it() {
    let w = World::new();
    let data = sha256(&w.dir().join("data.jsonl"));
    adapter(&w, "a", "1e-3");
    let sft = trainings(&w, "a");
    assert_eq!(sft.len(), 1);
    let examples = sft[0]["examples"].as_u64().unwrap();
    assert_eq!(
        sft[0],
        json!({
            "kind": "sft", "randori": env!("CARGO_PKG_VERSION"), "run": "a", "seed": 1,
            "base": "random:config.json",
            "base_files": [
                {"name": "configuration", "id": sha256(&w.dir().join("config.json"))},
                {"name": "seed", "id": "1"},
            ],
            "data": [{"name": "data.jsonl", "id": data}],
            "examples": examples, "loss": "negative log-likelihood", "loss_options": {},
            "learning_rate": 1e-3, "epochs": 1,
        })
    );
    assert!((1..=24).contains(&examples), "{examples}");

    let run = [&["run", "r.toml"][..], &LORA, &["adapter.init=a"]].concat();
    w.accepted(
        &[
            &run[..],
            &["--set", "train.lr=[1e-3, 2e-3]"],
            &["--set", "game.iterations=2"],
        ]
        .concat(),
    );
    let game = trainings(&w, "runs/r/iter-1/adapter");
    assert_eq!(game.len(), 3);
    assert_eq!(game[0], sft[0]);
    let pairs = |t: usize| {
        let file = w.dir().join(format!("runs/r/iter-{t}/pairs.jsonl"));
        fs::read_to_string(file).unwrap().lines().count()
    };
    for (t, rate) in [(0, 1e-3), (1, 2e-3)] {
        let own = &game[t + 1];
        for (key, value) in [
            ("kind", json!("game")),
            ("iteration", json!(t)),
            ("run", json!("r")),
            ("loss", json!("spin")),
            ("learning_rate", json!(rate)),
            ("examples", json!(pairs(t))),
            ("data", json!([{"name": "data.jsonl", "id": data}])),
        ] {
            assert_eq!(own[key], value, "{key}: {own}");
        }
        assert_eq!(own["loss_options"]["beta"], 1.0);
    }
    assert_eq!(trainings(&w, "runs/r/iter-0/adapter"), game[..2]);

    // an export is told by what made it, not by the recipe that it is exported with
    w.accepted(&["export", "runs/r", "-q", "--to", "peft", "--out", "p"]);
    assert_eq!(trainings(&w, "p"), game);
    w.file(
        "p.jsonl",
        "{\"prompt\": \"Reverse abc.\", \"chosen\": \"cba\", \"rejected\": \"abc\"}\n",
    );
    let train = [
        "train",
        "r.toml",
        "--pairs",
        "p.jsonl",
        "--adapter",
        "p",
        "--out",
        "q",
    ];
    w.accepted(
        &[
            &train[..],
            &LORA,
            &["train.warmup=0", "--set", "loss.name=ipo"],
        ]
        .concat(),
    );
    let last = trainings(&w, "q");
    assert_eq!(last[..3], game);
    assert_eq!(
        (&last[3]["kind"], &last[3]["loss"]),
        (&json!("pairs"), &json!("ipo"))
    );
    let file = json!([{"name": "p.jsonl", "id": sha256(&w.dir().join("p.jsonl"))}]);
    assert_eq!(last[3]["data"], file);
    let told = card(&w, "q");
    assert!(
        told.contains("\n4. training on pairs of the run `r` (seed 1): 1 pair of `p.jsonl`"),
        "{told}"
    );

    adapter(&w, "b", "2e-3");
    let other = [&LORA[..], &["data.train=other.jsonl"]].concat();
    w.file("other.jsonl", "{\"prompt\": \"a\", \"response\": \"b\"}\n");
    let both = [
        "--adapter",
        "a",
        "--adapter",
        "b",
        "--dtype",
        "f32",
        "--out",
        "sum",
    ];
    w.accepted(&[&["export", "r.toml"][..], &other, &both].concat());
    let sum = trainings(&w, "sum");
    assert_eq!(sum.len(), 1);
    assert_eq!(sum[0]["kind"], "sum");
    assert_eq!(sum[0]["of"], json!([sft, trainings(&w, "b")]));
    let told = card(&w, "sum");
    let before_recipe = told.split("## Recipe").next().unwrap();
    assert!(before_recipe.contains("`data.jsonl`") && !before_recipe.contains("other.jsonl"));
    assert!(before_recipe.contains("learning rate 2e-3"), "{told}");
}

/// An adapter without a record is unknown, one whose record is broken an error; neither is guessed.
#[test]
fn what_nobody_recorded_is_unknown() {
    let w = World::new();
    adapter(&w, "a", "1e-3");
    let record = w.dir().join("a").join(RECORD);
    let whole = fs::read(&record).unwrap();
    fs::remove_file(&record).unwrap();
    let export = [
        "export",
        "r.toml",
        "--to",
        "peft",
        "--adapter",
        "a",
        "--out",
        "p",
    ];
    let export = [&export[..], &LORA, &["loss.name=hinge"]].concat();
    w.accepted(&export);
    assert_eq!(trainings(&w, "p"), [json!({"kind": "unknown"})]);
    let told = card(&w, "p");
    assert!(
        told.contains("trained in a way that is not recorded"),
        "{told}"
    );
    let before_recipe = told.split("## Recipe").next().unwrap();
    for guess in ["hinge", "data.jsonl", "self-play"] {
        assert!(!before_recipe.contains(guess), "{guess}: {told}");
    }
    fs::write(&record, &whole[..whole.len() / 2]).unwrap();
    w.refused(&export, "without it they count as unknown");
    fs::write(&record, "{\"format\": 2}").unwrap();
    w.refused(&export, "a/randori.json: format must be 1, got 2");
}

/// A seed's folder is its game, inside its run's folder and taken out of it.
#[cfg(unix)]
#[test]
fn a_seed_s_folder_stands_for_its_game() {
    let w = World::new();
    let sets = [
        "adapter.kind=lora",
        "compare.seeds=[4, 9]",
        "generate.batch=8",
    ];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    w.accepted(&[&["run", "r.toml", "-q"][..], &sets].concat());
    let tensors = |folder: &str| {
        let file = w.dir().join(folder).join("adapter_model.safetensors");
        fs::read(file).unwrap()
    };
    let own = |seed: u64| tensors(&format!("runs/r/seed-{seed}/iter-0/adapter"));
    assert_ne!(own(4), own(9));
    let copied = w.dir().join("taken");
    std::process::Command::new("cp")
        .args(["-r", "runs/r/seed-9"])
        .arg(&copied)
        .current_dir(w.dir())
        .status()
        .unwrap();
    for (run, seed) in [
        ("runs/r", 4),
        ("runs/r/seed-4", 4),
        ("runs/r/seed-9", 9),
        ("taken", 9),
    ] {
        let out = format!("out-{}", run.replace('/', "-"));
        w.accepted(&["export", run, "-q", "--to", "peft", "--out", &out]);
        assert_eq!(tensors(&out), own(seed), "{run}");
        let told = card(&w, &out);
        let which = format!("iteration 0 of the run `r`, seed {seed}, the player after training 0");
        assert!(told.contains(&which), "{run}: {told}");
        // drawn again as the game drew them
        let answers = format!("{out}.jsonl");
        w.accepted(&[
            "generate",
            run,
            "-q",
            "--as-iteration",
            "5",
            "--out",
            &answers,
        ]);
        w.accepted(&["eval", run, "-q", "--out", &format!("{out}.json")]);
        let measured = fs::read(w.dir().join(format!("{out}.json"))).unwrap();
        let measured: Value = serde_json::from_slice(&measured).unwrap();
        let kept = w.dir().join(format!("runs/r/seed-{seed}/iter-0/eval.json"));
        let kept: Value = serde_json::from_slice(&fs::read(kept).unwrap()).unwrap();
        let gap = measured["nll_real"].as_f64().unwrap() - kept["nll_real"].as_f64().unwrap();
        assert!(gap.abs() < 1e-5, "{run}: {gap}");
        let said = w.accepted(&["chat", run, "-q", "--prompt", "one"]);
        assert!(!said.is_empty());
    }
    let drawn = |run: &str| fs::read(w.dir().join(format!("out-{run}.jsonl"))).unwrap();
    assert_eq!(drawn("taken"), drawn("runs-r-seed-9"));
    assert_eq!(drawn("runs-r"), drawn("runs-r-seed-4"));

    let absent = ["export", "runs/r/seed-7", "--out", "none"];
    w.refused(
        &absent,
        "runs/r/seed-7 is not there; runs/r has seed-4, seed-9",
    );
    w.refused(
        &["eval", "runs"],
        "runs: no run folder: it has no recipe.toml",
    );
    let learnt = ["eval", "runs/r/seed-9/iter-0/adapter"];
    w.refused(
        &learnt,
        "give a recipe with --adapter runs/r/seed-9/iter-0/adapter",
    );
    w.refused(
        &["export", "taken", "--iteration", "3", "--out", "none"],
        "--iteration 3: taken has 1 finished iterations, numbered from 0",
    );
}

/// The answers of a seed's opponent are those that the game drew.
#[test]
fn answers_are_drawn_with_the_seed_of_the_game() {
    let w = World::new();
    let lora = ["--set", "adapter.kind=lora", "--set", "generate.batch=8"];
    let seeds = [
        "--set",
        "compare.seeds=[4, 9]",
        "--set",
        "game.iterations=2",
    ];
    w.accepted(&[&["run", "r.toml", "-q"][..], &lora, &seeds].concat());
    let opponent = "runs/r/seed-9/iter-0/adapter";
    let again = ["generate", "runs/r/seed-9", "-q", "--adapter", opponent];
    w.accepted(&[&again[..], &["--iteration", "1", "--out", "g.jsonl"]].concat());
    let tokens = |file: &str| -> Vec<Value> {
        let text = fs::read_to_string(w.dir().join(file)).unwrap();
        let row = |line| serde_json::from_str::<Value>(line).unwrap()["tokens"].clone();
        text.lines().map(row).collect()
    };
    assert_eq!(
        tokens("g.jsonl"),
        tokens("runs/r/seed-9/iter-1/generated.jsonl")
    );
}

/// `--to gguf` first says what survives and what would be better.
#[test]
fn an_export_to_gguf_first_says_what_survives() {
    let w = World::new();
    adapter(&w, "a", "1e-3");
    let export = |quant: &str, out: &str| {
        let words = ["export", "r.toml", "--adapter", "a", "--to", "gguf"];
        let said = w.run(
            &[
                &words[..],
                &LORA,
                &["adapter.rank=2", "--quant", quant, "--out", out],
            ]
            .concat(),
        );
        assert_eq!(said.code, 0, "{}{}", said.stdout, said.stderr);
        said
    };
    let lossless = "the base with a GGUF adapter (--to gguf-lora) loses nothing";
    let exact = export("f32", "f32.gguf");
    let first = exact.stdout.lines().next().unwrap();
    assert_eq!(
        first,
        "f32 keeps 100.0 % of what was learnt, with noise of 0.0 % of it"
    );
    assert!(!exact.stderr.contains("warning"), "{}", exact.stderr);
    // what is lost is a warning, and said once
    let four = export("q4_0", "q4_0.gguf");
    let warnings: Vec<&str> = four
        .stderr
        .lines()
        .filter(|line| line.starts_with("warning: q4_0 "))
        .collect();
    assert_eq!(warnings.len(), 1, "{}", four.stderr);
    assert!(warnings[0].contains(lossless), "{}", warnings[0]);
    // with measured numbers of q8_0 and f16: those of the report
    let report = fs::read(w.dir().join("q4_0.fidelity.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    let choices = report["choices"].as_array().unwrap();
    let noise = |dtype: &str| {
        let choice = choices.iter().find(|choice| choice["dtype"] == dtype);
        choice.unwrap()["noise"].as_f64().unwrap()
    };
    assert!(
        noise("f16") < noise("q8_0") && noise("q8_0") < report["total"]["noise"].as_f64().unwrap()
    );
    let eight = export("q8_0", "q8_0.gguf");
    let written = fs::read(w.dir().join("q8_0.fidelity.json")).unwrap();
    let written: Value = serde_json::from_slice(&written).unwrap();
    // what was measured beside the other is what q8_0 itself loses
    let gap = written["total"]["noise"].as_f64().unwrap() / noise("q8_0") - 1.0;
    assert!(gap.abs() < 1e-6, "{gap}: {}", eight.stdout);
    let names = ["q8_0.README.md", "q8_0.Modelfile", "q8_0.fidelity.json"];
    assert!(names.iter().all(|name| w.dir().join(name).is_file()));
    let told = fs::read_to_string(w.dir().join("q8_0.README.md")).unwrap();
    assert!(told.contains("llama-cli -m q8_0.gguf"), "{told}");
}

/// A base of this machine is named by its path from the root, which loads from any folder.
#[test]
fn an_adapter_names_a_base_that_loads_from_any_folder() {
    let w = World::new();
    let base = w.model("base");
    let words = ["sft", "r.toml", "-q", "--out", "ad", "--runs", "runs"];
    let set = [
        "model.source=base",
        "adapter.kind=lora",
        "sft.epochs=1",
        "sft.warmup=0",
    ];
    let set = set.iter().flat_map(|key| ["--set", key]);
    w.accepted(&words.into_iter().chain(set).collect::<Vec<_>>());
    let config = fs::read(w.dir().join("ad/adapter_config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    let named = Path::new(config["base_model_name_or_path"].as_str().unwrap());
    assert!(named.is_absolute(), "{config}");
    let same = |path: &Path| path.canonicalize().unwrap();
    assert_eq!(same(named), same(&base));
}

/// Any player of a run is measured as the run measured it, but for what needs an opponent.
#[test]
fn a_player_is_measured_by_its_iteration() {
    let w = World::new();
    w.accepted(&["run", "r.toml", "-q"]);
    let read = |name: &str| -> Value {
        serde_json::from_slice(&fs::read(w.dir().join(name)).unwrap()).unwrap()
    };
    for (which, place) in [("0", "iter-0"), ("start", "start")] {
        let words = ["eval", "runs/r", "-q", "--iteration", which, "--out", which];
        let table = w.accepted(&words);
        let lines: Vec<&str> = table.lines().collect();
        let who = match which {
            "start" => "start ",
            _ => "iteration 0 ",
        };
        assert!(lines[1].starts_with(who), "{table}");
        assert_eq!(
            lines[1]
                .split_whitespace()
                .filter(|cell| *cell == "-")
                .count(),
            2,
            "{table}"
        );
        assert_eq!(
            lines[0].chars().count(),
            lines[1].chars().count(),
            "{table}"
        );
        let (own, kept) = (read(which), read(&format!("runs/r/{place}/eval.json")));
        let gap = own["nll_real"].as_f64().unwrap() - kept["nll_real"].as_f64().unwrap();
        assert!(gap.abs() < 1e-5, "{which}: {gap}");
        assert!(
            own["margin"].is_null() && own["accuracy"].is_null(),
            "{own}"
        );
    }
    w.refused(
        &["eval", "runs/r", "--iteration", "1"],
        "--iteration 1: runs/r has 1 finished iterations, numbered from 0",
    );
    w.refused(
        &["chat", "runs/r/iter-0", "--prompt", "x"],
        "runs/r/iter-0: a player of the run runs/r: give runs/r with --iteration 0",
    );
    // another thing, once called the same
    let drawn = |option: &str, out: &str| {
        w.accepted(&["generate", "r.toml", "-q", option, "3", "--out", out]);
        fs::read(w.dir().join(out)).unwrap()
    };
    assert_eq!(
        drawn("--as-iteration", "a.jsonl"),
        drawn("--iteration", "b.jsonl")
    );
}
