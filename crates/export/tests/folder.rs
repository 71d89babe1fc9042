//! Exported folders read back: the same weights as the player's, in every dtype, in shards.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use crate::model::*;
use candle_core::{DType, Device, Tensor};
use randori_engine::{
    Base, Player,
    weights::{Dtype, LoadOptions, Quant, Source, Stream, open},
};
use randori_export::{
    Companion, Fidelity, FidelityReport, FolderOptions, FromDisk, InMemory, Merged, Onto, Report,
    Result, RoundTrip, Tensors, adapter, folder, merged,
};
use randori_lora::{LoraSpec, Projection, Targets};
use serde_json::{Value, json};

fn base(quant: Option<Quant>) -> Arc<Base> {
    // on bf16's grid, as most checkpoints are
    let source = Source::Memory {
        config: config(),
        tensors: safetensors_bytes(&tensors(), DType::BF16),
    };
    Arc::new(
        load(
            open(source, &[]).unwrap(),
            LoadOptions {
                quant,
                dtype: Dtype::F32,
            },
        )
        .unwrap(),
    )
}

/// An adapter on q and down whose update has about this size relative to the weights.
fn adapted(base: Arc<Base>, size: f64) -> Player {
    let spec = LoraSpec {
        rank: 4,
        alpha: 4.0,
        rslora: false,
        dropout: 0.0,
        targets: Targets::Names(vec!["q_proj".into(), "down_proj".into()]),
        ..LoraSpec::default()
    };
    let mut params = BTreeMap::new();
    for l in trace().linears.iter().filter(|l| spec.wants(&l.name)) {
        let (a, _) = spec
            .init(&Projection::new(&l.name, l.inputs, l.outputs), 1)
            .unwrap();
        let (b, _) = spec
            .init(&Projection::new(&l.name, l.outputs, 1), 2)
            .unwrap(); // (4, out): any numbers will do
        params.insert(format!("{}.lora_A", l.name), a);
        params.insert(
            format!("{}.lora_B", l.name),
            (b.t().unwrap().contiguous().unwrap() * (size * 8.0)).unwrap(),
        );
    }
    Player {
        base,
        lora: Some(Arc::new(spec)),
        params: Arc::new(params),
    }
}

/// Exports a folder and measures fidelity.
fn try_export(
    tensors: &dyn Tensors,
    companions: &[Companion],
    out: &Path,
    options: &FolderOptions,
) -> Result<(Report, FidelityReport)> {
    let mut fidelity = Fidelity::new(None);
    let mut each =
        |name: &str, m: &Merged, round_trip: &RoundTrip| fidelity.add(name, m, round_trip);
    let report = folder(tensors, companions, out, options, &mut each, &mut |_, _| {})?;
    Ok((report, fidelity.report()))
}

fn in_memory(player: &Player) -> InMemory<'_> {
    InMemory { player, onto: None }
}

fn export(player: &Player, out: &Path, options: &FolderOptions) -> Report {
    try_export(&in_memory(player), &[], out, options).unwrap().0
}

fn reload(out: &Path) -> Base {
    load(
        open(Source::Folder(out.into()), &[]).unwrap(),
        LoadOptions::default(),
    )
    .unwrap()
}

fn rounded(t: &Tensor, dtype: Dtype) -> Vec<f32> {
    let dtype: DType = dtype.tag().to_lowercase().parse().unwrap();
    values(&t.to_dtype(dtype).unwrap())
}

#[test]
fn what_is_written_is_the_merged_player() {
    let dir = tempfile::tempdir().unwrap();
    let player = adapted(base(None), 1.0);
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        for shard_bytes in [u64::MAX, 20_000] {
            let out = dir
                .path()
                .join(format!("{dtype:?}-{}", shard_bytes == 20_000));
            let options = FolderOptions {
                dtype,
                shard_bytes,
                ..FolderOptions::default()
            };
            let report = export(&player, &out, &options);
            assert_eq!(report.files.len() > 1, shard_bytes == 20_000);
            assert_eq!(report.tensors, player.base.weights.len());
            let read = reload(&out);
            for name in player.base.weights.keys() {
                let m = merged(&player, None, name).unwrap();
                assert_eq!(
                    weight(&read, name),
                    rounded(&m.weight, dtype),
                    "{name} in {dtype:?}"
                );
                assert_eq!(
                    m.base.is_some(),
                    name.contains("q_proj") || name.contains("down_proj")
                );
            }
            // and an independent reader agrees with ours
            for file in &report.files {
                let bytes = fs::read(out.join(file)).unwrap();
                let independent = safetensors::SafeTensors::deserialize(&bytes).unwrap();
                assert!(!independent.is_empty());
            }
            if shard_bytes == 20_000 {
                let index: Value = serde_json::from_str(
                    &fs::read_to_string(out.join("model.safetensors.index.json")).unwrap(),
                )
                .unwrap();
                assert_eq!(index["metadata"]["total_size"], json!(report.bytes));
                assert_eq!(
                    index["weight_map"].as_object().unwrap().len(),
                    report.tensors
                );
            }
        }
    }
}

