//! Where `--out` may write: never over a file that the command reads, nor into a run.

use std::fs;

use crate::program::World;

#[test]
fn results_never_replace_what_the_command_reads() {
    let w = World::new();
    let recipe = fs::read(w.dir().join("r.toml")).unwrap();
    let data = fs::read(w.dir().join("data.jsonl")).unwrap();
    for out in ["data.jsonl", "r.toml", "./data.jsonl"] {
        let why = "is read by this command and would be lost";
        w.refused(&["generate", "r.toml", "--out", out, "-q"], why);
    }
    fs::copy(w.dir().join("data.jsonl"), w.dir().join("eval.jsonl")).unwrap();
    let held_out = [
        "eval",
        "r.toml",
        "--set",
        "data.held_out=\"eval.jsonl\"",
        "--out",
        "eval.jsonl",
        "-q",
    ];
    w.refused(&held_out, "is read by this command and would be lost");
    w.file(
        "p.jsonl",
        "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}\n",
    );
    let score = [
        "score", "r.toml", "--pairs", "p.jsonl", "--out", "p.jsonl", "-q",
    ];
    w.refused(&score, "is read by this command and would be lost");
    assert_eq!(fs::read(w.dir().join("r.toml")).unwrap(), recipe);
    assert_eq!(fs::read(w.dir().join("data.jsonl")).unwrap(), data);
    assert_eq!(fs::read(w.dir().join("eval.jsonl")).unwrap(), data);
}

#[test]
fn results_never_replace_a_run_s_own_files() {
    let w = World::new();
    w.accepted(&["run", "r.toml", "-q"]);
    let kept = w.dir().join("runs/r/iter-0/generated.jsonl");
    let before = fs::read(&kept).unwrap();
    let out = kept.to_str().unwrap();
    w.refused(
        &["generate", "r.toml", "--out", out, "-q"],
        "it is a file of the run",
    );
    assert_eq!(fs::read(&kept).unwrap(), before);
}

/// Results are written to a link's target; the link stays.
#[cfg(unix)]
#[test]
fn results_go_through_a_link() {
    let w = World::new();
    w.file("kept.jsonl", "");
    let link = w.dir().join("link.jsonl");
    std::os::unix::fs::symlink("kept.jsonl", &link).unwrap();
    w.accepted(&["generate", "r.toml", "--out", "link.jsonl", "-q"]);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    let rows = fs::read_to_string(w.dir().join("kept.jsonl")).unwrap();
    assert_eq!(rows.lines().count(), 24, "{rows}");
}

/// A link to nothing stays a link too.
#[cfg(unix)]
#[test]
fn results_go_through_a_link_to_nothing() {
    let w = World::new();
    let link = w.dir().join("link.jsonl");
    std::os::unix::fs::symlink("new.jsonl", &link).unwrap();
    w.accepted(&["generate", "r.toml", "--out", "link.jsonl", "-q"]);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(link).unwrap().lines().count(), 24);
    // where it leads is where it writes
    let link = w.dir().join("other.jsonl");
    std::os::unix::fs::symlink("runs/r/new.jsonl", link).unwrap();
    w.accepted(&["run", "r.toml", "-q"]);
    let over = ["generate", "r.toml", "--out", "other.jsonl", "-q"];
    w.refused(&over, "it is a file of the run");
}

/// Files that the player is made of, and files that no earlier run of the verb wrote, are never
/// replaced.
#[test]
fn results_replace_earlier_results_and_nothing_else() {
    let w = World::new();
    w.model("m");
    w.file("t.jinja", "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}");
    w.file("notes.txt", "mine\n");
    w.file("notes.jsonl", "{\"prompt\": \"a\", \"real\": \"b\"}\n");
    w.file(
        "p.jsonl",
        "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}\n",
    );
    let read = "is read by this command and would be lost";
    let other = "something else is there";
    let player = ["r.toml", "-q", "--adapter", "m"];
    let template = ["--set", "model.chat_template=\"t.jinja\""];
    for verb in [
        &["eval"][..],
        &["generate"],
        &["score", "--pairs", "p.jsonl"],
    ] {
        for (out, why) in [
            ("config.json", read),
            ("tokenizer/tokenizer.json", read),
            ("tokenizer/tokenizer_config.json", read),
            ("t.jinja", read),
            ("m/model.safetensors", read),
            ("notes.txt", other),
            ("notes.jsonl", other),
            (
                "m/config.json",
                "it lies in m, which is read by this command",
            ),
        ] {
            let path = w.dir().join(out);
            let before = fs::read(&path).unwrap();
            let to = ["--out", out];
            w.refused(&[verb, &player[..], &template[..], &to[..]].concat(), why);
            assert_eq!(fs::read(&path).unwrap(), before, "{out}");
        }
        let again = [verb, &player[..], &["--out", "own"][..]].concat();
        w.accepted(&again);
        w.accepted(&again);
        fs::remove_file(w.dir().join("own")).unwrap();
    }
    // a model of its own: its folder is what is read
    let whole = ["generate", "r.toml", "-q", "--set", "model.source=\"m\""];
    for out in ["m/config.json", "m/model.safetensors"] {
        w.refused(&[&whole[..], &["--out", out]].concat(), read);
    }
    // answers are no pairs with log-probs
    w.accepted(&["generate", "r.toml", "-q", "--out", "g.jsonl"]);
    let score = ["score", "r.toml", "-q", "--pairs", "p.jsonl"];
    w.refused(&[&score[..], &["--out", "g.jsonl"]].concat(), other);
}

