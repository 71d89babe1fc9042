//! What is exported computes what the player computed: merged folders and PEFT adapters, loaded again and run.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{collections::BTreeMap, path::Path, sync::Arc};

use candle_core::Tensor;
use randori_engine::{
    Base, Packed, Player, Weight,
    weights::{Dtype, LoadOptions, Quant, Source, open},
};
use randori_export::{FolderOptions, adapter, folder};
use randori_host::{Host, SearchPath};
use randori_lora::{LoraSpec, Targets, peft};
use serde_json::json;

fn load(source: Source, quant: Option<Quant>) -> Base {
    let checkpoint = open(source).unwrap();
    let host = Host::discover(&SearchPath::standard()).unwrap();
    let arch = host
        .architecture("llama", &checkpoint.config().to_string())
        .unwrap();
    checkpoint
        .load(
            arch,
            &LoadOptions {
                quant,
                dtype: Dtype::F32,
            },
            &mut |_, _| {},
        )
        .unwrap()
}

fn small(quant: Option<Quant>) -> Arc<Base> {
    let config = json!({
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 96, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true, "hidden_act": "silu",
    });
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
        dropout: 0.0,
        targets: Targets::AllLinear,
        ..LoraSpec::default()
    };
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
    folder(
        player,
        &[],
        out,
        &FolderOptions {
            dtype,
            ..FolderOptions::default()
        },
        &mut |_, _| {},
    )
    .unwrap();
    Player::bare(Arc::new(load(Source::Folder(out.into()), None)))
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
