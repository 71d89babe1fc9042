//! `randori init`: recipes for data of several shapes, each of which `inspect` and `fit` accept and
//! its own command plays; what it refuses, and that nothing is written then.

use std::fs;

use crate::next::follow;
use crate::program::{Out, World};

const DEMO: &str = "builtin:demo";

/// Rows of a data file, each made of a number and the same backwards.
fn rows(count: usize, row: impl Fn(usize, &str) -> String) -> String {
    let each = (100..100 + count).map(|i| {
        let backwards: String = i.to_string().chars().rev().collect();
        row(i, &backwards) + "\n"
    });
    each.collect()
}

/// A table whose columns are not called as rows are read.
fn table(count: usize) -> String {
    let row = |i: usize, back: &str| format!("{i},Reverse {i}.,The answer is {back}.");
    format!("No.,Question,Best Answer\n{}", rows(count, row))
}

fn text(w: &World, file: &str) -> String {
    fs::read_to_string(w.dir().join(file)).unwrap()
}

/// What `init` wrote on its standard output and, after it, what the commands did that it said come
/// next.
#[track_caller]
fn followed(w: &World, args: &[&str]) -> Vec<String> {
    let out = w.run(&[&["init"][..], args].concat());
    assert_eq!(out.code, 0, "{args:?}\n{}{}", out.stdout, out.stderr);
    let next = follow(w, &out.stderr).into_iter().map(|(_, said)| said);
    [out.stdout].into_iter().chain(next).collect()
}

#[test]
fn a_table_becomes_a_game() {
    let w = World::new();
    w.file("sums.csv", &table(48));
    let outputs = followed(&w, &[DEMO, "sums.csv"]);
    let said = &outputs[0];
    assert!(said.starts_with("sums.toml is written."), "{said}");
    // 16 of 48 are kept aside
    assert!(said.contains("32 of 32 examples kept"), "{said}");
    let recipe = text(&w, "sums.toml");
    for line in [
        "name = \"sums\"",
        "columns = { prompt = \"Question\", response = \"Best Answer\" }",
        "answer = \"exact\"",
        "kind = \"lora\"",
        "rank = 16",
        "alpha = 32.0",
        "lr = 2e-4",
    ] {
        assert!(recipe.contains(line), "no {line} in\n{recipe}");
    }
    // the demo is small: no memory decides
    assert!(!recipe.contains("memory decides"), "{recipe}");
    assert!(recipe.lines().all(|line| line.chars().count() <= 100));
    let fit = w.accepted(&["fit", "sums.toml", "--vram", "4GiB"]);
    let plan = w.accepted(&["run", "sums.toml", "--dry-run"]);
    // one estimate, by the same lengths, whoever shows it: answers as the data's, or to the limit
    let lengths = |text: &str| {
        let (_, from) = text.split_once("prompts of ").unwrap();
        let (usual, more) = from.split_once(" tokens").unwrap();
        let (_, limit) = more.split_once("to the limit of ").unwrap();
        (
            usual.to_owned(),
            limit.split_once(',').unwrap().0.to_owned(),
        )
    };
    let (usual, limit) = lengths(said);
    assert!(
        recipe.contains(&format!("max_new_tokens = {limit} ")),
        "{recipe}"
    );
    for shown in [&fit, &plan] {
        assert_eq!(lengths(shown), (usual.clone(), limit.clone()));
    }
    assert!(fit.contains("Stages of `randori run`"), "{fit}");
    assert!(fit.contains("   <- the largest\n"), "{fit}");
    assert!(outputs[1].contains("32 of 32 examples kept"));
    let played = outputs[2].lines().any(|l| l.starts_with("iteration 0"));
    assert!(played, "{}", outputs[2]);
    assert!(w.dir().join("runs/sums/iter-0/adapter").exists());
}

