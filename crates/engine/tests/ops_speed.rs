//! Speed and memory of a training pass on SmolLM2-135M's shapes with random weights. Not a test of
//! right or wrong:
//! `cargo test --release -p randori-engine --test ops_speed -- --ignored --nocapture`

mod ops;

use std::{sync::Arc, time::Instant};

use candle_core::DType;
use ops::{Llama, Random, adapted, base};
use randori_engine::{Base, Grads, KvCache, Packed, PassOptions, Player, SlotTokens, Weight};
use randori_lora::{LoraSpec, Targets};

/// `Vm…` of this process in MiB.
fn memory(field: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find(|l| l.starts_with(field))
        .unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse::<f64>().ok())
        .unwrap_or(0.0)
        / 1024.0
}

/// Processor seconds of this process so far (10 ms ticks): what a busy machine does not distort.
fn processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    [11, 12]
        .iter()
        .filter_map(|i| fields.get(*i)?.parse::<f64>().ok())
        .sum::<f64>()
        / 100.0
}

/// The shortest run's seconds; prints the mean processor time.
fn best(times: usize, mut f: impl FnMut()) -> f64 {
    let before = processor();
    let shortest = (0..times)
        .map(|_| {
            let start = Instant::now();
            f();
            start.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min);
    print!(
        "[{:.1} ms of processor] ",
        (processor() - before) / times as f64 * 1e3
    );
    shortest
}

fn smol() -> Llama {
    Llama {
        vocab: 49152,
        width: 576,
        layers: 30,
        heads: 9,
        kv_heads: 3,
        ffn: 1536,
        window: None,
    }
}

fn pair() -> Packed {
    let mut random = Random(1);
    let mut plan = Packed::default();
    let (p, a, b) = (
        random.tokens(100, 49152),
        random.tokens(100, 49152),
        random.tokens(100, 49152),
    );
    plan.push(&p, &[&a, &b]);
    plan
}

#[test]
#[ignore = "a measurement"]
fn training_pass() {
    let base = base(smol(), 1);
    println!("base in memory: {:.0} MiB", memory("VmRSS"));
    let plan = pair();
    let tokens = plan.ids.len() as f64;
    let spec = LoraSpec {
        rank: 16,
        alpha: 32.0,
        rslora: false,
        dropout: 0.0,
        targets: Targets::AllLinear,
        ..LoraSpec::default()
    };
    let player = Player::with_lora(base.clone(), spec, 1).unwrap();
    let run = |player: &Player, checkpoint: bool| {
        let options = PassOptions {
            checkpoint,
            ..PassOptions::default()
        };
        let mut grads = Grads::new();
        let mut slopes = |l: &[f64]| Ok(vec![0.1; l.len()]);
        player
            .forward_backward(&plan, &options, &mut slopes, &mut grads)
            .unwrap();
    };
    let report = |what: &str, seconds: f64| {
        println!(
            "{what}: {:.0} tokens/s ({:.0} ms), peak {:.0} MiB",
            tokens / seconds,
            seconds * 1e3,
            memory("VmHWM")
        );
    };
    report("score, f32", best(3, || drop(player.logps(&plan).unwrap())));
    report("train LoRA, checkpointed", best(3, || run(&player, true)));
    report("train LoRA, plain", best(3, || run(&player, false)));
    let half = |dtype: DType| {
        let weights = base
            .weights
            .iter()
            .map(|(n, w)| {
                (
                    n.clone(),
                    Weight::Dense(w.to_f32().unwrap().to_dtype(dtype).unwrap()),
                )
            })
            .collect();
        let half = Base {
            arch: base.arch.clone(),
            config: base.config.clone(),
            weights,
            squares: Default::default(),
            compute: Default::default(),
        };
        Player {
            base: Arc::new(half),
            ..player.clone()
        }
    };
    report(
        "train LoRA, bf16 base",
        best(3, || run(&half(DType::BF16), false)),
    );
    report(
        "train LoRA, f16 base",
        best(3, || run(&half(DType::F16), false)),
    );
    let full = Player::full(base.clone()).unwrap();
    report("train full", best(3, || run(&full, false)));
}

#[test]
#[ignore = "a measurement"]
fn decoding() {
    for (what, arch) in [("SmolLM2-135M", smol()), ("the demo's model", tiny())] {
        let player = Player::bare(base(arch, 1));
        for slots in [1, 8, 32, 64] {
            let mut cache = KvCache::new(&player, slots);
            let prompt: Vec<u32> = (0..40).collect();
            let all: Vec<SlotTokens> = (0..slots)
                .map(|slot| SlotTokens {
                    slot,
                    tokens: &prompt,
                })
                .collect();
            let prefill = best(1, || drop(player.step(&mut cache, &all).unwrap()));
            let one: Vec<SlotTokens> = (0..slots)
                .map(|slot| SlotTokens { slot, tokens: &[7] })
                .collect();
            let step = best(100, || drop(player.step(&mut cache, &one).unwrap()));
            println!(
                "{what}, {slots} slots: prefill {:.0} tokens/s, decode {:.0} tokens/s ({:.2} ms a step)",
                (40 * slots) as f64 / prefill,
                slots as f64 / step,
                step * 1e3
            );
        }
    }
}

/// The demo's model (configs/demo/model/config.json).
fn tiny() -> Llama {
    Llama {
        vocab: 337,
        width: 96,
        layers: 3,
        heads: 3,
        kv_heads: 1,
        ffn: 256,
        window: None,
    }
}

#[test]
#[ignore = "a measurement"]
fn tiny_training() {
    let base = base(tiny(), 1);
    let mut random = Random(2);
    let mut plan = Packed::default();
    for _ in 0..16 {
        let [p, a, b] = [24, 12, 12].map(|n| random.tokens(n, 337));
        plan.push(&p, &[&a, &b]);
    }
    for player in [
        adapted(base.clone(), Targets::AllLinear, 0.0),
        Player::full(base).unwrap(),
    ] {
        let mut slopes = |l: &[f64]| Ok(vec![0.1; l.len()]);
        let mut grads = Grads::new();
        let train = best(100, || {
            let options = PassOptions::default();
            player
                .forward_backward(&plan, &options, &mut slopes, &mut grads)
                .unwrap();
        });
        let score = best(100, || drop(player.logps(&plan).unwrap()));
        println!(
            "demo's model, {} of 16 pairs, {} tokens: train {:.2} ms, score {:.2} ms",
            if player.lora.is_some() {
                "LoRA"
            } else {
                "full"
            },
            plan.ids.len(),
            train * 1e3,
            score * 1e3
        );
    }
}
