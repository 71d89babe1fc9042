//! The run folder from outside: its files, changes that a resume refuses, the lock, damage.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use crate::scene::{self, Adapter, Answer, act, rules, spec, tree};
use randori_core::{Signals, Stage};
use randori_store::{
    Artefact, Disk, Error, Json, JsonLines, Lock, Manifest, Open, Run, hash, load, saved,
};

#[test]
fn a_game_leaves_these_files() {
    let home = scene::home();
    let dir = home.path().join("demo");
    let outcome = act(Disk::new(), &dir).unwrap();
    let names: Vec<String> = tree(&dir)
        .keys()
        .map(|path| path.to_string_lossy().into_owned())
        .collect();
    let mut expect = vec![
        "manifest.json".to_owned(),
        "recipe.toml".into(),
        "summary.json".into(),
    ];
    for t in 0..2 {
        for file in [
            "adapter/config.json",
            "adapter/weights.bin",
            "eval.json",
            "generated.jsonl",
            "metrics.jsonl",
            "pairs.jsonl",
        ] {
            expect.push(format!("iter-{t}/{file}"));
        }
    }
    expect.sort();
    assert_eq!(names, expect);
    assert_eq!(
        load::<Adapter>(&dir, "iter-1", "policy").unwrap(),
        outcome.policy
    );
    assert_eq!(
        load::<Signals>(&dir, "iter-0", "eval").unwrap(),
        outcome.signals[0]
    );

    let manifest = Manifest::read(&dir).unwrap().unwrap();
    assert_eq!(manifest.last("policy").unwrap().folder, "iter-1");
    let done = manifest.done("iter-0", "generated").unwrap();
    assert_eq!(
        done.sha256,
        hash(&dir.join("iter-0/generated.jsonl")).unwrap().sha256
    );
    assert_eq!(
        (
            manifest.hashes["plugin losses"].as_str(),
            manifest.versions["randori"].as_str()
        ),
        ("bb22", "0.1.0")
    );
}

#[test]
fn a_changed_recipe_is_refused_in_words() {
    let home = scene::home();
    let dir = home.path().join("demo");
    act(Disk::new(), &dir).unwrap();
    let before = tree(&dir);
    let check = |change: &dyn Fn(&mut randori_store::RunSpec), expect: &str| {
        let mut spec = spec();
        change(&mut spec);
        let error = Run::open(&dir, &spec, Open::Resume)
            .unwrap_err()
            .to_string();
        let message = format!(
            "{} was started with another recipe or other inputs: {expect}; use another name, undo the change, or start afresh with --fresh",
            dir.display()
        );
        assert_eq!(error, message);
        assert_eq!(tree(&dir), before, "a refused resume changes nothing");
    };
    let set = |spec: &mut randori_store::RunSpec, key: &str, value: &str| {
        spec.recipe.insert(key.into(), value.into());
    };
    check(
        &|spec| set(spec, "train.lr", "2e-4"),
        "train.lr was 1e-4, is 2e-4",
    );
    check(
        &|spec| set(spec, "train.clip", "1"),
        "train.clip was not set, is 1",
    );
    check(
        &|spec| drop(spec.recipe.remove("train.lr")),
        "train.lr was 1e-4, is not set",
    );
    check(
        &|spec| {
            set(spec, "train.lr", "2e-4");
            spec.hashes.insert("plugin losses".into(), "cc33".into());
        },
        "train.lr was 1e-4, is 2e-4; plugin losses was bb22, is cc33",
    );

    // A key that an earlier version did not know, or that is not given now, has its default.
    let mut newer = spec();
    newer.defaults = [("train.lr", "1e-4"), ("data.columns", "{}")]
        .map(|(key, value)| (key.to_string(), value.to_string()))
        .into();
    newer.recipe.remove("train.lr");
    set(&mut newer, "data.columns", "{}");
    drop(Run::open(&dir, &newer, Open::Resume).unwrap());
    set(&mut newer, "data.columns", "{ prompt = \"q\" }");
    let error = Run::open(&dir, &newer, Open::Resume).unwrap_err();
    let want = "other inputs: data.columns was {}, is { prompt = \"q\" }; use";
    assert!(error.to_string().contains(want), "{error}");
    let given = randori_store::RunSpec {
        defaults: newer.defaults,
        ..spec()
    };
    drop(Run::open(&dir, &given, Open::Resume).unwrap());

    // What is free may change: the game goes on for another iteration.
    let mut longer = spec();
    set(&mut longer, "game.iterations", "3");
    let mut run = Run::open(&dir, &longer, Open::Resume).unwrap();
    let rules = randori_core::Rules {
        iterations: 3,
        ..rules()
    };
    let outcome = randori_core::play(&mut scene::Scene, &mut run, &rules).unwrap();
    assert_eq!(outcome.signals.len(), 3);
    drop(run);

    // What changes memory only may change too; the manifest remembers, and what was finished by
    // then.
    set(&mut longer, "generate.batch", "4");
    let error = Run::open(&dir, &longer, Open::Resume).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("generate.batch was not set, is 4")
    );
    longer.noted = vec!["generate.batch".into()];
    let run = Run::open(&dir, &longer, Open::Resume).unwrap();
    let noted = ["generate.batch was not set, is 4 (after iter-2/eval)"];
    assert_eq!(run.manifest().accepted, noted);
    drop(run);
    let run = Run::open(&dir, &longer, Open::Resume).unwrap();
    assert_eq!(run.manifest().accepted, noted);
}

