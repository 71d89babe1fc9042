//! Files of pairs from other programs, under the recipe's rules: a key about pairs applies to token
//! ids as to text, and whatever is left out is counted.

use std::fs;

use crate::program::World;

/// A scored pair: a prompt of `prompt` tokens, two real tokens, this answer.
fn pair(prompt: usize, generated: &[u32]) -> String {
    let row = serde_json::json!({
        "place": format!("p:{prompt}"), "iteration": 0, "prompt": vec![40; prompt],
        "real": [50, 51, 0], "generated": generated, "ref_real": -9.0, "ref_generated": -9.0,
    });
    format!("{row}\n")
}

/// Four good pairs, one with a longer prompt, one of equal responses, one with an empty answer.
fn seven() -> String {
    let good: String = (1..5).map(|n| pair(n, &[52, 53, 0])).collect();
    good + &pair(20, &[52, 0]) + &pair(6, &[50, 51, 0]) + &pair(7, &[0])
}

fn train<'a>(sets: &[&'a str]) -> Vec<&'a str> {
    let start = [
        "train", "r.toml", "--pairs", "p.jsonl", "--out", "out", "--fresh",
    ];
    let first = ["train.warmup=0"];
    let sets = first.iter().chain(sets);
    let sets = sets.flat_map(|set| ["--set", *set]);
    start.into_iter().chain(sets).collect()
}

fn lines(world: &World, file: &str) -> usize {
    let text = fs::read_to_string(world.dir().join(file)).unwrap();
    text.lines().count()
}

#[test]
fn pairs_of_token_ids_are_under_the_data_s_rules() {
    for (sets, said) in [
        (
            &["data.max_prompt_tokens=12"][..],
            "4 of 7 examples kept, 1 prompt too long, 1 generated response empty, 1 pair identical",
        ),
        (&["data.limit=2"][..], "2 of 2 examples kept"),
        (
            &["data.empty=keep", "data.identical=keep"][..],
            "7 of 7 examples kept, 1 generated response empty, 1 pair identical",
        ),
    ] {
        let world = World::new();
        world.file("p.jsonl", &seven());
        let out = world.run(&train(sets));
        assert_eq!(out.code, 0, "{}", out.stderr);
        assert!(out.stderr.contains(said), "{said}: {}", out.stderr);
    }
}

#[test]
fn pairs_of_token_ids_are_refused_by_their_place_and_key() {
    let world = World::new();
    world.file("p.jsonl", &seven());
    let short = "data.max_prompt_tokens=12";
    for (sets, why) in [
        (
            &[short, "data.too_long=error"][..],
            "p:20: the prompt has 20 tokens, at most 12 are allowed",
        ),
        (
            &[short, "data.too_long=keep"][..],
            "data.too_long is \"keep\", but pairs of token ids are not shortened",
        ),
        (
            &["data.max_response_tokens=2", "data.cut_real=error"][..],
            "p:1: the real response has 3 tokens, at most 2 are allowed",
        ),
        (
            &["data.identical=error"][..],
            "p:6: both responses are the same",
        ),
        (
            &["data.max_response_tokens=2"][..],
            "no example is left: 0 of 7 examples kept",
        ),
    ] {
        world.refused(&train(sets), why);
    }
    world.file("p.jsonl", &pair(2, &[52; 300]));
    world.refused(&train(&[]), "p:2: prompt and response have 302 tokens");
}

/// Scoring keeps equal pairs, since it knows no loss; training drops those without a gradient under
/// its own loss.
#[test]
fn scoring_keeps_equal_pairs_and_training_asks_its_own_loss() {
    let world = World::new();
    world.file("p.jsonl", &seven());
    let score = ["score", "r.toml", "--pairs", "p.jsonl", "-o", "s.jsonl"];
    world.accepted(&score);
    assert_eq!(lines(&world, "s.jsonl"), 6);
    for (set, kept) in [("loss.name=spin", 5), ("loss.name=dpop", 6)] {
        world.accepted(&train(&[set]));
        let pairs = "runs/r-train/iteration-0/pairs.jsonl";
        assert_eq!(lines(&world, pairs), kept, "{set}");
        fs::remove_dir_all(world.dir().join("out")).unwrap();
    }
}

