//! Stored results are reused only for the same inputs. Everything that decides a stage's bytes is
//! compared by content; a difference is refused with both values before anything is written.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::program::World;

const REFUSED: &str = "was started with another recipe or other inputs";

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A LoRA adapter in the folder `out`, trained at this rate from the first step on.
pub(super) fn adapter(w: &World, out: &str, lr: &str) {
    let (rate, name) = (format!("sft.lr={lr}"), format!("name={out}"));
    let lora = ["adapter.kind=lora", "adapter.rank=2", "sft.warmup=0"];
    let sets = [&rate, &name].map(String::as_str).into_iter().chain(lora);
    let sets: Vec<&str> = sets.flat_map(|set| ["--set", set]).collect();
    w.accepted(&[&["sft", "r.toml", "-q", "--out", out], &sets[..]].concat());
}

/// The game's recipe over a model folder `m`, with a template of its own.
fn with_folder(w: &World) {
    let recipe = fs::read_to_string(w.dir().join("r.toml")).unwrap();
    w.model("m");
    let folder = recipe
        .replace("random:config.json", "m")
        .replace("tokenizer = \"tokenizer\"\n", "");
    w.file("r.toml", &folder);
}

#[test]
fn what_changes_memory_only_may_change_and_is_noted() {
    let w = World::new();
    let run = ["run", "r.toml", "-q"];
    w.accepted(&run);
    let less = [
        ("generate.batch", "8", "3"),
        ("generate.chunk", "8", "2"),
        ("train.checkpoint", "false", "true"),
        ("train.micro_batch_tokens", "4096", "128"),
    ];
    let sets: Vec<String> = less.iter().map(|(k, _, v)| format!("{k}={v}")).collect();
    let mut args = run.to_vec();
    sets.iter()
        .for_each(|set| args.extend(["--set", set.as_str()]));
    w.accepted(&args);
    let noted = less.map(|(k, was, is)| format!("{k} was {was}, is {is} (after iter-0/eval)"));
    let manifest = json(&w.dir().join("runs/r/manifest.json"));
    assert_eq!(manifest["accepted"], serde_json::json!(noted));
    // the folder stands for the last values, and goes on with them
    w.accepted(&["run", "runs/r", "-q"]);
    assert_eq!(json(&w.dir().join("runs/r/manifest.json")), manifest);
    // key by key in the documentation
    let docs = fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../docs/reference/recipe.md"
    ));
    let docs = docs.unwrap();
    let marked = |mark: &str| -> Vec<String> {
        let rows = docs.lines().filter(|line| line.contains(mark));
        rows.map(|row| row.split('`').nth(1).unwrap().to_string())
            .collect()
    };
    let mut memory: Vec<&str> = less.iter().map(|(key, ..)| *key).collect();
    memory.push("train.offload_inputs");
    let mut said = marked("*On resume: may change, memory only.*");
    said.sort();
    memory.sort();
    assert_eq!(said, memory);
}

/// A training resumed with less memory: from its checkpoint, to the same end.
#[test]
fn a_training_goes_on_with_less_memory() {
    let w = World::new();
    let sets = [
        "train.lr=1e30",
        "train.clip=0",
        "train.warmup=0",
        "train.epochs=3",
    ];
    let less = ["train.micro_batch_tokens=64", "train.checkpoint=true"];
    let with = |sets: &[&'static str]| {
        let sets = sets.iter().flat_map(|set| ["--set", set]);
        [&["run", "r.toml"][..], &sets.collect::<Vec<_>>()].concat()
    };
    let stopped = "stopped at the last good state, step ";
    let line = w.refused(&with(&sets), stopped);
    let again = w.refused(&with(&[&sets[..], &less].concat()), stopped);
    let step = |line: &str| {
        let rest = line.split(stopped).nth(1).unwrap();
        rest.split(',').next().unwrap().to_string()
    };
    assert_eq!(step(&line), step(&again));
}

