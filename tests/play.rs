//! The whole game in the real program: a small version of the built-in demo, and what only a
//! complete run can show.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::program;
use crate::program::World;
use serde_json::Value;

/// The demo with few examples; two iterations.
const SMALL: [&str; 6] = [
    "data.limit=48",
    "game.iterations=2",
    "eval.seeds=[1]",
    "eval.limit=24",
    "compare.lrs=[1e-3]",
    "compare.epochs=[1]",
];

/// The measures that every row of `summary.json` has.
const MEASURES: [&str; 7] = [
    "exact_match",
    "nll_real",
    "logps_real",
    "logps_generated",
    "margin",
    "accuracy",
    "generated_tokens",
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn demo() -> String {
    repository()
        .join("configs/demo.toml")
        .to_str()
        .unwrap()
        .to_owned()
}

/// `randori VERB configs/demo.toml` made small, with `more` settings and `last` arguments.
fn command(verb: &str, more: &[&str], last: &[&str]) -> Vec<String> {
    let mut args = vec![verb.to_owned(), demo(), "-q".to_owned()];
    for set in SMALL.iter().chain(more) {
        args.extend(["--set".to_owned(), (*set).to_owned()]);
    }
    args.extend(last.iter().map(|a| (*a).to_owned()));
    args
}

fn play(world: &World, more: &[&str]) -> String {
    let args = command("run", more, &[]);
    world.accepted(&args.iter().map(String::as_str).collect::<Vec<_>>())
}

fn rows(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn number(row: &Value, key: &str) -> f64 {
    row[key]
        .as_f64()
        .unwrap_or_else(|| panic!("{key} is no number: {row}"))
}

/// Every file below `dir` by its name from there.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
                found.insert(name, fs::read(path).unwrap());
            }
        }
    }
    found
}

#[test]
fn the_demo_plays_and_measures_what_it_gains() {
    let w = World::new();
    let said = play(&w, &["compare.seeds=[1]"]);
    for line in [
        "start",
        "iteration 0",
        "iteration 1",
        "continued SFT",
        "human",
    ] {
        assert!(said.contains(line), "`{line}` is not in the table:\n{said}");
    }
    let dir = w.dir().join("runs/demo");
    check_summary(&json(&dir.join("summary.json")));
    check_artefacts(&dir);
    for t in 0..2 {
        check_metrics(&rows(&dir.join(format!("iter-{t}/metrics.jsonl"))));
        check_ids(&dir.join(format!("iter-{t}")), 48);
    }
    a_second_run_changes_nothing(&w, &dir, &said);
}

fn check_summary(summary: &Value) {
    let iterations = summary["iterations"].as_array().unwrap();
    assert_eq!(iterations.len(), 2);
    let (start, sft) = (&summary["start"], &summary["continued_sft"]);
    for row in iterations.iter().chain([sft]) {
        for key in MEASURES {
            assert!(number(row, key).is_finite());
        }
        assert_ne!(row, start);
        assert_ne!(number(row, "nll_real"), number(start, "nll_real"));
        assert!((0.0..=1.0).contains(&number(row, "accuracy")));
    }
    for key in MEASURES {
        assert!(number(start, key).is_finite(), "{key}: {start}");
    }
    // the start is its own opponent
    assert_eq!(
        (number(start, "margin"), number(start, "accuracy")),
        (0.0, 0.0)
    );
    assert_ne!(iterations[0], iterations[1]);
    let nll: Vec<f64> = [start, &iterations[0], &iterations[1]]
        .map(|row| number(row, "nll_real"))
        .into();
    assert!(nll[2] < nll[0], "the game did not learn the data: {nll:?}");
    for player in ["human", "start", "last"] {
        assert!(
            summary["sample"][player].is_string(),
            "{}",
            summary["sample"]
        );
    }
}

fn check_artefacts(dir: &Path) {
    let recipe = fs::read_to_string(dir.join("recipe.toml")).unwrap();
    assert!(
        recipe.contains("limit = 48"),
        "not the resolved recipe:\n{recipe}"
    );
    assert!(
        fs::read_to_string(dir.join("report.html"))
            .unwrap()
            .contains("<svg")
    );
    let hashes = json(&dir.join("manifest.json"))["hashes"].clone();
    for plugin in ["llama", "losses", "sampling"] {
        let file = fs::canonicalize(program::plugin(plugin)).unwrap();
        let own = randori_store::hash(&file).unwrap().sha256;
        assert_eq!(hashes[format!("plugin {plugin}")], own, "{plugin}");
    }
    for key in ["model.source", "data.train builtin:demo"] {
        assert!(hashes[key].is_string(), "{key} has no hash: {hashes}");
    }
    for t in 0..2 {
        let iteration = dir.join(format!("iter-{t}"));
        assert!(json(&iteration.join("eval.json")).is_object());
        let (spec, params) = randori_lora::peft::load(&iteration.join("adapter")).unwrap();
        assert_eq!(spec.rank, 16);
        assert!(!params.is_empty());
        assert!(
            !iteration.join("checkpoint").exists(),
            "a finished stage kept its checkpoint"
        );
    }
}

