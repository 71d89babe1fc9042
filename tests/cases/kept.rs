//! What a finished run keeps and reads again is what it wrote: a change is noticed, not believed.

use std::fs;
use std::path::Path;

use crate::program::World;

/// Another figure in the first row or object of a file.
fn changed(text: &str) -> String {
    let at = text.rfind(|c: char| c.is_ascii_digit()).unwrap();
    let other = if text[at..].starts_with('1') {
        "2"
    } else {
        "1"
    };
    format!("{}{other}{}", &text[..at], &text[at + 1..])
}

#[test]
fn every_file_that_a_run_reads_again_is_as_it_was_written() {
    let w = World::new();
    let run = ["run", "r.toml", "-q"];
    let lora = ["--set", "adapter.kind=lora", "--set", "adapter.rank=2"];
    w.model("m");
    let with = |args: &[&'static str]| [args, &lora[..], &["--set", "model.source=m"]].concat();
    w.accepted(&with(&run));
    let summary = fs::read(w.dir().join("runs/r/summary.json")).unwrap();
    let export = ["export", "runs/r", "--to", "peft", "--out", "out", "-q"];
    for file in [
        "start/eval.json",
        "start/prompts.jsonl",
        "start/answers.jsonl",
        "iter-0/metrics.jsonl",
        "iter-0/eval.json",
        "iter-0/prompts.jsonl",
        "start/showcase.jsonl",
        "iter-0/showcase.jsonl",
        "iter-0/adapter/adapter_config.json",
    ] {
        let path = w.dir().join("runs/r").join(file);
        let whole = fs::read_to_string(&path).unwrap();
        fs::write(&path, changed(&whole)).unwrap();
        let name = file.strip_suffix("/adapter_config.json").unwrap_or(file);
        let why = format!("runs/r/{name} has changed since it was written");
        w.refused(&with(&run), &why);
        if file.ends_with("eval.json") {
            w.refused(&export, &why); // its card would tell the figures
        }
        fs::write(&path, whole).unwrap();
    }
    w.accepted(&with(&run));
    assert_eq!(
        fs::read(w.dir().join("runs/r/summary.json")).unwrap(),
        summary
    );
    // answers of a player are drawn again where they are missing, and that is said
    for file in [
        "start/answers.jsonl",
        "start/showcase.jsonl",
        "iter-0/showcase.jsonl",
    ] {
        let path = w.dir().join("runs/r").join(file);
        let whole = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let out = w.run(&with(&run));
        assert_eq!(out.code, 0, "{}", out.stderr);
        let said = format!("{file} was gone and is made again");
        assert!(out.stderr.contains(&said), "{}", out.stderr);
        assert_eq!(fs::read(&path).unwrap(), whole, "{file}");
    }
    assert_eq!(
        fs::read(w.dir().join("runs/r/summary.json")).unwrap(),
        summary
    );
    // a run of an earlier version, which hashed the artefacts alone, is gone on with
    let path = w.dir().join("runs/r/manifest.json");
    let text = fs::read_to_string(&path).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
    for stage in manifest["stages"].as_array_mut().unwrap() {
        stage.as_object_mut().unwrap().remove("beside");
    }
    fs::write(&path, manifest.to_string()).unwrap();
    w.accepted(&with(&[
        "run",
        "r.toml",
        "-q",
        "--set",
        "game.iterations=2",
    ]));
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &to),
            false => _ = fs::copy(path, to).unwrap(),
        }
    }
}

#[test]
fn a_seed_s_folder_holds_the_game_of_its_seed() {
    let w = World::new();
    let seeds = |list: &str| format!("compare.seeds={list}");
    w.accepted(&["run", "r.toml", "-q", "--set", &seeds("[3, 5]")]);
    let says = "of its 2 games the one with seed 3 is meant, in runs/r/seed-3";
    for args in [
        &["eval", "runs/r", "-q"][..],
        &["export", "runs/r", "-q", "--out", "out"],
        &["generate", "runs/r", "-q", "--out", "g"],
    ] {
        let out = w.run(args);
        assert!(out.code == 0 && out.stderr.contains(says), "{}", out.stderr);
    }
    let out = w.run(&["eval", "runs/r/seed-5", "-q"]);
    assert!(
        out.code == 0 && !out.stderr.contains("games"),
        "{}",
        out.stderr
    );
    let run = w.dir().join("runs/r");
    copy(&run.join("seed-3"), &run.join("seed-4"));
    for args in [
        &["eval", "runs/r/seed-4"][..],
        &["export", "runs/r/seed-4", "--out", "x"],
        &["run", "runs/r/seed-4"],
        &["run", "r.toml", "--set", &seeds("[4]")],
        &["eval", "runs/r", "--set", &seeds("[4]")],
    ] {
        let why = "runs/r/seed-4: it holds the game with seed 3, not 4";
        w.refused(args, why);
    }
    w.accepted(&["run", "r.toml", "-q", "--set", &seeds("[3, 5]")]);
}

#[test]
fn a_measure_says_of_which_prompts_it_is() {
    let w = World::new();
    let eval = |split: &str| w.accepted(&["eval", "r.toml", "-q", "--split", split]);
    let says = |split: &str, of: &str| {
        let out = eval(split);
        assert!(
            out.contains(&format!(" {of} prompts; with one seed")),
            "{out}"
        );
    };
    says("train", "training");
    says("held-out", "held-out");
    w.refused(
        &["eval", "r.toml", "--set", "eval.seeds=[]"],
        "eval.seeds must have at least one value, got []",
    );
}

/// A run goes on under a version that has keys which the one that began it had not, or has another
/// default that means the same beside the recipe's other keys.
#[test]
fn a_run_of_an_earlier_version_goes_on_where_only_defaults_are_new() {
    let w = World::new();
    let run = ["run", "r.toml", "-q"];
    w.accepted(&run);
    let path = w.dir().join("runs/r/manifest.json");
    let text = fs::read_to_string(&path).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
    let recipe = manifest["recipe"].as_object_mut().unwrap();
    assert!(recipe.remove("data.columns").is_some());
    // the recipe names held-out data: nothing was kept aside then, nor is it now
    let before = recipe.insert("data.validation_share".into(), "0.0".into());
    assert_eq!(before, None);
    fs::write(&path, manifest.to_string()).unwrap();
    w.accepted(&run);
    let other = [
        "--set",
        "data.columns={prompt=\"prompt\", response=\"response\"}",
    ];
    let of_another = [&run[..], &other].concat();
    w.refused(&of_another, "data.columns was {}, is ");
    let share = [&run[..], &["--set", "data.validation_share=0.25"]].concat();
    w.refused(&share, "data.validation_share was not set, is 0.25");
}