/// A run of the format before, which did not record all inputs: its results can be read, it cannot
/// be gone on with.
#[test]
fn a_run_of_an_earlier_format_is_refused_in_one_sentence() {
    let home = scene::home();
    let dir = home.path().join("demo");
    act(Disk::new(), &dir).unwrap();
    let path = dir.join("manifest.json");
    let mut old: serde_json::Value = randori_store::read_json(&path).unwrap();
    old["format"] = 1.into();
    fs::write(&path, old.to_string()).unwrap();
    let before = tree(&dir);
    let error = Run::open(&dir, &spec(), Open::Resume).unwrap_err();
    assert!(matches!(error, Error::Older { found: 1, .. }));
    assert!(!error.to_string().contains('\n'), "{error}");
    assert_eq!(tree(&dir), before);
    let manifest = Manifest::read(&dir).unwrap().unwrap();
    randori_store::intact(&dir, &manifest, "iter-0", "policy").unwrap();
    Run::open(&dir, &spec(), Open::Fresh).unwrap();
    Run::open(&dir, &spec(), Open::Resume).unwrap();
}

#[test]
fn afresh_removes_what_a_run_wrote_and_nothing_else() {
    let home = scene::home();
    let dir = home.path().join("demo");
    act(Disk::new(), &dir).unwrap();
    let notes = ["iter-1/data/notes.txt", "iter-1/my-notes.txt", "notes.txt"];
    fs::create_dir(dir.join("iter-1/data")).unwrap();
    for name in notes {
        fs::write(dir.join(name), "mine").unwrap();
    }
    let mut other = spec();
    other.recipe.insert("train.lr".into(), "2e-4".into());
    other.recipe_text = "[train]\nlr = 2e-4\n".into();
    let run = Run::open(&dir, &other, Open::Fresh).unwrap();
    // those in the folders of stages are named
    assert_eq!(
        run.left(),
        notes[..2]
            .iter()
            .map(|name| dir.join(name))
            .collect::<Vec<_>>()
    );
    drop(run);
    let left: Vec<String> = tree(&dir)
        .keys()
        .map(|path| path.to_string_lossy().into_owned())
        .collect();
    let mut expect = notes.to_vec();
    expect.extend(["manifest.json", "recipe.toml"]);
    expect.sort();
    assert_eq!(left, expect);
    assert_eq!(
        fs::read_to_string(dir.join("recipe.toml")).unwrap(),
        other.recipe_text
    );
    assert!(Manifest::read(&dir).unwrap().unwrap().stages.is_empty());
}

/// A foreign file in an artefact's folder would be lost when the next run replaces the folder.
#[test]
fn afresh_is_refused_where_something_lies_in_an_artefact() {
    let home = scene::home();
    let dir = home.path().join("demo");
    act(Disk::new(), &dir).unwrap();
    fs::write(dir.join("iter-1/adapter/notes.txt"), "mine").unwrap();
    let before = tree(&dir);
    let error = Run::open(&dir, &spec(), Open::Fresh).unwrap_err();
    assert!(matches!(error, Error::Taken { .. }));
    let error = error.to_string();
    assert!(error.contains("iter-1/adapter/notes.txt: "), "{error}");
    assert_eq!(tree(&dir), before);
    fs::remove_file(dir.join("iter-1/adapter/notes.txt")).unwrap();
    Run::open(&dir, &spec(), Open::Fresh).unwrap();
}

