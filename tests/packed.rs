//! Folders in GPTQ, AWQ, FP8 and compressed-tensors as a frozen base: logits as transformers
//! computes them from the weights that the formats' own packages decode, memory as `fit` says,
//! adapters and exports as on any base. The files in tests/fixtures/packed are described in
//! tests/interop/make_packed.py; each format's values and refusals are tested in crates/formats.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    model::{agree, by_prefix, distance, load, opened, rows},
    opened::families,
};
use candle_core::{DType, Device, Tensor, safetensors::load as tensors};
use randori_engine::{
    Base, Grads, Packed, PassOptions, Player,
    trace::trace,
    weights::{Dtype, LoadOptions, Quant, Source, describe, open},
};
use randori_export::{FolderOptions, FromDisk, InMemory, Merged, Onto, RoundTrip, Tensors, folder};
use randori_lora::{LoraSpec, Targets};
use serde_json::Value;

const KEPT: LoadOptions = LoadOptions {
    quant: Some(Quant::Nf4 { double: false }),
    dtype: Dtype::F32,
};
/// Of these, products read the values as they are.
const EXACT: [&str; 2] = ["gptq", "ct"];
const DECODED: [(&str, &str); 3] = [
    ("act", "7 in GPTQ's 4 bits"),
    ("awq", "7 in AWQ's 4 bits"),
    ("fp8", "7 in FP8"),
];

fn fixture(kind: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/packed")
        .join(kind)
}

fn source(kind: &str) -> Source {
    Source::Folder(fixture(kind))
}

fn expected(what: &str) -> Tensor {
    tensors(fixture("expected.safetensors"), &Device::Cpu).unwrap()[what].clone()
}

fn logits(base: &Arc<Base>) -> Vec<Vec<f64>> {
    let ids = expected("tokens").to_dtype(DType::U32).unwrap();
    by_prefix(&Player::bare(base.clone()), &ids.to_vec1::<u32>().unwrap())
}

fn kinds() -> impl Iterator<Item = &'static str> {
    EXACT.into_iter().chain(DECODED.map(|(kind, _)| kind))
}

#[test]
fn folders_are_read_with_the_reference_logits() {
    for kind in kinds() {
        let dense = load(source(kind), &LoadOptions::default());
        let want = rows(&expected(kind));
        agree(kind, &logits(&dense), &want);
        let off = distance(&want, &rows(&expected("dense")));
        assert!(off > 0.02, "{kind}: quantising changed nothing: {off}");
        for (name, weight) in &dense.weights {
            assert_eq!(weight.format(), "f32", "{kind} {name}");
        }
    }
}

#[test]
fn what_products_read_exactly_is_kept_and_the_rest_quantised_anew() {
    for kind in kinds() {
        let kept = load(source(kind), &KEPT);
        let exact = EXACT.contains(&kind);
        let format = if exact { "int4" } else { "nf4" };
        for (name, weight) in &kept.weights {
            let format = if name.contains("_proj") {
                format
            } else {
                "f32"
            };
            assert_eq!(weight.format(), format, "{kind} {name}");
        }
        let off = distance(&logits(&kept), &rows(&expected(kind)));
        assert_eq!(off <= 1e-5, exact, "{kind}: {off:.1e}");
    }
}

#[test]
fn what_is_decoded_is_told_of() {
    for kind in EXACT {
        let notes = open(source(kind), families()).unwrap().notes().to_vec();
        assert_eq!(notes, Vec::<String>::new());
    }
    for (kind, list) in DECODED {
        let notes = open(source(kind), families()).unwrap().notes().join("\n");
        assert!(notes.contains(list), "{notes}");
        assert!(
            notes.contains("held in model.dtype, or quantised anew"),
            "{notes}"
        );
        assert_eq!(notes.contains("quantises activations too"), kind == "fp8");
    }
}

/// Checks that what `fit` counts is what a base then holds, be it of the folder or of its
/// configuration alone, as before a download.
fn foretold(kind: &str, options: &LoadOptions, base: &Base) {
    let bare = tempfile::tempdir().unwrap();
    std::fs::copy(
        fixture(kind).join("config.json"),
        bare.path().join("config.json"),
    )
    .unwrap();
    for from in [source(kind), Source::Folder(bare.path().into())] {
        let described = describe(from.clone(), families()).unwrap();
        let traced = trace(&*base.arch).unwrap();
        let held = described.held(&traced, options, &*base.arch).unwrap();
        assert_eq!(held.len(), base.weights.len());
        for weight in held {
            let real = base.weights[&weight.name].bytes() as u64;
            assert_eq!(
                weight.bytes, real,
                "{kind} {} {options:?} {from:?}",
                weight.name
            );
        }
    }
}

