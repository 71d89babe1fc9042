//! What is found before anything takes time: mistakes that cost nothing to find come before the
//! model's file, which here has no bytes; other trainers' names; the plan of a run.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::program::World;

pub const MODEL: [&str; 4] = ["--set", "model.source=model", "--set", "adapter.kind=lora"];
const PAIR: &str = "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}\n";

/// A world with a model's folder whose weights are a file without a byte, and pairs.
pub fn world() -> World {
    let w = World::new();
    fs::create_dir(w.dir().join("model")).unwrap();
    let copy = |from: &str, to: &str| fs::copy(w.dir().join(from), w.dir().join(to)).unwrap();
    copy("config.json", "model/config.json");
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        copy(&format!("tokenizer/{file}"), &format!("model/{file}"));
    }
    w.file("model/model.safetensors", "");
    w.file("p.jsonl", PAIR);
    w
}

/// The verbs that look at a whole recipe.
const VERBS: [&[&str]; 5] = [
    &["run", "r.toml"],
    &["sft", "r.toml", "--out", "s"],
    &["train", "r.toml", "--pairs", "p.jsonl", "--out", "t"],
    &["fit", "r.toml"],
    &["inspect", "r.toml"],
];

#[test]
fn mistakes_come_before_the_models_file() {
    let w = world();
    w.file("odd.jsonl", "{\"height\": 1}\n");
    let mistakes = [
        ("loss.name=spine", "there is no loss `spine`"),
        ("loss.betta=1", "spin has no option `betta`"),
        (
            "generate.sampling=[{name=\"temprature\"}]",
            "there is no sampler `temprature`",
        ),
        (
            "eval.sampling=[{name=\"temperature\", t=-1.0}]",
            "option `t` is -1",
        ),
        ("eval.answer=exactly", "eval.answer must be \"exact\""),
        (
            "adapter.targets=['q_proj', 'vproj']",
            "\"vproj\" of the adapter's targets",
        ),
        ("adapter.rank_pattern=['q_proj']", "must hold entries like"),
        (
            "adapter.init=nowhere",
            "nowhere: neither adapter_config.json",
        ),
        ("model.tokenizer=nowhere", "nowhere, which is not there"),
        ("model.chat_template=none.jinja", "none.jinja"),
        ("data.train=odd.jsonl", "odd.jsonl:1: "),
        ("data.held_out=odd.jsonl", "odd.jsonl:1: "),
    ];
    for verb in VERBS {
        for (set, why) in mistakes {
            let line = w.refused(&[verb, &MODEL, &["--set", set]].concat(), why);
            assert!(!line.contains("model/model.safetensors"), "{line}");
        }
        let gone = [verb, &MODEL, &["--set", "data.train=gone.jsonl"]].concat();
        let whole = [verb, &MODEL].concat();
        match verb[0] {
            // how much there is of data can be supposed, and where no weight is read there need be
            // none; a file of pairs is trained on in data's place
            "fit" | "train" => drop(w.refused(&gone, "model.safetensors")),
            _ => drop(w.refused(&gone, "gone.jsonl is not there")),
        }
        match verb[0] {
            "inspect" => drop(w.accepted(&whole)),
            _ => drop(w.refused(&whole, "model.safetensors")),
        }
    }
    for out in ["runs", "s", "t"] {
        assert!(!w.dir().join(out).exists(), "{out} was begun");
    }
}

/// Verbs of one stage look at what they use, and at what they would write over.
#[test]
fn single_stages_find_their_own_mistakes_early() {
    let w = world();
    let sampling = ["--set", "generate.sampling=['greedie']"];
    let answer = ["--set", "eval.answer=exactly"];
    let generate = [&["generate", "r.toml", "--out", "g"][..], &MODEL].concat();
    let eval = [&["eval", "r.toml"][..], &MODEL].concat();
    let score = [&["score", "r.toml", "--pairs", "p.jsonl"][..], &MODEL].concat();
    let none = "there is no sampler `greedie`";
    w.refused(&[&generate[..], &sampling].concat(), none);
    w.refused(&[&["chat", "r.toml"][..], &MODEL, &sampling].concat(), none);
    w.refused(&[&eval[..], &answer].concat(), "eval.answer must be");
    let over = |out: &'static str| ["--out", out];
    let read = "is read by this command and would be lost";
    let written = [&["generate", "r.toml"][..], &MODEL].concat();
    w.refused(&[&written[..], &over("data.jsonl")].concat(), read);
    w.refused(&[&eval[..], &over("data.jsonl")].concat(), read);
    w.refused(&[&score[..], &over("p.jsonl")].concat(), read);
    w.refused(&[&score[..], &over("model/config.json")].concat(), read);
    w.file("single.jsonl", "{\"prompt\": \"a\", \"response\": \"b\"}\n");
    let single = ["score", "r.toml", "--pairs", "single.jsonl", "--out", "s"];
    w.refused(
        &[&single[..], &MODEL].concat(),
        "single.jsonl:1: not a pair",
    );
    fs::create_dir(w.dir().join("folder")).unwrap();
    let folder = ["score", "r.toml", "--pairs", "folder", "--out", "s"];
    w.refused(
        &[&folder[..], &MODEL].concat(),
        "--pairs folder: a folder is there",
    );
    // what a verb does not use may be wrong
    w.refused(&[&generate[..], &answer].concat(), "model.safetensors");
    w.refused(&[&eval[..], &sampling].concat(), "model.safetensors");
}

