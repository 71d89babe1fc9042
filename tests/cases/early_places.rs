//! Places that cannot be written, runs that cannot be gone on with, and files that are no recipe:
//! all are told before the model's file, which has no bytes, and nothing is begun.

use std::fs;
use std::time::{Duration, Instant};

use super::early::{MODEL, world};
use crate::program::World;

/// The verbs that write results or a player to `--out`.
const WRITERS: [&[&str]; 7] = [
    &["generate", "r.toml"],
    &["eval", "r.toml"],
    &["score", "r.toml", "--pairs", "p.jsonl"],
    &["train", "r.toml", "--pairs", "p.jsonl"],
    &["sft", "r.toml"],
    &["export", "r.toml"],
    &["export", "r.toml", "--to", "gguf"],
];

/// A command line with the model without bytes.
fn with_model<'a>(parts: &[&[&'a str]]) -> Vec<&'a str> {
    [&parts.concat()[..], &MODEL].concat()
}

#[test]
fn a_folder_that_is_not_there_is_named_and_not_made() {
    let w = world();
    for verb in WRITERS {
        for (out, folder) in [("new/x", "new"), ("new/deep/x", "new/deep")] {
            let why = format!("--out {out}: there is no folder {folder}; make it");
            w.refused(&with_model(&[verb, &["--out", out]]), &why);
        }
    }
    let plugin = ["new", "plugin", "mine", "--kind", "loss", "--out", "new/x"];
    w.refused(&plugin, "--out new/x: there is no folder new; make it");
    assert!(!w.dir().join("new").exists(), "a folder was made");
}

/// The last folder of an export is made, and so is a run's own.
#[test]
fn a_player_makes_its_own_folder() {
    let w = World::new();
    let sft = ["sft", "r.toml", "-q", "--set", "sft.batch=8"];
    w.accepted(&[&sft[..], &["--out", "runs/q"]].concat());
    assert!(w.dir().join("runs/q/config.json").is_file());
    w.accepted(&["export", "r.toml", "-q", "--to", "hf", "--out", "hf"]);
    assert!(w.dir().join("hf/config.json").is_file());
}

/// `/proc` takes no file, whoever asks.
#[cfg(target_os = "linux")]
#[test]
fn a_place_that_takes_no_file_is_told_before_the_models_file() {
    let w = world();
    let why = "--out /proc/x: nothing can be written in /proc: ";
    for verb in WRITERS {
        w.refused(&with_model(&[verb, &["--out", "/proc/x"]]), why);
    }
    let dev = with_model(&[&["eval", "r.toml", "--out", "/dev/null"]]);
    w.refused(&dev, "model.safetensors");
    let tasks = ["eval", "r.toml", "--tasks", "arc_easy", "--out", "/proc/x"];
    w.refused(&with_model(&[&tasks]), why);
    fs::create_dir(w.dir().join("folder")).unwrap();
    let folder = [&tasks[..4], &["--out", "folder"]].concat();
    let why = "--out folder: a file is written, and a folder is there";
    w.refused(&with_model(&[&folder]), why);
    let runs = with_model(&[&["run", "r.toml", "--runs", "/proc"]]);
    w.refused(&runs, "/proc/r: nothing can be written in /proc: ");
    let dry = [&runs[..], &["--dry-run"]].concat();
    w.refused(
        &dry,
        "the run cannot start: /proc/r: nothing can be written",
    );
}

#[test]
fn a_runs_folder_that_cannot_be_is_told_before_the_models_file() {
    let w = world();
    w.file("notes", "");
    fs::create_dir_all(w.dir().join("other/r")).unwrap();
    w.file("other/r/mine.txt", "");
    for verb in [&["run"][..], &["sft"], &["train", "--pairs", "p.jsonl"]] {
        let name = match verb[0] {
            "run" => "r".to_owned(),
            name => format!("r-{name}"),
        };
        let out: &[&str] = match verb[0] {
            "run" => &[],
            _ => &["--out", "o"],
        };
        let why = format!("notes/{name}: notes is no folder, and no run can be kept in it");
        let asked = with_model(&[verb, &["r.toml", "--runs", "notes"], out]);
        w.refused(&asked, &why);
    }
    let foreign = with_model(&[&["run", "r.toml", "--runs", "other"]]);
    w.refused(&foreign, "mine.txt");
    for runs in ["notes", "other"] {
        let dry = with_model(&[&["run", "r.toml", "--dry-run", "--runs", runs]]);
        w.refused(&dry, "the run cannot start: ");
    }
    assert!(!w.dir().join("o").exists() && !w.dir().join("runs").exists());
}

/// A run that was started with another recipe is refused before the model's file, soon.
#[test]
fn another_recipe_is_told_before_the_models_file() {
    let w = World::new();
    w.accepted(&["run", "r.toml", "-q"]);
    w.accepted(&["sft", "r.toml", "-q", "--set", "sft.batch=8", "--out", "m"]);
    fs::remove_file(w.dir().join("config.json")).unwrap();
    fs::copy(w.dir().join("m/config.json"), w.dir().join("config.json")).unwrap();
    fs::create_dir(w.dir().join("model")).unwrap();
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        let to = w.dir().join("model").join(file);
        fs::copy(w.dir().join("m").join(file), to).unwrap();
    }
    w.file("model/model.safetensors", "");
    let source = ["--set", "model.source=model"];
    let why = "model.source was \"random:config.json\", is \"";
    w.refused(&[&["run", "r.toml"][..], &source].concat(), why);
    let sft = ["sft", "r.toml", "--set", "sft.batch=8", "--out", "n"];
    w.refused(&[&sft[..], &source].concat(), why);
    let dry = [&["run", "r.toml", "--dry-run"][..], &source].concat();
    let line = w.refused(&dry, why);
    assert!(line.contains("the run cannot start: runs/r"), "{line}");
    // afresh, the model's file is what is wrong
    let fresh = [&["run", "r.toml", "--fresh"][..], &source].concat();
    w.refused(&fresh, "model.safetensors");
    let best = |args: &[&str], code| {
        let took = |_| {
            let began = Instant::now();
            assert_eq!(w.run(args).code, code);
            began.elapsed()
        };
        (0..10).map(took).min().unwrap()
    };
    let starts = best(&["plugins"], 0);
    let took = best(&[&["run", "r.toml"][..], &source].concat(), 1);
    assert!(
        took < starts + Duration::from_millis(50),
        "{took:?}, {starts:?}"
    );
}

