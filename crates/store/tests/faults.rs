//! Fault injection at every single file operation of a game: an error, a kill, a full disk. Each
//! time the folder must be sound, and the resumed game must end with the same bytes as an
//! undisturbed one.

use std::{
    io,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering::SeqCst},
    },
};

use crate::scene::{self, Adapter, Answer, Pair, act, tree};
use randori_core::{Journal, Stage};
use randori_store::{Artefact, Disk, Error, JsonLines, Manifest, Op, Run, iteration_folder, load};

/// A disk that dies at operation `at` and stays dead; and the number of operations so far.
fn dying(at: usize) -> (Disk, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let seen = count.clone();
    let disk = Disk::gated(move |_| match seen.fetch_add(1, SeqCst) < at {
        true => Ok(()),
        false => Err(io::Error::other("the machine is gone")),
    });
    (disk, count)
}

/// Asserts the invariants of a run folder at any moment.
fn check_sound(dir: &Path, context: &str) {
    let Some(manifest) = Manifest::read(dir).unwrap_or_else(|e| panic!("{context}: {e}")) else {
        return;
    };
    for done in &manifest.stages {
        let loaded = match done.stage.as_str() {
            "generated" => load::<JsonLines<Answer>>(dir, &done.folder, &done.stage).map(drop),
            "pairs" => load::<JsonLines<Pair>>(dir, &done.folder, &done.stage).map(drop),
            "policy" => load::<Adapter>(dir, &done.folder, &done.stage).map(drop),
            _ => load::<randori_core::Signals>(dir, &done.folder, &done.stage).map(drop),
        };
        loaded.unwrap_or_else(|e| panic!("{context}: {e}"));
    }
    // Whatever stands under its own name is whole, finished or not.
    for folder in manifest
        .folders
        .iter()
        .map(|folder| dir.join(folder))
        .filter(|folder| folder.exists())
    {
        let whole = [
            (
                folder.join("generated.jsonl"),
                JsonLines::<Answer>::load(&folder.join("generated.jsonl")).is_ok(),
            ),
            (
                folder.join("pairs.jsonl"),
                JsonLines::<Pair>::load(&folder.join("pairs.jsonl")).is_ok(),
            ),
            (
                folder.join("adapter"),
                Adapter::load(&folder.join("adapter")).is_ok_and(|a| a.0.len() == 3),
            ),
        ];
        for (path, whole) in whole.iter().filter(|(path, _)| path.exists()) {
            assert!(whole, "{context}: {} is half-written", path.display());
        }
    }
}

#[test]
fn a_disk_that_dies_at_any_operation_leaves_a_folder_that_resumes_to_the_same_bytes() {
    let home = scene::home();
    let undisturbed = home.path().join("undisturbed");
    let (disk, operations) = dying(usize::MAX);
    act(disk, &undisturbed).unwrap();
    let expect = tree(&undisturbed);
    let operations = operations.load(SeqCst);
    assert!(operations > 100, "{operations}");
    for at in 0..operations {
        let dir = home.path().join(format!("run-{at}"));
        act(dying(at).0, &dir)
            .map(drop)
            .expect_err("the machine was gone");
        check_sound(&dir, &format!("killed at operation {at}"));
        act(Disk::new(), &dir).unwrap_or_else(|e| panic!("resumed after operation {at}: {e}"));
        assert_eq!(tree(&dir), expect, "killed at operation {at}");
    }
}

#[test]
fn killed_every_few_operations_it_still_ends_with_the_same_bytes() {
    let home = scene::home();
    act(Disk::new(), &home.path().join("undisturbed")).unwrap();
    let dir = home.path().join("run");
    let mut kills = 0;
    while act(dying(23).0, &dir).is_err() {
        kills += 1;
        check_sound(&dir, &format!("kill {kills}"));
        assert!(kills < 100, "no progress");
    }
    assert!(kills > 5, "{kills}");
    assert_eq!(tree(&dir), tree(&home.path().join("undisturbed")));
}

/// Defect 9 of the official code: a re-run appends its rows again.
#[test]
fn no_row_of_metrics_appears_twice() {
    let home = scene::home();
    let dir = home.path().join("run");
    let killed = (0..100)
        .take_while(|_| act(dying(29).0, &dir).is_err())
        .count();
    assert!((5..100).contains(&killed), "{killed}");
    for t in 0..2 {
        let text =
            std::fs::read_to_string(dir.join(iteration_folder(t)).join("metrics.jsonl")).unwrap();
        let steps: Vec<&str> = text
            .lines()
            .map(|line| line.split([':', ',']).nth(1).unwrap())
            .collect();
        assert_eq!(steps, ["1", "2", "3", "4", "5"]);
    }
}

