//! Files that stages write beside their artefacts, read again.

use std::fs;

use crate::scene::{self, act, spec};
use randori_store::{Disk, Error, Json, Manifest, Open, Run, beside};

/// What a stage wrote beside its artefact is read again too: its log by TensorBoard's events.
#[test]
fn a_file_beside_an_artefact_that_was_changed_is_noticed() {
    let home = scene::home();
    let dir = home.path().join("demo");
    act(Disk::new(), &dir).unwrap();
    let read = |stage: &str| {
        let manifest = Manifest::read(&dir).unwrap().unwrap();
        beside(&dir, &manifest, "iter-0", stage, "metrics.jsonl")
    };
    let log = dir.join("iter-0/metrics.jsonl");
    assert_eq!(read("policy").unwrap(), Some(log.clone()));
    let whole = fs::read_to_string(&log).unwrap();
    fs::write(&log, whole.replacen("\"loss\":0", "\"loss\":1", 1)).unwrap();
    let opened = || Run::open(&dir, &spec(), Open::Resume).unwrap().board();
    for error in [read("policy").unwrap_err(), opened().unwrap_err()] {
        let why = error.to_string();
        let says = format!(
            "{} has changed since it was written (its SHA-256",
            log.display()
        );
        assert!(why.starts_with(&says), "{why}");
    }
    fs::remove_file(&log).unwrap();
    let gone = opened().unwrap_err().to_string();
    assert!(gone.contains("(it is gone)"), "{gone}");

    // a run that was begun before such files were hashed is read as it is
    fs::write(&log, whole.replacen("\"loss\":0", "\"loss\":1", 1)).unwrap();
    let path = dir.join("manifest.json");
    let mut old: serde_json::Value = randori_store::read_json(&path).unwrap();
    for stage in old["stages"].as_array_mut().unwrap() {
        stage.as_object_mut().unwrap().remove("beside");
    }
    fs::write(&path, old.to_string()).unwrap();
    assert_eq!(read("policy").unwrap(), Some(log));
    opened().unwrap();
}

/// Of two stages that write a file of one name into one place, the last has it.
#[test]
fn a_file_that_another_stage_wrote_since_is_not_the_first_stage_s() {
    let home = scene::home();
    let dir = home.path().join("demo");
    let mut run = Run::open(&dir, &spec(), Open::Resume).unwrap();
    for (stage, text) in [("one", "1"), ("two", "2")] {
        let made = run.stage("tried", stage, |desk| {
            desk.write("rows", |path| fs::write(path, text))?;
            Ok::<_, Error>(Json(text.to_owned()))
        });
        assert_eq!(made.unwrap(), Json(text.to_owned()));
    }
    let read = |stage| beside(&dir, run.manifest(), "tried", stage, "rows");
    assert_eq!(read("one").unwrap(), None);
    assert_eq!(read("two").unwrap(), Some(dir.join("tried/rows")));
    fs::write(dir.join("tried/rows"), "3").unwrap();
    for stage in ["one", "two"] {
        assert!(matches!(read(stage), Err(Error::Damaged { .. })));
    }
}
