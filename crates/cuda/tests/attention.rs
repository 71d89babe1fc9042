//! Attention's kernels, forward and backward, against f64.

use crate::emulator::*;
use randori_cuda::{
    Float,
    ops::{
        attention::{Attention, BackwardInputs, BackwardOutputs, DeviceLists},
        tiles::{KeyRun, Lists, Span},
    },
};

fn wide(v: &[f32]) -> Vec<f64> {
    v.iter().map(|v| f64::from(*v)).collect()
}

/// The visible key rows of every query row, directly from the mask's definition.
fn pairs(a: &Attention, spans: &[Span]) -> Vec<Vec<usize>> {
    let mut seen = vec![Vec::new(); a.tokens];
    for s in spans {
        for i in 0..s.len {
            for run in &s.keys {
                for j in 0..run.len {
                    let (q, k) = (s.position + i, run.position + j);
                    if k <= q && a.window.is_none_or(|w| q < k + w) {
                        seen[s.row + i].push(run.row + j);
                    }
                }
            }
        }
    }
    seen
}

struct Reference {
    out: Vec<f64>,
    lse: Vec<f64>,
    dq: Vec<f64>,
    dk: Vec<f64>,
    dv: Vec<f64>,
}

fn reference(
    a: &Attention,
    spans: &[Span],
    q: &[f64],
    k: &[f64],
    v: &[f64],
    dout: &[f64],
) -> Reference {
    let (d, group, scale) = (a.dim, a.heads / a.kv_heads, f64::from(a.scale));
    let mut r = Reference {
        out: vec![0.0; q.len()],
        lse: vec![f64::NEG_INFINITY; a.heads * a.tokens],
        dq: vec![0.0; q.len()],
        dk: vec![0.0; k.len()],
        dv: vec![0.0; k.len()],
    };
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for (i, seen) in pairs(a, spans).iter().enumerate() {
        for h in 0..a.heads {
            let at = (i * a.heads + h) * d..(i * a.heads + h + 1) * d;
            let key = |j: usize| {
                let at = (j * a.kv_heads + h / group) * d;
                at..at + d
            };
            let (mut s, mut slopes) = (Vec::new(), Vec::new());
            for &j in seen {
                let x = scale * dot(&q[at.clone()], &k[key(j)]);
                let cap = f64::from(a.softcap.unwrap_or(0.0));
                let t = if cap > 0.0 { (x / cap).tanh() } else { 0.0 };
                s.push(if cap > 0.0 { cap * t } else { x });
                slopes.push(1.0 - t * t);
            }
            if seen.is_empty() {
                continue;
            }
            let most = s.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let lse = most + s.iter().map(|s| (s - most).exp()).sum::<f64>().ln();
            r.lse[h * a.tokens + i] = lse;
            let p: Vec<f64> = s.iter().map(|s| (s - lse).exp()).collect();
            for (p, &j) in p.iter().zip(seen) {
                for (o, v) in r.out[at.clone()].iter_mut().zip(&v[key(j)]) {
                    *o += p * v;
                }
            }
            let delta = dot(&r.out[at.clone()], &dout[at.clone()]);
            for ((p, &j), slope) in p.iter().zip(seen).zip(slopes) {
                let ds = p * (dot(&dout[at.clone()], &v[key(j)]) - delta) * slope * scale;
                for c in 0..d {
                    r.dq[at.start + c] += ds * k[key(j).start + c];
                    r.dk[key(j).start + c] += ds * q[at.start + c];
                    r.dv[key(j).start + c] += p * dout[at.start + c];
                }
            }
        }
    }
    r
}

fn own(row: usize, len: usize, position: usize) -> KeyRun {
    KeyRun { row, len, position }
}
/// Spans of packed prompts, each with its two responses; `shapes` are their lengths.
fn packed(shapes: &[(usize, usize, usize)]) -> (Vec<Span>, usize) {
    let (mut spans, mut row) = (Vec::new(), 0);
    for (prompt, one, two) in shapes {
        let before = own(row, *prompt, 0);
        for (len, position, keys) in [
            (*prompt, 0, vec![]),
            (*one, *prompt, vec![before]),
            (*two, *prompt, vec![before]),
        ] {
            if len == 0 {
                continue;
            }
            let mut keys = keys;
            keys.push(own(row, len, position));
            spans.push(Span {
                row,
                len,
                position,
                keys,
            });
            row += len;
        }
    }
    (spans, row)
}

fn ints(v: &[i32]) -> Buffer<i32> {
    Buffer::of(v, -77)
}

