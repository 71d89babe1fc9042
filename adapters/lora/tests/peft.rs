//! PEFT's folder: round trip, the exact names and keys PEFT reads, and every misfit as an error
//! that names it.

use std::{collections::BTreeMap, fs, path::Path};

use candle_core::{DType, Device, Tensor};
use randori_lora::{LoraSpec, Projection, Targets, merge, peft, stack};
use serde_json::{Value, json};

type Params = BTreeMap<String, Tensor>;

fn spec() -> LoraSpec {
    LoraSpec {
        rank: 2,
        alpha: 8.0,
        rslora: true,
        dropout: 0.1,
        targets: Targets::Names(vec!["q_proj".into(), "up_proj".into()]),
        ..LoraSpec::default()
    }
}

fn params(spec: &LoraSpec) -> Params {
    let mut all = Params::new();
    for p in projections() {
        let (a, _) = spec.init(&p, 3).unwrap();
        let (name, outputs) = (p.name, p.outputs);
        all.insert(format!("{name}.lora_A"), a);
        all.insert(
            format!("{name}.lora_B"),
            Tensor::full(0.5f32, (outputs, spec.rank), &Device::Cpu).unwrap(),
        );
    }
    all
}

fn projections() -> Vec<Projection> {
    vec![
        Projection::new("model.layers.0.self_attn.q_proj", 6, 4),
        Projection::new("model.layers.0.mlp.up_proj", 6, 10),
    ]
}

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn config(dir: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(dir.join(peft::CONFIG)).unwrap()).unwrap()
}

#[test]
fn round_trip_in_pefts_names() {
    let dir = tempfile::tempdir().unwrap();
    let (spec, before) = (spec(), params(&spec()));
    peft::save(dir.path(), &spec, &before, "base/model").unwrap();
    let (read, after) = peft::load(dir.path()).unwrap();
    assert_eq!(read, spec);
    assert_eq!(
        before.keys().collect::<Vec<_>>(),
        after.keys().collect::<Vec<_>>()
    );
    assert!(
        before
            .iter()
            .all(|(name, t)| values(t) == values(&after[name]))
    );
    peft::check_fit(&read, &after, &projections()).unwrap();

    let bytes = fs::read(dir.path().join(peft::MODEL)).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let a = file
        .tensor("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight")
        .unwrap();
    assert_eq!(a.shape(), [2, 6]);
    let config = config(dir.path());
    for (key, value) in [
        ("peft_type", json!("LORA")),
        ("task_type", json!("CAUSAL_LM")),
        ("base_model_name_or_path", json!("base/model")),
        ("r", json!(2)),
        ("lora_alpha", json!(8)),
        ("target_modules", json!(["q_proj", "up_proj"])),
        ("bias", json!("none")),
        ("use_rslora", json!(true)),
        ("lora_dropout", json!(0.1)),
        ("use_dora", json!(false)),
        ("modules_to_save", Value::Null),
        ("rank_pattern", json!({})),
        ("alpha_pattern", json!({})),
        ("fan_in_fan_out", json!(false)),
        ("inference_mode", json!(true)),
    ] {
        assert_eq!(config[key], value, "{key}");
    }
    let left: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 2, "nothing half-written stays behind: {left:?}");
}

#[test]
fn targets_that_peft_can_read() {
    let dir = tempfile::tempdir().unwrap();
    for (targets, want) in [
        (Targets::AllLinear, json!(["q_proj", "up_proj"])),
        (
            // PEFT's modules may be others than ours: the names say the same everywhere
            Targets::Regex(".*_proj".into()),
            json!([
                "model.layers.0.mlp.up_proj",
                "model.layers.0.self_attn.q_proj"
            ]),
        ),
        (
            Targets::Names(vec!["*_proj".into()]),
            json!([
                "model.layers.0.mlp.up_proj",
                "model.layers.0.self_attn.q_proj"
            ]),
        ),
    ] {
        let spec = LoraSpec { targets, ..spec() };
        peft::save(dir.path(), &spec, &params(&spec), "b").unwrap();
        assert_eq!(config(dir.path())["target_modules"], want);
        peft::load(dir.path()).unwrap();
    }
}

