//! The engine with the real plugins against independent oracles: candle-transformers where it is
//! right, plain loops in f64 everywhere; and one model computed in two ways (cached, packed,
//! merged, quantised, from GGUF).
//!
//! Every comparison is relative: the largest difference of a row of logits over the row's largest
//! logit, at most 1e-5.

#[path = "oracles/candle_models.rs"]
mod candle_models;
#[path = "oracles/gguf.rs"]
mod gguf;
#[path = "oracles/naive.rs"]
mod naive;
#[path = "oracles/players.rs"]
mod players;

use crate::model::{
    self, LLAMA, Llama3, MISTRAL, QWEN2, QWEN3, Shape, agree, base_from, by_prefix, cached, dense,
    distance, load, log_softmax, packed, player, tokens,
};
use players::{adapted, merged, pair_equals_each_alone, relative_error};
use randori_engine::{
    KvCache, Player, SlotTokens, Weight,
    weights::{Dtype, LoadOptions, Quant, Source},
};
use randori_formats::gguf::{Block, Kind};

const N: usize = 24;

/// Compares every path through one model with both oracles.
fn against_both_oracles(what: &str, shape: &Shape, seed: u64) {
    let weights = shape.random(seed);
    let tokens = tokens(seed, N, shape.vocab);
    let player = player(shape, &weights);
    let exact = naive::logits(shape, &weights, &tokens);
    let candle = candle_models::logits(shape, &weights, &tokens);
    agree(&format!("{what}: the two oracles"), &candle, &exact);
    let ours = by_prefix(&player, &tokens);
    agree(
        &format!("{what}: logits against candle-transformers"),
        &ours,
        &candle,
    );
    agree(
        &format!("{what}: logits against straight loops"),
        &ours,
        &exact,
    );
    let logps = packed(&player, &tokens, shape.vocab);
    agree(
        &format!("{what}: log-probs by the training path"),
        &logps,
        &log_softmax(&exact),
    );
}

#[test]
fn llama_with_grouped_queries_and_its_own_head() {
    against_both_oracles("llama", &LLAMA, 1);
}

#[test]
fn llama_with_a_tied_head() {
    against_both_oracles(
        "llama, tied",
        &Shape {
            tied: true,
            ..LLAMA
        },
        2,
    );
}

/// Of the four frequencies one is kept, one blended and two divided.
#[test]
fn llama_with_llama3_scaling() {
    let llama3 = Llama3 {
        factor: 8.0,
        low: 1.0,
        high: 4.0,
        original: 128,
    };
    let shape = Shape {
        llama3: Some(llama3),
        ..LLAMA
    };
    against_both_oracles("llama3 scaling", &shape, 3);
    let (weights, tokens) = (LLAMA.random(3), tokens(3, N, LLAMA.vocab));
    let (with, without) = (
        naive::logits(&shape, &weights, &tokens),
        naive::logits(&LLAMA, &weights, &tokens),
    );
    assert!(
        distance(&with, &without) > 1e-3,
        "the scaling must matter here"
    );
}

#[test]
fn mistral_within_its_window() {
    against_both_oracles(
        "mistral",
        &Shape {
            window: Some(N + 1),
            ..MISTRAL
        },
        4,
    );
    against_both_oracles("mistral without window", &MISTRAL, 5);
}

#[test]
fn mistral_with_windows_shorter_than_the_sequence() {
    for window in [1, 2, 7, N - 1] {
        let shape = Shape {
            window: Some(window),
            ..MISTRAL
        };
        let (weights, tokens) = (shape.random(6), tokens(6, N, shape.vocab));
        let player = player(&shape, &weights);
        let exact = naive::logits(&shape, &weights, &tokens);
        let wide = naive::logits(&MISTRAL, &weights, &tokens);
        assert!(
            distance(&exact, &wide) > 1e-3,
            "a window of {window} must matter here"
        );
        agree(
            &format!("window {window}"),
            &by_prefix(&player, &tokens),
            &exact,
        );
        agree(
            &format!("window {window}, a token at a time"),
            &cached(&player, &tokens, &[1; N]),
            &exact,
        );
        let logps = packed(&player, &tokens, shape.vocab);
        agree(
            &format!("window {window}, training path"),
            &logps,
            &log_softmax(&exact),
        );
        pair_equals_each_alone(&format!("window {window}"), &player, &shape);
    }
}

