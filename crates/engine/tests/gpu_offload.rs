//! Block inputs that wait in the host's memory (`train.offload_inputs`): the same bits as where
//! they stay on the GPU, whatever order its two queues choose. Wants the feature `cuda`, and a GPU
//! or the stand-in for one, which can go through the extremes of that order
//! (`RANDORI_STAND_IN_EAGER` in `crates/cuda/stand_in/driver.cpp`); skips, loudly, without either.
#![cfg(feature = "cuda")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    collections::{BTreeMap, HashMap},
    process::{Command, Output},
    sync::Arc,
};

use candle_core::{DType, Tensor};
use randori_engine::{
    Base, Error, Grads, Packed, PassOptions, Player, Weight,
    train::{Control, StepMetrics, TrainSettings, Trainer},
};
use randori_sdk::seam::{Architecture, Backend, Id, OpResult};

mod tiny;
use tiny::{card::*, *};

/// [`TinyLlama`] with as many blocks as it takes for inputs to be under way both ways.
struct Deep;

const DEEP: usize = 5;

impl Architecture for Deep {
    fn name(&self) -> &str {
        "deep-llama"
    }
    fn layers(&self) -> usize {
        DEEP
    }
    fn embed(&self, ops: &mut dyn Backend, ids: Id) -> OpResult {
        TinyLlama.embed(ops, ids)
    }
    fn block(&self, ops: &mut dyn Backend, layer: usize, x: Id) -> OpResult {
        TinyLlama.block(ops, layer, x)
    }
    fn head(&self, ops: &mut dyn Backend, x: Id) -> OpResult {
        TinyLlama.head(ops, x)
    }
}

fn deep() -> Base {
    let shallow = llama();
    let mut weights: HashMap<String, Weight> = HashMap::new();
    for (name, w) in &shallow.weights {
        weights.insert(name.clone(), w.clone());
        for layer in 2..DEEP {
            let of = name.strip_prefix(&format!("layers.{}.", layer % 2));
            if let (Some(part), Weight::Dense(t)) = (of, w) {
                let t = (t * (1.0 + 0.1 * layer as f64)).unwrap();
                weights.insert(format!("layers.{layer}.{part}"), Weight::Dense(t));
            }
        }
    }
    Base {
        arch: Arc::new(Deep),
        config: serde_json::json!({}),
        weights,
        squares: Default::default(),
        compute: Default::default(),
    }
}

fn deep_player(float: DType, full: bool) -> Player {
    let base = up(&deep(), float);
    if full {
        return Player::full(base).unwrap();
    }
    let spec = lora().lora.unwrap();
    let mut player = Player::with_lora(base, (*spec).clone(), 7).unwrap();
    let mut params = (*player.params).clone();
    for (i, (name, t)) in params.iter_mut().enumerate() {
        if name.ends_with("lora_B") {
            *t = random(5, i as u64, t.dims(), 0.3);
        }
    }
    player.params = Arc::new(params);
    player
}

const CHECKPOINTED: PassOptions = PassOptions {
    checkpoint: true,
    offload_inputs: false,
    dropout_seed: Some(3),
};
const OFFLOADED: PassOptions = PassOptions {
    offload_inputs: true,
    ..CHECKPOINTED
};

fn bits(values: &[f64]) -> Vec<u64> {
    assert!(values.iter().all(|v| v.is_finite()), "not a number");
    values.iter().map(|v| v.to_bits()).collect()
}

fn short() -> Packed {
    let mut plan = Packed::default();
    plan.push(&[3, 1, 4, 1, 5], &[&[9, 2, 6], &[5, 3]]);
    plan
}

/// The gradients' bits after one micro-batch that is given up half-way and several others, one of
/// which is larger.
fn summed(player: &Player, options: &PassOptions) -> BTreeMap<String, Vec<u64>> {
    let (short, mut long) = (short(), Packed::default());
    long.push(&lists(8, 1, 20..21, VOCAB)[0], &[&[9, 2, 6], &[5; 12]]);
    let mut stops = |_: &[f64]| Err(Error::rule("stop"));
    player
        .forward_backward(&short, options, &mut stops, &mut Grads::new())
        .unwrap_err();
    let mut grads = Grads::new();
    for plan in [&short, &long, &short] {
        let mut slopes = |l: &[f64]| Ok(vec![0.2; l.len()]);
        player
            .forward_backward(plan, options, &mut slopes, &mut grads)
            .unwrap();
    }
    let bits = |t: &Tensor| bits(&host(t));
    grads.iter().map(|(n, t)| (n.clone(), bits(t))).collect()
}

