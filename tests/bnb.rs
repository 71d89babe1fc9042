//! bitsandbytes checkpoints: those saved by transformers load with the same logits, and ours hold
//! the same tensors. The files in tests/fixtures/bnb are described in tests/interop/make_bnb.py.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    model::{agree, by_prefix, distance, load, rows},
    opened::families,
};
use candle_core::{DType, Device, Tensor, safetensors::load as tensors};
use randori_engine::{
    Base, Player, Weight,
    trace::trace,
    weights::{Dtype, LoadOptions, Quant, Source, describe, open},
};
use randori_export::{BnbOptions, InMemory, bnb};
use serde_json::Value;

const KEPT: LoadOptions = LoadOptions {
    quant: Some(Quant::Nf4 { double: true }),
    dtype: Dtype::F32,
};

fn folder(kind: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/bnb")
        .join(kind)
}

fn source(dir: &Path) -> Source {
    Source::Folder(dir.to_owned())
}

fn logits(base: Arc<Base>) -> Vec<Vec<f64>> {
    let expected = tensors(folder("expected.safetensors"), &Device::Cpu).unwrap();
    let ids: Vec<u32> = expected["tokens"]
        .to_dtype(DType::U32)
        .unwrap()
        .to_vec1()
        .unwrap();
    by_prefix(&Player::bare(base), &ids)
}

fn want(kind: &str) -> Vec<Vec<f64>> {
    rows(&tensors(folder("expected.safetensors"), &Device::Cpu).unwrap()[kind])
}

#[test]
fn saved_checkpoints_are_read_with_transformers_logits() {
    for kind in ["dense", "double", "plain", "fp4"] {
        let dir = folder(kind);
        let dense = load(source(&dir), &LoadOptions::default());
        agree(kind, &logits(dense.clone()), &want(kind));
        let kept = load(source(&dir), &KEPT);
        if kind != "dense" {
            agree(&format!("{kind}, kept"), &logits(kept.clone()), &want(kind));
            let off = distance(&want(kind), &want("dense"));
            assert!(off > 0.02, "quantising changed nothing: {off}");
        }
        for (name, weight) in &dense.weights {
            assert_eq!(weight.format(), "f32", "{name}");
            let projection = name.contains("_proj");
            let skipped = kind == "double" && name.contains("o_proj");
            let format = match kind {
                _ if !projection || skipped => "f32",
                "fp4" => "fp4",
                _ => "nf4",
            };
            assert_eq!(kept.weights[name].format(), format, "{kind} {name}");
        }
    }
}

#[test]
fn one_tensor_of_the_true_shape_is_shown() {
    let shown = open(source(&folder("double")), &[]).unwrap().tensors();
    let dense = open(source(&folder("dense")), &[]).unwrap().tensors();
    assert_eq!(shown, dense);
}

fn refused(dir: &Path) -> String {
    open(source(dir), &[]).err().unwrap().to_string()
}

/// What `fit` counts of a configuration alone, before a download, is what the folder then takes.
#[test]
fn the_memory_of_a_configuration_alone_is_foretold() {
    for kind in ["dense", "double", "plain", "fp4"] {
        let bare = tempfile::tempdir().unwrap();
        let config = "config.json";
        std::fs::copy(folder(kind).join(config), bare.path().join(config)).unwrap();
        for options in [LoadOptions::default(), KEPT] {
            let base = load(source(&folder(kind)), &options);
            let described = describe(source(bare.path()), families()).unwrap();
            let traced = trace(&*base.arch).unwrap();
            let held = described.held(&traced, &options, &*base.arch).unwrap();
            assert_eq!(held.len(), base.weights.len());
            for weight in held {
                let real = base.weights[&weight.name].bytes() as u64;
                assert_eq!(weight.bytes, real, "{kind} {} {options:?}", weight.name);
            }
        }
    }
}

