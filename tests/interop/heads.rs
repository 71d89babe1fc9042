//! Heads, embeddings, whole modules and biases that peft saved (tests/fixtures/heads), written by
//! us and loaded in peft again; new players of every kind in peft, and merged in transformers;
//! settings that must survive both.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc};

use candle_core::Tensor;
use randori_engine::{
    Player,
    weights::{Dtype, LoadOptions, Source},
};
use randori_export::{FolderOptions, InMemory, Merged, RoundTrip, adapter, folder};
use randori_lora::{LoraSpec, peft, splitmix};
use serde_json::{Value, json};

use super::lab::{Lab, Model};
use crate::model;

/// Of logits of order 1 to 10, in f32 on both sides.
const LIMIT: f64 = 1e-4;

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/heads")
}

fn tiny(name: &str) -> Model {
    let hf = fixtures().join(name);
    Model {
        name: format!("heads-{name}"),
        base: model::load(Source::Folder(hf.clone()), &LoadOptions::default()),
        peers: hf.clone(),
        hf,
        tokens: vec![1, 5, 9, 3, 7, 4, 11, 2, 20, 6, 13, 8, 21, 2],
        prompt: vec![1, 5, 9],
    }
}

/// Settings of fresh adapters, by base.
fn fresh() -> Vec<(&'static str, &'static str, Value)> {
    let of = |more: Value| {
        let mut all = json!({"rank": 2, "alpha": 3.0, "targets": ["q_proj", "v_proj"]});
        for (key, value) in more.as_object().unwrap() {
            all[key] = value.clone();
        }
        all
    };
    let head = json!({"targets": ["q_proj", "lm_head"]});
    let dora = json!({"targets": ["q_proj", "lm_head"], "dora": true});
    vec![
        ("untied", "head", of(head.clone())),
        ("untied", "head with DoRA", of(dora.clone())),
        ("tied", "head", of(head)),
        (
            "tied",
            "head by the embedding's name",
            of(json!({"targets": ["embed_tokens"]})),
        ),
        ("tied", "head by a pattern", of(json!({"targets": ".*"}))),
        ("tied", "head with DoRA", of(dora)),
        (
            "tied",
            "saved head",
            of(json!({"modules_to_save": ["lm_head"]})),
        ),
        (
            "tied",
            "saved embedding",
            of(json!({"modules_to_save": ["embed_tokens"]})),
        ),
        (
            "untied",
            "saved norms",
            of(json!({"modules_to_save": ["norm"]})),
        ),
        (
            "untied",
            "globs",
            of(json!({"targets": ["model.layers.1.*proj"]})),
        ),
        (
            "untied",
            "exclude",
            of(json!({"targets": "all-linear", "exclude": ["layers.0.mlp.up_proj", "k_proj"]})),
        ),
        (
            "untied",
            "overlapping patterns",
            of(
                json!({"targets": "all-linear", "rank_pattern": [["up_proj", 1], [r"layers\.1\..*", 3], ["layers.0.mlp.up_proj", 4]],
                "alpha_pattern": [["q_proj", 0.5], [r"layers\.0\..*_proj", 8.0], ["o_proj", 5.0]]}),
            ),
        ),
        (
            "untied",
            "patterns with rsLoRA",
            of(
                json!({"targets": r".*\.(q|up)_proj", "rslora": true, "rank_pattern": [["q_proj", 5]], "alpha_pattern": [["up_proj", 1.5]]}),
            ),
        ),
    ]
}

/// A player as after training.
fn moved(model: &Model, settings: Value) -> Player {
    let spec: LoraSpec = serde_json::from_value(settings).unwrap();
    let fresh = Player::with_lora(model.base.clone(), spec, 1).unwrap();
    let step = |(name, t): (&String, &Tensor)| {
        let noise = splitmix(2, name, t.elem_count()).map(|u| (u - 0.5) as f32);
        let noise = Tensor::from_vec(noise.collect(), t.shape(), t.device()).unwrap();
        (name.clone(), (t + noise).unwrap())
    };
    let params: BTreeMap<_, _> = fresh.params.iter().map(step).collect();
    Player {
        params: Arc::new(params),
        ..fresh
    }
}

pub fn all(lab: &mut Lab) {
    let bases = ["untied", "tied", "biased"].map(|name| (name, tiny(name)));
    let bases: BTreeMap<&str, Model> = bases.into_iter().collect();
    for (base, kind, settings) in fresh() {
        let model = &bases[base];
        let player = moved(model, settings);
        check(lab, model, kind, &player);
    }
    let expected = fs::read(fixtures().join("expected.json")).unwrap();
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    for (kind, of) in expected.as_object().unwrap() {
        let model = &bases[of["base"].as_str().unwrap()];
        if bases.contains_key(kind.as_str()) {
            continue;
        }
        let (spec, params) = peft::load(&fixtures().join(kind)).unwrap();
        let player = Player::with_adapter(model.base.clone(), spec, params).unwrap();
        check(lab, model, kind, &player);
    }
}

/// A player in peft, and merged in transformers.
fn check(lab: &mut Lab, model: &Model, kind: &str, player: &Player) {
    let short = kind.replace(' ', "-");
    let ours = lab.record(model, &short, player, &model.tokens);
    let place = |of: &str| lab.out.join(&model.name).join(of).join(&short);
    let written = place("adapter");
    adapter(player, &written, &model.name).unwrap();
    let merged = place("merged");
    fs::create_dir_all(merged.parent().unwrap()).unwrap();
    let options = FolderOptions {
        dtype: Dtype::F32,
        ..FolderOptions::default()
    };
    let in_memory = InMemory { player, onto: None };
    let mut unheard = |_: &str, _: &Merged, _: &RoundTrip| Ok(());
    folder(
        &in_memory,
        &[],
        &merged,
        &options,
        &mut unheard,
        &mut |_, _| {},
    )
    .unwrap();
    let tied = model.tied();
    lab.case(
        "peft",
        "adapter on heads, modules, biases in peft",
        model,
        LIMIT,
        json!({"base": model.hf, "adapter": written, "ours": ours, "of": kind, "tied": tied}),
    );
    lab.case(
        "folder",
        "the same merged in transformers",
        model,
        LIMIT,
        json!({"base": model.hf, "folder": merged, "ours": ours, "of": kind}),
    );
}