/// Order of syncs and renames, which only a power cut could show: bytes are on disk before a file
/// gets its name, and the name before anything else happens.
#[test]
fn renames_stand_between_two_syncs() {
    let home = scene::home();
    let log = Arc::new(Mutex::new(Vec::new()));
    let seen = log.clone();
    let disk = Disk::gated(move |op| {
        seen.lock().unwrap().push(match op {
            Op::Sync(path) => ("sync", path.to_owned(), PathBuf::new()),
            Op::Rename(from, to) => ("rename", from.to_owned(), to.to_owned()),
            Op::Fill(path) | Op::Folder(path) | Op::Remove(path) => {
                ("other", path.to_owned(), PathBuf::new())
            }
            Op::Append(path, _) | Op::Cut(path, _) => ("append", path.to_owned(), PathBuf::new()),
        });
        Ok(())
    });
    act(disk, &home.path().join("run")).unwrap();
    let log = log.lock().unwrap();
    let mut renames = 0;
    for (at, (what, from, to)) in log.iter().enumerate() {
        if *what == "rename" {
            renames += 1;
            assert_eq!(log[at - 1], ("sync", from.clone(), PathBuf::new()));
            assert_eq!(
                log[at + 1],
                ("sync", to.parent().unwrap().to_owned(), PathBuf::new())
            );
        }
    }
    assert!(renames > 20, "{renames}");
    // A checkpoint's rows are on disk before the checkpoint is begun.
    let begun = log
        .iter()
        .position(|(_, path, _)| path.ends_with(".step-2.new.tmp"))
        .unwrap();
    let synced = log
        .iter()
        .position(|(what, path, _)| *what == "sync" && path.ends_with("metrics.jsonl"))
        .unwrap();
    assert!(synced < begun);
}

/// A child process that aborts at an operation; run by the test below, skipped otherwise.
#[test]
fn child_that_aborts() {
    let (Ok(dir), Ok(at)) = (
        std::env::var("RANDORI_CHILD_DIR"),
        std::env::var("RANDORI_CHILD_ABORT"),
    ) else {
        return;
    };
    let at: usize = at.parse().unwrap();
    let count = AtomicUsize::new(0);
    let disk = Disk::gated(move |_| match count.fetch_add(1, SeqCst) < at {
        true => Ok(()),
        false => std::process::abort(),
    });
    act(disk, Path::new(&dir)).unwrap();
}

#[test]
fn a_killed_process_leaves_no_lock_and_resumes() {
    let home = scene::home();
    act(Disk::new(), &home.path().join("undisturbed")).unwrap();
    let expect = tree(&home.path().join("undisturbed"));
    for at in [1, 7, 40, 71, 113, 160] {
        let dir = home.path().join(format!("run-{at}"));
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "faults::child_that_aborts"])
            .env("RANDORI_CHILD_DIR", &dir)
            .env("RANDORI_CHILD_ABORT", at.to_string())
            .output()
            .unwrap();
        assert!(!child.status.success(), "aborting at {at}");
        check_sound(&dir, &format!("aborted at operation {at}"));
        act(Disk::new(), &dir).unwrap();
        assert_eq!(tree(&dir), expect, "aborted at operation {at}");
    }
}

/// A disk with room for these many bytes of appended rows and, for want of a real one, of filled
/// files.
fn full_after(operations: usize) -> (Disk, Arc<AtomicBool>) {
    let count = AtomicUsize::new(0);
    let hit = Arc::new(AtomicBool::new(false));
    let seen = hit.clone();
    let disk = Disk::gated(move |op| match op {
        // Only what needs room can fail; renaming and removing go on.
        Op::Fill(_) | Op::Append(..) | Op::Folder(_)
            if count.fetch_add(1, SeqCst) >= operations =>
        {
            seen.store(true, SeqCst);
            Err(io::ErrorKind::StorageFull.into())
        }
        _ => Ok(()),
    });
    (disk, hit)
}

