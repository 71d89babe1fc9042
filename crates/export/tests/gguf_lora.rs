//! GGUF LoRAs: llama.cpp adds the same update to a weight as the player; adapters that the format
//! cannot express are refused.

use std::{collections::BTreeMap, fs::File};

use crate::family;
use crate::model::{self, HEADS, INNER, KV_HEADS, WIDTH, config, permute, values};
use candle_core::{Device, Tensor, quantized::gguf_file};
use randori_export::{GgufLoraOptions, gguf_lora};

/// q, k and down of layer 1, ranks 4, 4 and 2.
fn lora() -> BTreeMap<String, Tensor> {
    let mut params = BTreeMap::new();
    let part = |p: &str| format!("model.layers.1.{p}");
    for (name, inputs, outputs, rank) in [
        (part("self_attn.q_proj"), WIDTH, WIDTH, 4),
        (part("self_attn.k_proj"), WIDTH, WIDTH / 2, 4),
        (part("mlp.down_proj"), INNER, WIDTH, 2),
    ] {
        let random = |half: &str, rows: usize, columns: usize| {
            let label = format!("{name}{half}");
            let numbers = randori_lora::splitmix(1, &label, rows * columns);
            let numbers: Vec<f32> = numbers.map(|u| (u - 0.5) as f32).collect();
            Tensor::from_vec(numbers, (rows, columns), &Device::Cpu).unwrap()
        };
        params.insert(format!("{name}.lora_A"), random("a", rank, inputs));
        params.insert(format!("{name}.lora_B"), random("b", outputs, rank));
    }
    params
}

fn lora_options() -> GgufLoraOptions {
    GgufLoraOptions {
        replace: false,
        name: "small".into(),
    }
}

#[test]
fn llama_cpp_applies_a_lora_as_the_player_does() {
    let dir = tempfile::tempdir().unwrap();
    let params = lora();
    let usual = |_: &str| 2.0;
    // rsLoRA with alpha 8, and an alpha of its own for down
    let odd = |p: &str| {
        if p.ends_with("down_proj") {
            3.0 / 2f64.sqrt()
        } else {
            8.0 / 4f64.sqrt()
        }
    };
    for (i, scale) in [&usual as &dyn Fn(&str) -> f64, &odd]
        .into_iter()
        .enumerate()
    {
        let out = dir.path().join(format!("{i}.gguf"));
        let report = gguf_lora(
            &params,
            &config(),
            &family(&config()),
            scale,
            &out,
            &lora_options(),
        )
        .unwrap();
        assert_eq!(report.tensors, 6);
        let mut file = File::open(&out).unwrap();
        let read = gguf_file::Content::read(&mut file).unwrap();
        let text = |k: &str| read.metadata[k].to_string().unwrap().clone();
        assert_eq!(
            (text("general.type"), text("adapter.type")),
            ("adapter".into(), "lora".into())
        );
        let alpha = f64::from(read.metadata["adapter.lora.alpha"].to_f32().unwrap());
        let mut tensor = |name: &str| {
            read.tensor(&mut file, name, &Device::Cpu)
                .unwrap()
                .dequantize(&Device::Cpu)
                .unwrap()
        };
        for (stored, hf, heads) in [
            ("blk.1.attn_q", "self_attn.q_proj", Some(HEADS)),
            ("blk.1.attn_k", "self_attn.k_proj", Some(KV_HEADS)),
            ("blk.1.ffn_down", "mlp.down_proj", None),
        ] {
            let (a, b) = (
                tensor(&format!("{stored}.weight.lora_a")),
                tensor(&format!("{stored}.weight.lora_b")),
            );
            // llama.cpp: alpha / rank of B
            let delta = (b.matmul(&a).unwrap() * (alpha / b.dims()[1] as f64)).unwrap();
            let name = format!("model.layers.1.{hf}");
            let (a, b) = (
                &params[&format!("{name}.lora_A")],
                &params[&format!("{name}.lora_B")],
            );
            let wanted = (b.matmul(a).unwrap() * scale(&name)).unwrap();
            let wanted = heads.map_or(wanted.clone(), |h| permute(&wanted, h));
            assert!(
                model::largest_difference(&values(&delta), &values(&wanted)) < 2e-6,
                "{name} {i}"
            );
        }
    }
}