#[test]
fn any_other_key_is_refused_with_what_was_and_is() {
    let w = World::new();
    w.file(
        "system.toml",
        &system("You are short.\nAnswer in one word = yes."),
    );
    w.accepted(&["run", "system.toml", "-q"]);
    let before = fs::read(w.dir().join("runs/r/manifest.json")).unwrap();
    // the lines differ in the second line, behind an equals sign
    w.file(
        "system.toml",
        &system("You are short.\nAnswer in one word = no."),
    );
    let line = w.refused(&["run", "system.toml"], REFUSED);
    assert!(
        line.contains("data.system was … word = yes.\", is … word = no.\""),
        "{line}"
    );
    w.file(
        "system.toml",
        &system("You are short.\nAnswer in one word = yes."),
    );
    for (set, said) in [
        (
            "generate.max_new_tokens=7",
            "generate.max_new_tokens was 8, is 7",
        ),
        ("loss.beta=[1.0, 2.0]", "loss.beta was 1.0, is [1.0, 2.0]"),
        ("eval.seeds=[2]", "eval.seeds was [1], is [2]"),
        ("data.turns=every", "data.turns was \"last\", is \"every\""),
        ("model.dtype=bf16", "model.dtype was \"f32\", is \"bf16\""),
        ("adapter.dropout=0.5", "adapter.dropout was not set, is 0.5"),
        ("seed=2", "seed was 1, is 2"),
    ] {
        let args = ["run", "system.toml", "--set", set];
        let line = w.refused(&args, REFUSED);
        assert!(line.contains(said), "{line}");
    }
    assert_eq!(
        before,
        fs::read(w.dir().join("runs/r/manifest.json")).unwrap()
    );
    w.accepted(&["run", "system.toml", "-q"]);
}

fn system(text: &str) -> String {
    let w = World::new();
    let recipe = fs::read_to_string(w.dir().join("r.toml")).unwrap();
    recipe.replace(
        "[data]\n",
        &format!("[data]\nsystem = \"\"\"\n{text}\"\"\"\n"),
    )
}

#[test]
fn the_models_files_are_inputs() {
    let w = World::new();
    with_folder(&w);
    w.file("m/generation_config.json", "{\"eos_token_id\": 2}");
    w.file("m/special_tokens_map.json", "{}");
    w.accepted(&["run", "r.toml", "-q"]);
    let m = w.dir().join("m");
    for name in [
        "config.json",
        "generation_config.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors",
    ] {
        let before = fs::read(m.join(name)).unwrap();
        let mut after = before.clone();
        match name.ends_with(".json") {
            true => after.push(b'\n'), // says the same: content is compared, not meaning
            false => *after.last_mut().unwrap() ^= 1,
        }
        fs::write(m.join(name), after).unwrap();
        let line = w.refused(&["run", "r.toml"], REFUSED);
        assert!(
            line.contains(&format!("model.source {name} was ")),
            "{line}"
        );
        // a run folder stands for what it made of its model, in every verb
        let out = ["generate", "runs/r", "--out", "g.jsonl"];
        let line = w.refused(&out, "the run's model has changed since");
        assert!(
            line.contains(&format!("model.source {name} was ")),
            "{line}"
        );
        fs::write(m.join(name), before).unwrap();
    }
    for name in ["added_tokens.json", "chat_template.json"] {
        w.file(&format!("m/{name}"), "{}");
        let line = w.refused(&["run", "r.toml"], REFUSED);
        assert!(
            line.contains(&format!("model.source {name} was not set, is ")),
            "{line}"
        );
        fs::remove_file(m.join(name)).unwrap();
    }
    w.file("m/notes.txt", "mine"); // read by nobody
    fs::create_dir(m.join("additional_chat_templates")).unwrap();
    w.file("m/additional_chat_templates/notes.txt", "mine");
    w.accepted(&["run", "r.toml", "-q"]);
    w.accepted(&["generate", "runs/r", "-q", "--out", "g.jsonl"]);
}

/// Each of them decides the prompt, or that the model has no `default`.
#[test]
fn chat_templates_with_names_are_inputs() {
    let template = "{% for m in messages %}{{ m.content }} {% endfor %}";
    for (dir, key) in [("m", "model.source"), ("tokenizer", "model.tokenizer")] {
        let w = World::new();
        if dir == "m" {
            with_folder(&w);
        }
        let folder = format!("{dir}/additional_chat_templates");
        fs::create_dir(w.dir().join(&folder)).unwrap();
        let default = format!("{folder}/default.jinja");
        w.file(&default, template);
        w.accepted(&["run", "r.toml", "-q"]);
        w.file(&default, &template.replace(" {% e", "\n{% e"));
        let line = w.refused(&["run", "r.toml"], REFUSED);
        let was = format!("{key} template default.jinja was ");
        assert!(line.contains(&was), "{line}");
        w.file(&default, template);
        for name in ["tool_use", "rag"] {
            let file = format!("{folder}/{name}.jinja");
            w.file(&file, template);
            let line = w.refused(&["run", "r.toml"], REFUSED);
            let was = format!("{key} template {name}.jinja was not set, is ");
            assert!(line.contains(&was), "{line}");
            fs::remove_file(w.dir().join(file)).unwrap();
        }
        w.accepted(&["run", "r.toml", "-q"]);
    }
}