/// A crash while clearing must not leave the old run's checkpoint to the new run.
#[test]
fn a_fresh_start_that_was_killed_is_finished_first() {
    let home = scene::home();
    for at in 0..40 {
        let dir = home.path().join(format!("run-{at}"));
        act(Disk::new(), &dir).unwrap();
        let before = tree(&dir);
        let count = std::sync::atomic::AtomicUsize::new(0);
        let disk = Disk::gated(move |_| {
            match count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < at {
                true => Ok(()),
                false => Err(std::io::Error::other("gone")),
            }
        });
        let mut other = spec();
        other.recipe.insert("train.lr".into(), "2e-4".into());
        let _ = Run::open_on(disk, &dir, &other, Open::Fresh);
        match Run::open(&dir, &other, Open::Resume) {
            Ok(run) => {
                assert!(run.manifest().stages.is_empty(), "operation {at}");
                assert!(!run.folder("iter-0").exists(), "operation {at}");
            }
            // Killed before it said so: the old run is there, whole.
            Err(Error::Changed { .. }) => {
                let mut after = tree(&dir);
                after.retain(|path, _| !path.to_string_lossy().ends_with(".new.tmp"));
                assert!(after == before, "operation {at} left part of the old run");
            }
            Err(other) => panic!("operation {at}: {other}"),
        }
    }
}

#[test]
fn a_foreign_folder_is_left_alone() {
    let home = scene::home();
    fs::write(home.path().join("thesis.tex"), "").unwrap();
    for how in [Open::Resume, Open::Fresh] {
        let error = Run::open(home.path(), &spec(), how)
            .unwrap_err()
            .to_string();
        let expect =
            "is not a run folder: it has no manifest.json but thesis.tex; use another name";
        assert!(error.ends_with(expect), "{error}");
    }
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
}

/// Holds a run folder until its input ends. Run by the test below, skipped otherwise.
#[test]
fn child_that_holds_a_lock() {
    let Ok(dir) = std::env::var("RANDORI_CHILD_LOCK") else {
        return;
    };
    let _run = Run::open(Path::new(&dir), &spec(), Open::Resume).unwrap();
    fs::write(Path::new(&dir).join("ready.tmp"), "").unwrap();
    let _ = std::io::stdin().read_line(&mut String::new());
}

#[test]
fn one_process_per_folder() {
    let home = scene::home();
    let dir = home.path().join("demo");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "folder::child_that_holds_a_lock"])
        .env("RANDORI_CHILD_LOCK", &dir)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    for _ in 0..1000 {
        if dir.join("ready.tmp").exists() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let error = Run::open(&dir, &spec(), Open::Resume)
        .unwrap_err()
        .to_string();
    let expect = format!(
        "{} is in use by process {}; one process per run folder",
        dir.display(),
        child.id()
    );
    assert_eq!(error, expect);
    assert!(Lock::held(&dir));

    child.kill().unwrap(); // SIGKILL: the lock goes with the process
    child.wait().unwrap();
    assert!(!Lock::held(&dir));
    Run::open(&dir, &spec(), Open::Resume).unwrap();
}

#[test]
fn two_runs_of_one_process_exclude_each_other_too() {
    let home = scene::home();
    let first = Run::open(home.path(), &spec(), Open::Resume).unwrap();
    assert!(matches!(
        Run::open(home.path(), &spec(), Open::Resume),
        Err(Error::Locked { .. })
    ));
    drop(first);
    Run::open(home.path(), &spec(), Open::Resume).unwrap();
}

