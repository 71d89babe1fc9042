//! Merged folders and PEFT adapters, loaded again and run, compute what the player computed.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use candle_core::Tensor;
use randori_engine::{
    Base, Packed, Player, Weight,
    weights::{Dtype, LoadOptions, Quant, Source},
};
use randori_export::{
    FolderOptions, FromDisk, InMemory, Merged, Onto, RoundTrip, Rounding, Tensors, adapter, folder,
};
use randori_lora::{LoraSpec, Targets, peft};
use randori_specimens::small::SMALL;

use crate::model::opened;

fn options(quant: Option<Quant>) -> LoadOptions {
    LoadOptions {
        quant,
        dtype: Dtype::F32,
    }
}

fn load(source: Source, quant: Option<Quant>) -> Base {
    let (checkpoint, arch) = opened(source);
    let base = checkpoint.load(arch, &options(quant), &mut |_, _| {});
    base.unwrap()
}

fn small(quant: Option<Quant>) -> Arc<Base> {
    let config = SMALL.config();
    let mut base = load(Source::Random { config, seed: 5 }, quant);
    // deviation 0.02 makes logits of next to nothing: ten times that can be told apart
    for weight in base.weights.values_mut() {
        if let Weight::Dense(t) = weight
            && t.dims().len() == 2
        {
            *t = (&*t * 10.0).unwrap();
        }
    }
    Arc::new(base)
}

/// A LoRA player whose B is not zero.
fn trained(base: Arc<Base>, rslora: bool) -> Player {
    let spec = LoraSpec {
        rank: 4,
        alpha: 8.0,
        rslora,
        targets: Targets::AllLinear,
        ..LoraSpec::default()
    };
    trained_as(base, spec)
}

fn trained_as(base: Arc<Base>, spec: LoraSpec) -> Player {
    let mut player = Player::with_lora(base, spec, 1).unwrap();
    let moved: BTreeMap<String, Tensor> = player
        .params
        .iter()
        .map(|(name, t)| {
            let n = t.elem_count();
            let values: Vec<f32> = randori_lora::splitmix(2, name, n)
                .map(|u| (u - 0.5) as f32 * 0.2)
                .collect();
            let noise = Tensor::from_vec(values, t.shape(), t.device()).unwrap();
            (
                name.clone(),
                if name.ends_with("lora_B") {
                    noise
                } else {
                    t.clone()
                },
            )
        })
        .collect();
    player.params = Arc::new(moved);
    player
}

fn logps(player: &Player) -> Vec<f64> {
    let ids = |name: &str, n: usize| -> Vec<u32> {
        randori_lora::splitmix(3, name, n)
            .map(|u| (u * 96.0) as u32)
            .collect()
    };
    let mut plan = Packed::default();
    plan.push(&ids("prompt", 9), &[&ids("real", 7), &ids("generated", 12)]);
    player.logps(&plan).unwrap()
}

fn difference(a: &[f64], b: &[f64]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f64::max)
}

fn exported(player: &Player, out: &Path, dtype: Dtype) -> Player {
    let options = FolderOptions {
        dtype,
        ..FolderOptions::default()
    };
    write(&InMemory { player, onto: None }, out, &options);
    Player::bare(Arc::new(load(Source::Folder(out.into()), None)))
}

fn write(tensors: &dyn Tensors, out: &Path, options: &FolderOptions) {
    let mut each = |_: &str, _: &Merged, _: &RoundTrip| Ok(());
    folder(tensors, &[], out, options, &mut each, &mut |_, _| {}).unwrap();
}

fn streamed(source: Source, quant: Option<Quant>) -> randori_engine::weights::Stream {
    let (checkpoint, arch) = opened(source);
    checkpoint.stream(arch, &options(quant)).unwrap()
}

#[test]
fn a_merged_folder_answers_as_base_and_adapter() {
    let dir = tempfile::tempdir().unwrap();
    for (i, (quant, rslora)) in [
        (None, false),
        (None, true),
        (Some(Quant::Nf4 { double: true }), false),
    ]
    .into_iter()
    .enumerate()
    {
        let player = trained(small(quant), rslora);
        let (with, without) = (logps(&player), logps(&Player::bare(player.base.clone())));
        let merged = logps(&exported(
            &player,
            &dir.path().join(format!("f32-{i}")),
            Dtype::F32,
        ));
        assert!(
            difference(&with, &merged) < 2e-5,
            "{}",
            difference(&with, &merged)
        );
        // a test that an adapter dropped on the way would pass proves nothing
        assert!(
            difference(&with, &without) > 0.05,
            "{}",
            difference(&with, &without)
        );
        let rounded = logps(&exported(
            &player,
            &dir.path().join(format!("bf16-{i}")),
            Dtype::Bf16,
        ));
        let off = difference(&with, &rounded);
        assert!(off > 1e-6 && off < 0.1, "{off}");
    }
}

