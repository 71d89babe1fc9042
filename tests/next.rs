//! The commands that `run`, `sft`, `train` and `init` say come next: a shell takes each as it is
//! printed, the program does it, and files that are named are there.

use std::process::{Command, Stdio};

use crate::program::World;

/// Gives each line after "Next:" to a shell, in order; those of the program with their standard
/// output.
#[track_caller]
pub fn follow(w: &World, said: &str) -> Vec<(String, String)> {
    let (_, next) = said.split_once("Next:\n").unwrap();
    let mut given = Vec::new();
    for line in next.lines() {
        let what = line.trim_start().split("   (").next().unwrap();
        let words = split(w, what);
        match words[0].as_str() {
            program if program.ends_with("randori") => {
                let (accepted, out) = shell(w, what);
                assert!(accepted, "{what}\n{out}");
                given.push((words[1].clone(), out));
            }
            "tensorboard" => {
                assert_eq!(words[1], "--logdir", "{line}");
                let logs = std::fs::read_dir(w.dir().join(&words[2])).unwrap();
                assert!(logs.count() > 0, "{line}");
            }
            file => {
                assert_eq!(words[1..], ["in", "a", "browser"], "{line}");
                assert!(w.dir().join(file).is_file(), "{line}");
            }
        }
    }
    given
}

/// The words of a command as a shell reads them.
fn split(w: &World, command: &str) -> Vec<String> {
    let (_, words) = shell(w, &format!("printf '%s\\n' {command}"));
    words.lines().map(str::to_owned).collect()
}

/// Whether a command succeeds that finds nothing on its standard input; what it says on the others.
fn shell(w: &World, command: &str) -> (bool, String) {
    let out = Command::new("sh")
        .args(["-c", command])
        .current_dir(w.dir())
        .env("XDG_CONFIG_HOME", w.dir().join("config"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let [said, errors] = [out.stdout, out.stderr].map(|text| String::from_utf8(text).unwrap());
    match out.status.success() {
        true => (true, said),
        false => (false, said + &errors),
    }
}

fn verbs(given: &[(String, String)]) -> Vec<&str> {
    given.iter().map(|(verb, _)| verb.as_str()).collect()
}

/// In folders whose names a shell must be told as one word.
#[test]
fn the_commands_after_a_training_do_what_they_say() {
    let w = World::new();
    std::fs::create_dir(w.dir().join("my recipes")).unwrap();
    let recipe = std::fs::read_to_string(w.dir().join("r.toml")).unwrap();
    w.file("my recipes/r.toml", &format!("root = \"..\"\n{recipe}"));
    let lora = ["--set", "adapter.kind=lora", "--set", "adapter.rank=4"];
    let recipe = ["my recipes/r.toml", "--runs", "my runs"];
    let said = |verb: &[&str], more: &[&str]| {
        let out = w.run(&[verb, &recipe[..], more].concat());
        assert_eq!(out.code, 0, "{verb:?} {}", out.stderr);
        out.stderr
    };
    w.model("base"); // an adapter is of a base that stays
    let base = [&lora[..], &["--set", "model.source=base"]].concat();
    let after_run = follow(&w, &said(&["run"], &base));
    assert_eq!(verbs(&after_run), ["chat", "export"]);
    assert!(w.dir().join("r.gguf").is_file());
    std::fs::remove_file(w.dir().join("r.gguf")).unwrap();

    let sft = [&base[..], &["--out", "an adapter", "--set", "sft.batch=8"]].concat();
    let after_sft = follow(&w, &said(&["sft"], &sft));
    assert_eq!(verbs(&after_sft), ["chat", "eval", "export"]);
    assert!(w.dir().join("r.gguf").is_file());

    w.accepted(&[
        "generate",
        "r.toml",
        "--set",
        "model.source=base",
        "--out",
        "p.jsonl",
    ]);
    let train = ["--pairs", "p.jsonl", "--out", "another", "--set"];
    let train = [&base[..], &train, &["train.batch=4"]].concat();
    let after_train = follow(&w, &said(&["train"], &train));
    assert_eq!(verbs(&after_train), ["chat", "eval", "export"]);
}

/// All weights are trained: what is written is no adapter but the model.
#[test]
fn the_commands_after_a_whole_model_was_trained_do_what_they_say() {
    let w = World::new();
    let sft = ["sft", "r.toml", "--out", "whole", "--set", "sft.batch=8"];
    let out = w.run(&sft);
    assert_eq!(out.code, 0, "{}", out.stderr);
    let after = follow(&w, &out.stderr);
    assert_eq!(verbs(&after), ["chat", "eval", "export"]);
}