/// Biases, norms of heads and windows against straight loops, in every way; tied without a window.
#[test]
fn qwens_with_and_without_windows() {
    for plain in [QWEN2, QWEN3] {
        for window in [None, Some(5)] {
            let tied = window.is_none();
            let shape = Shape {
                window,
                tied,
                ..plain
            };
            let (weights, tokens) = (shape.random(14), tokens(14, N, shape.vocab));
            let player = player(&shape, &weights);
            let exact = naive::logits(&shape, &weights, &tokens);
            let what = |how: &str| format!("{} with window {window:?}, {how}", shape.family);
            agree(&what("prefixes"), &by_prefix(&player, &tokens), &exact);
            let alone = cached(&player, &tokens, &[1; N]);
            agree(&what("a token at a time"), &alone, &exact);
            let logps = packed(&player, &tokens, shape.vocab);
            agree(&what("training path"), &logps, &log_softmax(&exact));
            pair_equals_each_alone(&what("a pair"), &player, &shape);
        }
    }
}

#[test]
fn cached_decoding_equals_whole_prefixes() {
    for (what, shape) in [
        ("llama", LLAMA),
        (
            "mistral",
            Shape {
                window: Some(5),
                ..MISTRAL
            },
        ),
    ] {
        let tokens = tokens(7, N, shape.vocab);
        let player = player(&shape, &shape.random(7));
        let whole = by_prefix(&player, &tokens);
        for pieces in [vec![1; N], vec![N - 3, 1, 1, 1], vec![1, 9, 2, 12], vec![N]] {
            let ends = pieces.iter().scan(0, |at, len| {
                *at += len;
                Some(*at - 1)
            });
            let want = ends.map(|i| whole[i].clone()).collect();
            agree(
                &format!("{what} in {pieces:?}"),
                &cached(&player, &tokens, &pieces),
                &want,
            );
        }
    }
}

/// Three sequences of different lengths in one cache, one of them in a slot that held another
/// before.
#[test]
fn a_batch_equals_each_sequence_alone() {
    let player = player(&LLAMA, &LLAMA.random(8));
    let all = [
        tokens(1, 5, LLAMA.vocab),
        tokens(2, 17, LLAMA.vocab),
        tokens(3, 9, LLAMA.vocab),
    ];
    let mut cache = KvCache::new(&player, 4);
    let old = tokens(4, 11, LLAMA.vocab);
    player
        .step(
            &mut cache,
            &[SlotTokens {
                slot: 2,
                tokens: &old,
            }],
        )
        .unwrap();
    cache.clear(2);
    let slots = [3, 0, 2];
    let feed = |range: std::ops::Range<usize>, cache: &mut KvCache| {
        let batch: Vec<SlotTokens> = slots
            .iter()
            .zip(&all)
            .map(|(&slot, t)| SlotTokens {
                slot,
                tokens: &t[t.len() - range.end..t.len() - range.start],
            })
            .collect();
        model::rows(&player.step(cache, &batch).unwrap())
    };
    let first: Vec<SlotTokens> = slots
        .iter()
        .zip(&all)
        .map(|(&slot, t)| SlotTokens {
            slot,
            tokens: &t[..t.len() - 2],
        })
        .collect();
    player.step(&mut cache, &first).unwrap();
    let before_last = feed(1..2, &mut cache);
    let last = feed(0..1, &mut cache);
    for (i, tokens) in all.iter().enumerate() {
        let alone = by_prefix(&player, tokens);
        let want = alone[alone.len() - 2..].to_vec();
        agree(
            &format!("sequence {i}"),
            &vec![before_last[i].clone(), last[i].clone()],
            &want,
        );
    }
}