/// llama.cpp rotates a Qwen's heads as transformers does: no row of q and k goes elsewhere.
#[test]
fn a_qwens_rows_stay_where_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let params = lora();
    // one alpha for all ranks: no factor is folded into B
    let scale = |name: &str| 8.0 / params[&format!("{name}.lora_A")].dims()[0] as f64;
    for model_type in ["qwen2", "qwen3"] {
        let mut config = config();
        config["model_type"] = serde_json::json!(model_type);
        let out = dir.path().join(format!("{model_type}.gguf"));
        gguf_lora(
            &params,
            &config,
            &family(&config),
            &scale,
            &out,
            &lora_options(),
        )
        .unwrap();
        let mut file = File::open(&out).unwrap();
        let read = gguf_file::Content::read(&mut file).unwrap();
        let architecture = read.metadata["general.architecture"].to_string();
        assert_eq!(architecture.unwrap(), model_type);
        for (stored, hf) in [("attn_q", "q_proj"), ("attn_k", "k_proj")] {
            let name = format!("blk.1.{stored}.weight.lora_b");
            let t = read.tensor(&mut file, &name, &Device::Cpu).unwrap();
            let t = t.dequantize(&Device::Cpu).unwrap();
            let own = &params[&format!("model.layers.1.self_attn.{hf}.lora_B")];
            assert_eq!(values(&t), values(own), "{model_type} {hf}");
        }
    }
}

#[test]
fn what_a_gguf_lora_cannot_say_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |name: &str, shape: (usize, usize), words: &str| {
        let mut params = lora();
        params.insert(
            name.into(),
            Tensor::ones(shape, candle_core::DType::F32, &Device::Cpu).unwrap(),
        );
        let e = gguf_lora(
            &params,
            &config(),
            &family(&config()),
            &|_| 1.0,
            &dir.path().join("l.gguf"),
            &lora_options(),
        );
        let e = e.unwrap_err().to_string();
        assert!(e.contains(words), "{e}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    };
    refused(
        "model.layers.1.mlp.down_proj.lora_magnitude_vector",
        (1, 64),
        "DoRA",
    );
    refused("lm_head.weight", (96, 64), "modules_to_save");
    refused(
        "model.layers.0.mlp.up_proj.lora_A",
        (4, 64),
        "up_proj.lora_B",
    );
    refused("model.layers.1.mlp.down_proj.lora_B", (64, 3), "down_proj");
    refused("model.layers.1.mlp.down_proj.lora_B", (60, 2), "down_proj");
    let whole = |name: &str, words: &str| {
        let one = |n: &str, shape: (usize, usize)| {
            (
                format!("{name}.{n}"),
                Tensor::ones(shape, candle_core::DType::F32, &Device::Cpu).unwrap(),
            )
        };
        let params = BTreeMap::from([one("lora_A", (1, 64)), one("lora_B", (96, 1))]);
        let e = gguf_lora(
            &params,
            &config(),
            &family(&config()),
            &|_| 1.0,
            &dir.path().join("l.gguf"),
            &lora_options(),
        );
        assert!(e.as_ref().unwrap_err().to_string().contains(words), "{e:?}");
    };
    whole("lm_head", "one tensor");
    whole("model.embed_tokens", "merged");
    whole("model.layers.7.self_attn.q_proj", "layers.7.");
    whole("model.norm", "model.norm");
    let e = gguf_lora(
        &lora(),
        &config(),
        &family(&config()),
        &|_| 0.0,
        &dir.path().join("l.gguf"),
        &lora_options(),
    );
    assert!(e.unwrap_err().to_string().contains("scale"));
}
