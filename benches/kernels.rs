//! Benches of single kernels: attention, norm, response log-probs, and products with quantised
//! weights.
//!
//! Attention, norm and log-probs run through the engine as a model of that op (an embedding before,
//! a small head behind); `floor` is such a model without the op, to be subtracted.
#![allow(
    missing_docs,
    clippy::expect_used,
    reason = "a bench stops at the first thing that does not work"
)]

use std::sync::Arc;

use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, QTensor},
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use randori_benches::{
    Clock, FFN, HEAD_DIM, HEADS, KV_HEADS, Probe, VOCAB, WIDTH, criterion, sequence,
};
use randori_engine::{Base, Grads, Packed, Params, PassOptions, Player};
use randori_qlora::QuantMatrix;
use randori_sdk::seam::{AttnSpec, Backend, Id, OpResult};

/// Small enough that embedding and head cost little.
const SMALL_VOCAB: usize = 64;

/// A player that trains only the lowest parameter, so that the backward pass runs through
/// everything.
fn bottom(base: Arc<Base>, name: &str) -> Player {
    let full = Player::full(base).expect("dense weights");
    let params: Params = full
        .params
        .iter()
        .filter(|(n, _)| n.as_str() == name)
        .map(|(n, t)| (n.clone(), t.clone()))
        .collect();
    Player {
        params: Arc::new(params),
        ..full
    }
}

fn backward(player: &Player, plan: &Packed) -> Grads {
    let mut grads = Grads::new();
    let mut slopes = |logps: &[f64]| Ok(vec![1e-3; logps.len()]);
    player
        .forward_backward(plan, &PassOptions::default(), &mut slopes, &mut grads)
        .expect("a backward pass");
    grads
}

/// `name/forward` and `name/forward+backward` for each length of one sequence.
fn op(c: &mut Criterion<Clock>, name: &str, lengths: &[usize], base: impl Fn() -> Arc<Base>) {
    let mut group = c.benchmark_group(name);
    group.sample_size(10);
    let player = bottom(base(), "embed.weight");
    for &n in lengths {
        let plan = sequence(n, SMALL_VOCAB);
        group.throughput(Throughput::Elements(n as u64));
        group.bench_function(BenchmarkId::new("forward", n), |b| {
            b.iter(|| player.hidden(&plan).expect("hidden states"));
        });
        group.bench_function(BenchmarkId::new("forward+backward", n), |b| {
            b.iter(|| backward(&player, &plan));
        });
    }
    group.finish();
}

/// q, k and v with SmolLM2's heads; k and v are columns of q.
fn split(ops: &mut dyn Backend, x: Id) -> Result<(Id, Id, Id), String> {
    let kv = KV_HEADS * HEAD_DIM;
    let k = ops.narrow(x, 0, kv)?;
    let v = ops.narrow(x, kv, kv)?;
    Ok((
        ops.unflatten(x, HEADS)?,
        ops.unflatten(k, KV_HEADS)?,
        ops.unflatten(v, KV_HEADS)?,
    ))
}

/// `times` blocks of SmolLM2's attention without its projections.
fn attend(times: usize, window: Option<usize>) -> Arc<Base> {
    let block = move |ops: &mut dyn Backend, x: Id| -> OpResult {
        let (q, k, v) = split(ops, x)?;
        let spec = AttnSpec {
            window,
            ..AttnSpec::default()
        };
        let y = ops.attention(q, k, v, &spec)?;
        ops.flatten(y)
    };
    small(times, block)
}

/// A model of one block after the other, with SmolLM2's width and few tokens.
fn small(
    layers: usize,
    block: impl Fn(&mut dyn Backend, Id) -> OpResult + Send + Sync + 'static,
) -> Arc<Base> {
    Probe {
        vocab: SMALL_VOCAB,
        width: WIDTH,
        layers,
        block,
    }
    .base()
}

