//! Updates of experts whose gate and other input take turns in one tensor of a layer (gpt-oss).

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use randori_lora::{LoraSpec, Targets, peft};
use serde_json::{Value, json};

const EXPERTS: usize = 3;
const WIDTH: usize = 6;
const INSIDE: usize = 4;

/// Updates of q, the router and every projection of three experts.
fn adapter() -> (LoraSpec, BTreeMap<String, Tensor>) {
    let layer = "model.layers.1";
    let mut all = vec![
        (format!("{layer}.self_attn.q_proj"), WIDTH, WIDTH),
        (format!("{layer}.mlp.router"), WIDTH, EXPERTS),
    ];
    for e in 0..EXPERTS {
        let expert = format!("{layer}.mlp.experts.{e}");
        all.push((format!("{expert}.gate_proj"), WIDTH, INSIDE));
        all.push((format!("{expert}.up_proj"), WIDTH, INSIDE));
        all.push((format!("{expert}.down_proj"), INSIDE, WIDTH));
    }
    let spec = LoraSpec {
        rank: 2,
        alpha: 6.0,
        targets: Targets::AllLinear,
        rank_pattern: vec![("router".into(), 1)],
        ..LoraSpec::default()
    };
    let mut params = BTreeMap::new();
    for (name, inputs, outputs) in all {
        let rank = spec.rank_of(&name);
        for (half, shape) in [("lora_A", (rank, inputs)), ("lora_B", (outputs, rank))] {
            let key = format!("{name}.{half}");
            let values: Vec<f32> = randori_lora::splitmix(3, &key, shape.0 * shape.1)
                .map(|u| u as f32 - 0.5)
                .collect();
            let t = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
            params.insert(key, t);
        }
    }
    (spec, params)
}

/// scale · B · A of every projection.
fn deltas(spec: &LoraSpec, params: &BTreeMap<String, Tensor>) -> BTreeMap<String, Vec<f32>> {
    let of = |name: String| {
        let update = spec.update(params, &name).unwrap();
        let delta = (update.b.matmul(&update.a).unwrap() * update.scale).unwrap();
        (name, delta.flatten_all().unwrap().to_vec1().unwrap())
    };
    peft::projections(params).into_iter().map(of).collect()
}

#[test]
fn updates_that_take_turns_are_read_as_they_were_written() {
    let (spec, params) = adapter();
    let dir = tempfile::tempdir().unwrap();
    peft::save_dealt(dir.path(), &spec, &params, "base").unwrap();
    let config = std::fs::read(dir.path().join(peft::CONFIG)).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    let stacked = [
        "mlp.experts.down_proj",
        "mlp.experts.gate_up_proj",
        "mlp.router.weight",
    ];
    assert_eq!(config["target_parameters"], json!(stacked));
    assert_eq!(config["target_modules"], json!(["q_proj"]));
    assert_eq!(
        (&config["r"], &config["lora_alpha"]),
        (&json!(4), &json!(12))
    );
    let q = r"model\.layers\.1\.self_attn\.q_proj";
    assert_eq!(config["rank_pattern"], json!({q: 2}));
    assert_eq!(config["alpha_pattern"], json!({q: 6}));
    let (read, held) = peft::load(dir.path()).unwrap();
    assert!(read.halved);
    let held = peft::deal_out(held).unwrap();
    let (ours, theirs) = (deltas(&spec, &params), deltas(&read, &held));
    assert_eq!(ours.len(), theirs.len());
    for (name, ours) in ours {
        let off = ours.iter().zip(&theirs[&name]).map(|(a, b)| (a - b).abs());
        assert!(off.fold(0.0, f32::max) < 1e-6, "{name}");
    }
}

/// As peft computes it: expert e's change, (in, 2 · out), is the sum over r of A's (e · rank + r,
/// i) times B's (o, r · experts + e), and gate's columns are the even ones.
#[test]
fn a_stack_holds_gate_and_the_other_input_by_turns() {
    let (spec, params) = adapter();
    let dir = tempfile::tempdir().unwrap();
    peft::save_dealt(dir.path(), &spec, &params, "base").unwrap();
    let file = dir.path().join(peft::MODEL);
    let held = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    let half = |half: &str| {
        let name = format!("base_model.model.model.layers.1.mlp.experts.base_layer.{half}.weight");
        held[&name].to_vec2::<f32>().unwrap()
    };
    let (a, b) = (half("lora_A"), half("lora_B"));
    let (rank, ours) = (4, deltas(&spec, &params));
    for e in 0..EXPERTS {
        for (turn, part) in ["gate_proj", "up_proj"].into_iter().enumerate() {
            let wanted = &ours[&format!("model.layers.1.mlp.experts.{e}.{part}")];
            for (n, wanted) in wanted.iter().enumerate() {
                let (output, input) = (n / WIDTH, n % WIDTH);
                let product =
                    |r: usize| b[2 * output + turn][r * EXPERTS + e] * a[e * rank + r][input];
                let found: f32 = (0..rank).map(product).sum::<f32>() * 12.0 / rank as f32;
                assert!((found - wanted).abs() < 1e-6, "{e} {part} {output} {input}");
            }
        }
    }
}

#[test]
fn halves_that_cannot_be_dealt_out_are_refused() {
    let (_, mut params) = adapter();
    // each with an A of its own: no matrix held both
    let e = peft::deal_out(params.clone()).unwrap_err().to_string();
    assert!(e.contains("experts.0.gate_proj and"), "{e}");
    let lost = "model.layers.1.mlp.experts.2.up_proj.lora_B";
    params.remove(lost);
    for e in 0..EXPERTS {
        let expert = format!("model.layers.1.mlp.experts.{e}");
        let a = params[&format!("{expert}.gate_proj.lora_A")].clone();
        params.insert(format!("{expert}.up_proj.lora_A"), a);
    }
    let e = peft::deal_out(params).unwrap_err().to_string();
    assert!(e.contains("experts.2.up_proj none"), "{e}");
}

#[test]
fn an_update_of_some_experts_is_not_written() {
    let (spec, mut params) = adapter();
    params.retain(|name, _| !name.contains("experts.1.down_proj"));
    let dir = tempfile::tempdir().unwrap();
    let e = peft::save_dealt(dir.path(), &spec, &params, "base").unwrap_err();
    let e = e.to_string();
    assert!(
        e.contains("has updates of down_proj for 2 of its experts"),
        "{e}"
    );
}