#[test]
fn a_packed_pair_equals_each_response_alone() {
    let base = base_from(&LLAMA.config(), &LLAMA.random(9), &LoadOptions::default());
    pair_equals_each_alone("bare", &Player::bare(base.clone()), &LLAMA);
    pair_equals_each_alone("lora", &adapted(base.clone(), false), &LLAMA);
    pair_equals_each_alone("full", &Player::full(base).unwrap(), &LLAMA);
}

#[test]
fn the_merged_model_equals_the_adapter() {
    for rslora in [false, true] {
        let base = base_from(&LLAMA.config(), &LLAMA.random(10), &LoadOptions::default());
        let tokens = tokens(10, N, LLAMA.vocab);
        let adapted = adapted(base.clone(), rslora);
        let weights = merged(&adapted);
        let got = by_prefix(&adapted, &tokens);
        agree(
            "adapter against merged and reloaded",
            &got,
            &by_prefix(&player(&LLAMA, &weights), &tokens),
        );
        agree(
            "adapter against merged in straight loops",
            &got,
            &naive::logits(&LLAMA, &weights, &tokens),
        );
        let logps = packed(&adapted, &tokens, LLAMA.vocab);
        agree(
            "adapter by the training path",
            &logps,
            &log_softmax(&naive::logits(&LLAMA, &weights, &tokens)),
        );
        assert!(
            distance(&got, &by_prefix(&Player::bare(base), &tokens)) > 0.05,
            "the adapter must matter"
        );
    }
}

#[test]
fn an_nf4_base_equals_its_dequantised_weights() {
    for double in [false, true] {
        let weights = LLAMA.random(11);
        let options = LoadOptions {
            quant: Some(Quant::Nf4 { double }),
            dtype: Dtype::F32,
        };
        let base = base_from(&LLAMA.config(), &weights, &options);
        for (name, weight) in &base.weights {
            let quantised = matches!(weight, Weight::Quant(_));
            assert_eq!(
                quantised,
                name.contains("_proj"),
                "{name}: projections and only they are NF4"
            );
        }
        let held = dense(&base);
        let tokens = tokens(11, N, LLAMA.vocab);
        let exact = naive::logits(&LLAMA, &held, &tokens);
        for (name, t) in held.iter().filter(|(name, _)| name.contains("_proj")) {
            let off = relative_error(t, &weights[name]);
            assert!(
                (0.03..0.15).contains(&off),
                "{name}: off by {off}, not what 4 bits cost"
            );
        }
        let bare = Player::bare(base.clone());
        agree("nf4", &by_prefix(&bare, &tokens), &exact);
        agree("nf4, cached", &cached(&bare, &tokens, &[1; N]), &exact);
        agree(
            "nf4, training path",
            &packed(&bare, &tokens, LLAMA.vocab),
            &log_softmax(&exact),
        );
        let adapted = adapted(base, false);
        let exact = naive::logits(&LLAMA, &merged(&adapted), &tokens);
        agree("nf4 with an adapter", &by_prefix(&adapted, &tokens), &exact);
        pair_equals_each_alone("nf4 with an adapter", &adapted, &LLAMA);
    }
}

/// Rows of a multiple of 256 weights, as the K formats want.
const BLOCKS: Shape = Shape {
    width: 256,
    ffn: 512,
    layers: 2,
    heads: 4,
    kv_heads: 2,
    head_dim: 64,
    ..LLAMA
};

