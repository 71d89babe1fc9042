//! `randori export` in practice: of a run folder, of one of its iterations, killed half-way, with
//! contradictory options; the exported model reaches the measures of the run.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::program;
use crate::program::World;
use serde_json::Value;

/// The demo made small: two iterations, no baseline.
const SMALL: [&str; 8] = [
    "data.limit=48",
    "game.iterations=2",
    "eval.seeds=[1]",
    "eval.limit=16",
    "compare.seeds=[]",
    "compare.continued_sft=false",
    "train.epochs=1",
    "name=r",
];

fn play(w: &World, more: &[&str]) {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/demo.toml");
    let mut args = vec!["run", demo.to_str().unwrap(), "-q"];
    for set in SMALL.iter().chain(more) {
        args.extend(["--set", set]);
    }
    w.accepted(&args);
}

/// `randori export` with these words.
fn export(w: &World, words: &str) -> program::Out {
    let line = format!("export -q {words}");
    let out = w.run(&line.split_whitespace().collect::<Vec<_>>());
    assert_eq!(out.code, 0, "{line}\n{}{}", out.stdout, out.stderr);
    out
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Every tensor's bytes, whatever file it lies in.
fn tensors(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            let bytes = fs::read(path).unwrap();
            let (length, rest) = bytes.split_at(8);
            let length = u64::from_le_bytes(length.try_into().unwrap());
            let (header, data) = rest.split_at(length as usize);
            let header: BTreeMap<String, Value> = serde_json::from_slice(header).unwrap();
            for (name, entry) in header.iter().filter(|(name, _)| *name != "__metadata__") {
                let at = |i: usize| entry["data_offsets"][i].as_u64().unwrap() as usize;
                all.insert(name.clone(), data[at(0)..at(1)].to_vec());
            }
        }
    }
    all
}

/// The held-out negative log-likelihood of the model in this folder.
fn measured(w: &World, model: &str) -> f64 {
    let source = format!("model.source={model}");
    let with = [
        "eval",
        "runs/r/recipe.toml",
        "-q",
        "--out",
        "eval.json",
        "--set",
        &source,
    ];
    w.accepted(&with);
    json(&w.dir().join("eval.json"))["nll_real"]
        .as_f64()
        .unwrap()
}

#[test]
fn of_a_run_and_of_each_iteration() {
    let w = World::new();
    // with a baseline, which is trained after the last iteration and must not pass for it
    let baseline = [
        "compare.continued_sft=true",
        "compare.lrs=[1e-3]",
        "compare.epochs=[1]",
    ];
    play(&w, &baseline);
    let at = |name: &str| w.dir().join(name);
    for (words, out) in [
        ("", "last"),
        ("--iteration 1", "one"),
        ("--iteration 0", "zero"),
        ("--iteration start", "start"),
    ] {
        export(&w, &format!("runs/r {words} --dtype f32 --out {out}"));
    }
    let [last, one, zero, start] = ["last", "one", "zero", "start"].map(|out| tensors(&at(out)));
    assert_eq!(last, one);
    assert_ne!(zero, one);
    assert_ne!(zero, start);
    // the start of this run is the base itself
    export(&w, "runs/r/recipe.toml --dtype f32 --out base");
    assert_eq!(start, tensors(&at("base")));

    // loaded as a base, each answers as its player was measured
    for (out, place) in [("last", "iter-1"), ("zero", "iter-0"), ("start", "start")] {
        let wanted = json(&at(&format!("runs/r/{place}/eval.json")))["nll_real"].clone();
        let (wanted, found) = (wanted.as_f64().unwrap(), measured(&w, out));
        assert!(
            (wanted - found).abs() < 1e-5,
            "{out}: {found}, measured {wanted}"
        );
    }

    // so do the other formats: a GGUF in f32 the same, 4 bits near it, and each with what belongs
    // beside it
    export(&w, "runs/r --to gguf --quant f32 --out last.gguf");
    export(&w, "runs/r --to bnb --dtype f32 --out four");
    let (folder, gguf) = (measured(&w, "last"), measured(&w, "last.gguf"));
    assert!((folder - gguf).abs() < 1e-6, "{folder} {gguf}");
    let four = measured(&w, "four");
    assert!((folder - four).abs() < 0.5 && four != folder, "{four}");
    for file in ["last.Modelfile", "last.fidelity.json", "four/Modelfile"] {
        assert!(at(file).is_file(), "{file}");
    }
    export(&w, "runs/r --to gguf-lora --out lora.gguf");
    let modelfile = fs::read_to_string(at("lora.Modelfile")).unwrap();
    assert!(modelfile.contains("ADAPTER ./lora.gguf\n"), "{modelfile}");
    assert!(fs::read(at("lora.gguf")).unwrap().starts_with(b"GGUF"));

    // adapters are the run's own bytes
    export(&w, "runs/r --to peft --iteration 0 --out peft");
    let file = "adapter_model.safetensors";
    let bytes = |dir: &str| fs::read(at(dir).join(file)).unwrap();
    assert_eq!(bytes("peft"), bytes("runs/r/iter-0/adapter"));

    // mlx-lm's say the same, and come back
    export(&w, "runs/r --to mlx --out mlx");
    export(
        &w,
        "runs/r/recipe.toml --adapter mlx --dtype f32 --out from-mlx",
    );
    assert_eq!(tensors(&at("from-mlx")), last);

    shards(&w, &one);
    cards(&w);
    w.refused(
        &["export", "runs/r", "--iteration", "2", "--out", "x"],
        "--iteration 2: runs/r has 2 finished iterations, numbered from 0",
    );
    w.refused(
        &[
            "export",
            "runs/r",
            "--to",
            "peft",
            "--iteration",
            "start",
            "--out",
            "x",
        ],
        "nothing has been learnt yet",
    );
    w.refused(
        &[
            "export",
            "runs/r",
            "--iteration",
            "0",
            "--adapter",
            "peft",
            "--out",
            "x",
        ],
        "--iteration and --adapter both name the player",
    );
    w.refused(
        &[
            "export", "runs/r", "--to", "peft", "--dtype", "f32", "--out", "x",
        ],
        "--dtype goes with --to hf",
    );
    assert!(!at("x").exists());
}

