//! Base weights from Hugging Face folders and from memory: exact values, and every fault as one
//! error that names it.

use std::{fs, path::Path};

use crate::model::*;
use candle_core::DType;
use randori_engine::weights::{Dtype, LoadOptions, Quant, Source, TokenizerSource, open};
use serde_json::json;

fn plain() -> LoadOptions {
    LoadOptions::default()
}

#[test]
fn every_dtype_loads_exactly() {
    let all = tensors();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let dir = tempfile::tempdir().unwrap();
        write_folder(dir.path(), &all, dtype);
        let checkpoint = open(Source::Folder(dir.path().into()), &[]).unwrap();
        assert_eq!(
            checkpoint.tokenizer(),
            TokenizerSource::Folder(dir.path().into())
        );
        assert_eq!(checkpoint.config(), &config());
        assert_eq!(checkpoint.tensors().len(), all.len());
        let base = load(checkpoint, plain()).unwrap();
        for (name, t) in &all {
            assert_eq!(
                weight(&base, name),
                values(&t.to_dtype(dtype).unwrap()),
                "{name} in {dtype:?}"
            );
            assert_eq!(base.weights[name].format(), "f32");
        }
    }
}

#[test]
fn memory_dtypes() {
    let all = tensors();
    for (dtype, stored) in [(Dtype::Bf16, DType::BF16), (Dtype::F16, DType::F16)] {
        let source = Source::Memory {
            config: config(),
            tensors: safetensors_bytes(&all, DType::F32),
        };
        let base = load(
            open(source, &[]).unwrap(),
            LoadOptions { dtype, quant: None },
        )
        .unwrap();
        let q = "model.layers.1.self_attn.q_proj.weight";
        assert_eq!(weight(&base, q), values(&all[q].to_dtype(stored).unwrap()));
        assert_eq!(base.weights[q].format(), stored.as_str());
        assert_eq!(
            base.weights["model.norm.weight"].format(),
            "f32",
            "norms stay f32"
        );
    }
    // a number beyond f16 is an error, not an infinity
    let mut all = all;
    let big = (&all["model.layers.0.mlp.up_proj.weight"] * 1e6).unwrap();
    all.insert("model.layers.0.mlp.up_proj.weight".into(), big);
    let source = Source::Memory {
        config: config(),
        tensors: safetensors_bytes(&all, DType::F32),
    };
    let e = load(
        open(source, &[]).unwrap(),
        LoadOptions {
            dtype: Dtype::F16,
            quant: None,
        },
    )
    .err()
    .unwrap()
    .to_string();
    assert!(
        e.contains("mlp.up_proj.weight") && e.contains("beyond f16"),
        "{e}"
    );
}

#[test]
fn shards() {
    let all = tensors();
    let dir = tempfile::tempdir().unwrap();
    let write = |map: &serde_json::Value| {
        let index = json!({"metadata": {"total_size": 0}, "weight_map": map});
        fs::write(
            dir.path().join("model.safetensors.index.json"),
            index.to_string(),
        )
        .unwrap();
    };
    fs::write(dir.path().join("config.json"), config().to_string()).unwrap();
    let shard = |name: &str| {
        if name.contains("layers.0") {
            "model-00001-of-00002.safetensors"
        } else {
            "model-00002-of-00002.safetensors"
        }
    };
    for file in [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ] {
        let part: Tensors = all
            .iter()
            .filter(|(n, _)| shard(n) == file)
            .map(|(n, t)| (n.clone(), t.clone()))
            .collect();
        fs::write(dir.path().join(file), safetensors_bytes(&part, DType::BF16)).unwrap();
    }
    let map: serde_json::Map<_, _> = all.keys().map(|n| (n.clone(), json!(shard(n)))).collect();
    let mut map = serde_json::Value::Object(map);
    write(&map);
    let open_it = || open(Source::Folder(dir.path().into()), &[]);
    let base = load(open_it().unwrap(), plain()).unwrap();
    for (name, t) in &all {
        assert_eq!(
            weight(&base, name),
            values(&t.to_dtype(DType::BF16).unwrap()),
            "{name}"
        );
    }
    // an index that lies, one that leaves the folder, one whose shard is gone
    let check = |map: &serde_json::Value, words: &str| {
        write(map);
        let e = open_it().err().unwrap().to_string();
        assert!(e.contains(words), "{e}");
    };
    map["model.norm.weight"] = json!("model-00001-of-00002.safetensors");
    check(
        &map,
        "says that model.norm.weight is in model-00001-of-00002.safetensors; it is not",
    );
    map["model.norm.weight"] = json!("../model.safetensors");
    check(&map, "is no plain file name");
    map["model.norm.weight"] = json!("gone.safetensors");
    check(&map, "gone.safetensors");
}

/// Writes a good folder, damages it, and expects an error of `open` or `load` with these words.
fn check(damage: impl Fn(&Path, &mut Tensors), words: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let mut all = tensors();
    damage(dir.path(), &mut all);
    write_folder(dir.path(), &all, DType::F32);
    damage(dir.path(), &mut all);
    let e = open(Source::Folder(dir.path().into()), &[])
        .and_then(|c| load(c, plain()))
        .err()
        .unwrap()
        .to_string();
    assert!(words.iter().all(|w| e.contains(w)), "{e}");
    assert!(!e.contains('\n'), "one sentence: {e}");
}