#[test]
fn a_tokenizer_a_template_and_a_configuration_apart_are_inputs() {
    let w = World::new();
    w.file(
        "t.jinja",
        "{% for m in messages %}{{ m.content }} {% endfor %}",
    );
    let run = ["run", "r.toml", "--set", "model.chat_template=t.jinja"];
    w.accepted(&[&run[..], &["-q"]].concat());
    for (file, key) in [
        ("t.jinja", "model.chat_template"),
        ("config.json", "model.source configuration"),
        ("tokenizer/tokenizer.json", "model.tokenizer tokenizer.json"),
        (
            "tokenizer/tokenizer_config.json",
            "model.tokenizer tokenizer_config.json",
        ),
    ] {
        let before = fs::read_to_string(w.dir().join(file)).unwrap();
        w.file(file, &format!("{before}\n"));
        let line = w.refused(&run, REFUSED);
        assert!(line.contains(&format!("{key} was ")), "{line}");
        w.file(file, &before);
    }
    w.accepted(&[&run[..], &["-q"]].concat());
    // the seed of fresh weights is the recipe's, whatever the game's
    let seven = [
        "run",
        "r.toml",
        "--set",
        "name=seven",
        "--set",
        "compare.seeds=[7]",
    ];
    w.accepted(&[&seven[..], &["-q"]].concat());
    let line = w.refused(&[&seven[..], &["--set", "seed=2"]].concat(), REFUSED);
    assert!(line.contains("model.source seed was 1, is 2"), "{line}");
}

#[test]
fn the_start_is_an_input() {
    let w = World::new();
    adapter(&w, "a", "1e-3");
    adapter(&w, "b", "2e-3");
    let tensors = "adapter_model.safetensors";
    let lora = ["--set", "adapter.kind=lora", "-q"];
    let init = [&["run", "r.toml", "--set", "adapter.init=a"][..], &lora].concat();
    let given = [
        &["run", "r.toml", "--adapter", "a", "--set", "name=g"][..],
        &lora,
    ]
    .concat();
    w.accepted(&init);
    w.accepted(&given);
    let before = fs::read(w.dir().join("a").join(tensors)).unwrap();
    fs::copy(
        w.dir().join("b").join(tensors),
        w.dir().join("a").join(tensors),
    )
    .unwrap();
    for args in [&init, &given] {
        let line = w.refused(args, REFUSED);
        assert!(line.contains(&format!("start {tensors} was ")), "{line}");
    }
    fs::write(w.dir().join("a").join(tensors), before).unwrap();
    w.accepted(&init);
    let line = w.refused(
        &[&["run", "r.toml", "--set", "name=g"][..], &lora].concat(),
        REFUSED,
    );
    assert!(line.contains(&format!("start {tensors} was ")), "{line}");
    assert!(line.contains(", is not set"), "{line}");
}

const PAIRS: [&str; 2] = [
    "{\"prompt\": \"Reverse abc.\", \"chosen\": \"cba\", \"rejected\": \"abc\"}\n",
    "{\"prompt\": \"Reverse abc.\", \"chosen\": \"cba\", \"rejected\": \"bca\"}\n",
];

#[test]
fn a_training_on_pairs_is_reused_for_the_same_pairs_and_start() {
    let w = World::new();
    w.file("a.jsonl", PAIRS[0]);
    w.file("b.jsonl", PAIRS[1]);
    // one pair is one step: it must not be one of warm-up
    let at_once = ["--set", "train.warmup=0"];
    let train = |pairs: &'static str| {
        let train = ["train", "r.toml", "--pairs", pairs, "--out", "p"];
        [&train[..], &at_once].concat()
    };
    w.accepted(&train("a.jsonl"));
    let weights = w.dir().join("p/model.safetensors");
    let trained = fs::read(&weights).unwrap();
    let line = w.refused(&train("b.jsonl"), REFUSED);
    assert!(
        line.contains("--pairs was ") && line.contains("--fresh"),
        "{line}"
    );
    assert_eq!(trained, fs::read(&weights).unwrap());
    // the same content under another name is the same
    w.file("c.jsonl", PAIRS[0]);
    w.accepted(&train("c.jsonl"));
    assert_eq!(trained, fs::read(&weights).unwrap());
    w.accepted(&[&train("b.jsonl")[..], &["--fresh"]].concat());
    assert_ne!(trained, fs::read(&weights).unwrap());

    // a run that has gained an iteration is another start
    w.accepted(&[&["run", "r.toml", "-q"][..], &at_once].concat());
    let of_run = ["train", "runs/r", "--pairs", "a.jsonl", "--out", "q"];
    w.refused(&of_run, "start model.safetensors was not set");
    let named = [&of_run[..], &["--set", "name=n"]].concat();
    w.accepted(&named);
    w.accepted(&named);
    w.accepted(&["run", "runs/r", "-q", "--set", "game.iterations=2"]);
    let line = w.refused(&named, REFUSED);
    assert!(line.contains("start model.safetensors was "), "{line}");
    // and so is another adapter
    let given = [&named[..], &["--adapter", "runs/r/iter-0/adapter"]].concat();
    w.accepted(&given);
    let given = [&named[..], &["--adapter", "runs/r/iter-1/adapter"]].concat();
    let line = w.refused(&given, REFUSED);
    assert!(line.contains("start model.safetensors was "), "{line}");
}