fn shards(w: &World, one: &BTreeMap<String, Vec<u8>>) {
    let dir = w.dir().join("shards");
    export(w, "runs/r --dtype f32 --max-shard-size 200KB --out shards");
    assert_eq!(&tensors(&dir), one);
    let index = json(&dir.join("model.safetensors.index.json"));
    let map = index["weight_map"].as_object().unwrap();
    assert_eq!(map.len(), one.len());
    let files: std::collections::BTreeSet<&str> =
        map.values().map(|f| f.as_str().unwrap()).collect();
    assert!(files.len() > 3, "{files:?}");
    for file in files {
        assert!(
            fs::metadata(dir.join(file)).unwrap().len() < 210_000,
            "{file}"
        );
    }
}

/// The model cards: front matter, measures up to the iteration, lineage; and the saved report.
fn cards(w: &World) {
    let read = |out: &str| fs::read_to_string(w.dir().join(out).join("README.md")).unwrap();
    let (last, zero, adapter, bare) = (read("last"), read("zero"), read("peft"), read("base"));
    for card in [&last, &zero, &adapter, &bare] {
        let front = card
            .strip_prefix("---\n")
            .unwrap()
            .split("---\n")
            .next()
            .unwrap();
        // neither is the hub's, which refuses other names there
        assert!(!front.contains("base_model") && !front.contains("datasets"));
        assert_eq!(
            front.contains("- \"spin\"\n- \"self-play\"\n"),
            card != &bare
        );
        assert!(card.contains("## Recipe") && card.contains("\n[train]\n"));
        let own = w.dir().to_str().unwrap();
        assert!(
            !card.contains(own),
            "a folder of this machine is in the card"
        );
    }
    assert!(adapter.contains("library_name: peft") && adapter.contains("PeftModel"));
    assert!(last.contains("library_name: transformers"));
    assert!(last.contains("| iteration 1 |") && last.contains("| start |"));
    assert!(zero.contains("| iteration 0 |") && !zero.contains("| iteration 1 |"));
    assert!(last.contains("- iteration 0: opponent start; policy `"));
    assert!(last.contains("- iteration 1: opponent iteration 0; policy `"));
    assert!(last.contains("## What made it\n\n1. iteration 0 of the run `r` (seed 1): "));
    assert!(last.contains("\n2. iteration 1 of the run `r` (seed 1): "));
    assert!(!zero.contains("\n2. iteration 1"), "{zero}");
    assert!(bare.contains("nothing has been learnt"), "{bare}");
    // the measures as the terminal told them: columns, digits, intervals
    let told = w.accepted(&["run", "runs/r", "-q"]);
    let head = told
        .lines()
        .find(|line| line.contains("exact match"))
        .unwrap();
    let titles: Vec<&str> = head.split("  ").map(str::trim).collect();
    let titles: Vec<&str> = titles
        .into_iter()
        .filter(|title| !title.is_empty())
        .collect();
    assert!(
        last.contains(&format!("|  | {} |\n", titles.join(" | "))),
        "{head}\n{last}"
    );
    for player in ["start", "iteration 0", "iteration 1"] {
        let row = told.lines().find(|line| line.starts_with(player)).unwrap();
        let cells = row[player.len()..].split("  ").map(str::trim);
        let cells: Vec<&str> = cells.filter(|cell| !cell.is_empty()).collect();
        let wanted = format!("| {player} | {} |\n", cells.join(" | "));
        assert!(last.contains(&wanted), "{wanted}{last}");
    }
    assert!(last.contains("| data.train builtin:demo | `") && last.contains("| plugin losses 0"));
    assert!(!bare.contains("## Lineage") && !bare.contains("## Held-out measures"));

    let report = json(&w.dir().join("last/fidelity.json"));
    assert_eq!(report["format"], "f32");
    assert_eq!(report["total"]["kept"], 1.0);
    assert_eq!(report["total"]["output"], 0.0);
    assert_eq!(report["warning"], Value::Null);
    let modules = report["modules"].as_array().unwrap();
    assert_eq!(modules.len(), 21);
    assert!(modules.iter().all(|m| m["size"].as_f64().unwrap() > 0.0));
    assert_eq!(
        json(&w.dir().join("base/fidelity.json"))["total"],
        Value::Null
    );
}

