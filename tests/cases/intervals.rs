//! Confidence intervals include the sampling error of the held-out set, also with one seed, and say
//! what they cover.

use std::fs;

use serde_json::Value;

use crate::program::World;

/// The textbook's standard error of a mean, which the bootstrap must equal up to its 1,000 draws (2
/// %).
fn standard_error(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (squares / (n - 1.0) / n).sqrt()
}

fn summary(w: &World) -> Value {
    let text = fs::read_to_string(w.dir().join("runs/r/summary.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The rows of `prompts.jsonl` in a folder of the run.
fn prompts(w: &World, place: &str) -> Vec<Value> {
    let file = w.dir().join("runs/r").join(place).join("prompts.jsonl");
    let text = fs::read_to_string(file).unwrap();
    let rows = text.lines().map(|l| serde_json::from_str(l).unwrap());
    rows.collect()
}

#[test]
fn one_seed_has_the_prompts_error_and_two_have_both() {
    let w = World::new();
    let run = |more: &[&str]| {
        w.accepted(
            &[
                &["run", "r.toml", "--fresh", "--set", "eval.limit=24"],
                more,
            ]
            .concat(),
        )
    };
    let out = run(&[]);
    let says = "±: half of the 95 % interval over 24 held-out prompts; with one seed";
    assert!(out.contains(says), "{out}");
    let one = summary(&w);
    for (row, place) in [(&one["start"], "start"), (&one["iterations"][0], "iter-0")] {
        let rows = prompts(&w, place);
        assert_eq!(rows.len(), 24);
        for (name, of) in [
            ("logps_real", "logps_real"),
            ("generated_tokens", "tokens"),
            ("margin", "margin"),
        ] {
            let values: Vec<f64> = rows.iter().map(|p| p[of].as_f64().unwrap()).collect();
            let mean = values.iter().sum::<f64>() / 24.0;
            assert!(
                (row[name].as_f64().unwrap() - mean).abs() < 1e-9,
                "{place} {name}"
            );
            let half = row["interval95"][name].as_f64().unwrap();
            let want = 1.96 * standard_error(&values);
            assert!(
                (half - want).abs() <= 0.08 * want,
                "{place} {name}: {half} {want}"
            );
            assert_eq!(row["interval95_by_prompts"][name], row["interval95"][name]);
        }
        assert!(row.get("interval95_by_seeds").is_none());
    }
    // the same recipe, the same intervals
    run(&[]);
    assert_eq!(summary(&w)["iterations"], one["iterations"]);

    let out = run(&["--set", "compare.seeds=[1, 2]"]);
    assert!(
        out.contains("over 2 seeds and 24 held-out prompts"),
        "{out}"
    );
    let two = &summary(&w)["iterations"][0];
    let part = |key: &str| two[key]["nll_real"].as_f64().unwrap();
    let (seeds, prompts) = (part("interval95_by_seeds"), part("interval95_by_prompts"));
    assert!(seeds > 0.0 && prompts > 0.0);
    assert!((part("interval95") - seeds.hypot(prompts)).abs() < 1e-12);
}

/// `compare.seeds` may change: a game that was played stays where it is, another goes beside it.
#[test]
fn other_seeds_are_played_beside_those_that_were() {
    let w = World::new();
    let run = |seeds: &str, more: &[&str]| {
        let seeds = format!("compare.seeds={seeds}");
        w.accepted(&[&["run", "r.toml", "-q", "--set", &seeds][..], more].concat())
    };
    let generated = |dir: &str| {
        let path = w
            .dir()
            .join("runs")
            .join(dir)
            .join("iter-0/generated.jsonl");
        std::fs::read(path).unwrap()
    };
    run("[7]", &[]);
    let seven = generated("r");
    run("[2]", &[]);
    run("[2, 7, 1]", &[]);
    assert_eq!(generated("r"), seven);
    assert!(!w.dir().join("runs/r/seed-7").exists(), "played again");
    run("[1]", &[]); // the recipe's own seed, of which the run folder holds no game
    // each is the game that it is alone
    run("[2]", &["--set", "name=two"]);
    assert_eq!(generated("r/seed-2"), generated("two"));
    run("[1]", &["--set", "name=one"]);
    assert_eq!(generated("r/seed-1"), generated("one"));
    assert_ne!(generated("one"), generated("two"));
}

/// The folder of any of `compare.seeds` stands for the player of its game.
#[test]
fn the_folder_of_one_seed_is_a_run_folder() {
    let w = World::new();
    w.accepted(&["run", "r.toml", "-q", "--set", "compare.seeds=[1, 2]"]);
    let answers = |who: &[&str]| {
        let out = ["-q", "--out", "g.jsonl"];
        w.accepted(&[&["generate"][..], who, &out].concat());
        std::fs::read(w.dir().join("g.jsonl")).unwrap()
    };
    let [whole, first, second] = ["", "/seed-1", "/seed-2"].map(|place| format!("runs/r{place}"));
    assert_eq!(answers(&[&whole]), answers(&[&first]));
    assert_ne!(answers(&[&second]), answers(&[&first]));
    w.accepted(&["eval", &second, "-q", "--split", "train"]);
    w.accepted(&["export", &second, "-q", "--to", "hf", "--out", "two"]);
    let exported = answers(&["r.toml", "--adapter", "two"]);
    assert_ne!(exported, answers(&["r.toml"]));
    let generated = w.dir().join("runs/r/seed-2/iter-0/generated.jsonl");
    let before = std::fs::read(&generated).unwrap();
    w.accepted(&["run", &second, "-q"]); // nothing is left to play
    assert_eq!(std::fs::read(generated).unwrap(), before);
    assert!(!w.dir().join("runs/r/seed-2/seed-1").exists());
}