/// Merged projections compute what base plus adapter compute.
#[test]
fn merged_products() {
    let player = adapted(base(Some(Quant::Nf4 { double: true })), 1.0);
    let spec = player.lora.as_ref().unwrap();
    let x: Vec<f32> = randori_lora::splitmix(9, "x", 3 * WIDTH)
        .map(|u| u as f32)
        .collect();
    let x = Tensor::from_vec(x, (3, WIDTH), &Device::Cpu).unwrap();
    let name = "model.layers.1.self_attn.q_proj";
    let m = merged(&player, None, &format!("{name}.weight")).unwrap();
    let (a, b) = (
        &player.params[&format!("{name}.lora_A")],
        &player.params[&format!("{name}.lora_B")],
    );
    let w = player.base.weights[&format!("{name}.weight")]
        .to_f32()
        .unwrap();
    let (delta, _) =
        randori_lora::forward(&x, a, b, spec.scale_of("model.layers.0.self_attn.q_proj")).unwrap();
    let apart = values(&(x.matmul(&w.t().unwrap()).unwrap() + delta).unwrap());
    let together = values(&x.matmul(&m.weight.t().unwrap()).unwrap());
    assert!(largest_difference(&apart, &together) < 1e-4);
}

fn source() -> Source {
    Source::Memory {
        config: config(),
        tensors: safetensors_bytes(&tensors(), DType::BF16),
    }
}

fn stream(options: &LoadOptions) -> Stream {
    let checkpoint = open(source(), &[]).unwrap();
    checkpoint
        .stream_traced(Arc::new(Named), trace(), options)
        .unwrap()
}

const NF4: Option<Quant> = Some(Quant::Nf4 { double: true });

/// The base on disk, read weight by weight, merges to the bits that the base in memory merges to.
#[test]
fn streamed_is_whole() {
    for (quant, dtype) in [
        (None, Dtype::F32),
        (None, Dtype::Bf16),
        (NF4, Dtype::F32),
        (NF4, Dtype::F16),
    ] {
        let options = LoadOptions { quant, dtype };
        let loading = |options| Arc::new(load(open(source(), &[]).unwrap(), options).unwrap());
        let (loaded, original) = (loading(options), loading(LoadOptions::default()));
        let player = adapted(loaded, 1.0);
        let stream = stream(&options);
        let (lora, params) = (player.lora.as_deref(), &*player.params);
        for onto in [Onto::Dequantised, Onto::Original] {
            let from_disk = FromDisk::new(&stream, lora, params, onto).unwrap();
            let in_memory = InMemory {
                player: &player,
                onto: (onto == Onto::Original).then_some(&*original),
            };
            assert_eq!(from_disk.list(), in_memory.list());
            assert_eq!(from_disk.config(), in_memory.config());
            for (name, _) in from_disk.list() {
                let (s, w) = (
                    from_disk.read(&name).unwrap(),
                    in_memory.read(&name).unwrap(),
                );
                assert_eq!(values(&s.weight), values(&w.weight), "{name}");
                assert_eq!(s.base.as_ref().map(values), w.base.as_ref().map(values));
                let trained = |t: &dyn Tensors| t.trained_on(&name).unwrap().as_ref().map(values);
                assert_eq!(trained(&from_disk), trained(&in_memory), "{name}");
                assert_eq!(
                    trained(&from_disk).is_some(),
                    onto == Onto::Original && s.base.is_some()
                );
            }
        }
    }
}