#[test]
fn conversations_become_supervised_fine_tuning() {
    let w = World::new();
    let row = |i: usize, back: &str| {
        format!(
            "{{\"messages\": [{{\"role\": \"user\", \"content\": \"Reverse {i}.\"}}, \
             {{\"role\": \"assistant\", \"content\": \"It is {back}.\"}}]}}"
        )
    };
    w.file("chats.jsonl", &rows(40, row));
    let args = [DEMO, "chats.jsonl", "--kind", "sft", "--out", "a.toml"];
    let outputs = followed(&w, &args);
    // no answer is ever generated, and the plan has none
    let fit = w.accepted(&["fit", "a.toml"]);
    assert!(fit.contains("Stages of `randori sft`"), "{fit}");
    assert!(fit.contains("\nsft  "), "{fit}");
    for other in ["generate", "train", "eval"] {
        assert!(!fit.contains(&format!("\n{other}  ")), "{other}: {fit}");
    }
    let game = w.accepted(&["fit", "a.toml", "--for", "run"]);
    assert!(
        game.contains("\ngenerate  ") && game.contains("\neval  "),
        "{game}"
    );
    assert!(outputs[2].contains("validation NLL"), "{}", outputs[2]);
    assert!(w.dir().join("runs/a-sft/out/adapter_config.json").exists());
    assert!(!text(&w, "a.toml").contains("[game]"));
}

#[test]
fn pairs_become_dpo() {
    let w = World::new();
    let row = |i: usize, back: &str| {
        format!("{{\"question\": \"Reverse {i}.\", \"good\": \"{back}\", \"bad\": \"{i}\"}}")
    };
    w.file("pairs.jsonl", &rows(40, row));
    let outputs = followed(&w, &[DEMO, "pairs.jsonl", "--kind", "DPO"]);
    assert!(!outputs[0].contains("--kind dpo"), "{}", outputs[0]);
    let columns = "columns = { prompt = \"question\", chosen = \"good\", rejected = \"bad\" }";
    assert!(text(&w, "pairs.toml").contains(columns));
    let fit = w.accepted(&["fit", "pairs.toml"]);
    assert!(fit.contains("Stages of `randori train`"), "{fit}");
    // 16 of 40 are kept aside; the two responses of 2 others are the same, and those of 2 of the 16
    assert!(
        fit.contains("\ntrain  ") && fit.contains("22 pairs trained on"),
        "{fit}"
    );
    assert!(fit.contains("54 pairs scored"), "{fit}");
    for other in ["generate", "sft", "eval"] {
        assert!(!fit.contains(&format!("\n{other}  ")), "{other}: {fit}");
    }
    assert!(outputs[2].contains("trained on 22 pairs"), "{}", outputs[2]);
    let measured = "on 14 pairs, against the start";
    assert!(outputs[2].contains(measured), "{}", outputs[2]);
    assert!(w.dir().join("pairs-adapter/adapter_config.json").exists());
    // without the kind their better halves are taken, and that is said
    let row = |i: usize, back: &str| {
        format!("{{\"prompt\": \"Reverse {i}.\", \"chosen\": \"{back}\", \"rejected\": \"{i}\"}}")
    };
    w.file("better.jsonl", &rows(40, row));
    let said = w.accepted(&["init", DEMO, "better.jsonl"]);
    assert!(said.contains("--kind dpo trains on pairs"), "{said}");
}