#[test]
fn what_a_small_update_loses_is_said() {
    let w = World::new();
    play(
        &w,
        &["adapter.kind=qlora", "train.lr=1e-5", "game.iterations=1"],
    );
    let out = export(&w, "runs/r --dtype bf16 --out narrow");
    assert!(out.stdout.contains("output error") && out.stdout.contains("all of 21 modules"));
    assert!(
        out.stderr.contains("note: bf16 keeps ") && out.stderr.contains("f32 would keep 100.0 %"),
        "{}",
        out.stderr
    );
    assert!(!out.stderr.contains("replaces"), "{}", out.stderr);
    let again = export(&w, "runs/r --dtype bf16 --out narrow");
    let replaces = "note: narrow: replaces the export that is there";
    assert!(again.stderr.contains(replaces), "{}", again.stderr);
    assert!(again.stdout.contains("\nkept: what is left of it; noise: "));
    let report = json(&w.dir().join("narrow/fidelity.json"));
    assert!(report["warning"].as_str().unwrap().starts_with("bf16 "));
    assert!(report["total"]["noise"].as_f64().unwrap() > 0.5);
    let wide = export(&w, "runs/r --dtype f32 --out wide");
    assert!(!wide.stderr.contains("warning"), "{}", wide.stderr);
    // on the original base the outputs move by far more than what was learnt
    let moved = export(&w, "runs/r --dtype f32 --onto original --out moved");
    assert!(moved.stdout.contains("other base"), "{}", moved.stdout);
    let report = json(&w.dir().join("moved/fidelity.json"));
    assert!(report["total"]["moved"].as_f64().unwrap() > 1.0);
    assert_ne!(
        tensors(&w.dir().join("wide")),
        tensors(&w.dir().join("moved"))
    );
    // the dequantised base with its update is what was measured
    let wanted = json(&w.dir().join("runs/r/iter-0/eval.json"))["nll_real"].clone();
    let dense = [
        "eval",
        "runs/r/recipe.toml",
        "-q",
        "--out",
        "eval.json",
        "--set",
        "adapter.kind=lora",
        "--set",
        "model.source=wide",
    ];
    w.accepted(&dense);
    let found = json(&w.dir().join("eval.json"))["nll_real"]
        .as_f64()
        .unwrap();
    assert!((wanted.as_f64().unwrap() - found).abs() < 1e-5);
    // without the recipe's data there are no outputs, and it says why
    let blind = export(
        &w,
        "runs/r --set data.train=gone.jsonl --dtype f32 --out blind",
    );
    assert!(
        blind.stdout.contains("no output errors") && blind.stdout.contains("gone.jsonl"),
        "{}",
        blind.stdout
    );
    let total = json(&w.dir().join("blind/fidelity.json"))["total"].clone();
    assert!(total["output"].is_null() && total["kept"] == 1.0);
    // seeded rounding: the same twice, another with another seed
    for (seed, out) in [(1, "a"), (1, "b"), (2, "c")] {
        export(
            &w,
            &format!("runs/r --stochastic-rounding --seed {seed} --out {out}"),
        );
    }
    let [a, b, c] = ["a", "b", "c"].map(|out| tensors(&w.dir().join(out)));
    assert_eq!(a, b);
    assert_ne!(a, c);
}