#[test]
fn a_peft_adapter_answers_as_the_player() {
    let dir = tempfile::tempdir().unwrap();
    let player = trained(small(None), true);
    adapter(&player, dir.path(), "small").unwrap();
    let (spec, params) = peft::load(dir.path()).unwrap();
    let again = Player::with_adapter(player.base.clone(), spec.clone(), params.clone()).unwrap();
    assert_eq!(logps(&player), logps(&again));
    // an adapter of another model does not play as the bare base
    let refused = |params: BTreeMap<String, Tensor>, words: &str| {
        let e = Player::with_adapter(player.base.clone(), spec.clone(), params)
            .err()
            .unwrap()
            .to_string();
        assert!(e.contains(words), "{e}");
    };
    let mut fewer = params.clone();
    fewer.retain(|name, _| !name.starts_with("model.layers.1.mlp.down_proj"));
    refused(fewer, "no model.layers.1.mlp.down_proj.lora_A");
    let renamed = |(name, t): (String, Tensor)| (name.replace("layers.1.", "layers.7."), t);
    refused(params.into_iter().map(renamed).collect(), "layers.1.");
}

#[test]
fn a_fully_trained_player_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut player = Player::full(small(None)).unwrap();
    let moved: BTreeMap<String, Tensor> = player
        .params
        .iter()
        .map(|(n, t)| (n.clone(), (t * 1.1).unwrap()))
        .collect();
    player.params = Arc::new(moved);
    let again = exported(&player, &dir.path().join("full"), Dtype::F32);
    assert_eq!(logps(&player), logps(&again));
    assert!(difference(&logps(&player), &logps(&Player::bare(player.base.clone()))) > 0.01);
}

/// The base on disk, weight by weight, and in memory: the same files to the byte, and f32 answers
/// as the merged weights do.
#[test]
fn a_streamed_export_is_the_same_export() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let original = small(None);
    exported(&Player::bare(original), &at("base"), Dtype::F32);
    let nf4 = Some(Quant::Nf4 { double: true });
    for (name, quant, dora) in [
        ("dense", None, false),
        ("nf4", nf4, false),
        ("dora", nf4, true),
    ] {
        let base = Arc::new(load(Source::Folder(at("base")), quant));
        let spec = LoraSpec {
            rank: 4,
            alpha: 8.0,
            dora,
            rank_pattern: vec![("q_proj".into(), 2)],
            targets: Targets::AllLinear,
            ..LoraSpec::default()
        };
        let player = trained_as(base, spec);
        let stream = streamed(Source::Folder(at("base")), quant);
        let (lora, params) = (player.lora.as_deref(), &*player.params);
        for shard_bytes in [u64::MAX, 40_000] {
            let options = FolderOptions {
                dtype: Dtype::F32,
                shard_bytes,
                ..FolderOptions::default()
            };
            let out = |kind: &str| at(&format!("{name}-{kind}-{}", shard_bytes == 40_000));
            let merging = FromDisk::new(&stream, lora, params, Onto::Dequantised).unwrap();
            write(&merging, &out("streamed"), &options);
            let in_memory = InMemory {
                player: &player,
                onto: None,
            };
            write(&in_memory, &out("whole"), &options);
            let files = |dir: &Path| -> BTreeMap<_, Vec<u8>> {
                let each = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap());
                each.map(|e| (e.file_name(), std::fs::read(e.path()).unwrap()))
                    .collect()
            };
            assert_eq!(files(&out("streamed")), files(&out("whole")));

            // loaded again, an f32 export answers to the bit as a player of the merged weights
            let again = Player::bare(Arc::new(load(Source::Folder(out("streamed")), None)));
            let mut merged = load(Source::Folder(at("base")), None);
            for (name, weight) in &mut merged.weights {
                *weight = Weight::Dense(in_memory.read(name).unwrap().weight);
            }
            let merged = Player::bare(Arc::new(merged));
            assert_eq!(logps(&again), logps(&merged));
            assert!(difference(&logps(&again), &logps(&player)) < 2e-5);
            // a second export of what was exported is the same
            write(
                &InMemory {
                    player: &again,
                    onto: None,
                },
                &out("again"),
                &options,
            );
            assert_eq!(files(&out("again")), files(&out("streamed")));
        }
    }
}