/// As in a base model's folder.
#[test]
fn a_model_without_a_template_takes_texts_as_they_are() {
    let w = World::new();
    let demo = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/demo/model");
    fs::create_dir(w.dir().join("base")).unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::copy(demo.join(file), w.dir().join("base").join(file)).unwrap();
    }
    let config = fs::read_to_string(demo.join("tokenizer_config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config.as_object_mut().unwrap().remove("chat_template");
    w.file("base/tokenizer_config.json", &config.to_string());
    w.file("sums.csv", &table(40));
    let said = w.accepted(&["init", "base", "sums.csv"]);
    assert!(said.contains("the model has no chat template: "), "{said}");
    assert!(text(&w, "sums.toml").contains("chat_template = \"plain\""));
    w.accepted(&["inspect", "sums.toml"]);
}

#[test]
fn a_few_rows_that_are_no_example_are_left_out_and_counted() {
    let w = World::new();
    let row = |i: usize, back: &str| match i {
        103 => "{\"prompt\": \"Reverse\"}".to_owned(),
        _ => format!("{{\"prompt\": \"Reverse {i}.\", \"response\": \"{back}\"}}"),
    };
    w.file("some.jsonl", &rows(60, row));
    w.accepted(&["init", DEMO, "some.jsonl", "--kind", "sft"]);
    assert!(text(&w, "some.toml").contains("bad_rows = \"drop\""));
    let seen = w.accepted(&["inspect", "some.toml"]);
    assert!(seen.contains("some.jsonl:4"), "{seen}");
    // many: the first is the error
    let row = |i: usize, back: &str| match i % 3 {
        0 => "{\"prompt\": \"Reverse\"}".to_owned(),
        _ => format!("{{\"prompt\": \"Reverse {i}.\", \"response\": \"{back}\"}}"),
    };
    w.file("many.jsonl", &rows(60, row));
    w.refused(
        &["init", DEMO, "many.jsonl", "--kind", "sft"],
        "many.jsonl:3: an example without response",
    );
    assert!(!w.dir().join("many.toml").exists());
}

#[test]
fn a_data_sets_own_split_is_measured_on() {
    let w = World::new();
    fs::create_dir_all(w.dir().join("set")).unwrap();
    fs::create_dir_all(w.dir().join("recipes")).unwrap();
    w.file("set/train.csv", &table(20));
    w.file("set/test.csv", &table(8));
    // the recipe lies somewhere else than the data
    w.accepted(&["init", DEMO, "set", "--out", "recipes/a.toml"]);
    let recipe = text(&w, "recipes/a.toml");
    let set = w.dir().join("set").canonicalize().unwrap();
    let held_out = recipe
        .lines()
        .find(|line| line.starts_with("held_out"))
        .unwrap();
    let named = held_out.split('"').nth(1).unwrap();
    assert_eq!(fs::canonicalize(named).unwrap(), set);
    let seen = w.accepted(&["inspect", "recipes/a.toml"]);
    assert!(seen.contains("20 of 20 examples kept"), "{seen}");
    assert!(
        seen.contains("held-out data: 8 of 8 examples kept"),
        "{seen}"
    );
}

/// What is measured on is read by the same limits, which are not those of its training part alone.
#[test]
fn limits_keep_rows_that_are_measured_on() {
    let w = World::new();
    fs::create_dir_all(w.dir().join("set")).unwrap();
    w.file("set/train.csv", &table(20));
    let again = "and again ".repeat(6);
    let row = |i: usize, back: &str| format!("{i},Reverse {i}.,The answer is {back} {again}.");
    let long = format!("No.,Question,Best Answer\n{}", rows(8, row));
    w.file("set/test.csv", &long);
    w.accepted(&["init", DEMO, "set", "--out", "a.toml"]);
    let seen = w.accepted(&["inspect", "a.toml"]);
    for kept in [
        "20 of 20 examples kept",
        "held-out data: 8 of 8 examples kept",
    ] {
        assert!(seen.contains(kept), "no {kept} in {seen}");
    }
}

#[test]
fn columns_that_no_name_tells_are_given_by_a_flag() {
    let w = World::new();
    let row = |i: usize, back: &str| {
        format!("{{\"frage\": \"Reverse {i}.\", \"antwort\": \"It is {back}.\"}}")
    };
    w.file("de.jsonl", &rows(40, row));
    let line = w.refused(
        &["init", DEMO, "de.jsonl"],
        "--columns prompt=COLUMN,response=",
    );
    let no = ["bad_rows", "de.toml"];
    assert!(no.iter().all(|no| !line.contains(no)), "{line}");
    let given = |columns| ["init", DEMO, "de.jsonl", "--columns", columns];
    w.refused(
        &given("prmpt=frage,response=antwort"),
        "--columns: data.columns names `prmpt`, which is not read; nearest: `prompt`",
    );
    w.refused(&given("prompt=frage,response=no"), "no column `no`");
    w.accepted(&given("prompt=frage,response=antwort"));
    let columns = "columns = { prompt = \"frage\", response = \"antwort\" }";
    assert!(text(&w, "de.toml").contains(columns));
    w.accepted(&["inspect", "de.toml"]);
}

/// Two answers in each conversation: both are trained, and without the key one is counted.
#[test]
fn every_answer_of_a_conversation_is_trained() {
    let w = World::new();
    let row = |i: usize, back: &str| {
        let turn =
            |role: &str, text: &str| format!("{{\"role\": \"{role}\", \"content\": \"{text}\"}}");
        let (ask, more) = (format!("Reverse {i}."), format!("It is {back}."));
        let turns = [
            turn("user", &ask),
            turn("assistant", &more),
            turn("user", "Again."),
            turn("assistant", back),
        ];
        format!("{{\"messages\": [{}]}}", turns.join(", "))
    };
    w.file("talks.jsonl", &rows(40, row));
    for kind in ["sft", "spin"] {
        let file = format!("{kind}.toml");
        w.accepted(&["init", DEMO, "talks.jsonl", "--kind", kind, "--out", &file]);
        assert!(text(&w, &file).contains("turns = \"every\""));
        // 16 of 40 conversations are kept aside
        let seen = w.accepted(&["inspect", &file]);
        assert!(seen.contains("48 of 48 examples kept"), "{seen}");
        let seen = w.accepted(&["inspect", &file, "--set", "data.turns=last"]);
        assert!(seen.contains("24 of 24 examples kept"), "{seen}");
        // counted over the file, before rows are kept aside
        let left = "40 answers before the last of their conversations left out";
        assert!(seen.contains(left), "{seen}");
    }
}

/// The demo's window holds 256 tokens.
#[test]
fn rows_beyond_the_window_are_left_out_and_said() {
    let w = World::new();
    let long = "1 ".repeat(4000);
    let row = |i: usize, back: &str| {
        let answer = if i % 10 == 3 { long.as_str() } else { back };
        format!("{{\"prompt\": \"Reverse {i}.\", \"response\": \"{answer}\"}}")
    };
    w.file("some.jsonl", &rows(60, row));
    let said = w.accepted(&["init", DEMO, "some.jsonl", "--kind", "sft"]);
    assert!(said.contains("real responses too long"), "{said}");
    assert!(said.contains("longer than the window"), "{said}");
    assert!(text(&w, "some.toml").contains("(of the rows within the model's window)"));
    let row =
        |i: usize, _: &str| format!("{{\"prompt\": \"Reverse {i}.\", \"response\": \"{long}\"}}");
    w.file("all.jsonl", &rows(60, row));
    let all = ["init", DEMO, "all.jsonl", "--kind", "sft"];
    w.refused(
        &all,
        "real responses too long; in tokens, the model's window has ",
    );
}

#[test]
fn nothing_is_overwritten() {
    let w = World::new();
    w.file("sums.csv", &table(48));
    w.file("sums.toml", "# mine\n");
    let why = "sums.toml is there already, and init overwrites nothing";
    w.refused(&["init", DEMO, "sums.csv"], why);
    assert_eq!(text(&w, "sums.toml"), "# mine\n");
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("nowhere", w.dir().join("link.toml")).unwrap();
        let link = ["init", DEMO, "sums.csv", "--out", "link.toml"];
        w.refused(&link, "link.toml is there already");
    }
}

