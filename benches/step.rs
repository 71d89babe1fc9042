//! One SPIN training step: four pairs as long as GSM8K's, forward, backward and update.
//!
//! Throughput counts tokens as the PyTorch peer does, a pair's prompt once per response (1,160 a
//! step), although the prompt is computed once here: so the figures compare as times do.
#![allow(
    missing_docs,
    clippy::expect_used,
    reason = "a bench stops at the first thing that does not work"
)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use randori_benches::{
    Clock, GENERATED, PROMPT, REAL, adapter, criterion, host, layers, pairs, smollm2,
};
use randori_engine::{
    Player,
    train::{Control, Optimizer, TrainSettings, Trainer},
    weights::{Dtype, LoadOptions, Quant},
};

const PAIRS: usize = 4;

fn step(c: &mut Criterion<Clock>) {
    let host = host();
    let loss = host.loss("spin", &[]).expect("the loss plugin");
    let pairs = pairs(PAIRS);
    let mut group = c.benchmark_group(format!("step/{} layers", layers()));
    group.sample_size(10);
    group.throughput(Throughput::Elements(
        (PAIRS * (2 * PROMPT + REAL + GENERATED)) as u64,
    ));
    let nf4 = Some(Quant::Nf4 { double: true });
    for (name, quant, dtype, checkpoint) in [
        ("lora f32", None, Dtype::F32, false),
        ("lora f32, checkpointed", None, Dtype::F32, true),
        ("lora bf16", None, Dtype::Bf16, false),
        ("qlora nf4", nf4, Dtype::F32, false),
        ("full f32", None, Dtype::F32, false),
    ] {
        let base = smollm2(&host, &LoadOptions { quant, dtype });
        let player = match name {
            "full f32" => Player::full(base),
            _ => Player::with_lora(base, adapter(), 1),
        };
        let settings = TrainSettings {
            optimizer: Optimizer::adamw(),
            learning_rate: 1e-6,
            batch: PAIRS,
            epochs: 1_000_000, // a step each; as many as are measured
            checkpoint,
            ..TrainSettings::default()
        };
        let mut trainer = Trainer::new(player.expect("a player"), settings).expect("a trainer");
        group.bench_function(name, |b| {
            b.iter(|| {
                let one = trainer.train_pairs(&pairs, &*loss, &mut |_, _| Ok(Control::Stop));
                one.expect("a step");
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = criterion();
    targets = step
}
criterion_main!(benches);