/// Runs both passes and compares them with f64; k and v have `rows` rows.
fn check(a: &Attention, spans: &[Span], rows: usize, seed: u64) {
    let Some(on) = emulator() else { return };
    let mut dice = Dice(seed);
    let lists = Lists::queries(spans, a.tokens, a.window).unwrap();
    let inverse = lists.keys(rows).unwrap();
    let (n, m) = (a.tokens * a.heads * a.dim, rows * a.kv_heads * a.dim);
    let (q, dout) = (dice.normals(n), dice.normals(n));
    let (k, v) = (dice.normals(m), dice.normals(m));
    let held = [&lists, &inverse].map(|l| {
        (
            ints(l.blocks.as_flattened()),
            ints(l.runs.as_flattened()),
            l.blocks.len(),
        )
    });
    let [queries, keys] = [0, 1].map(|i: usize| DeviceLists {
        blocks: held[i].0.ptr(),
        runs: held[i].1.ptr(),
        count: held[i].2,
    });
    let (lse, delta) = (room(a.heads * a.tokens), room(a.heads * a.tokens));
    macro_rules! run {
        ($of:ident, $room:ident, $wide:ident) => {{
            let (qb, kb, vb, db) = ($of(&q), $of(&k), $of(&v), $of(&dout));
            let (ob, dqb, dkb, dvb) = ($room(n), $room(n), $room(m), $room(m));
            a.forward(
                on,
                qb.ptr(),
                kb.ptr(),
                vb.ptr(),
                queries,
                ob.ptr(),
                lse.ptr(),
            )
            .unwrap();
            let given = BackwardInputs {
                q: qb.ptr(),
                k: kb.ptr(),
                v: vb.ptr(),
                out: ob.ptr(),
                lse: lse.ptr(),
                dout: db.ptr(),
            };
            let to = BackwardOutputs {
                q: dqb.ptr(),
                k: dkb.ptr(),
                v: dvb.ptr(),
                delta: delta.ptr(),
            };
            a.backward(on, &given, queries, keys, &to).unwrap();
            let want = reference(
                a,
                spans,
                &$wide(qb.get()),
                &$wide(kb.get()),
                &$wide(vb.get()),
                &$wide(db.get()),
            );
            (
                [ob.get(), dqb.get(), dkb.get(), dvb.get()].map(|v| $wide(v)),
                want,
            )
        }};
    }
    let (got, want, tolerance, close) = match a.float {
        Float::F32 => {
            let (got, want) = run!(floats, room, wide);
            (got, want, 2e-5, 1e-5)
        }
        // largest of thousands of values, each with roundings of p, ds and itself to 8 bits
        Float::Bf16 => {
            let (got, want) = run!(halves, half_room, widened);
            (got, want, 4e-2, 1e-4)
        }
    };
    delta.get();
    for (got, want) in lse.get().iter().zip(&want.lse) {
        let far = (f64::from(*got) - want).abs();
        assert!(
            f64::from(*got) == *want || far < close * want.abs().max(1.0),
            "lse {got} {want}"
        );
    }
    let mut seen = vec![false; rows];
    pairs(a, spans)
        .iter()
        .flatten()
        .for_each(|k| seen[*k] = true);
    for (key, seen) in seen.iter().enumerate() {
        let place = key * a.kv_heads * a.dim..(key + 1) * a.kv_heads * a.dim;
        let zeros = |v: &[f64]| v[place.clone()].iter().all(|v| *v == 0.0);
        assert!(*seen || zeros(&got[2]) && zeros(&got[3]), "key {key} {a:?}");
    }
    let names = ["out", "dq", "dk", "dv"];
    let wants = [&want.out, &want.dq, &want.dk, &want.dv];
    for ((name, got), want) in names.iter().zip(&got).zip(wants) {
        let rms = |v: &[f64]| (v.iter().map(|v| v * v).sum::<f64>() / v.len() as f64).sqrt();
        // with one visible key dq and dk are 0: differences of values about 1
        let some: Vec<f64> = want.iter().copied().filter(|w| *w != 0.0).collect();
        let unit = rms(&some).max(0.1);
        let difference: Vec<f64> = got.iter().zip(want.iter()).map(|(g, w)| g - w).collect();
        let far = difference.iter().fold(0.0, |m: f64, d| {
            if d.is_finite() {
                m.max(d.abs())
            } else {
                f64::INFINITY
            }
        }) / unit;
        let mean = rms(&difference) / unit;
        // single values several rms large carry several times the error
        assert!(
            mean < tolerance / 4.0 && far < tolerance * 2.0,
            "{name} {far} {mean} {a:?}"
        );
        if std::env::var_os("RANDORI_SHOW").is_some() {
            eprintln!("{name} {far:.1e} {mean:.1e} {:?} d {}", a.float, a.dim);
        }
    }
}

fn attention(float: Float, heads: (usize, usize), dim: usize, tokens: usize) -> Attention {
    Attention {
        float,
        tokens,
        heads: heads.0,
        kv_heads: heads.1,
        dim,
        scale: (dim as f32).powf(-0.5),
        window: None,
        softcap: None,
    }
}