/// Where there is nothing to measure on, values that no iteration comes to, an architecture that is
/// asked for, a folder that cannot be made: before the model's file, too.
#[test]
fn what_was_found_late_once_comes_before_the_models_file() {
    let w = world();
    let measured = "data.validation is needed to measure on: give data.held_out";
    let none = ["--set", "data.held_out=[]", "--set", "data.validation=none"];
    let generate = ["generate", "r.toml", "--out", "g", "--split", "validation"];
    for verb in [&generate[..], &["eval", "r.toml"], &["run", "r.toml"]] {
        w.refused(&[verb, &MODEL, &none].concat(), measured);
    }
    w.refused(&[&generate[..], &MODEL].concat(), measured);
    for verb in VERBS {
        for (set, why) in [
            ("loss.beta=[0.1, -1]", "loss.beta=[0.1, -1]: "),
            ("loss.beta=[1, \"a\"]", "loss.beta=[1, \"a\"]: "),
            ("model.arch=gemma", "model.arch=gemma: model.arch: "),
        ] {
            w.refused(&[verb, &MODEL, &["--set", set]].concat(), why);
        }
    }
    for (set, why) in [
        ("model.tokenizer=nowhere", "nowhere, which is not there"),
        ("model.chat_template=none.jinja", "none.jinja"),
        ("adapter.init=nowhere", "nowhere: neither"),
    ] {
        let export = ["export", "r.toml", "--out", "e", "--set", set];
        w.refused(&[&export[..], &MODEL].concat(), why);
    }
    #[cfg(unix)]
    std::os::unix::fs::symlink("gone", w.dir().join("link")).unwrap();
    w.file("notes", "");
    for (out, why) in [
        ("notes/x/y", "notes is no folder, and nothing can lie in it"),
        #[cfg(unix)]
        ("link/x/y", "link is a link to nothing, and nothing can lie"),
    ] {
        for verb in [
            &["generate", "r.toml"][..],
            &["eval", "r.toml"],
            &["score", "r.toml", "--pairs", "p.jsonl"],
            &["train", "r.toml", "--pairs", "p.jsonl"],
            &["sft", "r.toml"],
            &["export", "r.toml"],
            &["export", "r.toml", "--to", "gguf"],
        ] {
            w.refused(&[verb, &MODEL, &["--out", out]].concat(), why);
        }
    }
}

/// 50 ms more than the program takes to start and load plugins; the best of several, since other
/// programs may run beside.
#[test]
fn a_mistake_is_told_within_50_milliseconds() {
    let w = world();
    let best = |args: &[&str], code| {
        let took = |_| {
            let began = Instant::now();
            assert_eq!(w.run(args).code, code);
            began.elapsed()
        };
        (0..10).map(took).min().unwrap()
    };
    let starts = best(&["plugins"], 0);
    let rows = fs::read_to_string(w.dir().join("data.jsonl")).unwrap();
    w.file("many.jsonl", &rows.repeat(2000));
    let train = ["--set", "data.train=many.jsonl", "--set"];
    for mistake in ["loss.betta=1", "adapter.targets=['vproj']"] {
        let run = [&["run", "r.toml"][..], &MODEL, &train, &[mistake]].concat();
        let took = best(&run, 1);
        let limit = starts + Duration::from_millis(50);
        assert!(took < limit, "{mistake}: {took:?}, started in {starts:?}");
    }
}

