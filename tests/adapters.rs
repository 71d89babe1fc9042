//! Adapters of every kind in the real program: DoRA with patterns and a head trained in full
//! through a whole game, killed or not; stacks of PEFT adapters as start, player and opponent;
//! refusals that name what contradicts itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::program::World;
use candle_core::Tensor;
use randori_lora::peft;
use serde_json::Value;

/// The small world with LoRA on a head that is not the embedding.
fn world() -> World {
    let w = World::new();
    let text = fs::read_to_string(w.dir().join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["tie_word_embeddings"] = false.into();
    w.file("config.json", &config.to_string());
    let recipe = fs::read_to_string(w.dir().join("r.toml")).unwrap();
    w.file(
        "r.toml",
        &recipe.replace("kind = \"full\"", "kind = \"lora\"\nrank = 4\nalpha = 8.0"),
    );
    w
}

const DORA: [&str; 8] = [
    "--set",
    "adapter.dora=true",
    "--set",
    "adapter.modules_to_save=[\"lm_head\"]",
    "--set",
    r"adapter.rank_pattern=['layers\.0\..*_proj=2']",
    "--set",
    "adapter.alpha_pattern=[\"down_proj=3\"]",
];

type Params = BTreeMap<String, Tensor>;

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// Summed log-probs of the first pairs under a player.
fn scores(w: &World, more: &[&str], out: &str) -> Vec<f64> {
    let mut args = vec![
        "score",
        "r.toml",
        "-q",
        "--pairs",
        "pairs.jsonl",
        "--out",
        out,
    ];
    args.extend(more);
    w.accepted(&args);
    fs::read_to_string(w.dir().join(out))
        .unwrap()
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).unwrap())
        .flat_map(|row| ["ref_real", "ref_generated"].map(|k| row[k].as_f64().unwrap()))
        .collect()
}

fn difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let each = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    each.fold(0.0, f64::max)
}

#[test]
fn a_game_with_dora_patterns_and_a_head_of_its_own() {
    let w = world();
    let mut args = vec!["run", "r.toml", "-q"];
    args.extend(DORA);
    w.accepted(&args);
    let dir = w.dir().join("runs/r/iter-0/adapter");
    let (spec, params) = peft::load(&dir).unwrap();
    assert!(spec.dora && spec.modules_to_save == ["lm_head"]);
    let name = "model.layers.0.self_attn.q_proj";
    assert_eq!(params[&format!("{name}.lora_A")].dims()[0], 2);
    assert_eq!(
        params["model.layers.1.self_attn.q_proj.lora_A"].dims()[0],
        4
    );
    assert_eq!(spec.scale_of("model.layers.1.mlp.down_proj"), 3.0 / 4.0);
    // everything was trained: nothing is as it began
    let sft = |out: &str, lr: &str| {
        let mut args = vec!["sft", "r.toml", "-q", "--out", out, "--runs", "elsewhere"];
        args.extend(["--set", lr, "--set", "sft.warmup=0"]);
        args.extend(DORA);
        w.accepted(&args);
        peft::load(&w.dir().join(out)).unwrap().1
    };
    let start: Params = sft("start", "sft.lr=1e-30");
    assert_eq!(
        start.keys().collect::<Vec<_>>(),
        params.keys().collect::<Vec<_>>()
    );
    for (name, t) in &params {
        assert_ne!(values(t), values(&start[name]), "{name} was not trained");
    }
    // the resolved recipe plays the same game
    let again = w.dir().join("again");
    fs::create_dir(&again).unwrap();
    let recipe = w.dir().join("runs/r/recipe.toml");
    w.accepted(&["run", recipe.to_str().unwrap(), "-q", "--runs", "again"]);
    let bytes = |dir: &Path| fs::read(dir.join("r/iter-0/adapter").join(peft::MODEL)).unwrap();
    assert_eq!(bytes(&again), bytes(&w.dir().join("runs")));
}

