//! What a finished run keeps and reads again is what it wrote: a change is noticed, not believed.

use std::fs;

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
    let with = |args: &[&str]| [args, &lora[..], &["--set", "model.source=m"]].concat();
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
    // the answers of the start are drawn again where they are missing
    fs::remove_file(w.dir().join("runs/r/start/answers.jsonl")).unwrap();
    w.accepted(&with(&run));
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