/// A copy of a fixture with another configuration.
fn changed(kind: &str, change: impl Fn(&mut Value)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let copy = |name: &str| std::fs::copy(folder(kind).join(name), dir.path().join(name)).unwrap();
    copy("model.safetensors");
    let text = std::fs::read(folder(kind).join("config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&text).unwrap();
    change(&mut config);
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    dir
}

#[test]
fn other_quantisations_and_contradictions_are_refused() {
    let eight = refused(&folder("int8"));
    assert!(
        eight.contains("8 bits") && eight.contains("4-bit checkpoint"),
        "{eight}"
    );
    let cases: [(&str, fn(&mut Value), &str); 6] = [
        ("plain", |q| q["quant_method"] = "gptq".into(), "gptq"),
        (
            "plain",
            |q| q["bnb_4bit_quant_type"] = "fp4".into(),
            "says fp4",
        ),
        (
            "plain",
            |q| q["bnb_4bit_use_double_quant"] = true.into(),
            "plain",
        ),
        (
            "double",
            |q| q["bnb_4bit_use_double_quant"] = false.into(),
            "quantised",
        ),
        (
            "double",
            |q| q["llm_int8_skip_modules"] = vec!["mlp.up_proj"].into(),
            "skipped",
        ),
        ("dense", |q| q["load_in_4bit"] = true.into(), "no tensor"),
    ];
    for (kind, change, part) in cases {
        let dir = changed(kind, |config| change(&mut config["quantization_config"]));
        let said = refused(dir.path());
        assert!(said.contains(part), "{kind}: {said}");
    }
    // the file describes itself
    let bare = changed("plain", |config| {
        config["quantization_config"] = Value::Null
    });
    agree(
        "no config",
        &logits(load(source(bare.path()), &KEPT)),
        &want("plain"),
    );
}

/// All parts but the JSON, which is compared as JSON.
fn same_tensors(got: &Path, want: &Path) {
    let read = |dir: &Path| -> HashMap<String, Tensor> {
        let files = std::fs::read_dir(dir).unwrap().map(|f| f.unwrap().path());
        files
            .filter(|f| f.extension().is_some_and(|e| e == "safetensors"))
            .flat_map(|f| tensors(f, &Device::Cpu).unwrap())
            .collect()
    };
    let (got, want) = (read(got), read(want));
    let names = |m: &HashMap<String, Tensor>| {
        let mut names: Vec<String> = m.keys().cloned().collect();
        names.sort();
        names
    };
    assert_eq!(names(&got), names(&want));
    for (name, want) in &want {
        let got = &got[name];
        assert_eq!(got.dtype(), want.dtype(), "{name}");
        if name.contains("quant_state") {
            let json = |t: &Tensor| -> Value {
                serde_json::from_slice(&t.to_vec1::<u8>().unwrap()).unwrap()
            };
            assert_eq!(json(got), json(want), "{name}");
            continue;
        }
        assert_eq!(got.dims(), want.dims(), "{name}");
        let bytes = |t: &Tensor| -> Vec<u64> {
            let t = t.flatten_all().unwrap();
            match t.dtype() {
                DType::U8 => t
                    .to_vec1::<u8>()
                    .unwrap()
                    .into_iter()
                    .map(u64::from)
                    .collect(),
                _ => t
                    .to_vec1::<f32>()
                    .unwrap()
                    .iter()
                    .map(|v| u64::from(v.to_bits()))
                    .collect(),
            }
        };
        assert_eq!(bytes(got), bytes(want), "{name}");
    }
}

/// The dense model, quantised by us, against the same quantised by bitsandbytes; and our own file
/// read back.
#[test]
fn written_checkpoints_hold_bitsandbytes_tensors() {
    let base = load(source(&folder("dense")), &LoadOptions::default());
    let player = Player::bare(base.clone());
    let in_memory = InMemory {
        player: &player,
        onto: None,
    };
    for (double, shard_bytes) in [(false, u64::MAX), (true, 9_000)] {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let options = BnbOptions {
            double,
            dtype: Dtype::F32,
            shard_bytes,
        };
        let mut seen = HashMap::new();
        let mut last = (0, 0);
        let report = bnb(
            &in_memory,
            &[],
            &out,
            &options,
            &mut |name, merged, through| {
                let values = merged.weight.flatten_all()?.to_vec1::<f32>()?;
                seen.insert(name.to_string(), through(&values)?);
                Ok(())
            },
            &mut |done, of| last = (done, of),
        )
        .unwrap();
        assert_eq!((report.tensors, report.quantised), (12, 7));
        assert_eq!(last, (report.bytes, report.bytes));
        assert_eq!(report.files.len() > 1, double);
        let back = load(source(&out), &KEPT);
        for (name, weight) in &back.weights {
            let values = weight.to_f32().unwrap().flatten_all().unwrap();
            assert_eq!(values.to_vec1::<f32>().unwrap(), seen[name], "{name}");
            assert_eq!(matches!(weight, Weight::Quant(_)), name.contains("_proj"));
        }
        if !double {
            same_tensors(&out, &folder("plain"));
            agree("written", &logits(back), &want("plain"));
        }
        let again = bnb(
            &in_memory,
            &[],
            &out,
            &options,
            &mut |_, _, _| Ok(()),
            &mut |_, _| (),
        );
        assert!(again.unwrap_err().to_string().contains("is there already"));
        if let Ok(keep) = std::env::var("RANDORI_BNB_OUT") {
            let to = Path::new(&keep).join(if double { "double" } else { "plain" });
            std::fs::rename(&out, to).unwrap();
        }
    }
}

/// The written weights are the merged ones, and an export that refuses a weight leaves no file.
#[test]
fn refusals_leave_nothing() {
    let base = load(source(&folder("dense")), &LoadOptions::default());
    let player = Player::bare(base);
    let in_memory = InMemory {
        player: &player,
        onto: None,
    };
    let dir = tempfile::tempdir().unwrap();
    let refuse = |name: &str| match name.contains("down_proj") {
        true => Err(randori_export::Error::Rule("no".into())),
        false => Ok(()),
    };
    let failed = bnb(
        &in_memory,
        &[],
        &dir.path().join("out"),
        &BnbOptions::default(),
        &mut |name, _, _| refuse(name),
        &mut |_, _| (),
    );
    assert_eq!(failed.unwrap_err().to_string(), "no");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