#[test]
fn a_gguf_file_in_every_format_equals_its_dequantised_weights() {
    use Block::{Q4_0, Q4_1, Q4K, Q5K, Q6K, Q8_0};
    let blocks = [Q8_0, Q4_0, Q4_1, Q4K, Q5K, Q6K].map(Kind::Block);
    let dense_ones = Dtype::ALL.map(Kind::Dense);
    let dir = tempfile::tempdir().unwrap();
    let weights = BLOCKS.random(12);
    let tokens = tokens(12, 12, BLOCKS.vocab);
    for kind in dense_ones.into_iter().chain(blocks) {
        let path = dir.path().join(format!("{}.gguf", kind.name()));
        let held = gguf::write(&path, &BLOCKS, &weights, kind);
        let exact = naive::logits(&BLOCKS, &held, &tokens);
        let quants = match kind {
            Kind::Dense(_) => vec![None],
            Kind::Block(_) => vec![None, Some(Quant::Gguf), Some(Quant::Nf4 { double: true })],
        };
        for quant in quants {
            let what = format!("{kind:?} loaded as {quant:?}");
            let base = load(
                Source::Gguf(path.clone()),
                &LoadOptions {
                    quant,
                    dtype: Dtype::F32,
                },
            );
            let blocks = base
                .weights
                .values()
                .filter(|w| matches!(w, Weight::Quant(_)))
                .count();
            assert_eq!(
                blocks > 0,
                quant.is_some(),
                "{what}: {blocks} quantised matrices"
            );
            let exact = match quant {
                Some(Quant::Nf4 { .. }) => naive::logits(&BLOCKS, &dense(&base), &tokens),
                _ => exact.clone(),
            };
            let bare = Player::bare(base);
            agree(&what, &by_prefix(&bare, &tokens), &exact);
            agree(
                &format!("{what}, training path"),
                &packed(&bare, &tokens, BLOCKS.vocab),
                &log_softmax(&exact),
            );
        }
    }
}

/// llama.cpp stores Llama 3's scaling as a tensor of divisors, and leaves `output` out where the
/// head is tied.
#[test]
fn a_gguf_file_of_a_tied_model_with_llama3_scaling() {
    let llama3 = Llama3 {
        factor: 8.0,
        low: 1.0,
        high: 4.0,
        original: 8192,
    };
    let plain = Shape {
        tied: true,
        theta: 500_000.0,
        ..BLOCKS
    };
    let shape = Shape {
        llama3: Some(llama3),
        ..plain
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tied.gguf");
    let held = gguf::write(&path, &shape, &shape.random(13), Kind::Block(Block::Q8_0));
    let tokens = tokens(13, 16, shape.vocab);
    let exact = naive::logits(&shape, &held, &tokens);
    assert!(
        distance(&exact, &naive::logits(&plain, &held, &tokens)) > 1e-4,
        "the scaling must matter"
    );
    let base = load(
        Source::Gguf(path),
        &LoadOptions {
            quant: Some(Quant::Gguf),
            dtype: Dtype::F32,
        },
    );
    agree(
        "tied Q8_0 with llama3 scaling",
        &by_prefix(&Player::bare(base), &tokens),
        &exact,
    );
}

/// A Qwen's q and k lie in a GGUF as they are, and its heads' norms and biases in F32.
#[test]
fn a_gguf_file_of_a_qwen_equals_its_dequantised_weights() {
    let dir = tempfile::tempdir().unwrap();
    for (family, head_dim) in [(QWEN2, BLOCKS.head_dim), (QWEN3, 2 * BLOCKS.head_dim)] {
        let shape = Shape {
            family: family.family,
            biases: family.biases,
            head_dim,
            tied: true,
            ..BLOCKS
        };
        let path = dir.path().join(format!("{}.gguf", family.family));
        let held = gguf::write(&path, &shape, &shape.random(15), Kind::Block(Block::Q8_0));
        let tokens = tokens(15, 16, shape.vocab);
        let exact = naive::logits(&shape, &held, &tokens);
        for quant in [None, Some(Quant::Gguf)] {
            let options = LoadOptions {
                quant,
                dtype: Dtype::F32,
            };
            let base = load(Source::Gguf(path.clone()), &options);
            assert_eq!(base.config["model_type"], family.family);
            let got = by_prefix(&Player::bare(base), &tokens);
            agree(&format!("{} as {quant:?}", family.family), &got, &exact);
        }
    }
}
