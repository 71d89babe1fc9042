//! The GPU's side of `benches/gpu/run.sh`: measures on the card, prints a JSON line for every
//! figure.
//!
//! ```text
//! gpu kernels|train|generate SIZES.json
//! ```
//! `SIZES.json` is one of `benches/gpu/{full,small}.json`, which the PyTorch peer reads too. A line
//! has `key`, `value`, `unit`, and where there is more to say a `note`. Everything is timed by the
//! host's clock between two synchronisations, after a warm-up; figures are medians.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a bench stops at the first thing that does not work"
)]

mod kernels;
mod passes;

use std::time::Instant;

use randori_cuda::gpu::Gpu;
use rayon::prelude::*;
use serde_json::{Value, json};

fn main() {
    randori_engine::heap::steady();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [case, sizes] = args.as_slice() else {
        panic!("gpu kernels|train|generate SIZES.json");
    };
    let text = std::fs::read_to_string(sizes).expect("the sizes");
    let sizes = Sizes(serde_json::from_str(&text).expect("JSON"));
    let gpu = Gpu::open().unwrap_or_else(|e| panic!("{e}"));
    match case.as_str() {
        "kernels" => {
            println!("{}", json!({ "key": "card", "value": gpu.name() }));
            kernels::all(gpu, &sizes);
        }
        "train" => passes::train(gpu, &sizes),
        "generate" => passes::generate(gpu, &sizes),
        other => panic!("there is no case {other}"),
    }
}

/// The measurements and their sizes, as JSON.
struct Sizes(Value);

impl Sizes {
    fn count(&self, key: &str) -> usize {
        count(&self.0, key)
    }
    fn model(&self, key: &str) -> usize {
        count(&self.0["model"], key)
    }
}

fn count(at: &Value, key: &str) -> usize {
    at[key]
        .as_u64()
        .unwrap_or_else(|| panic!("the sizes lack {key}")) as usize
}

/// Prints a figure.
fn say(key: &str, value: f64, unit: &str, note: &str) {
    println!(
        "{}",
        json!({ "key": key, "value": value, "unit": unit, "note": note })
    );
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Seconds of one `launch`, whose argument counts up, to rotate buffers by. Launches of some 20 ms
/// in all run between two synchronisations, so that clock and wait matter little.
fn seconds(gpu: &Gpu, mut launch: impl FnMut(usize)) -> f64 {
    let mut at = 0;
    let mut run = |n: usize| {
        gpu.synchronise().expect("the GPU");
        let start = Instant::now();
        for _ in 0..n {
            launch(at);
            at += 1;
        }
        gpu.synchronise().expect("the GPU");
        start.elapsed().as_secs_f64()
    };
    run(3); // warms up
    let mut n = 1;
    while run(n) < 0.02 && n < 4096 {
        n *= 2;
    }
    median((0..7).map(|_| run(n) / n as f64).collect())
}

/// `n` values in [-1, 1), the same ones for the same seed. Never zeros: on those a card's products
/// run faster than on data.
fn random(seed: u64, n: usize) -> Vec<f32> {
    (0..n as u64)
        .into_par_iter()
        .map(|i| {
            let mut z = (seed << 40 | i).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}