#[test]
fn what_cannot_be_used_is_one_error_and_nothing_is_written() {
    let w = World::new();
    w.file("sums.csv", &table(48));
    w.file("odd.jsonl", "{\"height\": 1}\n");
    for (args, why) in [
        (
            &["absent.gguf", "sums.csv"][..],
            "MODEL must be a Hugging Face folder, a .gguf file or org/name on the hub; absent.gguf",
        ),
        (&[DEMO, "absent.csv"][..], "absent.csv is not there"),
        (
            &[DEMO, "odd.jsonl"][..],
            "no known shape has the keys `height`",
        ),
        (&[DEMO, "data.jsonl"][..], "(32 are needed)"),
        (
            &[DEMO, "data.jsonl", "--kind", "dpo"][..],
            "data.jsonl:1: --kind dpo wants pairs",
        ),
        (
            &[DEMO, "sums.csv", "--memory", "1MiB"][..],
            "builtin:demo does not fit into 1.0 MiB",
        ),
        (
            &[DEMO, "sums.csv", "--out", "nowhere/a.toml"][..],
            "there is no folder nowhere",
        ),
    ] {
        w.refused(&[&["init"][..], args].concat(), why);
    }
    let written = fs::read_dir(w.dir())
        .unwrap()
        .map(|f| f.unwrap().file_name());
    let mut recipes: Vec<String> = written.map(|f| f.to_string_lossy().into_owned()).collect();
    recipes.retain(|name| name.ends_with(".toml"));
    assert_eq!(recipes, ["r.toml"]);
}

