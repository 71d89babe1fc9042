//! Drawing against the engine's semantics in f64, by sorting everything.

use crate::emulator::*;
use randori_cuda::{
    Float,
    ops::sample::{Banned, Sample, Step},
};

const GONE: f64 = f64::NEG_INFINITY;

/// Token ids in rank order: higher logit first, among equals the lower id.
fn ranked(row: &[f64]) -> Vec<usize> {
    let mut places: Vec<usize> = (0..row.len()).filter(|i| row[*i] > GONE).collect();
    places.sort_by(|a, b| row[*b].partial_cmp(&row[*a]).unwrap());
    places
}

fn log_sum(row: &[f64]) -> f64 {
    let top = row.iter().copied().fold(GONE, f64::max);
    top + row.iter().map(|l| (l - top).exp()).sum::<f64>().ln()
}

fn keep(row: &mut [f64], places: &[usize]) {
    for (i, l) in row.iter_mut().enumerate() {
        if !places.contains(&i) {
            *l = GONE;
        }
    }
}

/// Applies one sampler; returns the distance to the nearest boundary.
fn apply(step: Step, row: &mut [f64]) -> f64 {
    let order = ranked(row);
    let all = log_sum(row);
    match step {
        Step::Temperature(t) => row
            .iter_mut()
            .for_each(|l| *l = f64::from(*l as f32 / t as f32)),
        Step::Greedy => keep(row, &order[..1]),
        Step::TopK(0) => {}
        Step::TopK(k) => keep(row, &order[..k.min(order.len())]),
        Step::TopP(p) if p < 1.0 => {
            let (mut sum, mut n, mut near) = (0.0, 0, f64::INFINITY);
            while n == 0 || (n < order.len() && sum < p) {
                sum += (row[order[n]] - all).exp();
                n += 1;
                near = near.min((sum - p).abs());
            }
            keep(row, &order[..n]);
            return near;
        }
        Step::TopP(_) => {}
        Step::MinP(p) => {
            let floor = row[order[0]] + p.ln();
            row.iter_mut()
                .filter(|l| **l < floor)
                .for_each(|l| *l = GONE);
        }
    }
    f64::INFINITY
}

/// The expected draw: (token, log-prob under the model, log-prob under the distribution drawn from,
/// distance of u or p to the nearest boundary).
fn reference(raw: &[f64], banned: &[u32], chain: &[Step], u: f64) -> (usize, f64, f64, f64) {
    let mut row = raw.to_vec();
    banned.iter().for_each(|b| row[*b as usize] = GONE);
    let near = chain
        .iter()
        .map(|s| apply(*s, &mut row))
        .fold(f64::INFINITY, f64::min);
    let all = log_sum(&row);
    let (mut sum, mut near, mut chosen) = (0.0, near, None);
    for (i, l) in row.iter().enumerate().filter(|(_, l)| **l > GONE) {
        sum += (l - all).exp();
        if sum < 1.0 - 1e-9 {
            near = near.min((sum - u).abs());
        }
        if sum > u {
            chosen = Some(i);
            break;
        }
        chosen = chosen.max(Some(i));
    }
    let i = chosen.unwrap();
    (i, raw[i] - log_sum(raw), row[i] - all, near)
}

fn doubles(v: &[f64]) -> Buffer<f64> {
    Buffer::of(v, 99.0)
}

struct Out {
    ids: Vec<u32>,
    logp: Vec<f64>,
    behaviour: Vec<f64>,
}

/// Draws on the emulator; logits as they are in the dtype come back too.
fn draw(s: &Sample, logits: &[f32], u: &[f64]) -> (Out, Vec<f64>) {
    let on = emulator().unwrap();
    let ids = Buffer::of(&vec![7u32; s.rows], 8);
    let (logp, behaviour) = (doubles(&vec![5.0; s.rows]), doubles(&vec![5.0; s.rows]));
    let uniform = doubles(u);
    let (f, h) = (floats(logits), halves(logits));
    let (at, wide) = match s.float {
        Float::F32 => (f.ptr(), logits.iter().map(|v| f64::from(*v)).collect()),
        Float::Bf16 => (h.ptr(), widened(h.get())),
    };
    s.draw(
        on,
        at,
        uniform.ptr(),
        ids.ptr(),
        logp.ptr(),
        behaviour.ptr(),
    )
    .unwrap();
    let out = Out {
        ids: ids.get().to_vec(),
        logp: logp.get().to_vec(),
        behaviour: behaviour.get().to_vec(),
    };
    (out, wide)
}