#[test]
fn shared_prompts_with_two_responses_windows_and_caps() {
    for float in [Float::F32, Float::Bf16] {
        for (i, heads) in [(1, 1), (2, 1), (4, 1), (4, 2)].into_iter().enumerate() {
            let (spans, rows) = packed(&[(65, 1, 64), (3, 63, 0)]);
            let mut a = attention(float, heads, 16, rows);
            a.window = [None, Some(1), Some(50), Some(100)][i];
            a.softcap = [Some(1.5), None, Some(3.0), None][i];
            check(&a, &spans, rows, 7 + i as u64);
        }
    }
}

#[test]
fn lengths_about_the_size_of_a_tile() {
    for float in [Float::F32, Float::Bf16] {
        for len in [1, 63, 64, 65, 130] {
            let (spans, rows) = packed(&[(len, 0, 0)]);
            check(
                &attention(float, (1, 1), 32, rows),
                &spans,
                rows,
                len as u64,
            );
        }
    }
}

#[test]
fn every_head_size() {
    for float in [Float::F32, Float::Bf16] {
        for dim in [
            1, 7, 8, 20, 32, 48, 64, 80, 96, 112, 128, 136, 192, 250, 256,
        ] {
            let (spans, rows) = packed(&[(33, 5, 2)]);
            let mut a = attention(float, (2, 1), dim, rows);
            a.softcap = (dim % 3 == 0).then_some(2.0);
            check(&a, &spans, rows, dim as u64);
        }
    }
}

#[test]
fn rows_that_nobody_sees_get_zeros() {
    for float in [Float::F32, Float::Bf16] {
        // queries 0..3 and 10..12 are in no span, nor are keys 0..70 and 90..95; the queries come
        // before 5 of their keys
        let spans = [Span {
            row: 3,
            len: 7,
            position: 8,
            keys: vec![own(70, 20, 0)],
        }];
        check(&attention(float, (2, 2), 16, 12), &spans, 95, 3);
        // keys all later than the queries
        let spans = [Span {
            row: 0,
            len: 4,
            position: 0,
            keys: vec![own(0, 4, 9)],
        }];
        check(&attention(float, (2, 2), 16, 4), &spans, 4, 4);
    }
}

#[test]
fn the_reference_gradient_is_that_of_finite_differences() {
    let (spans, rows) = packed(&[(5, 3, 2)]);
    let mut a = attention(Float::F32, (2, 1), 3, rows);
    (a.window, a.softcap) = (Some(4), Some(1.2));
    let mut dice = Dice(5);
    let [q, dout, k, v] = [6, 6, 3, 3].map(|n| wide(&dice.normals(n * rows)));
    let r = reference(&a, &spans, &q, &k, &v, &dout);
    let loss = |q: &[f64], k: &[f64], v: &[f64]| -> f64 {
        let r = reference(&a, &spans, q, k, v, &dout);
        r.out.iter().zip(&dout).map(|(o, d)| o * d).sum()
    };
    for (which, slope) in [&r.dq, &r.dk, &r.dv].into_iter().enumerate() {
        for i in 0..slope.len() {
            let at = |by: f64| {
                let mut x = [q.clone(), k.clone(), v.clone()];
                x[which][i] += by;
                loss(&x[0], &x[1], &x[2])
            };
            let want = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!(
                (want - slope[i]).abs() < 1e-8,
                "{which} {i}: {want} {}",
                slope[i]
            );
        }
    }
}

#[test]
fn lists_leave_out_what_no_query_sees_and_refuse_overlaps() {
    let (spans, rows) = packed(&[(300, 0, 0)]);
    let lists = Lists::queries(&spans, rows, Some(64)).unwrap();
    let tiles: usize = lists.blocks.iter().map(|b| (b[4] - b[3]) as usize).sum();
    assert_eq!((lists.blocks.len(), tiles), (5, 9)); // the diagonal and one before it
    assert!(Lists::queries(&spans, 299, None).is_err());
    let twice = [spans[0].clone(), spans[0].clone()];
    assert!(Lists::queries(&twice, rows, None).is_err());
    let shifted = [
        Span {
            len: 5,
            keys: vec![own(0, 10, 0)],
            ..spans[0].clone()
        },
        Span {
            row: 5,
            len: 5,
            position: 9,
            keys: vec![own(1, 9, 1)],
        },
    ];
    assert!(
        Lists::queries(&shifted, 10, None)
            .unwrap()
            .keys(10)
            .is_err()
    );
    let mut a = attention(Float::F32, (3, 2), 8, 4);
    let on = emulator();
    let none = randori_cuda::Ptr::NULL;
    let lists = DeviceLists {
        blocks: none,
        count: 1,
        runs: none,
    };
    if let Some(on) = on {
        assert!(a.forward(on, none, none, none, lists, none, none).is_err());
        (a.heads, a.dim) = (2, 257);
        assert!(a.forward(on, none, none, none, lists, none, none).is_err());
    }
}
