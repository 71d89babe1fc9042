//! Ctrl-C in the middle of a run.
#![cfg(target_os = "linux")]

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::program::World;

/// How long a test waits for what must come.
const LONG: Duration = Duration::from_secs(120);

const RUN: [&str; 4] = ["run", "r.toml", "-q", "--fresh"];

/// The program, not deaf to Ctrl-C as whoever runs the tests in the background
/// may have made their children.
fn begun(w: &World, args: &[&str], set: &[&str]) -> Child {
    Command::new("env")
        .arg("--default-signal=INT,TERM,HUP")
        .arg(env!("CARGO_BIN_EXE_randori"))
        .args(args)
        .args(set.iter().flat_map(|key| ["--set", key]))
        .current_dir(w.dir())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What the program says that is interrupted once `is_time`.
fn interrupted(child: Child, is_time: impl Fn() -> bool) -> String {
    let began = Instant::now();
    while !is_time() && began.elapsed() < LONG {
        sleep(Duration::from_millis(5));
    }
    let kill = format!("kill -INT {}", child.id());
    let killed = Command::new("sh").args(["-c", &kill]).status().unwrap();
    assert!(killed.success(), "it had ended before");
    let out = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(130), "{said}");
    said
}

#[test]
fn the_first_says_what_is_saved_and_how_to_go_on() {
    let w = World::new();
    let endless = "train.epochs=100000";
    let is_saved = || {
        let saved = randori_store::saved(&w.dir().join("runs/r"));
        matches!(saved, Ok(Some(what)) if what.contains("policy up to step"))
    };
    let said = interrupted(begun(&w, &RUN, &[endless]), is_saved);
    let saved =
        "stopped; saved in runs/r: everything up to iter-0/pairs, and iter-0/policy up to step";
    assert!(said.contains(saved), "{said}");
    let again = format!("run r.toml -q --set {endless}\n");
    assert!(
        said.contains("to go on from there: ") && said.ends_with(&again),
        "{said}"
    );
    // what is said was read from the folder, which is whole
    let kept = randori_store::saved(&w.dir().join("runs/r")).unwrap();
    assert!(
        kept.unwrap()
            .starts_with("everything up to iter-0/pairs, and iter-0/policy up to")
    );
}

/// A stage that is too short for `train.save_every` loses nothing to Ctrl-C, and the run ends in
/// the bytes that it would have had.
#[test]
fn a_training_ends_its_step_and_is_saved() {
    let w = World::new();
    let set = ["train.save_every=1000", "train.epochs=60"];
    let iteration = w.dir().join("runs/r/iter-0");
    let rows = || fs::read(iteration.join("metrics.jsonl")).is_ok_and(|all| !all.is_empty());
    let said = interrupted(begun(&w, &RUN, &set), rows);
    assert!(said.contains("stopping after this step"), "{said}");
    let upto = "iter-0/policy up to step ";
    let step = said.split(upto).nth(1).unwrap().lines().next().unwrap();
    assert!(step.parse::<usize>().unwrap() > 0, "{said}");

    let run = |runs: &str| {
        let keys = set.iter().flat_map(|key| ["--set", key]);
        let given = ["run", "r.toml", "-q", "--runs", runs].into_iter();
        w.accepted(&given.chain(keys).collect::<Vec<_>>());
    };
    run("runs");
    run("whole");
    for file in ["metrics.jsonl", "eval.json", "adapter/model.safetensors"] {
        let of = |runs: &str| fs::read(w.dir().join(runs).join("r/iter-0").join(file)).unwrap();
        assert!(of("runs") == of("whole"), "{file} differs");
    }
}

/// Where nothing is saved, there is no place to go on from.
#[test]
fn before_anything_is_saved_the_same_command_starts_again() {
    let w = World::new();
    let seeds = format!("eval.seeds={:?}", (1..=400).collect::<Vec<_>>());
    let long = ["eval.limit=24", seeds.as_str()];
    let manifest = w.dir().join("runs/r/manifest.json");
    let said = interrupted(begun(&w, &RUN, &long), || manifest.exists());
    assert!(
        said.contains("stopped; saved in runs/r: nothing yet\nthe same command starts again: "),
        "{said}"
    );
    assert!(!said.contains("go on from there"), "{said}");
}

/// An export that is half written leaves nothing; one that was quicker is whole.
#[test]
fn nothing_half_written_is_left() {
    let w = World::new();
    for wait in [0, 5, 10, 20, 40] {
        let export = ["export", "r.toml", "-q", "--to", "hf", "--out", "e"];
        let child = begun(&w, &export, &[]);
        let began = Instant::now();
        let hidden = w.dir().join(".e.new.tmp");
        while !hidden.exists() && !w.dir().join("e").exists() && began.elapsed() < LONG {
            sleep(Duration::from_micros(200));
        }
        sleep(Duration::from_millis(wait));
        let kill = format!("kill -INT {}", child.id());
        Command::new("sh").args(["-c", &kill]).output().unwrap();
        let out = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(matches!(out.status.code(), Some(0 | 130)), "{said}");
        assert!(!said.contains("randori: "), "{said}");
        assert!(!hidden.exists(), "after {wait} ms: {said}");
        let _ = fs::remove_dir_all(w.dir().join("e"));
    }
}