/// Step 0 sees policy = opponent; afterwards steps are numbered once each.
fn check_metrics(rows: &[Value]) {
    let first = &rows[0];
    assert!(
        (number(first, "loss") - std::f64::consts::LN_2).abs() < 1e-6,
        "{first}"
    );
    for key in ["rewards/real", "rewards/generated", "rewards/margins"] {
        assert!(number(first, key).abs() < 1e-6, "{key}: {first}");
    }
    assert_eq!(number(first, "rewards/accuracies"), 0.0, "{first}");
    assert!(
        number(first, "grad_norm") > 0.0,
        "nothing to learn: {first}"
    );
    let steps: Vec<f64> = rows.iter().map(|r| number(r, "step")).collect();
    let counted: Vec<f64> = (1..=rows.len()).map(|s| s as f64).collect();
    assert_eq!(
        steps, counted,
        "steps are not numbered 1, 2, 3, … once each"
    );
    assert!(number(&rows[rows.len() - 1], "loss") < number(first, "loss"));
}

/// Training uses exactly the sampled token ids: none retokenised, added or removed.
fn check_ids(iteration: &Path, examples: usize) {
    let answers = rows(&iteration.join("generated.jsonl"));
    let numbers: Vec<u64> = answers
        .iter()
        .map(|a| a["example"].as_u64().unwrap())
        .collect();
    assert_eq!(
        numbers,
        (0..examples as u64).collect::<Vec<_>>(),
        "one answer an example"
    );
    let drawn: BTreeMap<&str, &Value> = answers
        .iter()
        .map(|a| (a["place"].as_str().unwrap(), &a["tokens"]))
        .collect();
    let pairs = rows(&iteration.join("pairs.jsonl"));
    assert!(pairs.len() > examples / 2);
    for pair in &pairs {
        assert_eq!(
            &pair["generated"],
            drawn[pair["place"].as_str().unwrap()],
            "{pair}"
        );
        assert_ne!(pair["generated"], pair["real"], "an identical pair is kept");
    }
    let places: BTreeSet<&str> = pairs.iter().map(|p| p["place"].as_str().unwrap()).collect();
    assert_eq!(
        places.len(),
        pairs.len(),
        "an example is there more than once"
    );
}