/// Writes a good adapter, damages it, and expects an error with these words.
fn check(damage: impl Fn(&Path), words: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    peft::save(dir.path(), &spec(), &params(&spec()), "b").unwrap();
    damage(dir.path());
    let e = peft::load(dir.path()).unwrap_err().to_string();
    assert!(words.iter().all(|w| e.contains(w)), "{e}");
}

fn set(dir: &Path, key: &str, value: Value) {
    let mut c = config(dir);
    c[key] = value;
    fs::write(dir.join(peft::CONFIG), c.to_string()).unwrap();
}

fn rename(dir: &Path, change: impl Fn(&str) -> Option<String>) {
    let bytes = fs::read(dir.join(peft::MODEL)).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let kept: Vec<_> = file
        .tensors()
        .into_iter()
        .filter_map(|(n, v)| Some((change(&n)?, v)))
        .collect();
    let out = safetensors::serialize(kept, None).unwrap();
    fs::write(dir.join(peft::MODEL), out).unwrap();
}

#[test]
fn misfits_are_named() {
    check(
        |d| set(d, "use_dora", json!(true)),
        &["but not", "lora_magnitude_vector"],
    );
    check(
        |d| set(d, "rank_pattern", json!({"q_proj": 4})),
        &["q_proj.lora_A must have the shape", "rank 4"],
    );
    check(
        |d| set(d, "alpha_pattern", json!({"q_proj": "big"})),
        &[peft::CONFIG, "alpha_pattern", "big"],
    );
    check(
        |d| set(d, "exclude_modules", json!(["up_proj"])),
        &["adapts", "up_proj"],
    );
    check(
        |d| set(d, "layers_to_transform", json!([0, 3])),
        &["nothing for layer 3"],
    );
    check(
        |d| set(d, "layers_to_transform", json!([3])),
        &["none of the layers"],
    );
    check(
        |d| set(d, "modules_to_save", json!(["lm_head"])),
        &["modules_to_save"],
    );
    check(|d| set(d, "r", json!(0)), &["at least 1"]);
    check(
        |d| set(d, "r", json!(4)),
        &["lora_A must have the shape", "rank 4", "[2, 6]"],
    );
    check(
        |d| set(d, "target_modules", json!(["q_proj"])),
        &["up_proj", "target_modules"],
    );
    // PEFT itself loads these two as the bare base, silently
    check(
        |d| rename(d, |n| Some(n.replace("lora_A", "lora_a"))),
        &["lora_a.weight does not fit"],
    );
    check(
        |d| rename(d, |n| Some(n.replace("base_model.model.", ""))),
        &["does not fit", "base_model.model.PROJECTION"],
    );
    check(
        |d| rename(d, |n| (!n.contains("up_proj.lora_B")).then(|| n.into())),
        &["up_proj.lora_A but not model.layers.0.mlp.up_proj.lora_B"],
    );
    check(
        |d| fs::write(d.join(peft::MODEL), b"short").unwrap(),
        &[peft::MODEL, "damaged"],
    );
    check(
        |d| fs::write(d.join(peft::CONFIG), b"{").unwrap(),
        &[peft::CONFIG, "not JSON"],
    );
    check(
        |d| fs::remove_file(d.join(peft::MODEL)).unwrap(),
        &[peft::MODEL],
    );
}

#[test]
fn an_adapter_of_another_base_is_refused() {
    let spec = spec();
    let check = |params: &Params, projections: &[Projection], words: &str| {
        let e = peft::check_fit(&spec, params, projections)
            .unwrap_err()
            .to_string();
        assert!(e.contains(words), "{e}");
    };
    let good = params(&spec);
    let mut more = projections();
    more.push(Projection::new("model.layers.1.self_attn.q_proj", 6, 4));
    check(&good, &more, "no model.layers.1.self_attn.q_proj.lora_A");
    check(
        &good,
        &projections()[..1],
        "no projection model.layers.0.mlp.up_proj",
    );
    check(
        &good,
        &[Projection::new("model.layers.0.self_attn.q_proj", 8, 4)],
        "wants A [2, 8]",
    );
    let mut odd = good.clone();
    odd.insert(
        "model.norm.weight".into(),
        Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap(),
    );
    check(
        &odd,
        &projections(),
        "model.norm.weight is no adapter tensor",
    );
}