/// What a configuration alone is taken for, as `fit` says it.
#[test]
fn a_configuration_alone_says_what_its_weights_are_in() {
    for (kind, said) in [
        ("gptq", Some("GPTQ's 4 bits")),
        ("act", Some("GPTQ's 4 bits")),
        ("awq", Some("AWQ's 4 bits")),
        ("ct", Some("compressed-tensors' packed integers")),
        ("fp8", Some("FP8")),
        ("gpt_oss", Some("MXFP4")),
        ("dense", None),
    ] {
        let bare = tempfile::tempdir().unwrap();
        let mut config = read_json(&fixture(if said.is_none() { "gptq" } else { kind }));
        if said.is_none() {
            config["quantization_config"] = Value::Null;
        }
        std::fs::write(bare.path().join("config.json"), config.to_string()).unwrap();
        let described = describe(Source::Folder(bare.path().into()), families()).unwrap();
        assert_eq!(described.supposed().as_deref(), said, "{kind}");
    }
}

fn read_json(folder: &Path) -> Value {
    let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn the_memory_that_is_foretold_is_held() {
    for kind in kinds() {
        let described = describe(source(kind), families()).unwrap();
        assert_eq!(described.keeps_few_bits(), EXACT.contains(&kind), "{kind}");
        for options in [LoadOptions::default(), KEPT] {
            foretold(kind, &options, &load(source(kind), &options));
        }
    }
}

/// gpt-oss's folders: the experts in MXFP4, all else dense. A merged one has dense stacks.
#[test]
fn experts_in_mxfp4_are_kept() {
    let (want, dir) = (rows(&expected("gpt_oss")), tempfile::tempdir().unwrap());
    for (options, format) in [(LoadOptions::default(), "f32"), (KEPT, "mxfp4")] {
        let base = load(source("gpt_oss"), &options);
        agree("gpt_oss", &logits(&base), &want);
        for (name, weight) in &base.weights {
            let expert = name.contains(".experts.") && name.ends_with(".weight");
            let format = if expert { format } else { "f32" };
            assert_eq!(weight.format(), format, "{name}");
        }
        foretold("gpt_oss", &options, &base);
        let player = Player::bare(base);
        let in_memory = InMemory {
            player: &player,
            onto: None,
        };
        write(&in_memory, &dir.path().join(format));
        let again = Source::Folder(dir.path().join(format));
        agree(
            format,
            &logits(&load(again, &LoadOptions::default())),
            &want,
        );
    }
}

/// A LoRA player whose B is not zero.
fn trained(base: Arc<Base>) -> Player {
    let spec = LoraSpec {
        rank: 4,
        alpha: 8.0,
        targets: Targets::AllLinear,
        ..LoraSpec::default()
    };
    let mut player = Player::with_lora(base, spec, 1).unwrap();
    let moved = |(name, t): (&String, &Tensor)| {
        let noise = randori_lora::splitmix(2, name, t.elem_count());
        let noise: Vec<f32> = noise.map(|u| (u - 0.5) as f32 * 0.2).collect();
        let noise = Tensor::from_vec(noise, t.shape(), t.device()).unwrap();
        (name.clone(), (t + noise).unwrap())
    };
    let params: BTreeMap<String, Tensor> = player.params.iter().map(moved).collect();
    player.params = Arc::new(params);
    player
}

fn plan() -> Packed {
    let mut plan = Packed::default();
    plan.push(&[3, 17, 4, 29], &[&[8, 8, 1, 30], &[12, 5]]);
    plan
}

/// An adapter learns the same on packed matrices as on their values.
#[test]
fn gradients_are_those_of_the_dense_base() {
    for kind in EXACT {
        let [kept, dense] = [KEPT, LoadOptions::default()].map(|options| {
            let player = trained(load(source(kind), &options));
            let mut grads = Grads::new();
            let mut slopes = |logps: &[f64]| Ok(vec![0.5; logps.len()]);
            player
                .forward_backward(&plan(), &PassOptions::default(), &mut slopes, &mut grads)
                .unwrap();
            grads
        });
        assert_eq!(kept.len(), 2 * 7);
        for (name, grad) in &kept {
            let flat = |t: &Tensor| rows(&t.flatten_all().unwrap().unsqueeze(0).unwrap());
            agree(name, &flat(grad), &flat(&dense[name]));
        }
    }
}

fn write(tensors: &dyn Tensors, out: &Path) {
    let options = FolderOptions {
        dtype: Dtype::F32,
        ..FolderOptions::default()
    };
    let mut each = |_: &str, _: &Merged, _: &RoundTrip| Ok(());
    folder(tensors, &[], out, &options, &mut each, &mut |_, _| {}).unwrap();
}

/// As from a bitsandbytes base: dense weights, those of the base decoded, and no word of its
/// format.
#[test]
fn a_merged_folder_is_dense_and_answers_as_the_player() {
    let dir = tempfile::tempdir().unwrap();
    for kind in kinds() {
        for options in [LoadOptions::default(), KEPT] {
            let player = trained(load(source(kind), &options));
            let want = player.logps(&plan()).unwrap();
            let (checkpoint, arch) = opened(source(kind));
            let stream = checkpoint.stream(arch, &options).unwrap();
            let (lora, params) = (player.lora.as_deref(), &*player.params);
            let from_disk = FromDisk::new(&stream, lora, params, Onto::Dequantised).unwrap();
            let in_memory = InMemory {
                player: &player,
                onto: None,
            };
            let quantised = options.quant.is_some();
            let [a, b] =
                ["disk", "memory"].map(|n| dir.path().join(format!("{kind}-{quantised}-{n}")));
            write(&from_disk, &a);
            write(&in_memory, &b);
            let weights = |dir: &Path| std::fs::read(dir.join("model.safetensors")).unwrap();
            assert_eq!(weights(&a), weights(&b), "{kind}");
            let text = std::fs::read(a.join("config.json")).unwrap();
            let config: Value = serde_json::from_slice(&text).unwrap();
            assert_eq!(config.get("quantization_config"), None);
            let again = Player::bare(load(Source::Folder(a), &LoadOptions::default()));
            let got = again.logps(&plan()).unwrap();
            agree(kind, &vec![got.clone()], &vec![want.clone()]);
            let bare = Player::bare(player.base.clone()).logps(&plan()).unwrap();
            assert!(
                distance(&vec![got], &vec![bare]) > 0.01,
                "the adapter was lost"
            );
        }
    }
}

/// A copy of a folder with other bytes of a tensor and another configuration.
fn changed(kind: &str, tensor: &str, byte: u8, change: impl Fn(&mut Value)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = std::fs::read(fixture(kind).join("model.safetensors")).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let start = header[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[8 + length + start + 3] = byte; // of an f32 the sign and the exponent
    std::fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    let text = std::fs::read(fixture(kind).join("config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&text).unwrap();
    change(&mut config);
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    dir
}

fn refused(dir: &Path, options: &LoadOptions) -> String {
    let (checkpoint, arch) = opened(Source::Folder(dir.to_owned()));
    let loaded = checkpoint.load(arch, options, &mut |_, _| {});
    loaded.err().unwrap().to_string()
}

#[test]
fn what_cannot_be_meant_is_refused() {
    // biases of zeros, which older programs for GPTQ write, count for nothing; others would
    let bias = "model.layers.0.mlp.up_proj.bias";
    let dir = changed("gptq", bias, 63, |_| {});
    let said = refused(dir.path(), &LoadOptions::default());
    assert!(
        said.contains(&format!("the file has {bias}, which")),
        "{said}"
    );
    // codes without a word in the configuration
    let dir = changed("gptq", bias, 0, |config| {
        config
            .as_object_mut()
            .unwrap()
            .remove("quantization_config");
    });
    let said = refused(dir.path(), &LoadOptions::default());
    assert!(
        said.contains("quantization_config of config.json must say"),
        "{said}"
    );
    let blocks = LoadOptions {
        quant: Some(Quant::Gguf),
        dtype: Dtype::F32,
    };
    let said = refused(&fixture("awq"), &blocks);
    assert!(said.contains("these weights are in AWQ's 4 bits"), "{said}");
}