#[test]
fn inspect_needs_no_weights() {
    let w = World::new();
    let model = w.model("m");
    let recipe = fs::read_to_string(w.dir().join("r.toml")).unwrap();
    w.file("q.toml", &recipe.replace("tokenizer = \"tokenizer\"\n", ""));
    let inspect = ["inspect", "q.toml", "--set", "model.source=m"];
    let shown = w.accepted(&inspect);
    assert!(shown.contains("24 of 24 examples kept"), "{shown}");
    for bytes in [Some(""), None] {
        match bytes {
            Some(text) => w.file("m/model.safetensors", text),
            None => fs::remove_file(model.join("model.safetensors")).unwrap(),
        }
        assert_eq!(w.accepted(&inspect), shown);
    }
}

/// Every file below a folder with its bytes.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(tree(&path)),
            false => drop(found.insert(path.clone(), fs::read(&path).unwrap())),
        }
    }
    found
}

#[test]
fn a_dry_run_says_what_a_run_would_do_and_writes_nothing() {
    let w = World::new();
    let says = |more: &[&str], said: &[&str]| {
        let before = tree(w.dir());
        let out = w.accepted(&[&["run", "r.toml", "--dry-run"][..], more].concat());
        for part in said {
            assert!(out.contains(part), "no {part:?} in\n{out}");
        }
        assert!(before == tree(w.dir()), "a file was written or changed");
    };
    let plan = [
        "start: held out",
        "4 answers, log-probs of 4 pairs",
        "iteration 0: generated",
        "24 prompts",
        "24 pairs at most, scored",
        "24 pairs in 3 steps at most",
        "estimated",
        "Stages: 0 of 5 are done",
        "Memory: ",
        "Time: ",
        "Disk: 1 player of ",
        "Loading and saving are not in it",
    ];
    says(&[], &plan);
    let supervised = ["--set", "sft.epochs=2", "--set", "sft.batch=8"];
    says(
        &supervised,
        &["48 examples in 6 steps", "Stages: 0 of 6 are done"],
    );
    let seeds = ["--set", "compare.seeds=[1,2]"];
    says(
        &seeds,
        &["seed 2, iteration 0: policy", "Stages: 0 of 10 are done"],
    );
    let baseline = [
        "--set",
        "compare.continued_sft=true",
        "--set",
        "data.validation=data.jsonl",
    ];
    says(
        &[&seeds[..], &baseline].concat(),
        &[
            "seed 1, continued SFT           3 settings, each with the game's tokens",
            "seed 2, continued SFT           the setting of the first seed",
            "Stages: 0 of 12 are done",
        ],
    );
    w.accepted(&["run", "r.toml", "-q"]);
    says(
        &[],
        &["done; this is what it took", "Stages: 5 of 5 are done"],
    );
    let more = ["--set", "game.iterations=2"];
    let after = [
        "iteration 1: policy",
        "48 pairs in 6 steps at most",
        "as such stages took here",
        "Stages: 5 of 9 are done",
    ];
    says(&more, &after);
    says(&["--fresh"], &["Stages: 0 of 5 are done"]);
    let dry = ["run", "r.toml", "--dry-run", "--set"];
    w.refused(&[&dry[..], &["train.lr=1e-3"]].concat(), "train.lr was ");
    w.refused(
        &[&dry[..], &["loss.name=odpo"]].concat(),
        "in the game nobody",
    );
    let nothing = ["train.batch=64", "--set", "train.warmup=0.1", "--fresh"];
    w.refused(&[&dry[..], &nothing].concat(), "nothing would be learnt");
}

