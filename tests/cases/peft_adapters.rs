//! Adapters as peft 0.21.2 saves them, with default settings and with every setting that touches
//! more than projections: each computes what it computes in peft, or is refused by name. Files and
//! expected values: tests/interop/make_heads.py (peft 0.21.2, transformers 5.24.0).

use std::{collections::BTreeMap, fs, path::Path};

use candle_core::{Device, Tensor};
use randori_engine::{Player, weights::Source};
use randori_lora::peft;
use serde_json::{Value, json};

use super::players::{apart, base, fixture, logps};
use super::reuse::adapter;
use crate::program::World;

fn expected() -> Value {
    serde_json::from_slice(&fs::read(fixture("expected.json")).unwrap()).unwrap()
}

fn pair(of: &Value) -> [f64; 2] {
    [0, 1].map(|i| of["logps"][i].as_f64().unwrap())
}

/// A copy of a fixture in a folder of its own, for changes.
fn copy(of: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in fs::read_dir(fixture(of)).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
    }
    dir
}

fn set(dir: &Path, key: &str, value: Value) {
    let path = dir.join(peft::CONFIG);
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config[key] = value;
    fs::write(path, config.to_string()).unwrap();
}

fn loaded(of: &str, dir: &Path) -> randori_engine::Result<Player> {
    let (spec, params) = peft::load(dir).unwrap();
    Player::with_adapter(base(Source::Folder(fixture(of))), spec, params)
}

#[test]
fn every_adapter_that_peft_saves_plays_as_in_peft() {
    let expected = expected();
    let mut bases = BTreeMap::new();
    let mut off = Vec::new();
    for (kind, of) in expected.as_object().unwrap() {
        let name = of["base"].as_str().unwrap();
        let base = bases
            .entry(name)
            .or_insert_with(|| base(Source::Folder(fixture(name))));
        let player = if kind == name {
            Player::bare(base.clone())
        } else {
            let (spec, params) = peft::load(&fixture(kind)).unwrap();
            Player::with_adapter(base.clone(), spec, params).unwrap()
        };
        let (ours, theirs) = (logps(&player), pair(of));
        if apart(ours, theirs) > 1e-4 {
            off.push(format!("{kind}: {ours:?}, in peft {theirs:?}"));
        }
        // and again, from what we write of it
        let Some(spec) = &player.lora else { continue };
        let dir = tempfile::tempdir().unwrap();
        peft::save(dir.path(), spec, &player.params, "b").unwrap();
        let (spec, params) = peft::load(dir.path()).unwrap();
        let again = Player::with_adapter(base.clone(), spec, params).unwrap();
        assert_eq!(logps(&again), ours, "{kind}");
    }
    assert!(off.is_empty(), "{}", off.join("\n"));
}

/// Copies of the base's own weights, which peft saves beside an adapter, are neither trained nor
/// refused.
#[test]
fn copies_of_the_bases_weights_are_dropped() {
    for (kind, of) in [
        ("untied-head", "untied"),
        ("tied-head", "tied"),
        ("tied-copies", "tied"),
    ] {
        let player = loaded(of, &fixture(kind)).unwrap();
        assert!(player.params.keys().all(|n| peft::is_update(n)), "{kind}");
        assert_eq!(player.lora.unwrap().replaced, Vec::<String>::new());
    }
    let other = loaded("untied", &fixture("untied-copies-other")).unwrap();
    assert_eq!(
        other.lora.unwrap().replaced,
        ["lm_head.weight", "model.embed_tokens.weight"]
    );
}

#[test]
fn starts_inside_the_bases_weights_are_refused_with_the_way_out() {
    for start in ["pissa", "olora"] {
        let e = peft::load(&fixture(start)).unwrap_err().to_string();
        let words = [
            start,
            peft::CONFIG,
            "path_initial_model_for_weight_conversion",
        ];
        assert!(words.iter().all(|w| e.contains(w)), "{e}");
    }
    for start in [
        "pissa_niter_16",
        "corda",
        "lora_ga",
        "loftq",
        "PiSSA",
        "none",
    ] {
        let dir = copy("gaussian");
        set(dir.path(), "init_lora_weights", json!(start));
        let e = peft::load(dir.path()).unwrap_err().to_string();
        assert!(e.contains("init_lora_weights") && e.contains(start), "{e}");
    }
}