#[test]
fn survival_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let written = |player: &Player, dtype: Dtype| {
        let out = dir.path().join("out");
        let _ = fs::remove_dir_all(&out);
        let options = FolderOptions {
            dtype,
            ..FolderOptions::default()
        };
        try_export(&in_memory(player), &[], &out, &options)
            .unwrap()
            .1
    };
    let survived = |size: f64, dtype| written(&adapted(base(None), size), dtype).total.unwrap();
    let all = survived(1e-3, Dtype::F32);
    assert!(
        (all.kept, all.noise) == (1.0, 0.0) && all.unchanged == 0.0,
        "{all:?}"
    );
    // the smaller the update, the less bf16 keeps of it; f16 keeps more
    let [large, medium, small] = [1.0, 1e-2, 1e-4].map(|s| survived(s, Dtype::Bf16));
    assert!(large.kept > 0.95 && large.unchanged < 0.1, "{large:?}");
    assert!(small.kept < 0.2 && small.unchanged > 0.9, "{small:?}");
    assert!(large.kept > medium.kept && medium.kept > small.kept);
    let untouched = written(&Player::bare(base(None)), Dtype::Bf16);
    assert_eq!(untouched, FidelityReport::default());
}

#[test]
fn stochastic_rounding_is_seeded_and_leaves_the_rest_alone() {
    let dir = tempfile::tempdir().unwrap();
    // not on bf16's grid, so that there is something to round
    let memory = Source::Memory {
        config: config(),
        tensors: safetensors_bytes(&tensors(), DType::F32),
    };
    let off = load(open(memory, &[]).unwrap(), LoadOptions::default());
    let off = Arc::new(off.unwrap());
    let player = adapted(off, 1.0);
    let written = |name: &str, stochastic: Option<u64>| {
        let out = dir.path().join(name);
        export(
            &player,
            &out,
            &FolderOptions {
                stochastic,
                ..FolderOptions::default()
            },
        );
        reload(&out)
    };
    let [nearest, a, again, b] = [
        written("n", None),
        written("1", Some(1)),
        written("2", Some(1)),
        written("3", Some(2)),
    ];
    let (q, k) = (
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.self_attn.k_proj.weight",
    );
    assert_eq!(weight(&a, q), weight(&again, q));
    assert_ne!(weight(&a, q), weight(&b, q));
    assert_ne!(weight(&a, q), weight(&nearest, q));
    assert_eq!(weight(&a, k), weight(&nearest, k));
    let options = FolderOptions {
        stochastic: Some(1),
        dtype: Dtype::F16,
        ..FolderOptions::default()
    };
    let e = try_export(&in_memory(&player), &[], &dir.path().join("no"), &options).unwrap_err();
    assert!(e.to_string().contains("is for bf16"), "{e}");
}

/// Shards hold at most the bytes allowed and at least one tensor, in the order of the index.
#[test]
fn shards_keep_their_size() {
    let dir = tempfile::tempdir().unwrap();
    let player = Player::bare(base(None));
    for limit in [1, 6_000, 20_000, 1 << 40] {
        let out = dir.path().join(limit.to_string());
        let options = FolderOptions {
            shard_bytes: limit,
            ..FolderOptions::default()
        };
        let report = export(&player, &out, &options);
        let sizes: Vec<u64> = report
            .files
            .iter()
            .map(|file| {
                let bytes = fs::read(out.join(file)).unwrap();
                let header = u64::from_le_bytes(bytes[..8].try_into().unwrap());
                let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap().len();
                let data = bytes.len() as u64 - 8 - header;
                assert!(
                    data <= limit || tensors == 1,
                    "{data} bytes in {tensors} tensors"
                );
                data
            })
            .collect();
        assert_eq!(sizes.iter().sum::<u64>(), report.bytes);
        // no two neighbours would have fitted into one file
        assert!(
            sizes.windows(2).all(|w| w[0] + w[1] > limit),
            "{limit}: {sizes:?}"
        );
        assert_eq!(report.files.len() == 1, limit > report.bytes);
        reload(&out);
    }
}