/// Losses' and parameters' bits after two steps of two micro-batches.
fn trained(player: &Player, offload_inputs: bool) -> Vec<Vec<u64>> {
    let pairs = random_pairs(8, 4..12, 4..12, VOCAB, [-60.0; 2]);
    let settings = TrainSettings {
        learning_rate: 1e-2,
        batch: 4,
        epochs: 1,
        micro_batch_tokens: 60,
        checkpoint: true,
        offload_inputs,
        ..TrainSettings::default()
    };
    let mut trainer = Trainer::new(player.clone(), settings).unwrap();
    let mut losses = Vec::new();
    let each = &mut |m: &StepMetrics, _: &Trainer| {
        losses.push(m.loss);
        Ok(Control::Continue)
    };
    trainer.train_pairs(&pairs, &Logistic(0.1), each).unwrap();
    assert_eq!(losses.len(), 2);
    let player = trainer.player().unwrap();
    let params = player.params.values().map(host);
    [losses]
        .into_iter()
        .chain(params)
        .map(|v| bits(&v))
        .collect()
}

/// What a process of its own is to do: the stand-in's switches are read when it starts.
const PART: &str = "RANDORI_GPU_PART";

/// This test program again, with one test alone.
fn again(test: &str, part: &str, switches: &[(&str, &str)]) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(PART, part)
        .env("RANDORI_STAND_IN_REPORT", "1")
        .envs(switches.iter().copied())
        .output()
        .unwrap()
}

/// The copies as late as the program's waits allow, and as early as they do.
#[test]
fn offloading_changes_no_bit() {
    let card = match randori_engine::card() {
        Ok((name, ..)) => name,
        Err(e) => return eprintln!("SKIPPED: {e}"),
    };
    match std::env::var(PART).as_deref() {
        Ok("bits") => {
            for (float, full) in [
                (DType::F32, false),
                (DType::BF16, false),
                (DType::F32, true),
            ] {
                let player = deep_player(float, full);
                let what = format!("{float:?}, full {full}");
                let same = summed(&player, &CHECKPOINTED) == summed(&player, &OFFLOADED);
                assert!(same, "{what}: gradients");
                assert_eq!(trained(&player, false), trained(&player, true), "{what}");
            }
        }
        Ok("again and again") => {
            let player = deep_player(DType::F32, false);
            for _ in 0..3 {
                summed(&player, &OFFLOADED);
            }
        }
        Ok("none") => {
            let player = deep_player(DType::F32, false);
            let mut slopes = |l: &[f64]| Ok(vec![0.2; l.len()]);
            let e = player
                .forward_backward(&short(), &OFFLOADED, &mut slopes, &mut Grads::new())
                .unwrap_err();
            assert!(!e.is_out_of_memory(), "taken for the card's: {e}");
            for part in ["the host pins no", "train.offload_inputs = false"] {
                assert!(e.to_string().contains(part), "{e}");
            }
        }
        _ => {
            let test = "offloading_changes_no_bit";
            let said = |out: Output| {
                let text = String::from_utf8_lossy(&out.stderr).into_owned();
                assert!(out.status.success(), "{text}");
                text
            };
            for eager in ["main", "others", "none"] {
                said(again(test, "bits", &[("RANDORI_STAND_IN_EAGER", eager)]));
            }
            if card.contains("stand-in") {
                said(again(test, "none", &[("RANDORI_STAND_IN_PINNED", "0")]));
                // a block for each input that leaves, once for the short plan and once for the long
                // one
                let text = said(again(test, "again and again", &[]));
                let blocks = format!("{} blocks of them asked for", 2 * (DEEP - 1));
                assert!(text.contains(&blocks), "{text}");
            }
        }
    }
}

#[test]
fn offloading_wants_checkpoints_and_a_gpu() {
    let mut slopes = |l: &[f64]| Ok(vec![0.2; l.len()]);
    let mut refused = |options: &PassOptions| {
        let run = lora().forward_backward(&short(), options, &mut slopes, &mut Grads::new());
        run.unwrap_err().to_string()
    };
    let on_cpu = refused(&OFFLOADED);
    assert!(on_cpu.contains("the model on the processor"), "{on_cpu}");
    let kept = refused(&PassOptions {
        checkpoint: false,
        ..OFFLOADED
    });
    assert!(kept.contains("checkpoint false"), "{kept}");
}
