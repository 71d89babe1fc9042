//! Recipes in the real program: those in configs/ and in the manual are valid, and so are the
//! manual's commands; docs/reference/recipe.md is generated; the verbs can be chained.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::program::World;

#[test]
fn docs_recipe_md_is_what_the_program_prints() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/recipe.md");
    let w = World::new();
    assert_eq!(
        w.accepted(&["recipe-docs"]),
        fs::read_to_string(docs).unwrap()
    );
}

/// Keys without an effect are reported once, though `-q` is given; the recipe of these tests trains
/// every weight.
#[test]
fn what_a_recipe_gives_and_nothing_reads_is_said_once() {
    let w = World::new();
    for verb in ["inspect", "fit", "run"] {
        let out = w.run(&[verb, "r.toml", "-q", "--set", "adapter.rank=4"]);
        assert_eq!(out.code, 0, "{}", out.stderr);
        let notes = out.stderr.lines().filter(|l| l.starts_with("note: "));
        let notes: Vec<&str> = notes.collect();
        assert_eq!(notes.len(), 1, "{verb}: {notes:?}");
        assert!(notes[0].starts_with("note: --set adapter.rank=4: adapter.rank = 4 is not read"));
    }
}

#[test]
fn bad_recipes_are_refused_with_file_and_line() {
    let w = World::new();
    w.file("a.toml", "name = \"a\"\n[train]\nlr = -1e-5\n");
    w.refused(
        &["run", "a.toml"],
        "a.toml:3: train.lr must be > 0, got -1e-5",
    );
    w.file("a.toml", "[train]\nbetas = 0.9\n");
    w.refused(
        &["run", "a.toml"],
        "a.toml:2: unknown key `train.betas`; nearest: `train.beta1`",
    );
    w.file("a.toml", "[train\n");
    w.refused(&["run", "a.toml"], "a.toml:1: not TOML");
    let text =
        fs::read_to_string(w.dir().join("r.toml")).unwrap() + "[compare]\nseeds = [\"one\"]\n";
    w.file("a.toml", &text);
    w.refused(
        &["run", "a.toml"],
        "compare.seeds must be a whole number, got \"one\"",
    );
    let text = fs::read_to_string(w.dir().join("r.toml"))
        .unwrap()
        .replace("beta = 1.0", "beta = 1.0\ngama = 2");
    w.file("a.toml", &text);
    let line = text.lines().position(|l| l.starts_with("gama")).unwrap() + 1;
    w.refused(
        &["run", "a.toml"],
        &format!("a.toml:{line}: spin has no option `gama`"),
    );
    w.nothing_written();
}

#[test]
fn the_run_folder_keeps_a_recipe_that_plays_the_same_game() {
    let w = World::new();
    w.accepted(&["run", "r.toml", "--set", "train.lr=1e-3"]);
    let resolved = fs::read_to_string(w.dir().join("runs/r/recipe.toml")).unwrap();
    assert!(resolved.contains("lr = 0.001"), "{resolved}");
    let first = fs::read(w.dir().join("runs/r/iter-0/adapter/model.safetensors")).unwrap();
    fs::rename(w.dir().join("runs"), w.dir().join("first")).unwrap();
    w.accepted(&["run", "first/r/recipe.toml"]);
    let second = fs::read(w.dir().join("runs/r/iter-0/adapter/model.safetensors")).unwrap();
    assert!(first == second, "the resolved recipe plays another game");
}