#[test]
fn draws_are_those_of_the_cpu() {
    if emulator().is_none() {
        return;
    }
    let mut dice = Dice(51);
    use Step::*;
    let chains: [&[Step]; 12] = [
        &[],
        &[Greedy],
        &[Temperature(0.7)],
        &[TopK(1)],
        &[TopK(5)],
        &[TopK(40), TopP(0.8)],
        &[TopP(0.9)],
        &[TopP(0.0)],
        &[Temperature(1.7), TopK(30), TopP(0.95)],
        &[TopP(0.6), Temperature(2.0), TopK(3)],
        &[MinP(0.1), Temperature(0.5)],
        &[TopK(0), TopP(1.0), TopP(0.99), TopK(2500)],
    ];
    let (mut compared, mut close) = (0, 0);
    for (case, chain) in chains.into_iter().cycle().take(48).enumerate() {
        let vocab = [2, 37, 333, 3000][case / 12];
        let rows = 3;
        // peaked and flat; halves tie often
        let spread = [0.3f32, 2.0, 8.0][case % 3];
        let mut logits: Vec<f32> = dice
            .normals(rows * vocab)
            .iter()
            .map(|v| v * spread)
            .collect();
        if case % 2 == 1 {
            logits
                .iter_mut()
                .for_each(|v| *v = (*v * 2.0).round() / 2.0);
        }
        let float = if case % 4 < 2 {
            Float::F32
        } else {
            Float::Bf16
        };
        // where rows are peaked, tokens below 2^-45 of the best are not drawn; f64 has them at u =
        // 0 and near 1
        let ends = match spread > 2.0 {
            true => [dice.unit(), dice.unit()],
            false => [0.0, 1.0 - f64::EPSILON / 2.0],
        };
        let u: Vec<f64> = vec![dice.unit(), ends[0], ends[1]];
        let bans = [1u32];
        let forbid = Buffer::of(&[1u32, 0, 1], 3);
        let tokens = Buffer::of(&bans, 3);
        let banned = (case % 5 == 0).then(|| Banned {
            tokens: tokens.ptr(),
            count: 1,
            rows: forbid.ptr(),
        });
        // the last token of some rows is padding
        let open = vocab - usize::from(case % 3 == 0 && vocab > 2);
        let s = Sample {
            float,
            rows,
            vocab,
            open,
            chain,
            banned,
        };
        let (out, wide) = draw(&s, &logits, &u);
        for (r, raw) in wide.chunks(vocab).enumerate() {
            let mut not: Vec<u32> = (open as u32..vocab as u32).collect();
            if banned.is_some() && r != 1 {
                not.extend(bans);
            }
            let (id, logp, behaviour, near) = reference(raw, &not, chain, u[r]);
            if near < 1e-6 && u[r] > 0.0 {
                close += 1; // e^x in f32 may fall on the other side
                continue;
            }
            compared += 1;
            let name = format!("{chain:?}, {vocab} tokens, case {case}, row {r}");
            assert_eq!(out.ids[r] as usize, id, "{name}");
            assert!(
                (out.logp[r] - logp).abs() < 2e-6,
                "{name}: {} {logp}",
                out.logp[r]
            );
            assert!(
                (out.behaviour[r] - behaviour).abs() < 2e-6,
                "{name}: {} {behaviour}",
                out.behaviour[r]
            );
        }
    }
    assert!(
        compared > 100,
        "{compared} compared, {close} too close to call"
    );
}

