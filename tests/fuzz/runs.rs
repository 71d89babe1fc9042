//! Fuzzing of a run folder's files: manifest, answers and pairs, adapters, a trainer's checkpoint.

use std::path::Path;

use randori_engine::{
    Player,
    train::{Optimizer, TrainSettings, Trainer},
    weights::{LoadOptions, Source},
};
use randori_lora::{LoraSpec, Targets};
use randori_store::{Artefact, Json, JsonLines, Manifest, Open, Run, RunSpec};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{CASES, mutate::Kind, opened::load, scratch, storm::storm};

/// As crates/randori writes pairs.jsonl.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct PairRow {
    place: String,
    iteration: usize,
    prompt: Vec<u32>,
    real: Vec<u32>,
    generated: Vec<u32>,
    ref_real: f64,
    ref_generated: f64,
}

fn write(dir: &Path, name: &str, bytes: &[u8]) {
    std::fs::write(dir.join(name), bytes).unwrap();
}

#[test]
fn manifests() {
    let dir = scratch();
    let run = dir.path().join("run");
    let spec = RunSpec {
        recipe_text: "name = \"x\"\n".into(),
        recipe: [("train.lr".to_string(), "1e-4".to_string())].into(),
        ..RunSpec::default()
    };
    let mut opened = Run::open(&run, &spec, Open::Resume).unwrap();
    let made: Result<_, randori_store::Error> =
        opened.record("iter-0", "numbers", |_| Ok(Json(json!([1, 2]))));
    made.unwrap();
    drop(opened);
    let whole = std::fs::read(run.join("manifest.json")).unwrap();
    let mut whole: Value = serde_json::from_slice(&whole).unwrap();
    whole["stages"][0]["seconds"] = json!(0.5); // cases are always the same
    let whole = format!("{whole:#}").into_bytes();
    storm(
        "manifest.json",
        Kind::Text,
        &[whole],
        CASES,
        &mut |damaged| {
            write(&run, "manifest.json", damaged);
            Manifest::read(&run).is_ok_and(|m| m.is_some())
                && randori_store::load::<Json<Value>>(&run, "iter-0", "numbers").is_ok()
        },
    );
}

#[test]
fn pairs_and_rows() {
    let dir = scratch();
    let row = |i: u32| PairRow {
        place: format!("data.jsonl:{i}"),
        iteration: 0,
        prompt: vec![1, 2, i],
        real: vec![3; 4],
        generated: vec![5],
        ref_real: -1.25,
        ref_generated: -3e-5,
    };
    let path = dir.path().join("pairs.jsonl");
    JsonLines(vec![row(1), row(2), row(3)]).save(&path).unwrap();
    let whole = std::fs::read(&path).unwrap();
    storm("pairs.jsonl", Kind::Text, &[whole], CASES, &mut |damaged| {
        std::fs::write(&path, damaged).unwrap();
        JsonLines::<PairRow>::load(&path).is_ok()
    });
}

/// Full training keeps every weight in one file, which the program reads with candle.
#[test]
fn trained_weights() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/goldens/llama");
    let whole = std::fs::read(model.join("model.safetensors")).unwrap();
    let dir = scratch();
    let path = dir.path().join("model.safetensors");
    storm(
        "trained weights",
        Kind::Safetensors,
        &[whole],
        CASES,
        &mut |damaged| {
            std::fs::write(&path, damaged).unwrap();
            candle_core::safetensors::load(&path, &candle_core::Device::Cpu).is_ok()
        },
    );
}

#[test]
fn trainer_checkpoints() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/goldens/llama");
    let base = load(Source::Folder(model), &LoadOptions::default());
    let spec = LoraSpec {
        rank: 2,
        alpha: 4.0,
        targets: Targets::AllLinear,
        ..LoraSpec::default()
    };
    let player = Player::with_lora(base, spec, 1).unwrap();
    let settings = TrainSettings {
        optimizer: Optimizer::rmsprop(),
        ..TrainSettings::default()
    };
    let dir = scratch();
    let trainer = Trainer::new(player.clone(), settings.clone()).unwrap();
    trainer.save(dir.path()).unwrap();
    let tensors = "state-00000000.safetensors";
    let [json, state] =
        ["trainer.json", tensors].map(|n| std::fs::read(dir.path().join(n)).unwrap());
    let loads = || Trainer::load(dir.path(), player.clone(), settings.clone()).is_ok();
    storm(
        "trainer.json",
        Kind::Text,
        std::slice::from_ref(&json),
        CASES / 2,
        &mut |damaged| {
            write(dir.path(), "trainer.json", damaged);
            loads()
        },
    );
    write(dir.path(), "trainer.json", &json);
    storm(
        "trainer's tensors",
        Kind::Safetensors,
        &[state],
        CASES / 2,
        &mut |damaged| {
            write(dir.path(), tensors, damaged);
            loads()
        },
    );
}
