//! Ctrl-C in the middle of a run.
#![cfg(target_os = "linux")]

use std::fs;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::program::World;

/// How long a test waits for what must come.
const LONG: Duration = Duration::from_secs(120);

/// The program, which answers Ctrl-C: whoever runs the tests in the background may have made their
/// children deaf to it.
fn begun(w: &World, args: &[&str]) -> Child {
    Command::new("env")
        .arg("--default-signal=INT")
        .arg(env!("CARGO_BIN_EXE_randori"))
        .args(args)
        .current_dir(w.dir())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn interrupted(child: Child) -> Output {
    let kill = format!("kill -INT {}", child.id());
    let killed = Command::new("sh").args(["-c", &kill]).status().unwrap();
    assert!(killed.success(), "it had ended before");
    child.wait_with_output().unwrap()
}

#[test]
fn the_first_says_what_is_saved_and_how_to_go_on() {
    let w = World::new();
    let endless = "train.epochs=100000";
    let child = begun(&w, &["run", "r.toml", "-q", "--fresh", "--set", endless]);
    let began = Instant::now();
    let saved = || randori_store::saved(&w.dir().join("runs/r"));
    let is_saved = || matches!(saved(), Ok(Some(what)) if what.contains("policy up to step"));
    while !is_saved() && began.elapsed() < LONG {
        sleep(Duration::from_millis(20));
    }
    let out = interrupted(child);
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(130), "{said}");
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

/// An export that is half written leaves nothing; one that was quicker is whole.
#[test]
fn nothing_half_written_is_left() {
    let w = World::new();
    for wait in [0, 5, 10, 20, 40] {
        let export = ["export", "r.toml", "-q", "--to", "hf", "--out", "e"];
        let child = begun(&w, &export);
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
