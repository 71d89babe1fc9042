//! Losses over a step's whole batch, and trainings that cannot learn.

use std::fs;

use crate::program::World;

/// Six scored pairs in the shape that preference data sets have.
const SCORES: [[f64; 2]; 6] = [
    [9.0, 2.0],
    [7.5, 7.0],
    [4.0, 6.0],
    [8.0, 1.0],
    [5.0, 5.0],
    [10.0, 3.0],
];

fn pairs(scored: bool) -> String {
    let line = |(i, [chosen, rejected]): (usize, &[f64; 2])| {
        let scores = match scored {
            true => format!(", \"score_chosen\": {chosen}, \"score_rejected\": {rejected}"),
            false => String::new(),
        };
        format!(
            "{{\"prompt\": \"Reverse {i}21.\", \"chosen\": \"The answer is 12{i}.\", \"rejected\": \"It is {}.\"{scores}}}\n",
            "7".repeat(i + 1)
        )
    };
    SCORES.iter().enumerate().map(line).collect()
}

/// `randori train` on a file of pairs; its metrics.
fn trained(world: &World, name: &str, pairs: &str, more: &[&str]) -> Vec<serde_json::Value> {
    let (named, out) = (format!("name={name}"), format!("out-{name}"));
    let mut args = vec!["train", "r.toml", "--pairs", pairs, "--out", &out];
    args.extend(["--set", &named, "--set", "train.warmup=0"]);
    args.extend(more.iter().flat_map(|set| ["--set", *set]));
    world.accepted(&args);
    rows(
        world,
        &format!("runs/{name}-train/iteration-0/metrics.jsonl"),
    )
}

fn rows(world: &World, file: &str) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(world.dir().join(file)).unwrap();
    let row = |line: &str| serde_json::from_str(line).unwrap();
    text.lines().map(row).collect()
}

fn number(row: &serde_json::Value, key: &str) -> f64 {
    row[key].as_f64().unwrap()
}

/// The values are the formula's: at step 0 policy and reference are one, so a pair's loss is ln(1 +
/// exp(alpha·(r − r'))).
#[test]
fn rewards_reach_the_loss_from_the_data_s_columns() {
    let world = World::new();
    world.file("scored.jsonl", &pairs(true));
    world.file("plain.jsonl", &pairs(false));
    let odpo = ["loss.name=odpo", "loss.alpha=0.25"];
    let metrics = trained(&world, "odpo", "scored.jsonl", &odpo);
    let softplus = |[r, s]: &[f64; 2]| (0.25 * (r - s)).exp().ln_1p();
    let want = SCORES.iter().map(softplus).sum::<f64>() / 6.0;
    let got = number(&metrics[0], "loss");
    assert!((got - want).abs() < 1e-4, "{got}, not {want}");
    let train = ["train", "r.toml", "--out", "o", "--set", "loss.name=odpo"];
    let on = |file| [&train[..], &["--pairs", file, "--set", "name=x"]].concat();
    let why = world.refused(&on("plain.jsonl"), "which needs a reward of each response");
    assert!(why.contains("plain.jsonl:1 has none"), "{why}");
    // in the game nobody scores the opponent's answers
    let why = world.refused(
        &["run", "r.toml", "--set", "loss.name=odpo"],
        "in the game nobody has given the opponent's answers one",
    );
    assert!(why.contains("loss.name"), "{why}");
    world.nothing_written();
}

/// `aot` sorts a whole step. Micro-batches of one pair or of all give the same losses; asked pair
/// by pair, each would be `spin`'s, which differ from the second step on.
#[test]
fn a_loss_over_the_step_does_not_depend_on_micro_batches() {
    let world = World::new();
    world.file("p.jsonl", &pairs(false));
    let run = |name: &str, loss: &str, rows: &str| {
        let set = [
            loss,
            rows,
            "loss.beta=2.0",
            "train.lr=1e-3",
            "train.epochs=4",
        ];
        let metrics = trained(&world, name, "p.jsonl", &set);
        let losses: Vec<f64> = metrics.iter().map(|row| number(row, "loss")).collect();
        assert_eq!(losses.len(), 4);
        losses
    };
    let (one, all) = (
        "train.micro_batch_tokens=1",
        "train.micro_batch_tokens=4096",
    );
    let whole = run("whole", "loss.name=aot", all);
    let parts = run("parts", "loss.name=aot", one);
    let pairwise = run("pairwise", "loss.name=spin", one);
    let apart = |a: &[f64], b: &[f64]| {
        let each = a.iter().zip(b).map(|(a, b)| (a - b).abs());
        each.fold(0.0, f64::max)
    };
    assert!(apart(&whole, &parts) < 1e-5, "{whole:?} {parts:?}");
    assert!(apart(&whole, &pairwise) > 5e-4, "{whole:?} {pairwise:?}");
}