#[test]
fn no_home_and_no_network_are_needed() {
    let w = World::new();
    w.file("sums.csv", &table(48));
    fs::create_dir(w.dir().join("home")).unwrap();
    let home = w.dir().join("home").display().to_string();
    let alone = |args: &[&str]| -> Out {
        let nobody = "http://127.0.0.1:9";
        let vars = [
            ("HOME", home.as_str()),
            ("XDG_CACHE_HOME", ""),
            ("HF_HOME", ""),
            ("HF_HUB_CACHE", ""),
            ("HF_ENDPOINT", nobody),
            ("HF_HUB_OFFLINE", "1"),
        ];
        w.run_with(&vars, args)
    };
    let out = alone(&["init", DEMO, "sums.csv"]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    assert_eq!(fs::read_dir(&home).unwrap().count(), 0);
    // a model of the hub that no cache has
    let out = alone(&["init", "org/name", "sums.csv", "--out", "b.toml"]);
    let errors: Vec<&str> = out.stderr.lines().collect();
    assert_eq!((out.code, errors.len()), (1, 1), "{}", out.stderr);
    assert!(
        errors[0].starts_with("randori: MODEL org/name: "),
        "{}",
        errors[0]
    );
    assert!(!w.dir().join("b.toml").exists());
}

#[test]
fn given_keys_are_in_the_recipe_and_checked_as_its_keys_are() {
    let w = World::new();
    w.file("sums.csv", &table(48));
    let init = |out: &'static str, set: &[&'static str]| {
        let set = set.iter().flat_map(|key| ["--set", *key]);
        let all = ["init", DEMO, "sums.csv", "--out", out].into_iter();
        all.chain(set).collect::<Vec<&str>>()
    };
    let said = w.accepted(&init(
        "a.toml",
        &[
            "name=mine",
            "seed=7",
            "train.lr=1e-4",
            "loss.beta=0.5",
            "data.max_response_tokens=100",
            "data.template_args.thinking=false",
            "compare.seeds=[1, 2]",
        ],
    ));
    assert!(said.contains("; limit 100\n"), "{said}");
    let recipe = text(&w, "a.toml");
    let line = |line: &str| format!("{line:34} # given by --set\n");
    for given in [
        "name = \"mine\"",
        "seed = 7",
        "lr = 0.0001",
        "beta = 0.5",
        "max_response_tokens = 100",
        "seeds = [1, 2]",
    ] {
        assert_eq!(recipe.matches(&line(given)).count(), 1, "{given}: {recipe}");
    }
    let table = recipe.lines().find(|l| l.starts_with("template_args"));
    assert!(table.unwrap().contains("thinking = false"), "{recipe}");
    w.accepted(&["inspect", "a.toml"]);
    w.accepted(&init("full.toml", &["adapter.kind=full"]));
    assert!(!text(&w, "full.toml").contains("rank = "));
    for (set, why) in [
        (
            "train.lrr=1",
            "--set train.lrr=1: unknown key `train.lrr`; nearest: `train.lr`",
        ),
        ("train.lr=-1", "--set train.lr=-1: train.lr must be > 0"),
        ("lora_r=8", "TRL's `lora_r` is `adapter.rank` here"),
        ("loss.betta=1", "--set loss.betta=1"),
        ("model.source=other", "--set model.source=…: MODEL says it"),
        ("data.train=other", "--set data.train=…: DATA says it"),
        ("train.lr", "--set train.lr: must be section.key=value"),
    ] {
        w.refused(&init("no.toml", &[set]), why);
        assert!(!w.dir().join("no.toml").exists(), "{set}");
    }
}