#[test]
fn faults_are_named() {
    let up = "model.layers.1.mlp.up_proj.weight";
    check(
        |_, t| {
            let narrow = t[up].narrow(1, 0, 32).unwrap();
            t.insert(up.into(), narrow);
        },
        &[
            "model.layers.1.mlp.up_proj.weight: config wants (128, 64), the file has (128, 32)",
            "model.safetensors",
        ],
    );
    check(
        |_, t| drop(t.remove(up)),
        &[up, "config wants (128, 64)", "does not have it"],
    );
    check(
        |_, t| {
            drop(t.insert(
                "model.layers.0.self_attn.q_proj.bias".into(),
                t["model.norm.weight"].clone(),
            ))
        },
        &[
            "the file has model.layers.0.self_attn.q_proj.bias",
            "does not use",
        ],
    );
    let file = |d: &Path| d.join("model.safetensors");
    check(
        |d, _| {
            if file(d).exists() {
                fs::remove_file(file(d)).unwrap()
            }
        },
        &["has neither model.safetensors nor"],
    );
    check(
        |d, _| fs::write(file(d), b"").unwrap(),
        &["no safetensors file", "0 bytes"],
    );
    check(
        |d, _| fs::write(file(d), [0xff; 64]).unwrap(),
        &["header would be"],
    );
    check(
        |d, _| fs::write(d.join("config.json"), b"{").unwrap(),
        &["config.json", "not JSON"],
    );
    check(
        |d, _| fs::write(d.join("config.json"), b"[]").unwrap(),
        &["must be a JSON object"],
    );
    check(
        |d, _| {
            if let Ok(bytes) = fs::read(file(d)) {
                fs::write(file(d), &bytes[..bytes.len() - 100]).unwrap();
            }
        },
        &["leaves the file", "cut short"],
    );
    check(
        |d, _| {
            if let Ok(bytes) = fs::read(file(d)) {
                fs::write(file(d), &bytes[..40]).unwrap();
            }
        },
        &["is cut short: its header needs"],
    );
    // a dtype nobody knows: same length of text, so that all else still fits
    check(
        |d, _| {
            if let Ok(bytes) = fs::read(file(d)) {
                let at = bytes.windows(3).position(|w| w == b"F32").unwrap();
                let mut bytes = bytes;
                bytes[at..at + 3].copy_from_slice(b"F9X");
                fs::write(file(d), bytes).unwrap();
            }
        },
        &["has the dtype F9X"],
    );
    let e = open(Source::Folder("/nowhere/at/all".into()), &[])
        .err()
        .unwrap()
        .to_string();
    assert!(e.contains("there is no folder /nowhere/at/all"), "{e}");
    let source = Source::Memory {
        config: config(),
        tensors: safetensors_bytes(&tensors(), DType::F32),
    };
    let options = LoadOptions {
        quant: Some(Quant::Gguf),
        ..plain()
    };
    let e = load(open(source, &[]).unwrap(), options)
        .err()
        .unwrap()
        .to_string();
    assert!(e.contains("needs a quantised GGUF file"), "{e}");
}

#[test]
fn what_nobody_reads_may_be_there() {
    let mut all = tensors();
    all.insert(
        "model.layers.0.self_attn.rotary_emb.inv_freq".into(),
        all["model.norm.weight"].clone(),
    );
    all.insert(
        "lm_head.weight".into(),
        all["model.embed_tokens.weight"].clone(),
    ); // tied by the config
    let source = Source::Memory {
        config: config(),
        tensors: safetensors_bytes(&all, DType::F32),
    };
    load(open(source, &[]).unwrap(), plain()).unwrap();
}

#[test]
fn quantised_while_loading() {
    let all = tensors();
    let source = || Source::Memory {
        config: config(),
        tensors: safetensors_bytes(&all, DType::F32),
    };
    let nf4 = LoadOptions {
        quant: Some(Quant::Nf4 { double: true }),
        dtype: Dtype::Bf16,
    };
    let mut heard = Vec::new();
    let base = open(source(), &[])
        .unwrap()
        .load_traced(
            std::sync::Arc::new(Named),
            &trace(),
            &nf4,
            &mut |done, total| heard.push((done, total)),
        )
        .unwrap();
    assert_eq!(heard.len(), all.len());
    assert!(
        heard
            .windows(2)
            .all(|w| w[0].0 < w[1].0 && w[0].1 == w[1].1)
    );
    assert_eq!(heard.last().unwrap().0, heard.last().unwrap().1);
    for (name, t) in &all {
        let projection = name.contains("_proj");
        let want = if projection {
            "nf4"
        } else if t.dims().len() == 1 {
            "f32"
        } else {
            "bf16"
        };
        assert_eq!(base.weights[name].format(), want, "{name}");
        let worst = largest_difference(&weight(&base, name), &values(t));
        assert!(
            worst < if projection { 0.1 } else { 0.002 },
            "{name}: {worst}"
        );
    }
}

#[test]
fn random_weights() {
    let make = |seed| {
        load(
            open(
                Source::Random {
                    config: config(),
                    seed,
                },
                &[],
            )
            .unwrap(),
            plain(),
        )
        .unwrap()
    };
    let (one, again, other) = (make(1), make(1), make(2));
    let q = "model.layers.0.self_attn.q_proj.weight";
    assert_eq!(weight(&one, q), weight(&again, q));
    assert_ne!(weight(&one, q), weight(&other, q));
    assert_ne!(
        weight(&one, q),
        weight(&one, "model.layers.1.self_attn.q_proj.weight")
    );
    assert!(weight(&one, "model.norm.weight").iter().all(|&v| v == 1.0));
    let e = weight(&one, "model.embed_tokens.weight");
    let (n, mean) = (
        e.len() as f64,
        e.iter().map(|&v| f64::from(v)).sum::<f64>() / e.len() as f64,
    );
    let deviation = (e
        .iter()
        .map(|&v| (f64::from(v) - mean).powi(2))
        .sum::<f64>()
        / n)
        .sqrt();
    assert!(
        mean.abs() < 1e-3 && (deviation - 0.02).abs() < 5e-4,
        "{mean} {deviation}"
    );
}