/// `simpo` needs no reference model: none is scored, recorded or counted in the figures.
#[test]
fn where_the_loss_asks_for_no_opponent_none_scores() {
    let world = World::new();
    let simpo = ["--set", "loss.name=simpo", "--set", "eval.limit=2"];
    let run = [&["run", "r.toml"][..], &simpo].concat();
    world.accepted(&run);
    let all = rows(&world, "runs/r/iter-0/pairs.jsonl");
    assert!(!all.is_empty() && all.iter().all(|row| row.get("ref_real").is_none()));
    let metrics = rows(&world, "runs/r/iter-0/metrics.jsonl");
    let keys: Vec<&String> = metrics[0].as_object().unwrap().keys().collect();
    assert!(keys.iter().any(|key| *key == "logps/real"), "{keys:?}");
    assert!(
        !keys.iter().any(|key| key.starts_with("rewards/")),
        "{keys:?}"
    );
    // again: everything is restored
    assert!(world.accepted(&run).contains("iteration 0"));
    let stage = |more: &[&str], stage: &str| {
        let args = [&["fit", "r.toml"], more].concat();
        let said = world.accepted(&args);
        said.lines().filter(|line| line.starts_with(stage)).count()
    };
    assert_eq!((stage(&simpo, "score"), stage(&[], "score")), (0, 2));
}

#[test]
fn fit_shows_the_price_of_a_loss_over_the_step() {
    let world = World::new();
    let fit = |loss: &str, rows: &str| {
        let said = world.accepted(&["fit", "r.toml", "--set", loss, "--set", rows]);
        let line = said.lines().find(|line| line.starts_with("train "));
        line.unwrap().to_string()
    };
    let (few, all) = (
        "train.micro_batch_tokens=200",
        "train.micro_batch_tokens=100000",
    );
    let first = "log-probs of the whole step first";
    assert!(fit("loss.name=aot", few).contains(first));
    assert!(!fit("loss.name=aot", all).contains(first));
    assert!(!fit("loss.name=spin", few).contains(first));
}

/// transformers 5.24: `get_linear_schedule_with_warmup(opt, 1, 1)` has the rate 0 at its only step.
#[test]
fn a_training_whose_rates_are_all_0_is_refused() {
    let world = World::new();
    world.file("p.jsonl", &pairs(false));
    let few = [
        "--set",
        "train.batch=64",
        "--set",
        "train.epochs=1",
        "--set",
        "train.warmup=0.1",
    ];
    let sft = [
        "--set",
        "sft.batch=64",
        "--set",
        "sft.epochs=1",
        "--set",
        "sft.warmup=0.05",
    ];
    let refused = |verb: &[&str], set: &[&str], why: &str| {
        let all = [verb, set].concat();
        let line = world.refused(&all, why);
        assert!(line.contains("nothing would be learnt"), "{line}");
        assert!(
            !world.run(&all).stderr.contains("loading"),
            "weights were read"
        );
        world.nothing_written();
    };
    let run = ["run", "r.toml"];
    refused(
        &run,
        &few,
        "24 pairs, batch 64, epochs 1 make 1 step, and a warm-up of 0.1",
    );
    let supervised = ["sft", "r.toml", "--out", "s"];
    refused(
        &supervised,
        &sft,
        "24 examples, batch 64, epochs 1 make 1 step",
    );
    refused(&run, &sft, "24 examples, batch 64");
    let train = ["train", "r.toml", "--pairs", "p.jsonl", "--out", "o"];
    refused(&train, &few, "6 pairs, batch 64, epochs 1 make 1 step");
    let baseline = [
        "--set",
        "compare.continued_sft=true",
        "--set",
        "compare.epochs=[1]",
    ];
    let share = [
        "--set",
        "data.validation_share=0.25",
        "--set",
        "train.batch=32",
        "--set",
        "train.epochs=2",
        "--set",
        "train.warmup=0.1",
    ];
    refused(
        &run,
        &[&baseline[..], &share].concat(),
        "examples, batch 32, epochs 1",
    );
    assert!(!world.dir().join("runs").exists());
    // two epochs are two steps, of which the second has a rate
    world.accepted(
        &[
            &train[..],
            &["--set", "train.batch=64", "--set", "train.epochs=2"],
        ]
        .concat(),
    );
}

/// The demo's model, which answers some questions, but not in the words of its data.
const GREEDY: &str = r#"
name = "r"
[model]
source = "builtin:demo"
[data]
train = "data.jsonl"
held_out = "data.jsonl"
[generate]
max_new_tokens = 8
sampling = [{ name = "greedy" }]
[train]
batch = 12
warmup = 0.1
[game]
iterations = 1
[eval]
limit = 2
"#;