#[test]
fn a_fully_trained_player() {
    let dir = tempfile::tempdir().unwrap();
    let base = base(None);
    let params: BTreeMap<String, Tensor> = base
        .weights
        .iter()
        .map(|(n, w)| (n.clone(), (w.to_f32().unwrap() * 1.5).unwrap()))
        .collect();
    let player = Player {
        base,
        lora: None,
        params: Arc::new(params),
    };
    let out = dir.path().join("full");
    export(
        &player,
        &out,
        &FolderOptions {
            dtype: Dtype::F32,
            ..FolderOptions::default()
        },
    );
    let read = reload(&out);
    for (name, t) in &*player.params {
        assert_eq!(weight(&read, name), values(t), "{name}");
    }
    assert!(
        adapter(&player, &dir.path().join("a"), "b")
            .unwrap_err()
            .to_string()
            .contains("only a LoRA player")
    );
}

#[test]
fn an_adapter_folder() {
    let dir = tempfile::tempdir().unwrap();
    let player = adapted(base(None), 1.0);
    adapter(&player, dir.path(), "some/base").unwrap();
    let (spec, params) = randori_lora::peft::load(dir.path()).unwrap();
    assert_eq!(&spec, &**player.lora.as_ref().unwrap());
    assert!(
        params
            .iter()
            .all(|(n, t)| values(t) == values(&player.params[n]))
    );
}

#[test]
fn companions_are_copied() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    fs::create_dir(&from).unwrap();
    fs::write(from.join("tokenizer.json"), "{}").unwrap();
    fs::write(from.join("chat_template.jinja"), "{{ messages }}").unwrap();
    fs::write(from.join("README.md"), "no").unwrap();
    let out = dir.path().join("out");
    let companions = [
        Companion::Folder(from),
        Companion::File("tokenizer_config.json".into(), b"{\"a\":1}".to_vec()),
    ];
    let bare = Player::bare(base(None));
    let options = FolderOptions::default();
    try_export(&in_memory(&bare), &companions, &out, &options).unwrap();
    assert_eq!(
        fs::read_to_string(out.join("chat_template.jinja")).unwrap(),
        "{{ messages }}"
    );
    assert_eq!(
        fs::read_to_string(out.join("tokenizer_config.json")).unwrap(),
        "{\"a\":1}"
    );
    assert!(out.join("tokenizer.json").exists() && out.join("generation_config.json").exists());
    assert!(!out.join("README.md").exists());
}

#[test]
fn faults_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let here = || {
        fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect::<Vec<_>>()
    };
    let fails = |player: &Player, options: &FolderOptions, words: &str| {
        let e = try_export(&in_memory(player), &[], &out, options)
            .unwrap_err()
            .to_string();
        assert!(e.contains(words), "{e}");
    };
    let plain = FolderOptions::default();
    // an adapter of another model
    let mut stray = adapted(base(None), 1.0);
    let mut params = (*stray.params).clone();
    params.insert(
        "model.layers.9.self_attn.q_proj.lora_A".into(),
        params.values().next().unwrap().clone(),
    );
    stray.params = Arc::new(params);
    fails(
        &stray,
        &plain,
        "model.layers.9.self_attn.q_proj.lora_A, which belongs to no weight",
    );
    // a number beyond f16, met in the middle of writing
    let huge = adapted(base(None), 1e9);
    fails(
        &huge,
        &FolderOptions {
            dtype: Dtype::F16,
            ..plain.clone()
        },
        "beyond f16",
    );
    assert!(here().is_empty(), "{:?}", here());
    // streamed, a stray adapter is refused before anything is read
    let options = LoadOptions::default();
    let stream = stream(&options);
    let from_disk = FromDisk::new(
        &stream,
        stray.lora.as_deref(),
        &stray.params,
        Onto::Dequantised,
    );
    let e = from_disk.err().unwrap().to_string();
    assert!(e.contains("model.layers.9.self_attn.q_proj"), "{e}");
    // who measures may refuse
    let player = adapted(base(None), 1.0);
    let mut no = |_: &str, _: &Merged, _: &RoundTrip| -> Result<()> {
        Err(randori_export::Error::Rule("no".into()))
    };
    let tensors = in_memory(&player);
    assert!(folder(&tensors, &[], &out, &plain, &mut no, &mut |_, _| {}).is_err());
    assert!(here().is_empty(), "{:?}", here());
    // a folder that is there
    export(&player, &out, &plain);
    fails(&player, &plain, "is there already");
    // a killed export's remains are no hindrance
    fs::remove_dir_all(&out).unwrap();
    fs::create_dir(dir.path().join(".out.partial.tmp")).unwrap();
    export(&Player::bare(base(None)), &out, &plain);
    assert_eq!(here(), ["out"]);
}