#[test]
fn a_pickle_is_refused_with_the_reason() {
    let dir = copy("gaussian");
    let bin = dir.path().join("adapter_model.bin");
    fs::rename(dir.path().join(peft::MODEL), &bin).unwrap();
    let e = peft::load(dir.path()).unwrap_err().to_string();
    assert!(
        e.contains("adapter_model.bin") && e.contains("runs code"),
        "{e}"
    );
    // beside the other file it is nobody's
    let dir = copy("gaussian");
    fs::write(dir.path().join("adapter_model.bin"), b"x").unwrap();
    peft::load(dir.path()).unwrap();
}

/// Two adapters that both carry copies of an untrained embedding stack like others.
#[test]
fn adapters_with_copies_stack() {
    let base = base(Source::Folder(fixture("untied")));
    let parts = ["untied-copies", "untied-head-alone"];
    let parts = parts.map(|kind| peft::load(&fixture(kind)).unwrap());
    let sum = |parts: Vec<_>| {
        let (spec, params) = randori_lora::stack(parts).unwrap();
        logps(&Player::with_adapter(base.clone(), spec, params).unwrap())
    };
    let [one, two] = parts.clone();
    let ends = sum(vec![one.clone(), two.clone()]);
    assert!(apart(ends, sum(vec![two, one])) < 1e-4);
    let same = vec![parts[0].clone(), parts[0].clone()];
    randori_lora::stack(same).unwrap();
    let other = ["untied-copies", "untied-copies-other"];
    let other = other
        .map(|kind| peft::load(&fixture(kind)).unwrap())
        .to_vec();
    let e = randori_lora::stack(other).unwrap_err().to_string();
    assert!(e.contains("only one can"), "{e}");
}

/// An embedding of another vocabulary belongs to another base.
#[test]
fn copies_of_another_shape_are_refused() {
    let dir = copy("untied-copies");
    let path = dir.path().join(peft::MODEL);
    let file = candle_core::safetensors::load(&path, &candle_core::Device::Cpu).unwrap();
    let cut = |(name, t): (String, candle_core::Tensor)| {
        let t = if name.contains("embed") {
            t.narrow(0, 0, 20).unwrap()
        } else {
            t
        };
        (name, t.contiguous().unwrap())
    };
    let file: std::collections::HashMap<_, _> = file.into_iter().map(cut).collect();
    candle_core::safetensors::save(&file, &path).unwrap();
    let e = loaded("untied", dir.path())
        .map(drop)
        .unwrap_err()
        .to_string();
    assert!(
        e.contains("model.embed_tokens.weight") && e.contains("[20, 16]"),
        "{e}"
    );
}

/// NaN in an adapter is refused by the tensor's name, in every export.
#[test]
fn what_is_no_number_is_refused_by_its_tensor() {
    let w = World::new();
    adapter(&w, "a", "1e-3");
    let path = w.dir().join("a").join(peft::MODEL);
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let name = "model.layers.1.mlp.up_proj.lora_B";
    let stored = format!("base_model.model.{name}.weight");
    let shape = tensors[&stored].dims().to_vec();
    for (bad, shown) in [(f32::NAN, "NaN"), (f32::NEG_INFINITY, "-inf")] {
        let mut values = vec![0.5; shape.iter().product()];
        values[3] = bad;
        let tensor = Tensor::from_vec(values, shape.clone(), &Device::Cpu).unwrap();
        tensors.insert(stored.clone(), tensor);
        candle_core::safetensors::save(&tensors, &path).unwrap();
        for to in ["hf", "gguf", "gguf-lora", "bnb", "peft"] {
            let export = ["export", "r.toml", "-q", "--adapter", "a", "--to", to];
            let why = format!("{name} holds {shown} at index 3");
            w.refused(&[&export[..], &["--out", "x"]].concat(), &why);
            assert!(!w.dir().join("x").exists(), "{to}");
        }
    }
}