#[test]
fn summary_and_report_are_there() {
    let w = World::new();
    let table = w.accepted(&[
        "run",
        "r.toml",
        "--set",
        "compare.seeds=[1,2]",
        "--set",
        "compare.continued_sft=true",
        "--set",
        "data.validation_share=0.25",
    ]);
    for row in ["start", "iteration 0", "continued SFT"] {
        assert!(
            table.lines().any(|l| l.starts_with(row) && l.contains('±')),
            "{table}"
        );
    }
    let text = fs::read_to_string(w.dir().join("runs/r/summary.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&text).unwrap();
    for row in [
        &summary["start"],
        &summary["continued_sft"],
        &summary["iterations"][0],
    ] {
        for key in [
            "exact_match",
            "nll_real",
            "logps_real",
            "logps_generated",
            "margin",
            "accuracy",
            "generated_tokens",
        ] {
            assert!(row.get(key).is_some(), "no {key} in {row}");
        }
    }
    assert!(
        fs::read_to_string(w.dir().join("runs/r/report.html"))
            .unwrap()
            .contains("<svg")
    );
    // step 0 of an iteration: the loss is ln 2 whatever the players are
    for seed in ["seed-1", "seed-2"] {
        let log = fs::read_to_string(
            w.dir()
                .join("runs/r")
                .join(seed)
                .join("iter-0/metrics.jsonl"),
        )
        .unwrap();
        let row: serde_json::Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
        assert!(
            (row["loss"].as_f64().unwrap() - std::f64::consts::LN_2).abs() < 1e-6,
            "{row}"
        );
        assert!(row["rewards/real"].as_f64().unwrap().abs() < 1e-6, "{row}");
    }
}

#[test]
fn the_stages_chain_by_hand() {
    let w = World::new();
    w.model("m");
    let m = ["--set", "model.source=m", "-q"];
    let with = |args: &[&str]| w.accepted(&[args, &m[..]].concat());
    with(&["generate", "r.toml", "--out", "answers.jsonl"]);
    with(&[
        "score",
        "r.toml",
        "--pairs",
        "answers.jsonl",
        "--out",
        "pairs.jsonl",
    ]);
    with(&[
        "train",
        "r.toml",
        "--pairs",
        "pairs.jsonl",
        "--out",
        "policy",
        "--set",
        "adapter.kind=lora",
    ]);
    assert!(w.dir().join("policy/adapter_config.json").exists());
    with(&[
        "eval",
        "r.toml",
        "--adapter",
        "policy",
        "--out",
        "eval.json",
    ]);
    assert!(
        fs::read_to_string(w.dir().join("eval.json"))
            .unwrap()
            .contains("nll_real")
    );
    let shown = with(&["inspect", "r.toml", "-n", "1"]);
    assert!(
        shown.contains("[The answer is") && shown.contains("<|end|>]"),
        "{shown}"
    );
    with(&[
        "export",
        "r.toml",
        "--adapter",
        "policy",
        "--to",
        "hf",
        "--dtype",
        "f32",
        "--out",
        "merged",
    ]);
    with(&["eval", "r.toml", "--set", "model.source=merged"]);
    // anybody's preferences, as text
    w.file(
        "prefs.jsonl",
        "{\"prompt\": \"Add 1 and 2.\", \"chosen\": \"3\", \"rejected\": \"4\"}\n",
    );
    with(&[
        "train",
        "r.toml",
        "--pairs",
        "prefs.jsonl",
        "--out",
        "dpo",
        "--set",
        "adapter.kind=lora",
        "--set",
        "name=dpo",
        "--set",
        "train.warmup=0",
    ]);
}

#[test]
fn the_recipes_in_configs_are_valid() {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let w = World::new();
    let mut seen = 0;
    for file in fs::read_dir(configs)
        .unwrap()
        .map(|f| f.unwrap().path())
        .filter(|f| f.extension().is_some_and(|e| e == "toml"))
    {
        // a model that is not there is the only thing left to be said about them
        let path = file.display().to_string();
        let line = w.refused(
            &["inspect", &path, "--set", "model.source=./absent.gguf"],
            "absent.gguf",
        );
        assert!(line.contains("--set model.source"), "{line}");
        seen += 1;
    }
    assert!(seen >= 3, "only {seen} recipes");
}

/// With the demo in the place of the model, and a few rows in that of the data.
#[test]
fn the_recipes_for_ones_own_data_pass_inspect_and_fit() {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let w = World::new();
    let rows = |row: fn(usize) -> String| (100..140).map(row).collect::<String>();
    let chat = |i: usize| {
        format!(
            "{{\"messages\": [{{\"role\": \"user\", \"content\": \"Reverse {i}.\"}}, \
             {{\"role\": \"assistant\", \"content\": \"It is {i}.\"}}]}}\n"
        )
    };
    let pair = |i: usize| {
        format!("{{\"prompt\": \"Add {i}.\", \"chosen\": \"{i}\", \"rejected\": \"0\"}}\n")
    };
    w.file("chats.jsonl", &rows(chat));
    w.file("pairs.jsonl", &rows(pair));
    for (recipe, data) in [
        ("sft", "chats.jsonl"),
        ("dpo", "pairs.jsonl"),
        ("spin", "chats.jsonl"),
    ] {
        let path = configs.join(format!("{recipe}.toml")).display().to_string();
        let train = format!("data.train={data}");
        let mut set = vec![
            "--set",
            train.as_str(),
            "--set",
            "model.source=builtin:demo",
        ];
        set.extend(["--set", "adapter.kind=lora"]);
        if recipe == "sft" {
            set.extend(["--set", "data.validation=chats.jsonl"]);
        }
        let seen = w.accepted(&[&["inspect", path.as_str()][..], &set].concat());
        assert!(seen.contains("examples kept"), "{recipe}: {seen}");
        w.accepted(&[&["fit", path.as_str(), "--vram", "8GiB"][..], &set].concat());
        if recipe == "dpo" {
            let train = ["train", path.as_str(), "--out", "dpo-adapter"];
            let said = w.accepted(&[&train[..], &set].concat());
            assert!(said.contains("pairs, against the start"), "{said}");
        }
    }
}

/// README and the pages of the manual, whole.
fn pages() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut pages = vec![root.join("README.md")];
    for folder in ["", "/start", "/how-to", "/reference", "/explanation"] {
        let files = fs::read_dir(root.join(format!("docs{folder}"))).unwrap();
        pages.extend(files.map(|file| file.unwrap().path()));
    }
    pages.retain(|page| page.extension().is_some_and(|e| e == "md"));
    let read = |page: PathBuf| {
        let text = fs::read_to_string(&page).unwrap();
        (page, text)
    };
    pages.into_iter().map(read).collect()
}

#[test]
fn the_recipes_in_the_manual_are_valid() {
    let w = World::new();
    let mut seen = 0;
    for (page, text) in pages() {
        let recipes = text.split("```toml\n").skip(1);
        for recipe in recipes.filter(|toml| toml.contains("[model]")) {
            w.file("shown.toml", recipe.split("```").next().unwrap());
            let args = [
                "inspect",
                "shown.toml",
                "--set",
                "model.source=./absent.gguf",
            ];
            let line = w.refused(&args, "absent.gguf");
            assert!(line.contains("--set model.source"), "{page:?}: {line}");
            seen += 1;
        }
    }
    assert!(seen >= 2, "only {seen} recipes");
}

/// Every command that the manual shows is one of the program's verbs, with options it knows.
#[test]
fn the_commands_in_the_manual_exist() {
    let w = World::new();
    let mut helps: BTreeMap<String, String> = BTreeMap::new();
    for (page, text) in pages() {
        let code = text.split("```").skip(1).step_by(2);
        for line in code.flat_map(str::lines) {
            let words: Vec<&str> = line
                .split(" #")
                .next()
                .unwrap()
                .split_whitespace()
                .collect();
            let program = |word: &&str| *word == "randori" || word.ends_with("/randori");
            let Some(at) = words.iter().position(program) else {
                continue;
            };
            let verb = words.get(at + 1).copied().unwrap_or_default();
            if !verb.starts_with(|c: char| c.is_ascii_lowercase()) {
                continue; // the repository's address, not a command
            }
            let help = helps
                .entry(verb.to_owned())
                .or_insert_with(|| w.accepted(&[verb, "--help"]));
            let knows = |option: &str| {
                let mut words = help.split(|c: char| c.is_whitespace() || c == ',');
                words.any(|word| word == option)
            };
            for word in &words[at + 2..] {
                let option = word.trim_start_matches('[').trim_end_matches(']');
                assert!(
                    !option.starts_with('-') || knows(option),
                    "{page:?}: `{line}`: {verb} has no {option}"
                );
            }
        }
    }
    assert!(helps.len() >= 5, "only {:?}", helps.keys());
}