/// A folder that an export wrote, and may replace, is not replaced by what is made of it.
#[test]
fn a_player_never_replaces_what_it_is_made_of() {
    let w = World::new();
    let row = "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}\n";
    w.file("p.jsonl", row);
    w.accepted(&["export", "r.toml", "--to", "hf", "--out", "base", "-q"]);
    w.accepted(&["export", "r.toml", "--to", "gguf", "--out", "b.gguf", "-q"]);
    let lora = ["--set", "adapter.kind=lora", "--set", "model.source=base"];
    let one = ["--set", "sft.warmup=0", "--set", "train.warmup=0"];
    let sft = |args: &[&'static str]| [&["sft", "r.toml", "-q"][..], &one, args].concat();
    w.accepted(&[&sft(&["--out", "ad"])[..], &lora].concat());
    fs::write(w.dir().join("base/mine.jsonl"), row).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink("base", w.dir().join("link")).unwrap();
    let state = || {
        let hash = |name: &str| randori_store::hash(&w.dir().join(name)).unwrap().sha256;
        ["base", "ad", "b.gguf"].map(hash)
    };
    let before = state();
    let train = |pairs: &'static str, args: &[&'static str]| {
        [&["train", "r.toml", "-q", "--pairs", pairs][..], &one, args].concat()
    };
    let hf = |args: &[&'static str]| {
        let export = ["export", "r.toml", "-q", "--to", "hf"];
        [&export[..], args].concat()
    };
    let model = "model.source=base";
    let (read, inside) = (
        "is read by this command and would be lost",
        "base, which is read by this command",
    );
    for (args, why) in [
        (sft(&["--set", model, "--out", "base"]), read),
        (sft(&["--set", model, "--out", "base/new"]), inside),
        (sft(&["--set", model, "--out", "x/../base"]), read),
        (
            sft(&["--set", "model.tokenizer=base", "--out", "base"]),
            read,
        ),
        (
            sft(&["--adapter", "base", "--out", "base", "--fresh"]),
            read,
        ),
        (
            sft(&[
                "--set",
                "adapter.kind=lora",
                "--set",
                "adapter.init=base",
                "--out",
                "base",
            ]),
            read,
        ),
        (
            sft(&["--set", "data.train=base/mine.jsonl", "--out", "base"]),
            read,
        ),
        (
            train("p.jsonl", &["--adapter", "base", "--out", "base"]),
            read,
        ),
        (train("base/mine.jsonl", &["--out", "base"]), read),
        (hf(&["--adapter", "base", "--out", "base"]), read),
        (
            hf(&["--set", model, "--adapter", "ad", "--out", "ad"]),
            read,
        ),
        (
            hf(&["--set", model, "--adapter", "ad", "--out", "base"]),
            read,
        ),
        (
            hf(&["--set", "model.tokenizer=base", "--out", "base"]),
            read,
        ),
        (
            hf(&["--set", "data.train=base/mine.jsonl", "--out", "base"]),
            read,
        ),
    ] {
        w.refused(&args, why);
        assert_eq!(state(), before, "{args:?}");
    }
    if cfg!(unix) {
        w.refused(&sft(&["--set", model, "--out", "link"]), read);
        w.refused(&sft(&["--set", "model.source=link", "--out", "base"]), read);
    }
    let gguf = ["export", "r.toml", "-q", "--to", "gguf", "--out", "b.gguf"];
    let of_itself = ["--set", "model.source=b.gguf"];
    w.refused(&[&gguf[..], &of_itself].concat(), read);
    assert_eq!(state(), before);
    assert!(!w.dir().join("x").exists());
}