#[test]
fn a_full_disk_is_one_clear_error_and_no_loss() {
    let home = scene::home();
    act(Disk::new(), &home.path().join("undisturbed")).unwrap();
    let expect = tree(&home.path().join("undisturbed"));
    let mut messages = Vec::new();
    for room in 0.. {
        let dir = home.path().join(format!("run-{room}"));
        let (disk, hit) = full_after(room);
        let Err(error) = act(disk, &dir) else { break };
        assert!(hit.load(SeqCst));
        let Error::Full { path, kept } = &error else {
            panic!("{error}")
        };
        assert!(path.starts_with(&dir), "{}", path.display());
        messages.push(format!(
            "{} | {kept}",
            path.strip_prefix(&dir).unwrap().display()
        ));
        if dir.exists() {
            check_sound(&dir, &format!("full after {room}"));
            let left: Vec<_> = tree(&dir)
                .into_keys()
                .filter(|p| p.to_string_lossy().contains(".tmp"))
                .collect();
            assert!(left.is_empty(), "{left:?} still takes room");
        }
        act(Disk::new(), &dir).unwrap();
        assert_eq!(tree(&dir), expect, "full after {room}");
    }
    let one = |message: &str| {
        assert!(
            messages.iter().any(|m| m == message),
            "{message} not in {messages:#?}"
        )
    };
    one("manifest.json | what was there before");
    one("iter-0/pairs.jsonl | everything up to iter-0/generated");
    one("iter-0/metrics.jsonl | everything up to iter-0/pairs, and iter-0/policy up to step 2");
    one("iter-1/adapter | everything up to iter-1/pairs, and iter-1/policy up to step 4");
    one("summary.json | everything up to iter-1/eval");
}

/// An artefact's own library reports a full disk in its own words, somewhere in its chain of
/// causes.
#[test]
fn a_full_disk_is_recognised_behind_other_errors() {
    #[derive(Debug, thiserror::Error)]
    #[error("serialising tensor 3")]
    struct Library(#[source] io::Error);

    struct Big;
    impl Artefact for Big {
        fn file_name(_: &str) -> String {
            "big".into()
        }
        fn save(&self, path: &Path) -> Result<(), randori_store::BoxError> {
            std::fs::write(path, "half of i")?;
            Err(Library(io::Error::from(io::ErrorKind::StorageFull)).into())
        }
        fn load(_: &Path) -> Result<Self, randori_store::BoxError> {
            Ok(Big)
        }
    }

    let home = scene::home();
    let mut run = Run::open(home.path(), &scene::spec(), Default::default()).unwrap();
    let error = run
        .record("sft", "policy", |_| Ok::<_, Error>(Big))
        .map(drop)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("the disk is full: could not write"),
        "{error}"
    );
    assert!(!run.done("sft", "policy"));
    let left: Vec<_> = std::fs::read_dir(home.path().join("sft"))
        .unwrap()
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// The real thing, where a small file system can be mounted (Linux, root).
#[test]
fn a_really_full_disk() {
    let home = scene::home();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k", "randori-test"])
        .arg(home.path())
        .output();
    if !mounted.is_ok_and(|out| out.status.success()) {
        eprintln!("SKIPPED a_really_full_disk: cannot mount a tmpfs here");
        return;
    }
    let tried = std::panic::catch_unwind(|| {
        let dir = home.path().join("run");
        let filler = home.path().join("filler");
        std::fs::write(&filler, vec![0u8; 1 << 15]).unwrap(); // half of the room
        let error = act(Disk::new(), &dir).unwrap_err();
        assert!(matches!(&error, Error::Full { .. }), "{error}");
        check_sound(&dir, "really full");
        std::fs::remove_file(&filler).unwrap();
        // Still too small for the whole game perhaps, but it must get further, and never worse than
        // a clear error.
        match act(Disk::new(), &dir) {
            Ok(_) | Err(Error::Full { .. }) => {}
            Err(other) => panic!("{other}"),
        }
        check_sound(&dir, "after making room");
    });
    let unmounted = Command::new("umount").arg(home.path()).status().unwrap();
    assert!(unmounted.success());
    tried.unwrap();
}

/// A stage that fails by itself is not finished, and the ones before it are.
#[test]
fn a_failing_stage_keeps_what_was_before() {
    let home = scene::home();
    let dir = home.path().join("run");
    let room = AtomicI64::new(60);
    let disk = Disk::gated(move |op| match op {
        Op::Append(path, _)
            if path.ends_with("metrics.jsonl") && room.fetch_sub(20, SeqCst) < 0 =>
        {
            Err(io::Error::other("NaN loss at step 3"))
        }
        _ => Ok(()),
    });
    assert!(act(disk, &dir).is_err());
    let run = Run::open(&dir, &scene::spec(), Default::default()).unwrap();
    assert!(run.finished(0, Stage::Pairs) && !run.finished(0, Stage::Policy));
    assert!(run.folder("iter-0/checkpoint/policy/step-2").is_dir());
}