/// Repeats a command: the same output, unchanged files; another setting is refused.
fn a_second_run_changes_nothing(w: &World, dir: &Path, said: &str) {
    let before = files(dir);
    let again = play(w, &["compare.seeds=[1]"]);
    let table = |text: &str| text.split("\nThe first").next().unwrap().to_owned();
    assert_eq!(table(&again), table(said));
    assert_eq!(kept(&before), kept(&files(dir)));

    let args = command("run", &["compare.seeds=[1]", "train.lr=1e-4"], &[]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let line = w.refused(&args, "was started with another recipe");
    assert!(line.contains("train.lr"), "{line}");
    assert_eq!(kept(&before), kept(&files(dir)));

    // the recipe inside the program is that of configs/; what it was resolved from is noted
    let mut args = command("run", &["compare.seeds=[1]"], &[]);
    args[1] = "builtin:demo".into();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    assert_eq!(table(&w.accepted(&args)), table(said));
    let (mut was, mut is) = (kept(&before), kept(&files(dir)));
    let resolved = is.remove("recipe.toml").unwrap();
    assert!(resolved.starts_with("# Resolved from builtin:demo by"));
    was.remove("recipe.toml");
    assert_eq!(was, is);
}

/// Files without what tells of the last process only: its number, and when curves were drawn.
fn kept(files: &BTreeMap<String, Vec<u8>>) -> BTreeMap<String, String> {
    let of_the_process = |name: &str| name == ".lock" || name.starts_with("events.");
    files
        .iter()
        .filter(|(name, _)| !of_the_process(name))
        .map(|(name, bytes)| (name.clone(), String::from_utf8_lossy(bytes).into_owned()))
        .collect()
}

/// Two seeds, the paper's window: iteration 1 trains on both iterations' pairs, all scored by its
/// own opponent, which is the policy that ended iteration 0 and no other.
#[test]
fn the_opponent_is_the_last_policy_and_scores_the_whole_window() {
    let w = World::new();
    play(
        &w,
        &[
            "game.window=2",
            "compare.seeds=[1, 2]",
            "compare.continued_sft=false",
        ],
    );
    let dir = w.dir().join("runs/demo");
    let summary = json(&dir.join("summary.json"));
    assert!(summary["continued_sft"].is_null());
    for (i, iteration) in summary["iterations"].as_array().unwrap().iter().enumerate() {
        assert!(
            number(&iteration["interval95"], "nll_real") > 0.0,
            "iteration {i}"
        );
    }
    assert!(number(&summary["iterations"][1], "nll_real") < number(&summary["start"], "nll_real"));
    let adapter = |seed: u64| {
        fs::read(dir.join(format!(
            "seed-{seed}/iter-1/adapter/adapter_model.safetensors"
        )))
    };
    assert_ne!(
        adapter(1).unwrap(),
        adapter(2).unwrap(),
        "seeds play one game"
    );

    let seed = dir.join("seed-1");
    let first = rows(&seed.join("iter-0/pairs.jsonl"));
    let second = rows(&seed.join("iter-1/pairs.jsonl"));
    let old: Vec<&Value> = second.iter().filter(|p| p["iteration"] == 0).collect();
    assert_eq!(
        old.len(),
        first.len(),
        "the window leaves some of iteration 0's pairs out"
    );
    assert!(
        second.len() > old.len(),
        "the window has no pair of its own"
    );
    for (now, then) in old.iter().zip(&first) {
        for key in ["place", "prompt", "real", "generated"] {
            assert_eq!(now[key], then[key], "a pair of the window has changed");
        }
        assert_ne!(now["ref_real"], then["ref_real"], "not scored again: {now}");
    }
    // the same numbers from the adapter on disk, by another command
    let pairs = seed.join("iter-1/pairs.jsonl");
    let before = seed.join("iter-0/adapter");
    let files = ["--pairs", pairs.to_str().unwrap(), "--out", "scored.jsonl"];
    let with = ["--adapter", before.to_str().unwrap()];
    let args = command("score", &[], &[&files[..], &with[..]].concat());
    w.accepted(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let scored = rows(&w.dir().join("scored.jsonl"));
    assert_eq!(scored.len(), second.len());
    for (own, by_hand) in second.iter().zip(&scored) {
        for key in ["ref_real", "ref_generated"] {
            let gap = number(own, key) - number(by_hand, key);
            assert!(gap.abs() < 1e-4, "{key}: {own} and {by_hand}");
        }
    }
    check_metrics(&rows(&seed.join("iter-1/metrics.jsonl")));

    // a run folder stands for what its first game ended with, never for the bare start
    w.accepted(&["export", "runs/demo", "--to", "peft", "--out", "taken"]);
    let taken = fs::read(w.dir().join("taken/adapter_model.safetensors")).unwrap();
    assert_eq!(taken, adapter(1).unwrap());
    fs::remove_file(seed.join("manifest.json")).unwrap();
    w.refused(
        &["export", "runs/demo", "--to", "peft", "--out", "none"],
        "no iteration is finished here yet",
    );
}

#[test]
fn the_demo_s_splits_share_no_prompt() {
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for split in ["train", "validation", "held_out"] {
        let rows = rows(&repository().join(format!("configs/demo/{split}.jsonl")));
        assert!(rows.len() > 100, "{split}");
        for row in rows {
            let prompt = row["prompt"].as_str().unwrap().to_owned();
            if let Some(other) = seen
                .insert(prompt.clone(), split)
                .filter(|other| *other != split)
            {
                panic!("`{prompt}` is in {other} and in {split}");
            }
        }
    }
}

/// docs/explanation/spin.md names a test beside each of its claims: `` `folder` tests: `name`,
/// `name`; `folder`: … ``, the last column of its tables of invariants and defects.
#[test]
fn every_test_that_the_page_on_the_game_names_exists() {
    let page = fs::read_to_string(repository().join("docs/explanation/spin.md")).unwrap();
    let mut named = 0;
    for title in ["## Invariants", "## The ten defects"] {
        let part = page.split(title).nth(1).unwrap();
        let part = part.split("\n## ").next().unwrap();
        let table = part
            .lines()
            .filter(|l| l.starts_with('|'))
            .skip(2 /* head and rule */);
        for line in table {
            let column = line.trim_end().trim_end_matches('|').rsplit('|').next();
            for entry in column.unwrap().split(';') {
                let quoted: Vec<&str> = entry.split('`').skip(1).step_by(2).collect();
                let (folder, tests) = quoted
                    .split_first()
                    .unwrap_or_else(|| panic!("names no test: {line}"));
                assert!(!tests.is_empty(), "names no test: {entry}\n{line}");
                for test in tests {
                    assert!(
                        is_test(&repository().join(folder), test),
                        "docs/explanation/spin.md names {test} in {folder}, which has no such test"
                    );
                    named += 1;
                }
            }
        }
    }
    assert!(named > 20, "only {named} found: has the page another form?");
    assert!(!is_test(&repository().join("tests"), "no_such_test"));
}

/// A test function of this name is in the Rust files below `folder`.
fn is_test(folder: &Path, name: &str) -> bool {
    let spelt = ["", "    "].map(|indent| format!("#[test]\n{indent}fn {name}()"));
    let rust = files(folder)
        .into_iter()
        .filter(|(file, _)| file.ends_with(".rs"));
    rust.map(|(_, bytes)| String::from_utf8_lossy(&bytes).into_owned())
        .any(|text| spelt.iter().any(|s| text.contains(s)))
}
