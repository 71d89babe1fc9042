//! Validation data that no recipe names: a part of the training data, kept aside.

use crate::program::World;

/// A recipe that names training data alone, and 40 rows of it.
fn five_lines() -> World {
    let world = World::new();
    let recipe = std::fs::read_to_string(world.dir().join("r.toml")).unwrap();
    let named = "train = \"data.jsonl\"\nheld_out = \"data.jsonl\"\n";
    assert!(recipe.contains(named), "{recipe}");
    world.file("r.toml", &recipe.replace(named, "train = \"many.jsonl\"\n"));
    let row = |i| format!("{{\"prompt\": \"Reverse {i}.\", \"response\": \"It is {i}.\"}}\n");
    world.file("many.jsonl", &(100..140).map(row).collect::<String>());
    world
}

const KEPT: &str = "16 of 40 examples of data.train (5 %, 16 prompts at least, by a hash of each \
                    prompt)";

#[test]
fn a_run_measures_on_what_is_kept_aside_and_goes_on_with_no_other() {
    let world = five_lines();
    let run = world.run(&["run", "r.toml"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let note = format!(
        "note: kept aside for validation: {KEPT}; data.validation = \"none\" turns that off"
    );
    assert!(run.stderr.contains(&note), "{}", run.stderr);
    let said = |what: &str, counts: &str| {
        let line = run.stderr.lines().find(|l| l.trim().starts_with(what));
        assert!(line.unwrap().contains(counts), "{}", run.stderr);
    };
    said("training data", "24 of 24 examples kept");
    said("held-out data", "4 of 4 examples kept"); // eval.limit
    let manifest = std::fs::read_to_string(world.dir().join("runs/r/manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest["hashes"]["data.validation"], KEPT);
    // none of the rows kept aside was trained on
    let prompts = |args: &[&str]| {
        let out = [&["generate", "r.toml", "-q", "--out", "a.jsonl"], args].concat();
        world.accepted(&out);
        let text = std::fs::read_to_string(world.dir().join("a.jsonl")).unwrap();
        let of = |line: &str| -> String {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            row["prompt"].to_string()
        };
        text.lines().map(of).collect::<Vec<_>>()
    };
    let whole = ["--set", "eval.limit=99"];
    let train = prompts(&whole);
    let kept = prompts(&[&whole[..], &["--split", "validation"]].concat());
    assert_eq!((train.len(), kept.len()), (24, 16));
    assert!(kept.iter().all(|prompt| !train.contains(prompt)));
    let off = ["run", "r.toml", "--set", "data.validation=none"];
    world.refused(
        &off,
        "data.validation is needed to measure on: give data.held_out, ",
    );
    let more = ["run", "r.toml", "--set", "data.validation_share=0.5"];
    world.refused(&more, "data.validation_share was not set, is 0.5");
}

#[test]
fn few_rows_are_all_trained_on_and_so_are_all_where_none_is_asked_for() {
    let world = five_lines();
    let sft = ["sft", "r.toml", "--out", "s", "--set", "sft.batch=8"];
    let said = |world: &World, more: &[&str]| {
        let out = world.run(&[&sft[..], &["--fresh", "--set"], more].concat());
        assert_eq!(out.code, 0, "{}", out.stderr);
        (out.stdout, out.stderr)
    };
    let (nll, stderr) = said(&world, &["data.train=many.jsonl"]);
    assert!(
        stderr.contains(KEPT) && stderr.contains("24 of 24 examples"),
        "{stderr}"
    );
    assert!(nll.contains("validation NLL"), "{nll}");
    let (nll, stderr) = said(&world, &["data.validation=none"]);
    assert!(!stderr.contains("kept aside"), "{stderr}");
    assert!(
        stderr.contains("40 of 40 examples") && !nll.contains("validation"),
        "{stderr}"
    );
    let (nll, stderr) = said(&world, &["data.train=data.jsonl"]);
    let few = "note: no validation data: data.train has 24 different prompts, too few to keep 5 % \
               aside (32 are needed)";
    assert!(
        stderr.contains(few) && stderr.contains("24 of 24 examples"),
        "{stderr}"
    );
    assert!(!nll.contains("validation"), "{nll}");
    let run = ["run", "r.toml", "--set", "data.train=data.jsonl"];
    world.refused(
        &run,
        "data.train has 24 different prompts, too few to keep 5 % aside",
    );
}

/// Pairs are not the recipe's training data, and `train` measures nothing: all of them are used.
#[test]
fn nothing_is_kept_aside_of_pairs() {
    let world = five_lines();
    let row =
        |i| format!("{{\"prompt\": \"Reverse {i}.\", \"chosen\": \"a\", \"rejected\": \"b\"}}\n");
    world.file("pairs.jsonl", &(100..140).map(row).collect::<String>());
    let args = ["train", "r.toml", "--pairs", "pairs.jsonl", "--out", "o"];
    let out = world.run(&args);
    assert_eq!(out.code, 0, "{}", out.stderr);
    assert!(out.stdout.contains("trained on 40 pairs"), "{}", out.stdout);
    assert!(!out.stderr.contains("aside"), "{}", out.stderr);
}

/// 60 good rows and 2 bad ones: what is dropped is dropped once.
#[test]
fn bad_rows_are_counted_with_the_training_data_alone() {
    let world = five_lines();
    let row = |i| format!("{{\"prompt\": \"Reverse {i}.\", \"response\": \"a\"}}\n");
    let rows: String = (100..160).map(row).collect();
    world.file("bad.jsonl", &(rows + "{\"prompt\": 1}\n{\"prompt\": 2}\n"));
    let said = world.accepted(&[
        "inspect",
        "r.toml",
        "--set",
        "data.train=bad.jsonl",
        "--set",
        "data.bad_rows=drop",
    ]);
    assert_eq!(said.matches("bad rows dropped").count(), 1, "{said}");
    assert!(said.contains("44 of 46 examples kept"), "{said}");
    assert!(
        said.contains("validation data: 4 of 4 examples kept"),
        "{said}"
    );
}
