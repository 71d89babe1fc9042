//! mlx-lm's folder: its own adapters compute what it fuses, ours have its names and shapes, and
//! every misfit is an error that names it.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use randori_lora::{LoraSpec, Projection, Targets, merge, mlx, peft};
use serde_json::{Value, json};

type Params = BTreeMap<String, Tensor>;

/// What fixtures/mlx/make.py wrote.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/mlx")
        .join(name)
}

fn tensors(path: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

fn distance(a: &Tensor, b: &Tensor) -> f32 {
    let off = (a - b).unwrap().abs().unwrap().flatten_all().unwrap();
    off.max(0).unwrap().to_scalar().unwrap()
}

#[test]
fn what_mlx_lm_saved_computes_what_it_fuses() {
    let merged = tensors(&fixture("merged.safetensors"));
    for kind in ["lora", "dora"] {
        assert!(mlx::is_in(&fixture(kind)));
        let (spec, params) = mlx::load(&fixture(kind)).unwrap();
        assert_eq!((spec.rank, spec.alpha, spec.dropout), (2, 10.0, 0.05));
        assert_eq!(spec.dora, kind == "dora");
        let pairs = peft::projections(&params);
        assert_eq!(pairs.len(), 4);
        for name in pairs {
            assert!(spec.wants(&name));
            let before = &merged[&format!("{name}.before")];
            let theirs = &merged[&format!("{kind}.{name}")];
            let ours = merge(before, &spec.update(&params, &name).unwrap()).unwrap();
            let (off, moved) = (distance(&ours, theirs), distance(before, theirs));
            assert!(off < 1e-5 && moved > 0.1, "{kind} {name}: {off}, {moved}");
        }
    }
}

fn projections() -> Vec<Projection> {
    let mut all = Vec::new();
    for layer in 0..4 {
        let name = |end: &str| format!("model.layers.{layer}.{end}");
        all.push(Projection::new(&name("self_attn.q_proj"), 6, 4));
        all.push(Projection::new(&name("mlp.up_proj"), 6, 10));
    }
    all.push(Projection {
        head: true,
        ..Projection::new("lm_head", 6, 12)
    });
    all
}

/// Updates of these projections, in which nothing is 0.
fn params(spec: &LoraSpec, names: &[&str]) -> Params {
    let mut all = Params::new();
    let known = projections();
    for p in known.iter().filter(|p| names.contains(&p.name.as_str())) {
        let rank = spec.rank_of(&p.name);
        let (a, _) = spec.init(p, 3).unwrap();
        let b: Vec<f32> = (1..=p.outputs * rank).map(|i| i as f32 / 8.0).collect();
        let b = Tensor::from_vec(b, (p.outputs, rank), &Device::Cpu).unwrap();
        all.insert(format!("{}.lora_A", p.name), a);
        all.insert(format!("{}.lora_B", p.name), b);
    }
    all
}

const UPDATED: [&str; 3] = [
    "model.layers.2.self_attn.q_proj",
    "model.layers.3.mlp.up_proj",
    "lm_head",
];

/// Ranks and factors of their own are padded and folded in: every product stays the same.
#[test]
fn what_is_written_computes_the_same_in_mlx_lms_names() {
    let own = LoraSpec {
        rank: 2,
        alpha: 6.0,
        dropout: 0.1,
        targets: Targets::Names(UPDATED.map(String::from).to_vec()),
        ..LoraSpec::default()
    };
    let mixed = LoraSpec {
        rslora: true,
        rank_pattern: vec![("up_proj".into(), 3)],
        alpha_pattern: vec![("lm_head".into(), 1.0)],
        ..own.clone()
    };
    for (spec, rank, scale) in [(own, 2, 3.0), (mixed, 3, 1.0)] {
        let dir = tempfile::tempdir().unwrap();
        let params = params(&spec, &UPDATED);
        mlx::save(dir.path(), &spec, &params, &projections(), "base/model").unwrap();
        let text = fs::read_to_string(dir.path().join(peft::CONFIG)).unwrap();
        let config: Value = serde_json::from_str(&text).unwrap();
        let keys = ["lm_head", "mlp.up_proj", "self_attn.q_proj"];
        let wanted = json!({
            "fine_tune_type": "lora",
            "model": "base/model",
            "num_layers": 2,
            "lora_parameters": {"rank": rank, "scale": scale, "dropout": 0.1, "keys": keys},
        });
        assert_eq!(config, wanted);
        let stored = tensors(&dir.path().join(mlx::MODEL));
        assert_eq!(stored.len(), 6);
        let q = "model.layers.2.self_attn.q_proj";
        assert_eq!(stored[&format!("{q}.lora_a")].dims(), [6, rank]);
        assert_eq!(stored[&format!("{q}.lora_b")].dims(), [rank, 4]);
        for name in UPDATED {
            let (a, b) = (
                &stored[&format!("{name}.lora_a")],
                &stored[&format!("{name}.lora_b")],
            );
            let theirs = (a.matmul(b).unwrap() * scale).unwrap();
            let update = spec.update(&params, name).unwrap();
            let ours = (update.b.matmul(&update.a).unwrap() * update.scale).unwrap();
            assert!(distance(&theirs, &ours.t().unwrap()) < 1e-5, "{name}");
        }
        let (read, again) = mlx::load(dir.path()).unwrap();
        peft::check_fit(&read, &again, &projections()).unwrap();
    }
}

#[test]
fn what_mlx_lm_cannot_hold_is_refused() {
    let spec = LoraSpec {
        rank: 2,
        targets: Targets::Names(vec!["q_proj".into(), "lm_head".into()]),
        ..LoraSpec::default()
    };
    let dir = tempfile::tempdir().unwrap();
    let refused = |spec: &LoraSpec, params: &Params, projections: &[Projection]| {
        let out = dir.path().join("out");
        let e = mlx::save(&out, spec, params, projections, "b").unwrap_err();
        assert!(!out.exists());
        e.to_string()
    };
    let update = params(&spec, &UPDATED[..1]);
    let saved = LoraSpec {
        modules_to_save: vec!["norm".into()],
        ..spec.clone()
    };
    let mut with_norm = update.clone();
    let ones = Tensor::ones(6, DType::F32, &Device::Cpu).unwrap();
    with_norm.insert("model.norm.weight".into(), ones);
    let e = refused(&saved, &with_norm, &projections());
    assert!(e.contains("model.norm.weight is trained in full"), "{e}");

    let mut tied = projections();
    tied.last_mut().unwrap().weight = "model.embed_tokens".into();
    let e = refused(&spec, &params(&spec, &["lm_head"]), &tied);
    assert!(e.contains("lm_head shares the embedding's weight"), "{e}");

    let experts = update
        .into_iter()
        .map(|(name, t)| (name.replace("self_attn", "mlp.experts.1"), t))
        .collect();
    let e = refused(&spec, &experts, &projections());
    assert!(e.contains("model.layers.2.mlp.experts.1.q_proj"), "{e}");
}

#[test]
fn what_does_not_fit_is_an_error_with_its_place() {
    let broken = |settings: Value, name: &str, shape: &[usize]| {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(peft::CONFIG), settings.to_string()).unwrap();
        let tensor = Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
        let tensors = HashMap::from([(name.to_string(), tensor)]);
        candle_core::safetensors::save(&tensors, dir.path().join(mlx::MODEL)).unwrap();
        mlx::load(dir.path()).unwrap_err().to_string()
    };
    let fine = json!({"num_layers": 1, "lora_parameters": {"rank": 2, "scale": 10.0}});
    let q = "model.layers.0.self_attn.q_proj";
    for (settings, name, shape, why) in [
        (
            json!({"fine_tune_type": "full"}),
            "lora_a",
            vec![2],
            "not \"full\"",
        ),
        (
            json!({"lora_parameters": {"rank": 2, "alpha": 4.0}}),
            "lora_a",
            vec![2],
            "lora_parameters has no scale",
        ),
        (
            fine.clone(),
            "model.norm.weight",
            vec![6],
            "model.norm.weight does not fit",
        ),
        (
            fine.clone(),
            &format!("{q}.lora_a"),
            vec![6, 2],
            "not model.layers.0.self_attn.q_proj.lora_B",
        ),
        (
            fine.clone(),
            &format!("{q}.lora_a"),
            vec![4, 2, 6],
            "stacked experts",
        ),
        (fine.clone(), &format!("{q}.m"), vec![4], "is not \"dora\""),
        (
            fine,
            "model.embed_tokens.lora_a",
            vec![12, 2],
            "an update of the embedding",
        ),
    ] {
        let e = broken(settings, name, &shape);
        assert!(e.contains(why), "{name}: {e}");
    }
}
