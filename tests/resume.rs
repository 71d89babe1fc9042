//! A run that is killed twenty times ends with the same bytes as an undisturbed one.
#![cfg(unix)]
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::program::World;
use serde_json::Value;

const KILLS: usize = 20;

/// Every kind of stage, each with something to save in the middle: a supervised start (with
/// dropout), generation in chunks, training with a checkpoint every two steps, a window over two
/// iterations.
const RECIPE: &str = r#"
name = "r"
seed = 5
[model]
source = "builtin:demo"
[data]
train = "data.jsonl"
held_out = "data.jsonl"
max_prompt_tokens = 64
max_response_tokens = 24
[adapter]
rank = 4
alpha = 8
dropout = 0.1
[generate]
max_new_tokens = 16
batch = 4
chunk = 4
[loss]
name = "spin"
beta = 1.0
[train]
lr = 1e-3
batch = 4
epochs = 2
save_every = 2
[sft]
epochs = 2
lr = 1e-3
batch = 4
[game]
iterations = 2
window = 2
[eval]
limit = 8
seeds = [1, 2]
"#;

fn begin(w: &World, runs: &str) -> Child {
    let log = fs::File::create(w.dir().join("said")).unwrap();
    Command::new(env!("CARGO_BIN_EXE_randori"))
        .args(["run", "r.toml", "-q", "--runs", runs])
        .current_dir(w.dir())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// Kills a process after `delay`, unless it has ended before; returns whether it was killed.
fn killed(w: &World, mut child: Child, delay: Duration) -> bool {
    let end = Instant::now() + delay;
    while Instant::now() < end {
        if let Some(status) = child.try_wait().unwrap() {
            let said = fs::read_to_string(w.dir().join("said")).unwrap();
            assert!(status.success(), "a resumed run failed: {said}");
            return false;
        }
        sleep(Duration::from_millis(2));
    }
    child.kill().unwrap(); // SIGKILL
    let status = child.wait().unwrap();
    let said = fs::read_to_string(w.dir().join("said")).unwrap();
    assert!(
        status.success() || status.code().is_none(),
        "a resumed run failed: {said}"
    );
    !status.success()
}

/// Names and sizes of all files: two moments with the same have made no progress between them.
fn state(dir: &Path) -> BTreeMap<String, usize> {
    files(dir).into_iter().map(|(k, v)| (k, v.len())).collect()
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
                if name != ".lock" {
                    found.insert(name, fs::read(path).unwrap());
                }
            }
        }
    }
    found
}

/// A finished run without its clocks: wall times of stages and of the whole, memory, and the
/// curves' event file.
fn timeless(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = files(dir);
    all.retain(|name, _| !name.starts_with("events."));
    for name in ["manifest.json", "summary.json"] {
        let mut value: Value = serde_json::from_slice(&all[name]).unwrap();
        let map = value.as_object_mut().unwrap();
        map.remove("seconds");
        map.remove("peak_bytes");
        for stage in map
            .get_mut("stages")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            stage.as_object_mut().unwrap().remove("seconds");
        }
        all.insert(name.into(), value.to_string().into_bytes());
    }
    all
}

fn same(killed: &Path, undisturbed: &Path) {
    let (killed, undisturbed) = (timeless(killed), timeless(undisturbed));
    let names = |all: &BTreeMap<String, Vec<u8>>| all.keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        names(&killed),
        names(&undisturbed),
        "something is missing or left over"
    );
    for (name, bytes) in &undisturbed {
        assert!(
            killed[name] == *bytes,
            "{name} differs:\n{}\n{}",
            String::from_utf8_lossy(&killed[name])
                .chars()
                .take(3000)
                .collect::<String>(),
            String::from_utf8_lossy(bytes)
                .chars()
                .take(3000)
                .collect::<String>()
        );
    }
}

/// splitmix64, as a number in 0..1.
fn random(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

/// Kills come after random delays around a sixteenth of the undisturbed run; a process that had no
/// time to get anywhere leaves its successor more. A run that ends before its twentieth kill is
/// compared, and another begun.
#[test]
fn killed_twenty_times_it_ends_in_the_same_bytes() {
    let w = World::new();
    w.file("r.toml", RECIPE);
    let began = Instant::now();
    w.accepted(&["run", "r.toml", "-q", "--runs", "whole"]);
    let usual = began.elapsed() / 16;
    let whole = w.dir().join("whole/r");

    let (mut seed, mut patience, mut kills, mut round) = (20u64, usual, 0, 0);
    let mut states = BTreeSet::new();
    let mut inside_stages = 0;
    while kills < KILLS {
        let runs = format!("round-{round}");
        let dir = w.dir().join(&runs).join("r");
        let before = state(&dir);
        let delay = patience.mul_f64(0.2 + 1.6 * random(&mut seed));
        if killed(&w, begin(&w, &runs), delay) {
            kills += 1;
            let after = state(&dir);
            patience = if after == before {
                patience.mul_f64(1.6)
            } else {
                usual
            };
            inside_stages += usize::from(unfinished(&after, &whole));
            states.insert((round, after));
        } else {
            same(&dir, &whole);
            (round, patience) = (round + 1, usual);
        }
    }
    let last = format!("round-{round}");
    w.accepted(&["run", "r.toml", "-q", "--runs", &last]);
    same(&w.dir().join(&last).join("r"), &whole);
    eprintln!(
        "{kills} kills over {} run(s) of {:?}: {} different states, {inside_stages} inside a stage's saved work",
        round + 1,
        usual * 16,
        states.len()
    );
    assert!(
        states.len() >= 5 && inside_stages > 0,
        "the kills hit nothing"
    );
}

/// Something of an unfinished stage is on disk: a finished run has no file of that name.
fn unfinished(state: &BTreeMap<String, usize>, whole: &Path) -> bool {
    let whole = files(whole);
    state.keys().any(|name| !whole.contains_key(name))
}

/// A run that is kept below its own data goes on: what it wrote there is no data.
#[test]
fn a_run_in_its_own_data_folder_goes_on() {
    let w = World::new();
    let own = w.dir().join("own");
    fs::create_dir(&own).unwrap();
    fs::rename(w.dir().join("data.jsonl"), own.join("data.jsonl")).unwrap();
    let data = ["--set", "data.train=own", "--set", "data.held_out=own"];
    let run = [&["run", "r.toml", "-q", "--runs", "own/runs"][..], &data].concat();
    w.accepted(&run);
    w.accepted(&[&run[..], &["--set", "game.iterations=2"]].concat());
    let one = ["--set", "sft.warmup=0"];
    let sft = [
        &["sft", "r.toml", "-q", "--runs", "own/runs"][..],
        &data,
        &one,
    ]
    .concat();
    w.accepted(&sft);
    w.accepted(&sft);
}

/// A run is not begun in what it reads, whoever named the folder.
#[test]
fn a_run_is_not_begun_in_its_model_or_adapter() {
    let w = World::new();
    let model = w.model("m");
    let read = |dir: &Path| fs::read_dir(dir).unwrap().count();
    let before = read(&model);
    let set = ["--runs", "m", "--set", "model.source=m"];
    for verb in ["run", "sft"] {
        let said = w.refused(
            &[&[verb, "r.toml", "-q"][..], &set].concat(),
            "a run would be begun in",
        );
        assert!(said.contains("which is read by this command"), "{said}");
        assert!(!said.contains("--out"), "{said}");
    }
    assert_eq!(read(&model), before);
}
