//! Conversations: what stands on standard output, who answers, and how.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use crate::program::World;

/// `randori chat` with these lines as its standard input; standard output and error.
#[track_caller]
fn told(w: &World, args: &[&str], lines: &str) -> (String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_randori"))
        .arg("chat")
        .args(args)
        .current_dir(w.dir())
        .env("XDG_CONFIG_HOME", w.dir().join("config"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(lines.as_bytes()).unwrap();
    drop(stdin);
    let out = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(out.stdout), text(out.stderr));
    assert!(out.status.success(), "{args:?}\n{stdout}{stderr}");
    (stdout, stderr)
}

fn played() -> World {
    let w = World::new();
    let out = w.run(&["run", "r.toml"]);
    assert_eq!(out.code, 0, "{}{}", out.stdout, out.stderr);
    // what can be done now
    for next in [
        " chat runs/r ",
        " export runs/r --to gguf --out r.gguf ",
        "runs/r/report.html in a browser",
        "tensorboard --logdir runs/r\n",
    ] {
        assert!(out.stderr.contains(next), "{next}: {}", out.stderr);
    }
    assert!(out.stderr.contains(" MB in memory"), "{}", out.stderr);
    w
}

/// Greedy: the same message has the same answer, with `--prompt` and by a pipe, and it is the one
/// that the run shows of that player.
#[test]
fn an_answer_is_the_most_likely_one() {
    let w = played();
    for (which, place) in [("start", "start"), ("0", "iter-0")] {
        let file = w.dir().join("runs/r").join(place).join("showcase.jsonl");
        let row: serde_json::Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        let asked = row["prompt"][0]["content"].as_str().unwrap();
        let wanted = format!("{}\n", row["generated"].as_str().unwrap());
        let by = ["runs/r", "-q", "--iteration", which];
        let (alone, _) = told(&w, &[&by[..], &["--prompt", asked]].concat(), "");
        assert_eq!(alone, wanted, "{which}");
        let lines = format!("{asked}\n/help\n/new\n\n{asked}\n/quit\nunheard\n");
        let (both, said) = told(&w, &by, &lines);
        assert_eq!(both, [&*wanted, &*wanted].concat(), "{which}");
        assert!(said.contains("/new    forgets what was said"), "{said}");
    }
    // the last one where none is named
    let ask = |args: &[&str]| {
        told(
            &w,
            &[&["runs/r", "-q", "--prompt", "one"][..], args].concat(),
            "",
        )
        .0
    };
    let (last, start) = (ask(&["--iteration", "0"]), ask(&["--iteration", "start"]));
    assert_eq!(ask(&[]), last);
    assert_eq!(
        ask(&["--beside", "start"]),
        format!("iteration 0:\n{last}start:\n{start}")
    );
    // and drawn where that is asked for: the same again, since the seed is the run's
    let drawn = ask(&["--temp", "1.5", "--top-p", "0.99"]);
    assert_ne!(drawn, last);
    assert_eq!(ask(&["--temp", "1.5", "--top-p", "0.99"]), drawn);
    assert_eq!(ask(&["--temp", "0"]), last);
    let (_, said) = told(&w, &["runs/r", "--max-tokens", "1", "--prompt", "one"], "");
    assert!(
        said.contains("(cut at 1 tokens; see --max-tokens)"),
        "{said}"
    );
}

#[test]
fn what_a_conversation_cannot_be_is_one_error() {
    let w = played();
    let cases: [(&[&str], &str); 8] = [
        (
            &["runs/r", "--iteration", "1"],
            "--iteration 1: runs/r has 1 finished iterations, numbered from 0",
        ),
        (&["runs/r", "--beside", "7"], "--beside 7: runs/r has 1"),
        (
            &["r.toml", "--beside", "start"],
            "--beside goes with a run folder",
        ),
        (
            &["r.toml", "--iteration", "0"],
            "--iteration goes with a run folder",
        ),
        (
            &["runs/r", "--temp", "-1"],
            "--temp: temperature: option `t` is -1",
        ),
        (
            &["runs/r", "--top-p", "1.5"],
            "--top-p: top_p: option `p` is 1.5",
        ),
        (
            &["runs/r", "--temp", "0", "--top-p", "0.5"],
            "--top-p changes nothing at --temp 0",
        ),
        (&["runs/r", "--prompt", " "], "--prompt must hold a message"),
    ];
    for (args, why) in cases {
        w.refused(&[&["chat"][..], args].concat(), why);
    }
}
