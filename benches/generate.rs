//! Generation: 1, 8 and 32 sequences at once, each a prompt as long as GSM8K's and a fixed number
//! of new tokens.
//!
//! `RANDORI_BENCH_NEW` sets that number (32; the PyTorch peer was measured with 128).
#![allow(
    missing_docs,
    clippy::expect_used,
    reason = "a bench stops at the first thing that does not work"
)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use randori_benches::{
    Clock, PROMPT, VOCAB, adapter, criterion, host, layers, number, smollm2, tokens,
};
use randori_engine::{
    GenerateOptions, Player, generate,
    weights::{Dtype, LoadOptions, Quant},
};

fn generation(c: &mut Criterion<Clock>) {
    let host = host();
    let new = number("RANDORI_BENCH_NEW", 32);
    let samplers = [
        host.sampler("temperature", &[])
            .expect("the sampler plugin"),
        host.sampler("top_p", &[]).expect("the sampler plugin"),
    ];
    let mut group = c.benchmark_group(format!("generate/{} layers, {new} new tokens", layers()));
    group.sample_size(10);
    let nf4 = Some(Quant::Nf4 { double: true });
    for (name, quant, dtype, lora, samplers) in [
        ("f32", None, Dtype::F32, false, &[][..]),
        ("bf16", None, Dtype::Bf16, false, &[]),
        ("nf4", nf4, Dtype::F32, false, &[]),
        ("f32 + lora", None, Dtype::F32, true, &[]),
        ("f32, top-p", None, Dtype::F32, false, &samplers[..]),
    ] {
        let base = smollm2(&host, &LoadOptions { quant, dtype });
        let player = match lora {
            true => Player::with_lora(base, adapter(), 1).expect("an adapter"),
            false => Player::bare(base),
        };
        for batch in [1, 8, 32] {
            let prompts: Vec<Vec<u32>> = (0..batch).map(|i| tokens(i, PROMPT, VOCAB)).collect();
            let options = GenerateOptions {
                max_new_tokens: new,
                min_new_tokens: new,
                slots: prompts.len(),
                ..GenerateOptions::default()
            };
            group.throughput(Throughput::Elements(batch * new as u64));
            group.bench_function(BenchmarkId::new(name, batch), |b| {
                b.iter(|| {
                    generate(&player, &prompts, samplers, &options, &mut |_| ()).expect("responses")
                });
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = criterion();
    targets = generation
}
criterion_main!(benches);