/// A file more in a run's folders would be one that the run did not write, or in the way of the
/// next iteration.
#[test]
fn nothing_is_put_among_the_files_of_a_run() {
    let w = World::new();
    w.accepted(&["run", "r.toml", "-q"]);
    let sft = ["sft", "r.toml", "-q", "--set", "sft.warmup=0"];
    for out in [
        "runs/r/iter-0/adapter/x.jsonl",
        "runs/r/iter-1",
        "runs/r/seed-5",
        "runs/r/manifest",
        "gone/../runs/r/x",
    ] {
        for verb in [
            &["generate", "r.toml", "-q"][..],
            &["eval", "r.toml", "-q"],
            &["export", "runs/r", "-q"],
            &["export", "runs/r", "-q", "--to", "gguf"],
            &sft,
        ] {
            w.refused(&[verb, &["--out", out]].concat(), "it is a file of the run");
        }
    }
    let inside = ["run", "r.toml", "-q", "--runs", "runs/r/iter-0"];
    w.refused(&inside, "a run would be begun among the files of the run");
    let start = ["--set", "adapter.init=runs/r/iter-0/adapter"];
    let afresh = [
        "run",
        "r.toml",
        "-q",
        "--fresh",
        "--set",
        "adapter.kind=lora",
    ];
    w.refused(
        &[&afresh[..], &start].concat(),
        "runs/r/iter-0/adapter/model.safetensors is read by this command",
    );
    assert!(!w.dir().join("gone").exists());
    w.accepted(&["run", "r.toml", "-q", "--set", "game.iterations=2"]);
    w.accepted(&["run", "runs/r", "-q", "--fresh"]);
    // a run's `out` is for others
    w.accepted(&["export", "runs/r", "-q", "--out", "runs/r/out/hf"]);
}

/// A model that was saved in shards is read back like any other.
#[test]
fn a_model_in_shards_is_read_back() {
    let w = World::new();
    w.model("m");
    let shards = ["--max-shard-size", "20KB", "--dtype", "f32", "--out", "s"];
    let from = ["export", "r.toml", "-q", "--adapter", "m"];
    w.accepted(&[&from[..], &shards].concat());
    assert!(w.dir().join("s/model.safetensors.index.json").exists());
    assert!(!w.dir().join("s/model.safetensors").exists());
    let answers = |player: &str, out: &str| {
        let generate = ["generate", "r.toml", "-q", "--adapter", player];
        w.accepted(&[&generate[..], &["--out", out]].concat());
        fs::read(w.dir().join(out)).unwrap()
    };
    assert_eq!(answers("s", "s.jsonl"), answers("m", "m.jsonl"));
    let sft = [
        ["sft", "r.toml", "-q", "--adapter"],
        ["s", "--set", "sft.warmup=0", "--out"],
    ]
    .concat();
    w.accepted(&[&sft[..], &["t"]].concat());
    let path = w.dir().join("s/model.safetensors.index.json");
    let index = fs::read_to_string(&path).unwrap();
    fs::write(&path, index.replace("model-00001", "model-00009")).unwrap();
    w.refused(&[&sft[..], &["v"]].concat(), "model-00009");
}

/// `--out` inside the player's own run is refused before training.
#[test]
fn a_player_never_lies_in_its_run_s_way() {
    let w = World::new();
    w.file(
        "p.jsonl",
        "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}\n",
    );
    let train = [
        "train",
        "r.toml",
        "-q",
        "--pairs",
        "p.jsonl",
        "--set",
        "train.warmup=0",
    ];
    let sft = ["sft", "r.toml", "-q", "--set", "sft.warmup=0"];
    for (verb, args) in [("train", &train[..]), ("sft", &sft[..])] {
        for out in ["runs/r-VERB", "runs/r-VERB/iteration-0", "./runs", "."] {
            let out = out.replace("VERB", verb);
            let why = format!("the run itself is kept in runs/r-{verb}");
            w.refused(&[args, &["--out", &out]].concat(), &why);
            assert!(!w.dir().join("runs").exists(), "{out}: a run was begun");
        }
    }
    w.accepted(&[&train[..], &["--out", "runs/q"]].concat());
    w.accepted(&sft); // by itself into runs/r-sft/out
    assert!(w.dir().join("runs/r-sft/out/model.safetensors").exists());
}

/// A user's files in a run's folders survive `--fresh`, and are named.
#[test]
fn a_fresh_start_keeps_what_no_stage_wrote() {
    let w = World::new();
    w.accepted(&["run", "r.toml", "-q"]);
    let old = w.dir().join("runs/r/iter-0/generated.jsonl");
    let [kept, inside] =
        ["notes.txt", "adapter/notes.txt"].map(|name| w.dir().join("runs/r/iter-0").join(name));
    for path in [&kept, &inside] {
        fs::write(path, "mine").unwrap();
    }
    let fresh = ["run", "r.toml", "-q", "--fresh"];
    w.refused(
        &fresh,
        "runs/r/iter-0/adapter/notes.txt: something else is there",
    );
    fs::remove_file(inside).unwrap();
    fs::write(&old, "changed").unwrap(); // what a stage wrote goes all the same
    let out = w.run(&fresh);
    assert_eq!(out.code, 0, "{}", out.stderr);
    let notes = out.stderr.lines().filter(|l| l.starts_with("note: "));
    let notes: Vec<&str> = notes.collect();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains("runs/r/iter-0/notes.txt was not written by the run"));
    assert_eq!(fs::read_to_string(kept).unwrap(), "mine");
    assert_ne!(fs::read_to_string(old).unwrap(), "changed");
}