#[test]
fn other_trainers_names_are_known() {
    let w = World::new();
    w.file("a.toml", "[train]\nlearning_rate = 1e-4\n");
    w.refused(
        &["run", "a.toml"],
        "a.toml:2: unknown key `train.learning_rate`; TRL's `learning_rate` is `train.lr` here",
    );
    for (set, why) in [
        ("lora_r=8", "TRL's `lora_r` is `adapter.rank` here"),
        (
            "loss_type=dpo",
            "is `loss.name` here; axolotl's \"dpo\" is \"spin\" here",
        ),
        ("packing=true", "TRL's `packing` has no key here: "),
        (
            "train.optimizer=adamw_torch",
            "TRL's \"adamw_torch\" is \"adamw\" here",
        ),
        (
            "loss.name=dpo",
            "there is no loss `dpo`; axolotl's \"dpo\" is \"spin\" here: DPO's loss",
        ),
        (
            "loss.name=orpo",
            "there is no loss `orpo`; LLaMA-Factory's \"orpo\" is not here: ",
        ),
        ("loss.name=foo", "there is no loss `foo`; there are: "),
        (
            "generate.sampling=[{name=\"foo\"}]",
            "there is no sampler `foo`; there are: ",
        ),
        ("loss.loss_type=sigmoid", "\"sigmoid\" is \"spin\" here"),
        ("sft.learning_rate=1", "`learning_rate` is `sft.lr` here"),
        ("data.validation=0.1", "data.validation_share"),
        ("loss.rpo_alpha=1.0", "is `loss.nll` here"),
        ("dataset_text_field=body", "is `data.columns` here: {text ="),
        (
            "loss.label_smoothing=0.1",
            "TRL's `label_smoothing` has no key here",
        ),
        (
            "train.frobnicate=1",
            "unknown key `train.frobnicate`; [train] has optimizer, lr,",
        ),
        (
            "frobnicate=1",
            "unknown key `frobnicate`; there are name, seed, root and [model], [",
        ),
    ] {
        let line = w.refused(&["run", "r.toml", "--set", set], why);
        assert!(!line.contains("nearest"), "{line}");
    }
    w.nothing_written();
}

#[test]
fn a_memory_without_a_unit_is_gib_and_names_have_any_case() {
    let w = World::new();
    let said = w.accepted(&["fit", "r.toml", "--vram", "24"]);
    for part in [
        "Passes are supposed to run on the CPU: model.device = \"cpu\" (the default).",
        "Fits into 24.00 GiB",
    ] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    let upper = ["--set", "adapter.kind=FULL", "--set", "model.dtype=F32"];
    let lower = ["--set", "adapter.kind=full", "--set", "model.dtype=f32"];
    let table = |sets: &[&str]| {
        let said = w.accepted(&[&["fit", "r.toml"][..], sets].concat());
        said.split("\nTime of").next().unwrap().to_owned()
    };
    assert_eq!(table(&upper), table(&lower));
    // data that is somewhere else
    let out = w.run(&["fit", "r.toml", "--set", "data.train=gone.jsonl"]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    assert!(
        out.stderr.contains("gone.jsonl is not there"),
        "{}",
        out.stderr
    );
}

/// What a user tried on his first day and was told late, or with the blame on another key.
#[test]
fn a_strangers_mistakes_come_before_the_models_file_and_name_their_key() {
    let w = world();
    fs::create_dir(w.dir().join("mixed")).unwrap();
    w.file(
        "mixed/a.jsonl",
        "{\"prompt\": \"a\", \"response\": \"b\"}\n",
    );
    w.file("mixed/b.csv", "prompt,response\na,b\n");
    w.file("plain.jsonl", "{\"text\": \"once upon a time\"}\n");
    fs::create_dir(w.dir().join("file")).unwrap();
    w.file("file/m.gguf", "");
    let run = |sets: &[&str], why: &str| {
        let sets = sets.iter().flat_map(|set| ["--set", *set]);
        let all: Vec<&str> = ["run", "r.toml"]
            .into_iter()
            .chain(MODEL)
            .chain(sets)
            .collect();
        w.refused(&all, why);
    };
    run(&["loss.name=SPIN"], "did you mean `spin`?");
    run(&["data.train="], "data.train must name at least one file");
    run(&["data.train=mixed"], "data files of several kinds");
    run(
        &["data.train=plain.jsonl"],
        "plain.jsonl:1: `text` alone has no prompt",
    );
    run(
        &["adapter.kind=qlora", "adapter.quant=gguf"],
        "adapter.quant must be \"nf4\" for a model that is no GGUF file",
    );
    run(
        &["adapter.exclude=['nothing']"],
        "adapter.exclude=['nothing']: [adapter]: no projection matches",
    );
    run(&["model.source=file"], "/file/m.gguf");
    let text = [
        "--set",
        "data.train=plain.jsonl",
        "--set",
        "data.validation=plain.jsonl",
    ];
    let sft = [&["sft", "r.toml", "--out", "s"][..], &MODEL, &text].concat();
    w.refused(&sft, "model.safetensors");
    // the pairs of a file are trained on in data's place, which may be gone
    let train = ["train", "r.toml", "--pairs", "p.jsonl", "--out", "t"];
    let gone = ["--set", "data.train=gone.jsonl"];
    w.refused(&[&train[..], &MODEL, &gone].concat(), "model.safetensors");
    w.refused(
        &["init", "data.jsonl", "model"],
        "MODEL comes first, then DATA: randori init model data.jsonl",
    );
}