#[test]
fn killed_or_failing_it_leaves_all_or_nothing() {
    let w = World::new();
    play(&w, &["game.iterations=1"]);
    let here = || {
        let names = fs::read_dir(w.dir())
            .unwrap()
            .map(|e| e.unwrap().file_name());
        let mut names: Vec<String> = names.map(|n| n.into_string().unwrap()).collect();
        names.sort();
        names
    };
    let before = here();
    // an adapter that cannot be read
    fs::create_dir(w.dir().join("broken")).unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        let bytes = fs::read(w.dir().join("runs/r/iter-0/adapter").join(file)).unwrap();
        let kept = if file.ends_with("json") {
            bytes.len()
        } else {
            bytes.len() / 2
        };
        fs::write(w.dir().join("broken").join(file), &bytes[..kept]).unwrap();
    }
    w.refused(
        &["export", "runs/r", "--adapter", "broken", "--out", "x"],
        "adapter_model.safetensors",
    );
    fs::remove_dir_all(w.dir().join("broken")).unwrap();
    assert_eq!(here(), before);
    // a place that is taken by something else
    fs::write(w.dir().join("mine.txt"), "mine").unwrap();
    w.refused(
        &["export", "runs/r", "--out", "mine.txt"],
        "something else is there",
    );
    fs::remove_file(w.dir().join("mine.txt")).unwrap();
    // somebody's model, somebody's adapter, another kind of our own
    let theirs = w.dir().join("theirs");
    fs::create_dir(&theirs).unwrap();
    for file in ["config.json", "adapter_config.json", "model.gguf"] {
        fs::write(theirs.join(file), "GGUF theirs").unwrap();
        w.refused(
            &["export", "runs/r", "--to", "peft", "--out", "theirs"],
            "something else is there",
        );
    }
    w.refused(
        &[
            "export",
            "runs/r",
            "--to",
            "gguf",
            "--out",
            "theirs/model.gguf",
        ],
        "something else is there",
    );
    fs::remove_dir_all(&theirs).unwrap();
    export(&w, "runs/r --to hf --out x");
    w.refused(
        &["export", "runs/r", "--to", "gguf", "--out", "x"],
        "something else is there",
    );
    w.refused(
        &["export", "runs/r", "--out", "x", "--set", "model.source=x"],
        "x is read by this command and would be lost",
    );
    fs::remove_dir_all(w.dir().join("x")).unwrap();

    // killed at moments spread over the time that one takes here
    let began = Instant::now();
    export(&w, "runs/r --dtype f32 --out x");
    let time = began.elapsed();
    fs::remove_dir_all(w.dir().join("x")).unwrap();
    let mut whole = 0;
    for delay in (0..24).map(|i| time * i / 20) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_randori"))
            .args(["export", "runs/r", "-q", "--dtype", "f32", "--out", "x"])
            .current_dir(w.dir())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(delay);
        let _ = child.kill();
        child.wait().unwrap();
        let x = w.dir().join("x");
        if x.exists() {
            whole += 1;
            for file in [
                "README.md",
                "fidelity.json",
                "config.json",
                "tokenizer.json",
            ] {
                assert!(x.join(file).exists(), "{file} is missing after {delay:?}");
            }
            assert_eq!(tensors(&x).len(), 29);
            fs::remove_dir_all(x).unwrap();
        }
    }
    println!("{whole} of 24 were whole");
    // the next one clears up after the killed ones
    export(&w, "runs/r --dtype f32 --out x");
    let mut after = before;
    after.push("x".into());
    after.sort();
    assert_eq!(here(), after);
    // and replaces an earlier export of ours
    export(&w, "runs/r --to peft --out x");
    assert!(w.dir().join("x/adapter_config.json").exists());
    assert!(!w.dir().join("x/model.safetensors").exists());
    assert_eq!(here(), after);
}