/// A recipe for another verb is not played unannounced.
#[test]
fn a_recipe_for_another_verb_is_no_game() {
    let w = World::new();
    let rows: String = (100..148)
        .map(|i| {
            format!("{{\"prompt\": \"{i}?\", \"chosen\": \"{i}!\", \"rejected\": \"no {i}\"}}\n")
        })
        .collect();
    w.file("pairs.jsonl", &rows);
    for (kind, command) in [
        (
            "sft",
            "this recipe is for `randori sft sft.toml`: it has [sft]",
        ),
        (
            "dpo",
            "this recipe is for `randori train dpo.toml --out FOLDER`: data.format is",
        ),
    ] {
        let file = format!("{kind}.toml");
        let init = ["init", "builtin:demo", "pairs.jsonl", "--kind", kind];
        w.accepted(&[&init[..], &["--out", &file]].concat());
        for more in [&[][..], &["--dry-run"]] {
            let line = w.refused(&[&["run", &file][..], more].concat(), command);
            assert!(line.contains("--set game.iterations=3 plays"), "{line}");
        }
        let played = ["run", &file, "--dry-run", "--set", "game.iterations=3"];
        let plan = w.accepted(&played);
        assert!(plan.contains("iteration 2: policy"), "{plan}");
    }
    assert!(!w.dir().join("runs").exists());
    // a run's own recipe has every key, and is a game's
    let supervised = ["--set", "sft.epochs=1", "--set", "game.iterations=1"];
    w.accepted(&[&["run", "r.toml", "-q"][..], &supervised].concat());
    w.accepted(&["run", "runs/r/recipe.toml", "-q"]);
}

#[test]
fn what_is_no_recipe_is_called_what_it_is() {
    let w = world();
    w.file("e.gguf", "GGUF\u{3}");
    fs::write(w.dir().join("e.bytes"), [0xff, 0xfe]).unwrap();
    w.file("a.csv", "prompt,response\na,b\n");
    w.file("a.parquet", "PAR1");
    fs::create_dir(w.dir().join("rows")).unwrap();
    w.file("rows/a.jsonl", "{}\n");
    for (given, why) in [
        (
            "e.gguf",
            "e.gguf: a model, and a recipe is wanted: randori init e.gguf DATA",
        ),
        (
            "model",
            "model: a model, and a recipe is wanted: randori init model DATA",
        ),
        (
            "model/model.safetensors",
            "a file of a model, and a recipe is wanted: randori init model DATA",
        ),
        (
            "p.jsonl",
            "p.jsonl: data, and a recipe is wanted: randori init MODEL p.jsonl",
        ),
        (
            "a.csv",
            "a.csv: data, and a recipe is wanted: randori init MODEL a.csv",
        ),
        (
            "a.parquet",
            "a.parquet: data, and a recipe is wanted: randori init MODEL a.parquet",
        ),
        (
            "rows",
            "rows: data, and a recipe is wanted: randori init MODEL rows",
        ),
        ("e.bytes", "e.bytes: no recipe: it is no text (UTF-8)"),
    ] {
        for verb in [&["run"][..], &["chat"], &["fit"], &["inspect"], &["sft"]] {
            let line = w.refused(&[verb, &[given]].concat(), why);
            assert!(!line.contains("stream did not"), "{line}");
        }
    }
    for (model, data, why) in [
        ("r.toml", "p.jsonl", "r.toml is a recipe already"),
        ("a.csv", "p.jsonl", "a.csv is data"),
        (
            "model/config.json",
            "p.jsonl",
            "is one file of a model: give its folder, model",
        ),
        ("model", "r.toml", "r.toml is a recipe"),
    ] {
        w.refused(&["init", model, data], why);
    }
}

/// A broken row is told where too few are left, and the first row is blamed first.
#[test]
fn a_drafts_rows_are_blamed_in_their_order() {
    let w = World::new();
    let row = |i: usize| format!("{{\"prompt\": \"{i}?\", \"response\": \"{i}!\"}}\n");
    let mut rows: Vec<String> = (0..24).map(row).collect();
    rows[6] = "{\"prompt\": \"6?\", \"response\": 6}\n".into();
    w.file("few.jsonl", &rows.concat());
    let line = w.refused(&["init", "builtin:demo", "few.jsonl"], "few.jsonl:7: ");
    assert!(!line.contains("1 different prompts"), "{line}");
    let many: String = (0..60).map(row).collect();
    w.file("many.jsonl", &many);
    let dpo = ["init", "builtin:demo", "many.jsonl", "--kind", "dpo"];
    w.refused(&dpo, "many.jsonl:1: --kind dpo wants pairs");
    w.file("one.jsonl", &row(1));
    let one = "data.train has 1 different prompt, too few to keep 5 % aside";
    w.refused(&["init", "builtin:demo", "one.jsonl"], one);
}