#[test]
fn patterns_dora_and_saved_modules_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let spec = LoraSpec {
        targets: Targets::Regex("model\\.(?!vision).*(q|up)_proj".into()),
        rank_pattern: vec![("layers\\.0\\.mlp\\.up_proj".into(), 3), ("proj".into(), 5)],
        alpha_pattern: vec![("q_proj".into(), 0.5)],
        dora: true,
        modules_to_save: vec!["lm_head".into()],
        ..spec()
    };
    assert_eq!(spec.rank_of("model.layers.0.mlp.up_proj"), 3);
    // `proj` is no whole component of up_proj
    assert_eq!(spec.rank_of("model.layers.1.mlp.up_proj"), 2);
    assert!((spec.scale_of("model.layers.0.self_attn.q_proj") - 0.5 / 2f64.sqrt()).abs() < 1e-12);
    assert!((spec.scale_of("model.layers.0.mlp.up_proj") - 8.0 / 3f64.sqrt()).abs() < 1e-12);
    assert!(!spec.wants("model.vision.q_proj"));
    let mut before = Params::new();
    for p in projections() {
        let (a, b) = spec.init(&p, 3).unwrap();
        let (name, outputs) = (p.name, p.outputs);
        assert_eq!(a.dims(), [spec.rank_of(&name), p.inputs]);
        before.insert(format!("{name}.lora_A"), a);
        before.insert(format!("{name}.lora_B"), b);
        let ones = Tensor::ones(outputs, DType::F32, &Device::Cpu).unwrap();
        before.insert(format!("{name}.lora_magnitude_vector"), ones);
    }
    let head = Tensor::full(0.25f32, (9, 6), &Device::Cpu).unwrap();
    before.insert("lm_head.weight".into(), head);
    peft::save(dir.path(), &spec, &before, "b").unwrap();
    let (read, after) = peft::load(dir.path()).unwrap();
    for p in projections() {
        assert!(read.adapts(&p) && read.rank_of(&p.name) == spec.rank_of(&p.name));
        assert_eq!(read.scale_of(&p.name), spec.scale_of(&p.name));
    }
    assert_eq!(
        before.keys().collect::<Vec<_>>(),
        after.keys().collect::<Vec<_>>()
    );
    peft::check_fit(&read, &after, &projections()).unwrap();
    let bytes = fs::read(dir.path().join(peft::MODEL)).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for name in [
        "base_model.model.lm_head.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector",
    ] {
        file.tensor(name).unwrap();
    }
    let json = config(dir.path());
    assert_eq!(json["use_dora"], json!(true));
    assert_eq!(json["modules_to_save"], json!(["lm_head"]));
    // by full name: PEFT sorts patterns when it saves, and the first that fits counts
    assert_eq!(
        json["rank_pattern"],
        json!({"model\\.layers\\.0\\.mlp\\.up_proj": 3})
    );
}

#[test]
fn a_stack_is_the_sum() {
    let one = spec();
    let two = LoraSpec {
        rank: 3,
        alpha: 1.5,
        rslora: false,
        targets: Targets::Names(vec!["q_proj".into()]),
        ..spec()
    };
    let q = "model.layers.0.self_attn.q_proj";
    let mut second = params(&two);
    second.retain(|name, _| name.starts_with(q));
    let first = params(&one);
    let adapters = vec![(one.clone(), first.clone()), (two.clone(), second.clone())];
    let (spec, params) = stack(adapters).unwrap();
    peft::check_fit(&spec, &params, &projections()).unwrap();
    let zero = Tensor::zeros((4, 6), DType::F32, &Device::Cpu).unwrap();
    let delta = |spec: &LoraSpec, params: &Params| {
        values(&merge(&zero, &spec.update(params, q).unwrap()).unwrap())
    };
    let (a, b) = (delta(&one, &first), delta(&two, &second));
    for ((sum, a), b) in delta(&spec, &params).iter().zip(a).zip(b) {
        assert!((sum - (a + b)).abs() < 1e-6);
    }
    // a rank of its own where only one of them is
    assert_eq!(spec.rank_of("model.layers.0.mlp.up_proj"), 2);
    assert_eq!(spec.rank_of(q), 5);
    let dora = LoraSpec { dora: true, ..one };
    let e = stack(vec![(dora, first), (two, second)]).unwrap_err();
    assert!(e.to_string().contains("DoRA"), "{e}");
}