/// Another loss than the run's is asked itself, and more iterations, which may change, change
/// nothing else.
#[test]
fn a_run_folder_keeps_auto() {
    let world = World::new();
    let nll = ["run", "r.toml", "-q", "--set", "loss.nll=[0.0, 1.0]"];
    world.accepted(&nll);
    let kept = fs::read_to_string(world.dir().join("runs/r/recipe.toml")).unwrap();
    let line = kept.lines().find(|line| line.starts_with("identical"));
    assert!(line.unwrap().contains("\"auto\""), "{line:?}");
    world.accepted(&[&nll[..], &["--set", "game.iterations=2"]].concat());
}

/// A file without a pair to train on is an error about that file, before a run begins.
#[test]
fn a_file_without_a_usable_pair_is_named() {
    let world = World::new();
    let same = "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"b\"}\n";
    for (text, why) in [
        (String::new(), "there is no pair in it"),
        (same.repeat(3), "no example is left: "),
        (pair(3, &[50, 51, 0]), "no example is left: "),
    ] {
        world.file("p.jsonl", &text);
        let line = world.refused(&train(&[]), why);
        assert!(line.contains("--pairs p.jsonl: "), "{line}");
        assert!(!line.contains("data.train"), "{line}");
        assert!(!world.dir().join("runs").exists(), "a run was begun");
    }
}

/// Generated answers stay the ids that were drawn, however their file was stored since: with them
/// the same log-probs come out.
#[test]
fn answers_are_scored_by_their_ids_however_their_file_was_stored() {
    let world = World::new();
    world.accepted(&["generate", "r.toml", "-q", "--out", "g.jsonl"]);
    let text = fs::read_to_string(world.dir().join("g.jsonl")).unwrap();
    let score = |file: &str| {
        let args = ["score", "r.toml", "-q", "--pairs", file, "--out", "s.jsonl"];
        world.accepted(&args);
        let scored = fs::read_to_string(world.dir().join("s.jsonl")).unwrap();
        let row = |line| -> serde_json::Value {
            let mut row: serde_json::Value = serde_json::from_str(line).unwrap();
            row["place"].take(); // the file and the line
            row
        };
        scored.lines().map(row).collect::<Vec<_>>()
    };
    let right = score("g.jsonl");
    let scored = fs::read_to_string(world.dir().join("s.jsonl")).unwrap();
    let unmeasured: String = text
        .lines()
        .map(|line| {
            let mut row: serde_json::Value = serde_json::from_str(line).unwrap();
            row["logp"] = serde_json::Value::Null;
            format!("{row}\n")
        })
        .collect();
    for (name, changed) in [
        ("no line end", text.trim_end().to_owned()),
        ("a blank line", text.replacen('\n', "\n\n", 1)),
        ("a byte-order mark", format!("\u{feff}{text}")),
        ("no log-prob", unmeasured),
        (
            "an array",
            format!("[{}]", text.trim_end().replace('\n', ",")),
        ),
    ] {
        world.file("other.jsonl", &changed);
        assert_eq!(score("other.jsonl"), right, "{name}");
    }
    // a row without ids is no reason to tokenise the others' text
    let cut = text.replacen("\"tokens\":", "\"ids\":", 2);
    let cut = cut.replacen("\"ids\":", "\"tokens\":", 1);
    world.file("other.jsonl", &cut);
    let score = ["score", "r.toml", "--pairs", "other.jsonl", "--out", "t"];
    world.refused(
        &score,
        "other.jsonl:2: no token ids, which the rows before it have",
    );
    world.file(
        "other.jsonl",
        &scored.replacen("\"real\":[", "\"real\":[-1,", 1),
    );
    world.refused(
        &score,
        "other.jsonl:1: `real`: token ids must be a list of whole numbers",
    );
}

/// Columns have names of their own in files of texts; beside token ids they do not count.
#[test]
fn columns_are_not_read_for_token_ids_and_that_is_said() {
    let world = World::new();
    world.file("p.jsonl", &seven());
    let out = world.run(&train(&[
        "data.columns={prompt=\"prompt\", response=\"response\"}",
    ]));
    assert_eq!(out.code, 0, "{}", out.stderr);
    let said = "data.columns is not read for --pairs p.jsonl";
    assert!(out.stderr.contains(said), "{}", out.stderr);
}

/// A prompt with two answers to it, the better one first.
fn preference(i: usize) -> String {
    let back: String = i.to_string().chars().rev().collect();
    format!("{{\"prompt\": \"Reverse {i}.\", \"chosen\": \"{back}\", \"rejected\": \"{i}\"}}\n")
}