/// Recorded inputs of projections: the same from a base in memory and block by block from disk, and
/// such that the merged projection's product equals base plus adapter.
#[test]
fn inputs_are_what_projections_multiply() {
    let dir = tempfile::tempdir().unwrap();
    let quant = Some(Quant::Nf4 { double: true });
    exported(
        &Player::bare(small(None)),
        &dir.path().join("base"),
        Dtype::F32,
    );
    let source = Source::Folder(dir.path().join("base"));
    let player = trained(Arc::new(load(source.clone(), quant)), false);
    let stream = streamed(source, quant);
    let mut plan = Packed::default();
    plan.push(&[1, 2, 3, 4, 5, 6, 7], &[&[8, 9, 10, 11], &[12, 13]]);
    let rows = plan.ids.len();
    let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let here = player.inputs(&plan, rows).unwrap();
    let there = stream
        .inputs(player.lora.clone(), player.params.clone(), &plan, rows)
        .unwrap();
    assert_eq!(
        here.keys().collect::<Vec<_>>(),
        there.keys().collect::<Vec<_>>()
    );
    assert_eq!(here.len(), 2 * 7 + 1, "every projection and the tied head");
    for (name, x) in &here {
        assert_eq!(
            (x.dims()[0], values(x)),
            (rows, values(&there[name])),
            "{name}"
        );
    }
    // fewer rows are some of these
    let few = player.inputs(&plan, 3).unwrap();
    for (name, x) in &few {
        let (all, width) = (values(&here[name]), x.dims()[1]);
        assert_eq!(x.dims()[0], 3);
        assert!(
            values(x)
                .chunks(width)
                .all(|row| all.chunks(width).any(|r| r == row)),
            "{name}"
        );
    }
    // norm and embedding by hand: the first projection's input
    let embedding = player.base.weights["model.embed_tokens.weight"]
        .to_f32()
        .unwrap();
    let ids = Tensor::from_slice(&plan.ids, rows, embedding.device()).unwrap();
    let x = embedding.index_select(&ids, 0).unwrap();
    let mean = x.sqr().unwrap().mean_keepdim(1).unwrap();
    let x = x
        .broadcast_div(&(mean + 1e-5).unwrap().sqrt().unwrap())
        .unwrap();
    let scale = player.base.weights["model.layers.0.input_layernorm.weight"]
        .to_f32()
        .unwrap();
    let x = values(&x.broadcast_mul(&scale).unwrap());
    let first = values(&here["model.layers.0.self_attn.q_proj"]);
    assert!(x.iter().zip(&first).all(|(a, b)| (a - b).abs() < 1e-5));
    // the adapter is in it
    let bare = Player::bare(player.base.clone())
        .inputs(&plan, rows)
        .unwrap();
    let (q, down) = (
        "model.layers.0.self_attn.q_proj",
        "model.layers.1.mlp.down_proj",
    );
    assert_eq!(values(&bare[q]), values(&here[q]));
    assert_ne!(values(&bare[down]), values(&here[down]));
}

/// The report's output error is the one that running the rounded projection shows.
#[test]
fn the_output_error_is_what_running_shows() {
    let player = trained(small(None), false);
    let mut plan = Packed::default();
    plan.push(&[1, 2, 3, 4, 5, 6, 7], &[&[8, 9, 10, 11]]);
    let inputs = player.inputs(&plan, 8).unwrap();
    let name = "model.layers.1.mlp.up_proj.weight";
    let m = InMemory {
        player: &player,
        onto: None,
    }
    .read(name)
    .unwrap();
    let mut fidelity = randori_export::Fidelity::new(Some(inputs.clone()));
    let bf16 = Rounding::Nearest(Dtype::Bf16);
    fidelity.add(name, &m, &|v| bf16.values(name, v)).unwrap();
    let found = fidelity.report().total.unwrap().output.unwrap();
    let x = &inputs["model.layers.1.mlp.up_proj"];
    let run = |w: &Tensor| -> Vec<f32> {
        let y = x.matmul(&w.t().unwrap()).unwrap();
        y.flatten_all().unwrap().to_vec1().unwrap()
    };
    let held = |w: &Tensor| {
        let narrow = w.to_dtype(candle_core::DType::BF16).unwrap();
        narrow.to_dtype(candle_core::DType::F32).unwrap()
    };
    let base = m.base.unwrap();
    let [y, y0, q, q0] = [&m.weight, &base, &held(&m.weight), &held(&base)].map(run);
    let (mut lost, mut change) = (0.0, 0.0);
    for i in 0..y.len() {
        let (d, left) = (f64::from(y[i] - y0[i]), f64::from(q[i] - q0[i]));
        lost += (left - d) * (left - d);
        change += d * d;
    }
    let wanted = (lost / change).sqrt();
    assert!((found - wanted).abs() < 0.01 * wanted, "{found} {wanted}");
}
