//! From a file to the first token: open, validate, load, and run a prompt of 16 tokens. The files
//! are in the system's cache.
#![allow(
    missing_docs,
    clippy::expect_used,
    reason = "a bench stops at the first thing that does not work"
)]

use candle_core::DType;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use randori_benches::{Clock, VOCAB, criterion, files, host, layers, load, smollm2, tokens};
use randori_engine::{
    KvCache, Player, SlotTokens,
    weights::{Dtype, LoadOptions, Quant, Source},
};
use randori_formats::gguf::Block;

fn first_token(c: &mut Criterion<Clock>) {
    let host = host();
    let dir = tempfile::tempdir().expect("a folder for the files");
    let base = smollm2(&host, &LoadOptions::default());
    let folder = |name: &str, dtype: DType| {
        let folder = dir.path().join(name);
        std::fs::create_dir(&folder).expect("a folder");
        files::folder(&folder, &base, dtype);
        let len = std::fs::metadata(folder.join("model.safetensors")).map(|m| m.len());
        (Source::Folder(folder), len.expect("a file"))
    };
    let gguf = |block: Block| {
        let path = dir.path().join(format!("{}.gguf", block.name()));
        files::gguf(&path, &base, block);
        let len = std::fs::metadata(&path).map(|m| m.len());
        (Source::Gguf(path), len.expect("a file"))
    };
    let (f32s, bf16s) = (folder("f32", DType::F32), folder("bf16", DType::BF16));
    let (q4, q8) = (gguf(Block::Q4_1), gguf(Block::Q8_0));
    drop(base);

    let nf4 = Some(Quant::Nf4 { double: true });
    let mut group = c.benchmark_group(format!("load/{} layers", layers()));
    group.sample_size(10);
    for (name, (source, bytes), quant, dtype) in [
        ("safetensors f32", &f32s, None, Dtype::F32),
        ("safetensors bf16 to f32", &bf16s, None, Dtype::F32),
        ("safetensors bf16", &bf16s, None, Dtype::Bf16),
        ("safetensors f32 to nf4", &f32s, nf4, Dtype::F32),
        ("gguf q4_1", &q4, Some(Quant::Gguf), Dtype::F32),
        ("gguf q4_1 to f32", &q4, None, Dtype::F32),
        ("gguf q8_0", &q8, Some(Quant::Gguf), Dtype::F32),
    ] {
        let prompt = tokens(1, 16, VOCAB);
        group.throughput(Throughput::Bytes(*bytes));
        group.bench_function(name, |b| {
            b.iter(|| {
                let player =
                    Player::bare(load(&host, source.clone(), &LoadOptions { quant, dtype }));
                let batch = [SlotTokens {
                    slot: 0,
                    tokens: &prompt,
                }];
                player
                    .step(&mut KvCache::new(&player, 1), &batch)
                    .expect("logits")
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = criterion();
    targets = first_token
}
criterion_main!(benches);
