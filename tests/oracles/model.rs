//! Small models loaded through the real plugins, and their logits and log-probs computed in several
//! ways.

use std::sync::Arc;

use candle_core::Tensor;
use randori_engine::{
    Base, KvCache, Packed, Player, SlotTokens, Weight,
    weights::{LoadOptions, Source},
};
pub use randori_specimens::llama::*;
use serde_json::Value;

pub use crate::opened::{load, opened};

/// `n` token ids below `vocab`.
pub fn tokens(seed: u64, n: usize, vocab: usize) -> Vec<u32> {
    uniform(seed, "tokens", n)
        .map(|u| (u * vocab as f64) as u32)
        .collect()
}

/// The model through a Hugging Face folder.
pub fn base_from(config: &Value, weights: &Weights, options: &LoadOptions) -> Arc<Base> {
    let dir = tempfile::tempdir().unwrap();
    write_folder(dir.path(), config, weights);
    load(Source::Folder(dir.path().to_owned()), options)
}

/// The bare base of a shape with these weights.
pub fn player(shape: &Shape, weights: &Weights) -> Player {
    Player::bare(base_from(&shape.config(), weights, &LoadOptions::default()))
}

/// A base's weights in f32, whatever holds them.
pub fn dense(base: &Base) -> Weights {
    let tensor = |weight: &Weight| match weight {
        Weight::Dense(t) => t.to_dtype(candle_core::DType::F32).unwrap(),
        other => other.to_f32().unwrap(),
    };
    base.weights
        .iter()
        .map(|(name, weight)| (name.clone(), tensor(weight)))
        .collect()
}

/// Rows of numbers, one a position.
pub type Rows = Vec<Vec<f64>>;

/// Rows of a tensor (rows, columns).
pub fn rows(t: &Tensor) -> Rows {
    let rows: Vec<Vec<f32>> = t.to_vec2().unwrap();
    rows.into_iter()
        .map(|row| row.into_iter().map(f64::from).collect())
        .collect()
}

/// Logits at every position, each from its own whole prefix and an empty cache.
pub fn by_prefix(player: &Player, tokens: &[u32]) -> Rows {
    let last = |n: usize| {
        let mut cache = KvCache::new(player, 1);
        let batch = [SlotTokens {
            slot: 0,
            tokens: &tokens[..n],
        }];
        rows(&player.step(&mut cache, &batch).unwrap()).remove(0)
    };
    (1..=tokens.len()).map(last).collect()
}

/// Logits after each of the pieces that `tokens` is cut into, fed one after the other into one
/// cache.
pub fn cached(player: &Player, tokens: &[u32], pieces: &[usize]) -> Rows {
    let (mut cache, mut start) = (KvCache::new(player, 1), 0);
    let mut feed = |len: &usize| {
        let batch = [SlotTokens {
            slot: 0,
            tokens: &tokens[start..start + len],
        }];
        start += len;
        let row = rows(&player.step(&mut cache, &batch).unwrap()).remove(0);
        assert_eq!(cache.len(0), start);
        row
    };
    pieces.iter().map(&mut feed).collect()
}

/// The `n` likeliest tokens after a prompt, one after the other, end of text or not.
pub fn greedy(player: &Player, prompt: &[u32], n: usize) -> Vec<u32> {
    let mut cache = KvCache::new(player, 1);
    let mut next = prompt.to_vec();
    let mut out = Vec::new();
    for _ in 0..n {
        let batch = [SlotTokens {
            slot: 0,
            tokens: &next,
        }];
        let row = &rows(&player.step(&mut cache, &batch).unwrap())[0];
        let best = (0..row.len())
            .max_by(|&a, &b| row[a].total_cmp(&row[b]).then(b.cmp(&a)))
            .unwrap();
        next = vec![best as u32];
        out.push(best as u32);
    }
    out
}

/// log soft-max at every position by the training path: one packed plan in which every prefix is a
/// prompt and every token of the vocabulary a response to it.
pub fn packed(player: &Player, tokens: &[u32], vocab: usize) -> Rows {
    let answers: Vec<[u32; 1]> = (0..vocab as u32).map(|t| [t]).collect();
    let answers: Vec<&[u32]> = answers.iter().map(|a| a.as_slice()).collect();
    let mut plan = Packed::default();
    for n in 1..=tokens.len() {
        plan.push(&tokens[..n], &answers);
    }
    let logps = player.logps(&plan).unwrap();
    logps.chunks(vocab).map(<[f64]>::to_vec).collect()
}

/// logits - log Σ exp logits, row by row.
pub fn log_softmax(logits: &Rows) -> Rows {
    let row = |row: &Vec<f64>| {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let lse = max + row.iter().map(|l| (l - max).exp()).sum::<f64>().ln();
        row.iter().map(|l| l - lse).collect()
    };
    logits.iter().map(row).collect()
}

/// The largest difference of any row, relative to that row's largest value.
pub fn distance(got: &Rows, want: &Rows) -> f64 {
    assert_eq!(got.len(), want.len(), "rows");
    let of_row = |(got, want): (&Vec<f64>, &Vec<f64>)| {
        assert_eq!(got.len(), want.len(), "columns");
        let size = want.iter().map(|w| w.abs()).fold(0.0, f64::max);
        let worst = got
            .iter()
            .zip(want)
            .map(|(g, w)| (g - w).abs())
            .fold(
                0.0,
                |a: f64, d| {
                    if d.is_nan() { f64::INFINITY } else { a.max(d) }
                },
            );
        worst / size
    };
    got.iter().zip(want).map(of_row).fold(0.0, f64::max)
}

/// Fails unless the rows agree to 1e-5 of each row's largest value.
pub fn agree(what: &str, got: &Rows, want: &Rows) {
    agree_within(1e-5, what, got, want);
}

/// Fails unless the rows agree to `limit` of each row's largest value.
pub fn agree_within(limit: f64, what: &str, got: &Rows, want: &Rows) {
    let worst = distance(got, want);
    assert!(
        worst <= limit,
        "{what}: differs by {worst:.2e} of the largest value"
    );
}