#[test]
fn supervised_training_is_reused_for_the_same_start_and_data() {
    let w = World::new();
    adapter(&w, "a", "1e-3");
    adapter(&w, "b", "2e-3");
    let lora = ["--set", "adapter.kind=lora", "-q", "--out", "c"];
    let sft = |a: &'static str| {
        let sft = ["sft", "r.toml", "--adapter", a, "--set", "sft.warmup=0"];
        [&sft[..], &lora].concat()
    };
    w.accepted(&sft("a"));
    w.accepted(&sft("a"));
    let line = w.refused(&sft("b"), REFUSED);
    assert!(
        line.contains("start adapter_model.safetensors was "),
        "{line}"
    );
    let data = fs::read_to_string(w.dir().join("data.jsonl")).unwrap();
    let fewer: String = data
        .lines()
        .skip(1)
        .map(|line| format!("{line}\n"))
        .collect();
    w.file("data.jsonl", &fewer);
    let line = w.refused(&sft("a"), REFUSED);
    assert!(line.contains("data.train data.jsonl was "), "{line}");
}

/// Answers sampled with another tokenizer are refused: their ids are other text in this one.
#[test]
fn answers_are_read_by_the_tokenizer_that_drew_them() {
    let w = World::new();
    let generate = ["generate", "r.toml", "-q", "--out", "g.jsonl"];
    w.accepted(&generate);
    let score = [
        "score", "r.toml", "-q", "--pairs", "g.jsonl", "--out", "s.jsonl",
    ];
    w.accepted(&score);
    let path = w.dir().join("tokenizer/tokenizer.json");
    let mut tokenizer = json(&path);
    let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    let letters: Vec<String> = vocabulary
        .keys()
        .filter(|k| k.len() == 1 && k.chars().all(|c| c.is_ascii_lowercase()))
        .cloned()
        .collect();
    // every letter gets the next one's id
    let ids: Vec<Value> = letters.iter().map(|k| vocabulary[k].clone()).collect();
    for (i, letter) in letters.iter().enumerate() {
        vocabulary[letter] = ids[(i + 1) % ids.len()].clone();
    }
    fs::write(&path, tokenizer.to_string()).unwrap();
    w.refused(&score, "they were generated with another");
}

/// A run folder of the format before (no commits, templates, starts in its manifest) can be read,
/// not gone on with.
#[test]
fn a_run_of_an_earlier_build_is_refused_in_one_sentence() {
    let w = World::new();
    w.accepted(&["run", "r.toml", "-q"]);
    let path = w.dir().join("runs/r/manifest.json");
    let mut manifest = json(&path);
    manifest["format"] = 1.into();
    fs::write(&path, manifest.to_string()).unwrap();
    w.refused(
        &["run", "r.toml"],
        "was started by an earlier randori (format 1)",
    );
    w.accepted(&["generate", "runs/r", "-q", "--out", "g.jsonl"]);
    w.accepted(&["run", "r.toml", "-q", "--fresh"]);
}

#[test]
fn a_shorter_game_has_its_own_summary() {
    let w = World::new();
    let summary = w.dir().join("runs/r/summary.json");
    let iterations = |n: &str| {
        let set = format!("game.iterations={n}");
        w.accepted(&["run", "r.toml", "-q", "--set", &set]);
        json(&summary)["iterations"].as_array().unwrap().len()
    };
    assert_eq!(iterations("2"), 2);
    assert_eq!(iterations("1"), 1);
    let kept = fs::read(&summary).unwrap();
    assert_eq!(iterations("1"), 1);
    assert_eq!(kept, fs::read(&summary).unwrap());
}

/// A stage's files are hashed when they are written, and compared whenever they are read again.
#[test]
fn a_policy_that_was_edited_by_hand_is_noticed_by_every_verb() {
    let w = World::new();
    w.accepted(&["run", "r.toml", "-q"]);
    let path = w.dir().join("runs/r/iter-0/adapter/model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    for args in [
        &["generate", "runs/r", "--out", "g.jsonl"][..],
        &["chat", "runs/r"],
        &["run", "r.toml"],
    ] {
        w.refused(args, "has changed since it was written");
    }
}