/// What a process that is killed now would go on from, asked from outside at every moment.
#[test]
fn what_is_saved_is_said_in_words() {
    let home = scene::home();
    let dir = home.path().join("demo");
    let now = || saved(&dir).unwrap();
    assert_eq!(now(), None, "there is no folder yet");
    let mut run = Run::open(&dir, &spec(), Open::Resume).unwrap();
    assert_eq!(now(), None);
    let made = run.record("iter-0", "generated", |workspace| {
        let (_, mut log) = workspace.items::<u64>("answers")?;
        assert_eq!(now(), None, "an empty list is nothing");
        log.push(&1u64)?;
        log.sync()?;
        assert_eq!(now().as_deref(), Some("iter-0/generated in part"));
        Ok::<_, Error>(JsonLines(vec![1u64]))
    });
    made.unwrap();
    let first = "everything up to iter-0/generated";
    assert_eq!(now().as_deref(), Some(first));
    let policy = Adapter(vec![1]);
    let made = run.record("iter-0", "policy", |workspace| {
        for step in [2, 4] {
            workspace.row(step, &BTreeMap::from([("loss", 0.5)]))?;
            workspace.checkpoint(step, |path| policy.save(path))?;
            let so_far = format!("{first}, and iter-0/policy up to step {step}");
            assert_eq!(now(), Some(so_far));
        }
        Ok::<_, Error>(policy.clone())
    });
    made.unwrap();
    assert_eq!(now().as_deref(), Some("everything up to iter-0/policy"));
}

#[test]
fn damage_is_noticed() {
    let home = scene::home();
    let dir = home.path().join("demo");
    act(Disk::new(), &dir).unwrap();
    let path = dir.join("iter-1/adapter/weights.bin");
    let mut bytes = fs::read(&path).unwrap();
    bytes[3] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = act(Disk::new(), &dir).unwrap_err().to_string();
    assert!(
        error.contains("iter-1/adapter has changed since it was written (its SHA-256 was "),
        "{error}"
    );

    fs::remove_file(dir.join("iter-1/generated.jsonl")).unwrap();
    let error = load::<JsonLines<Answer>>(&dir, "iter-1", "generated")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("generated.jsonl has changed since it was written (it is gone)"),
        "{error}"
    );
    let error = load::<Adapter>(&dir, "iter-7", "policy")
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        format!("iter-7/policy of {} is not finished", dir.display())
    );
}

#[test]
fn a_later_format_is_refused() {
    let home = scene::home();
    drop(Run::open(home.path(), &spec(), Open::Resume).unwrap());
    fs::write(
        home.path().join("manifest.json"),
        "{\"format\": 9, \"poems\": []}",
    )
    .unwrap();
    let error = Run::open(home.path(), &spec(), Open::Resume)
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with("has format 9; this randori reads up to 2: use a newer one"),
        "{error}"
    );
}

#[test]
fn places_stay_inside() {
    let home = scene::home();
    let mut run = Run::open(home.path(), &spec(), Open::Resume).unwrap();
    for bad in ["../x", "/x", "", ".git", "a/../b", "a b", "manifest.json"] {
        let error = run
            .record(bad, "x", |_| Ok::<_, Error>(Json(1)))
            .unwrap_err();
        assert!(
            matches!(&error, Error::BadName(name) if name == bad),
            "{bad}: {error}"
        );
    }
    assert_eq!(
        run.stage("compare/seed-1", "x", |_| Ok::<_, Error>(Json(1)))
            .unwrap(),
        Json(1)
    );
    // The second time it is restored, whatever the closure would do.
    assert_eq!(
        run.stage("compare/seed-1", "x", |_| Ok::<_, Error>(Json(2)))
            .unwrap(),
        Json(1)
    );
    assert_eq!(
        run.record("compare/seed-1", "x", |_| Ok::<_, Error>(Json(3)))
            .unwrap(),
        Json(3)
    );
    assert_eq!(run.manifest().stages.len(), 1);
}

#[test]
fn unmeasured_signals_survive() {
    let home = scene::home();
    let mut run = Run::open(home.path(), &spec(), Open::Resume).unwrap();
    let mut signals = Signals {
        pairs: 12,
        nll_real: 1.25,
        ..Signals::none()
    };
    signals.extra.insert("format".into(), 0.5);
    let back = run
        .record("iter-0", Stage::Eval.name(), |_| Ok::<_, Error>(signals))
        .unwrap();
    assert_eq!(
        (back.pairs, back.nll_real, back.extra["format"]),
        (12, 1.25, 0.5)
    );
    assert!(back.margin.is_nan() && back.exact_match.is_none());
    let text = fs::read_to_string(home.path().join("iter-0/eval.json")).unwrap();
    assert!(
        text.starts_with("{\n  \"pairs\": 12,\n  \"nll_real\": 1.25,\n  \"logps_real\": null,"),
        "{text}"
    );
}