/// Of a file of scored pairs, log p of both responses of each.
fn logps(w: &World, file: &str) -> Vec<[f64; 2]> {
    let text = fs::read_to_string(w.dir().join(file)).unwrap();
    let rows = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let of =
        |row: serde_json::Value| ["ref_real", "ref_generated"].map(|k| row[k].as_f64().unwrap());
    rows.map(of).collect()
}

/// The pairs of the recipe's own data, several files of them: what is learnt is the same, bit for
/// bit, as from one file that `--pairs` names; and it is measured on other pairs, as `score` has
/// them.
#[test]
fn pairs_of_the_recipes_own_data_are_trained_on() {
    let w = World::new();
    w.model("m");
    let rows = |numbers: std::ops::Range<usize>| numbers.map(preference).collect::<String>();
    fs::create_dir(w.dir().join("set")).unwrap();
    w.file("set/a.jsonl", &rows(200..212));
    w.file("set/b.jsonl", &rows(212..224));
    w.file("all.jsonl", &rows(200..224));
    w.file("v.jsonl", &rows(304..312));
    let with = |args: &[&str], sets: &[&str]| {
        let sets = ["model.source=m", "adapter.kind=lora", "train.warmup=0"]
            .iter()
            .chain(sets)
            .flat_map(|set| ["--set", *set]);
        let args = args.iter().copied().chain(sets);
        w.accepted(&args.collect::<Vec<&str>>())
    };
    let by_file = [
        "train",
        "r.toml",
        "--fresh",
        "--out",
        "file",
        "--pairs",
        "all.jsonl",
    ];
    with(&by_file, &[]);
    let weights = |out: &str| {
        let file = w.dir().join(out).join("adapter_model.safetensors");
        fs::read(file).unwrap()
    };
    let mut said = String::new();
    for (out, train) in [
        ("list", "data.train=[\"set/a.jsonl\", \"set/b.jsonl\"]"),
        ("folder", "data.train=set"),
    ] {
        let own = ["train", "r.toml", "--fresh", "--out", out];
        said = with(&own, &[train, "data.validation=v.jsonl", "eval.limit=8"]);
        assert!(weights(out) == weights("file"), "{out}: other weights");
    }
    let file = w.dir().join("folder/randori.json");
    let made: serde_json::Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert!(made.to_string().contains("a.jsonl"), "{made}");

    let score = |out, more: &[&str]| {
        let verb = ["score", "r.toml", "--pairs", "v.jsonl", "--out", out];
        with(&[&verb[..], more].concat(), &[]);
        logps(&w, out)
    };
    let start = score("start.jsonl", &[]);
    let own = score("own.jsonl", &["--adapter", "folder"]);
    let margins = own.iter().zip(&start).map(|(own, start)| {
        let beta = 1.0;
        beta * ((own[0] - start[0]) - (own[1] - start[1]))
    });
    let margins: Vec<f64> = margins.collect();
    let mean = margins.iter().sum::<f64>() / margins.len() as f64;
    let right = margins.iter().filter(|margin| **margin > 0.0).count() as f64 / 8.0;
    let (_, line) = said.split_once("validation: margin ").unwrap();
    let (margin, rest) = line.split_once(", accuracy ").unwrap();
    let (accuracy, rest) = rest.split_once(' ').unwrap();
    assert!(rest.starts_with("on 8 pairs, against the start"), "{said}");
    let near = |text: &str, value: f64| (text.parse::<f64>().unwrap() - value).abs() < 2e-3;
    assert!(near(margin, mean), "{margin}, not {mean}");
    assert!(near(accuracy, right), "{accuracy}, not {right}");
}

#[test]
fn data_that_are_no_pairs_are_refused_before_anything_is_read() {
    let w = World::new();
    let train = ["train", "r.toml", "--out", "o"];
    w.refused(&train, "data.jsonl:1: not a pair: it needs two responses");
    w.file("p.jsonl", &preference(200));
    let sets = [
        "--set",
        "data.train=p.jsonl",
        "--set",
        "data.validation=data.jsonl",
    ];
    let validation = [&train[..], &sets].concat();
    w.refused(&validation, "data.validation: ");
    assert!(!w.dir().join("o").exists());
}