#[test]
fn equals_go_by_id_and_sums_are_exact() {
    if emulator().is_none() {
        return;
    }
    let n = 2500; // more equals than are listed
    let last = 1.0 - f64::EPSILON / 2.0;
    for (logits, chain, u, want) in [
        (vec![1.0, 3.0, 3.0], Step::Greedy, last, 1),
        (vec![-0.0, 0.0, -1.0], Step::Greedy, last, 0),
        (vec![2.0; 4], Step::TopP(0.5), last, 1),
        (vec![2.0; 4], Step::TopP(0.75), last, 2),
        (vec![5.0, 7.0, 5.0, 5.0], Step::TopK(2), 0.0, 0),
        (vec![5.0, 7.0, 5.0, 5.0], Step::TopK(3), last, 2),
        (vec![0.5; n], Step::TopK(2100), last, 2099),
        (vec![0.5; n], Step::TopP(0.5), last, 1249),
        (vec![0.0, -60.0], Step::TopP(1.0 - 1e-15), last, 0),
        (vec![1.0, 3.0, 3.0], Step::MinP(1.0), 0.0, 1),
    ] {
        let chain = [chain];
        let s = Sample {
            float: Float::F32,
            rows: 1,
            vocab: logits.len(),
            open: logits.len(),
            chain: &chain,
            banned: None,
        };
        let (out, _) = draw(&s, &logits, &[u]);
        assert_eq!(out.ids, [want], "{chain:?} of {}", logits.len());
    }
}

#[test]
fn the_share_of_draws_is_the_probability() {
    if emulator().is_none() {
        return;
    }
    let logits = [0.1f32, 0.5, 0.15, 0.25].map(f32::ln);
    let rows = 400;
    let u: Vec<f64> = (0..rows)
        .map(|i| (f64::from(i) + 0.5) / f64::from(rows))
        .collect();
    let all = logits.repeat(rows as usize);
    let s = Sample {
        float: Float::F32,
        rows: rows as usize,
        vocab: 4,
        open: 4,
        chain: &[],
        banned: None,
    };
    let (out, _) = draw(&s, &all, &u);
    let count = |t| out.ids.iter().filter(|i| **i == t).count();
    assert_eq!([0, 1, 2, 3].map(count), [40, 200, 60, 100]);
    assert_eq!(out.logp, out.behaviour);
}

#[test]
fn what_cannot_be_drawn_is_told() {
    let Some(on) = emulator() else { return };
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let s = Sample {
            float: Float::F32,
            rows: 2,
            vocab: 3,
            open: 3,
            chain: &[Step::Greedy],
            banned: None,
        };
        let (out, _) = draw(&s, &[1.0, bad, 0.0, 1.0, 2.0, 0.0], &[0.5, 0.5]);
        assert_eq!(out.ids, [u32::MAX, 1]);
        assert!(out.logp[0].is_nan() && out.behaviour[0].is_nan() && out.behaviour[1] == 0.0);
    }
    let (tokens, rows) = (Buffer::of(&[0u32, 1], 3), Buffer::of(&[1u32], 3));
    let banned = Some(Banned {
        tokens: tokens.ptr(),
        count: 2,
        rows: rows.ptr(),
    });
    let s = Sample {
        float: Float::F32,
        rows: 1,
        vocab: 2,
        open: 2,
        chain: &[],
        banned,
    };
    assert_eq!(draw(&s, &[1.0, 2.0], &[0.5]).0.ids, [u32::MAX]);
    let p = tokens.ptr();
    for (chain, vocab, words) in [
        (&[Step::Temperature(0.0)][..], 2, "out of its bounds"),
        (&[Step::TopP(1.5)], 2, "out of its bounds"),
        (&[Step::Greedy; 5], 2, "chain of 5"),
        (&[], 0, "from 0 tokens"),
    ] {
        let s = Sample {
            float: Float::F32,
            rows: 1,
            vocab,
            open: vocab,
            chain,
            banned: None,
        };
        let e = s.draw(on, p, p, p, p, p).unwrap_err().to_string();
        assert!(e.contains(words), "{e}");
    }
}
