//! Players on the tiny Llamas of tests/fixtures/heads, and their log-probs.

use std::{collections::BTreeMap, path::Path, path::PathBuf, sync::Arc};

use candle_core::Tensor;
use randori_engine::{
    Base, Packed, Player,
    weights::{LoadOptions, Source, Stream},
};
use randori_lora::{LoraSpec, splitmix};

use crate::opened::{load, opened};

/// As in tests/interop/make_heads.py.
const PROMPT: [u32; 5] = [1, 5, 9, 3, 7];
const REAL: [u32; 4] = [4, 11, 2, 20];
const GENERATED: [u32; 5] = [6, 13, 8, 21, 2];

pub fn fixture(name: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests");
    tests.join("fixtures/heads").join(name)
}

pub fn base(source: Source) -> Arc<Base> {
    load(source, &LoadOptions::default())
}

pub fn stream(source: Source) -> Stream {
    let (checkpoint, arch) = opened(source);
    checkpoint.stream(arch, &LoadOptions::default()).unwrap()
}

/// Summed log-probs of both responses.
pub fn logps(player: &Player) -> [f64; 2] {
    let mut plan = Packed::default();
    plan.push(&PROMPT, &[&REAL, &GENERATED]);
    let each = player.logps(&plan).unwrap();
    let (real, generated) = each.split_at(REAL.len());
    [real.iter().sum(), generated.iter().sum()]
}

pub fn apart(a: [f64; 2], b: [f64; 2]) -> f64 {
    (a[0] - b[0]).abs().max((a[1] - b[1]).abs())
}

/// A new player with these settings, its parameters moved by noise in place of training.
pub fn trained(base: &Arc<Base>, spec: LoraSpec) -> Player {
    let fresh = Player::with_lora(base.clone(), spec, 1).unwrap();
    let moved = |(name, t): (&String, &Tensor)| {
        let noise = splitmix(3, name, t.elem_count()).map(|u| (u - 0.5) as f32);
        let noise = Tensor::from_vec(noise.collect(), t.shape(), t.device()).unwrap();
        (name.clone(), (t + noise).unwrap())
    };
    let params: BTreeMap<_, _> = fresh.params.iter().map(moved).collect();
    Player {
        params: Arc::new(params),
        ..fresh
    }
}