#[test]
fn a_stack_starts_plays_and_answers() {
    let w = world();
    let sft = |out: &str, more: &[&str]| {
        let runs = &format!("{out}-runs");
        let mut args = vec![
            "sft",
            "r.toml",
            "-q",
            "--out",
            out,
            "--runs",
            runs,
            "--set",
            "sft.lr=1e-2",
            "--set",
            "sft.batch=8",
        ];
        args.extend(more);
        w.accepted(&args);
    };
    // on one base (the seed is the random base's too): other data order, rank and targets
    sft("one", &[]);
    sft(
        "two",
        &[
            "--set",
            "adapter.rank=2",
            "--set",
            "adapter.targets=[\"down_proj\"]",
        ],
    );
    w.file(
        "pairs.jsonl",
        concat!(
            r#"{"prompt": "Reverse 8351.", "chosen": "The answer is 1538.", "rejected": "The answer is 8."}"#,
            "\n",
            r#"{"prompt": "Subtract 61 from 79.", "chosen": "The answer is 18.", "rejected": "17"}"#,
            "\n"
        ),
    );
    // a recipe says nothing else of an adapter than the adapter, and of a stack the sum of ranks
    let recipe = fs::read_to_string(w.dir().join("r.toml")).unwrap();
    w.file("t.toml", &recipe);
    w.file("r.toml", &recipe.replace("rank = 4\nalpha = 8.0", ""));
    let one = scores(&w, &["--adapter", "one"], "1.jsonl");
    let two = scores(&w, &["--adapter", "two"], "2.jsonl");
    let both = scores(&w, &["--adapter", "one", "--adapter", "two"], "12.jsonl");
    let turned = scores(&w, &["--adapter", "two", "--adapter", "one"], "21.jsonl");
    assert!(difference(&both, &turned) < 1e-4);
    for alone in [&one, &two] {
        assert!(difference(&both, alone) > 1e-3, "{both:?} {alone:?}");
    }
    // the recipe's own spelling, and a start that the game goes on from
    let init = "adapter.init=[\"one\", \"two\"]";
    assert_eq!(scores(&w, &["--set", init], "init.jsonl"), both);
    for verb in [
        &["run", "t.toml", "-q"][..],
        &["score", "t.toml", "--pairs", "pairs.jsonl", "--out", "x"],
    ] {
        let stack = [verb, &["--set", init]].concat();
        w.refused(&stack, "adapter.rank is 4, but the start (");
    }
    w.accepted(&["run", "r.toml", "-q", "--set", init]);
    let (spec, _) = peft::load(&w.dir().join("runs/r/iter-0/adapter")).unwrap();
    let q = "model.layers.0.mlp.down_proj";
    assert_eq!((spec.rank_of(q), spec.rank), (6, 6));
    assert_eq!(spec.rank_of("model.layers.0.mlp.up_proj"), 4);
    // as opponent
    w.accepted(&[
        "generate",
        "r.toml",
        "-q",
        "--adapter",
        "one",
        "--adapter",
        "two",
        "--out",
        "g.jsonl",
    ]);
    // DoRA does not stack
    let mut args = vec![
        "sft",
        "r.toml",
        "-q",
        "--out",
        "dora",
        "--runs",
        "dora-runs",
    ];
    args.extend(["--set", "sft.batch=8"]);
    args.extend(DORA);
    w.accepted(&args);
    w.refused(
        &[
            "score",
            "r.toml",
            "--pairs",
            "pairs.jsonl",
            "--out",
            "x",
            "--adapter",
            "dora",
            "--adapter",
            "one",
        ],
        "a DoRA adapter cannot be stacked",
    );
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let w = world();
    let run = |set: &str, why: &str| {
        w.refused(&["run", "r.toml", "--set", set], why);
        w.nothing_written();
    };
    run("adapter.rank_pattern=[\"q_proj\"]", "adapter.rank_pattern");
    run("adapter.rank_pattern=[\"q_proj=0\"]", "at least 1");
    run("adapter.alpha_pattern=[\"(=4\"]", "is not a pattern");
    run("adapter.modules_to_save=[\"heads\"]", "no module heads");
    run("adapter.exclude=\"regex:.*\"", "no projection matches");
}