/// Enough examples, but most of their pairs are dropped: known only after generation, before the
/// first step and without a state to save.
#[test]
fn a_game_whose_pairs_leave_one_step_says_so_before_it() {
    let world = World::new();
    world.file("g.toml", GREEDY);
    world.accepted(&["generate", "g.toml", "-q", "--out", "g.jsonl"]);
    let learnt = |(i, mut answer): (usize, serde_json::Value)| {
        let key = if i < 4 { "real" } else { "generated" };
        let prompt = answer["prompt"][0]["content"].take();
        serde_json::json!({"prompt": prompt, "response": answer[key]}).to_string() + "\n"
    };
    let rows: String = rows(&world, "g.jsonl")
        .into_iter()
        .enumerate()
        .map(learnt)
        .collect();
    world.file("data.jsonl", &rows);
    let line = world.refused(
        &["run", "g.toml", "-q"],
        "policy: stopped before the first step was done: nothing would be learnt: ",
    );
    assert!(
        line.contains(" pairs, batch 12, epochs 1 make 1 step"),
        "{line}"
    );
    let kept = world.dir().join("runs/r/iter-0/checkpoint/policy");
    assert!(!kept.exists() && !line.contains("kept in"), "{line}");
}

/// hinge: max(0, 1 − beta·margin) is flat from margin 1/beta on.
#[test]
fn a_satisfied_hinge_ends_as_converged() {
    let world = World::new();
    let pair = |i: u32, opponent: f64| {
        serde_json::json!({
            "place": format!("p:{i}"), "iteration": 0, "prompt": [1, 2 + i], "real": [5, 6],
            "generated": [7, 8 + i], "ref_real": opponent, "ref_generated": -500.0 - opponent,
        })
        .to_string()
    };
    let file = |name: &str, last: f64| {
        let all: Vec<String> = (0..4)
            .map(|i| pair(i, if i == 3 { last } else { -500.0 }))
            .collect();
        world.file(name, &(all.join("\n") + "\n"));
    };
    file("won.jsonl", -500.0);
    file("open.jsonl", 0.0);
    let hinge = ["loss.name=hinge", "train.batch=2", "train.epochs=5"];
    let metrics = trained(&world, "won", "won.jsonl", &hinge);
    // one epoch shows that no pair asks for a change
    assert_eq!(metrics.len(), 2);
    assert_eq!(number(&metrics[1], "converged"), 1.0);
    assert_eq!(number(&metrics[1], "loss"), 0.0);
    let metrics = trained(&world, "open", "open.jsonl", &hinge);
    assert!(metrics.len() == 10 && metrics.iter().all(|row| row.get("converged").is_none()));
    let again = [
        "train",
        "r.toml",
        "--pairs",
        "won.jsonl",
        "--out",
        "twice",
        "--set",
        "name=again",
    ];
    let set = [
        "--set",
        "train.warmup=0",
        "--set",
        hinge[0],
        "--set",
        hinge[1],
        "--set",
        hinge[2],
    ];
    let said = world.run(&[&again[..], &set].concat()).stderr;
    assert!(said.contains("converged at step 2 of 10"), "{said}");
}

/// The column "equal answers" of docs/reference/losses.md: dropped where the pair has no gradient,
/// kept where it has.
#[test]
fn identical_pairs_follow_the_loss() {
    let world = World::new();
    for (loss, option, want) in [
        ("spin", None, "auto"),
        ("spin", Some("data.identical=error"), "error"),
        ("dpop", None, "auto"),
    ] {
        world.file("p.jsonl", &pairs(false));
        let named = format!("loss.name={loss}");
        let set: Vec<&str> = std::iter::once(named.as_str()).chain(option).collect();
        let name = format!("{loss}-{want}");
        trained(&world, &name, "p.jsonl", &set);
        let kept = world.dir().join(format!("runs/{name}-train/recipe.toml"));
        let recipe = fs::read_to_string(kept).unwrap();
        let line = recipe
            .lines()
            .find(|line| line.starts_with("identical"))
            .unwrap();
        assert!(line.contains(&format!("\"{want}\"")), "{name}: {line}");
    }
    let same = "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"b\"}\n";
    world.file("p.jsonl", &(pairs(false) + same));
    let count = |name: &str, loss: &[&str]| {
        trained(&world, name, "p.jsonl", loss);
        rows(
            &world,
            &format!("runs/{name}-train/iteration-0/pairs.jsonl"),
        )
        .len()
    };
    assert_eq!(count("dropped", &["loss.name=spin"]), 6);
    assert_eq!(count("nll", &["loss.name=spin", "loss.nll=0.1"]), 7);
    assert_eq!(count("dpop", &["loss.name=dpop"]), 7);
    assert_eq!(count("aot", &["loss.name=aot"]), 7);
}
