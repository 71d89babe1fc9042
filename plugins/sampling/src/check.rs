//! Tests of a sampler: on rows worked out by hand, and on random rows against its definition,
//! applied literally by sorting everything.

use randori_sdk::{Logits, Sampler, Step};

/// The logit of a removed token.
pub const GONE: f32 = f32::NEG_INFINITY;

/// Applies `sampler` to `logits` at the start of a sequence without tokens.
pub fn apply<S: Sampler>(sampler: &S, logits: &[f32]) -> Vec<f32> {
    apply_at(sampler, &mut S::State::default(), &[], 0, logits)
}

/// Applies `sampler` to `logits` after `tokens`, of which the first `prompt` are the prompt.
pub fn apply_at<S: Sampler>(
    sampler: &S,
    s: &mut S::State,
    tokens: &[u32],
    prompt: usize,
    logits: &[f32],
) -> Vec<f32> {
    let mut row = logits.to_vec();
    sampler.apply(
        s,
        &Step::new(tokens, prompt, &|| 0.0),
        &mut Logits::new(&mut row),
    );
    row
}

/// Indices of the tokens that are left.
pub fn kept(row: &[f32]) -> Vec<usize> {
    (0..row.len()).filter(|&i| row[i] != GONE).collect()
}

/// Soft-max.
pub fn probabilities(row: &[f32]) -> Vec<f64> {
    let top = row.iter().copied().fold(GONE, f32::max);
    let weights: Vec<f64> = row.iter().map(|&l| f64::from(l - top).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|w| w / total).collect()
}

/// All tokens in rank order, by a full sort.
pub fn ranked(row: &[f32]) -> Vec<usize> {
    let mut tokens: Vec<usize> = (0..row.len()).collect();
    tokens.sort_by(|&a, &b| row[b].partial_cmp(&row[a]).unwrap()); // stable: equal logits by id
    tokens
}

/// Asserts that `got` is `row` with all but these tokens removed.
pub fn left_only(tokens: &[usize], got: &[f32], row: &[f32], case: &str) {
    let mut tokens = tokens.to_vec();
    tokens.sort_unstable();
    assert_eq!(kept(got), tokens, "{case}, a row of {}", row.len());
    assert!(
        tokens.iter().all(|&i| got[i] == row[i]),
        "{case}: a kept logit changed"
    );
}

/// Random rows of 1 to 2,000 tokens: peaked and flat, with many ties, some with removed tokens.
pub fn rows() -> Vec<Vec<f32>> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut rows = Vec::new();
    for i in 0..120 {
        let n = [1, 2, 7, 50, 333, 2000][i % 6];
        let spread = [0.0, 0.5, 4.0, 40.0][i % 4];
        let grain = if i % 3 == 0 { 2.0 } else { 1e6 }; // halves tie often, millionths seldom
        let mut row: Vec<f32> = (0..n)
            .map(|_| (spread * (uniform() - 0.5) * grain).round() as f32 / grain as f32)
            .collect();
        if i % 5 == 0 {
            for l in row.iter_mut().skip(1).step_by(3) {
                *l = GONE;
            }
        }
        rows.push(row);
    }
    rows
}