fn attention(c: &mut Criterion<Clock>) {
    op(c, "attention, 4 times", &[64, 256, 1024], || {
        attend(4, None)
    });
    op(c, "attention with window 128, 4 times", &[1024], || {
        attend(4, Some(128))
    });
}

fn rms_norm(c: &mut Criterion<Clock>) {
    let model = || small(16, |ops, x| ops.rms_norm("norm", x, 1e-5, 0.0));
    op(c, "rms_norm, 16 times", &[64, 256, 1024], model);
}

/// The cost of embedding and head, which the measurements above include.
fn floor(c: &mut Criterion<Clock>) {
    op(c, "floor", &[64, 256, 1024], || small(0, |_, x| Ok(x)));
}

/// Hidden states to log-probs over SmolLM2's whole vocabulary, and back to the hidden states.
fn logp(c: &mut Criterion<Clock>) {
    let base = Probe {
        vocab: VOCAB,
        width: WIDTH,
        layers: 1,
        block: |ops: &mut dyn Backend, x: Id| ops.rms_norm("norm", x, 1e-5, 0.0),
    }
    .base();
    let player = bottom(base, "norm.weight");
    let mut group = c.benchmark_group("logp, 49152 tokens");
    group.sample_size(10);
    for n in [16, 256] {
        let plan = sequence(n, VOCAB);
        group.throughput(Throughput::Elements(n as u64));
        group.bench_function(BenchmarkId::new("forward", n), |b| {
            b.iter(|| player.logps(&plan).expect("log-probs"));
        });
        group.bench_function(BenchmarkId::new("forward+backward", n), |b| {
            b.iter(|| backward(&player, &plan));
        });
    }
    group.finish();
}

fn random(seed: u64, rows: usize, columns: usize) -> Tensor {
    let values: Vec<f32> = randori_lora::splitmix(seed, "values", rows * columns)
        .map(|u| (0.1 * u - 0.05) as f32)
        .collect();
    Tensor::from_vec(values, (rows, columns), &Device::Cpu).expect("a tensor")
}

/// n rows through a projection of SmolLM2's feed-forward (576 to 1536), and their gradient back.
fn product(c: &mut Criterion<Clock>) {
    // rows of a multiple of 256 weights for Q4_K: 768 instead of 576
    let (inputs, outputs) = (768, FFN);
    let w = random(1, outputs, inputs);
    let gguf = |dtype| {
        let q = QTensor::quantize(&w, dtype).expect("blocks");
        QuantMatrix::gguf(q, None).expect("a format we read")
    };
    let formats = [
        ("nf4", QuantMatrix::nf4(&w, false).expect("nf4")),
        ("nf4 double", QuantMatrix::nf4(&w, true).expect("nf4")),
        ("q4_0", gguf(GgmlDType::Q4_0)),
        ("q4_1", gguf(GgmlDType::Q4_1)),
        ("q4_k", gguf(GgmlDType::Q4K)),
        ("q6_k", gguf(GgmlDType::Q6K)),
        ("q8_0", gguf(GgmlDType::Q8_0)),
    ];
    for n in [1, 8, 256] {
        let (x, dy) = (random(2, n, inputs), random(3, n, outputs));
        let mut group = c.benchmark_group(format!("product, {n} x {inputs} x {outputs}"));
        // multiply-adds count as two
        group.throughput(Throughput::Elements((2 * n * inputs * outputs) as u64));
        let wt = w.t().expect("two axes");
        group.bench_function("forward/dense f32", |b| {
            b.iter(|| x.matmul(&wt).expect("a product"))
        });
        group.bench_function("backward/dense f32", |b| {
            b.iter(|| dy.matmul(&w).expect("a product"))
        });
        for (name, matrix) in &formats {
            group.bench_function(format!("forward/{name}"), |b| {
                b.iter(|| matrix.forward(&x).expect("a product"))
            });
            group.bench_function(format!("backward/{name}"), |b| {
                b.iter(|| matrix.backward(&dy).expect("a product"));
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = criterion();
    targets = attention, rms_norm, floor, logp, product
}
criterion_main!(benches);
