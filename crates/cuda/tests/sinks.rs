//! Attention's sinks, forward and backward, against f64.

use crate::emulator::*;
use randori_cuda::{Float, ops::sinks::Sinks};

/// Sizes that leave lanes, warps and threads without work.
const SIZES: [(usize, usize, usize); 4] = [(1, 1, 1), (3, 5, 33), (37, 4, 8), (300, 2, 20)];

#[test]
fn sinks_take_their_share_of_the_soft_max() {
    let Some(on) = emulator() else { return };
    let mut dice = Dice(31);
    for (float, (tokens, heads, dim)) in [Float::F32, Float::Bf16]
        .into_iter()
        .flat_map(|float| SIZES.map(|sizes| (float, sizes)))
    {
        let width = heads * dim;
        let values: Vec<f32> = dice.normals(heads).iter().map(|v| v * 3.0).collect();
        let sinks = Any::of(float, &values);
        let out = Any::of(float, &dice.normals(tokens * width));
        let (kept, dout) = (out.get(), Any::of(float, &dice.normals(tokens * width)));
        // one query that sees no key
        let mut sums: Vec<f32> = dice
            .normals(heads * tokens)
            .iter()
            .map(|v| v * 4.0)
            .collect();
        sums[heads * tokens - 1] = f32::NEG_INFINITY;
        let lse = floats(&sums);
        let at_work = Sinks {
            float,
            tokens,
            heads,
            dim,
            sinks: sinks.ptr(),
            out: out.ptr(),
            lse: lse.ptr(),
        };
        at_work.add(on).unwrap();
        let (z, mut wanted, mut wanted_lse) = (sinks.get(), kept.clone(), Vec::new());
        for (head, z) in z.iter().enumerate() {
            for token in 0..tokens {
                let keys = f64::from(sums[head * tokens + token]);
                let all = keys.max(*z) + (-(keys - z).abs()).exp().ln_1p();
                wanted_lse.push(all);
                let row = token * width + head * dim;
                for v in &mut wanted[row..row + dim] {
                    *v *= (keys - all).exp();
                }
            }
        }
        let own = match float {
            Float::F32 => 1e-5,
            Float::Bf16 => 1.0 / 128.0,
        };
        let what = format!("{float:?} {tokens} {heads} {dim}");
        let found = lse.get().iter().map(|v| f64::from(*v));
        assert!(apart(found, &wanted_lse) < 1e-5, "{what}");
        // each value for itself: most are small beside the largest
        for (found, want) in out.get().iter().zip(&wanted) {
            let off = (found - want).abs();
            assert!(off <= own * want.abs() + 1e-6, "{what}: {found}, {want}");
        }

        let gradient = Any::room(float, heads);
        at_work.gradient(on, dout.ptr(), gradient.ptr()).unwrap();
        let (found, dout) = (out.get(), dout.get());
        let slope = |(head, z): (usize, &f64)| {
            let of = |token: usize| {
                let row = token * width + head * dim..token * width + (head + 1) * dim;
                let dot: f64 = found[row.clone()]
                    .iter()
                    .zip(&dout[row])
                    .map(|(a, b)| a * b)
                    .sum();
                (z - wanted_lse[head * tokens + token]).exp() * dot
            };
            -(0..tokens).map(of).sum::<f64>()
        };
        let wanted: Vec<f64> = z.iter().enumerate().map(slope).collect();
        let off = apart(gradient.get(), &wanted);
        assert!(off < own.max(1e-4), "{what}: gradients are {off} off");
    }
}
