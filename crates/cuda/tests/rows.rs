//! Rotary turns, rows gathered and scattered, columns, and log-probs, against f64.

use crate::emulator::*;
use randori_cuda::{
    Float, Ptr,
    ops::{
        columns::Columns,
        layout::{self, DeviceScatterLists, ScatterLists},
        logprob::{Logits, Slopes},
        rope::Rope,
    },
};

fn wide(v: &[f32]) -> Vec<f64> {
    v.iter().map(|v| f64::from(*v)).collect()
}

/// Runs `f` on values in both floats: it gets the float, the address of the values, and their f64;
/// what it leaves there is compared with what it answers: within `tolerance` of their root mean
/// square, and in bf16 a rounding of each value.
fn in_place(values: &[f32], tolerance: f64, f: impl Fn(Float, Ptr, &[f64]) -> Vec<f64>) {
    let (single, half) = (floats(values), halves(values));
    let want = f(Float::F32, single.ptr(), &wide(values));
    let far = apart(wide(single.get()), &want);
    assert!(far < tolerance, "f32: {far}");
    let rounded = widened(half.get());
    let want = f(Float::Bf16, half.ptr(), &rounded);
    let rms = (want.iter().map(|w| w * w).sum::<f64>() / want.len() as f64).sqrt();
    for (got, want) in widened(half.get()).iter().zip(&want) {
        let most = want.abs() / 256.0 + tolerance * rms;
        assert!((got - want).abs() <= most, "bf16: {got} {want}");
    }
}

#[test]
fn rope_turns_and_turns_back() {
    let Some(on) = emulator() else { return };
    let mut dice = Dice(3);
    for (tokens, heads, dim, pairs) in [(5, 3, 8, 4), (2, 1, 10, 3), (300, 2, 4, 2)] {
        for interleaved in [false, true] {
            for back in [false, true] {
                let x = dice.normals(tokens * heads * dim);
                let angles: Vec<f64> = (0..tokens * pairs).map(|_| dice.unit() * 6.0).collect();
                let cosines: Vec<f32> = angles.iter().map(|a| a.cos() as f32).collect();
                let sines: Vec<f32> = angles.iter().map(|a| a.sin() as f32).collect();
                let (c, s) = (floats(&cosines), floats(&sines));
                in_place(&x, 1e-5, |float, at, x| {
                    let r = Rope {
                        float,
                        tokens,
                        heads,
                        dim,
                        pairs,
                        interleaved,
                    };
                    r.rotate(on, at, (c.ptr(), s.ptr()), at, back).unwrap();
                    let mut y = x.to_vec();
                    for row in 0..tokens {
                        for head in 0..heads {
                            let y = &mut y[(row * heads + head) * dim..][..dim];
                            for p in 0..pairs {
                                let (i, j) = match interleaved {
                                    true => (2 * p, 2 * p + 1),
                                    false => (p, p + pairs),
                                };
                                let angle = angles[row * pairs + p];
                                let (a, b) = (y[i], y[j]);
                                let s = if back { -angle.sin() } else { angle.sin() };
                                y[i] = a * angle.cos() - b * s;
                                y[j] = a * s + b * angle.cos();
                            }
                        }
                    }
                    y
                });
            }
        }
    }
}

#[test]
fn rows_are_gathered_and_scattered() {
    let Some(on) = emulator() else { return };
    let mut dice = Dice(4);
    for (rows, width, n) in [(7, 16, 20), (3, 5, 1), (40, 300, 33)] {
        let x = dice.normals(rows * width);
        let ids: Vec<u32> = (0..n).map(|_| dice.below(rows) as u32).collect();
        let at = Buffer::of(&ids, 9);
        let (from, to) = (halves(&x), half_room(n * width));
        layout::gather(
            on,
            Float::Bf16,
            (from.ptr(), rows, width),
            (at.ptr(), n),
            to.ptr(),
        )
        .unwrap();
        for (i, id) in ids.iter().enumerate() {
            assert_eq!(
                to.get()[i * width..][..width],
                from.get()[*id as usize * width..][..width]
            );
        }
        let (from, to) = (floats(&x), room(n * width));
        layout::gather(
            on,
            Float::F32,
            (from.ptr(), rows - 1, width),
            (at.ptr(), n),
            to.ptr(),
        )
        .unwrap();
        for (i, id) in ids.iter().enumerate() {
            let missing = *id as usize == rows - 1;
            assert_eq!(
                to.get()[i * width].is_nan(),
                missing,
                "a row that is not there gives NaN"
            );
        }
        // n rows back onto `rows`, some of them several times
        let (y, factors) = (dice.normals(n * width), dice.normals(n));
        let lists = ScatterLists::new(&ids, rows).unwrap();
        let sorted: Vec<f32> = lists.sources.iter().map(|s| factors[*s as usize]).collect();
        let (to, starts) = (Buffer::of(&lists.rows, 9), Buffer::of(&lists.starts, 9));
        let (sources, sorted) = (Buffer::of(&lists.sources, 9), floats(&sorted));
        for with in [false, true] {
            in_place(&x, 1e-5, |float, onto, x| {
                let (single, half) = (floats(&y), halves(&y));
                let (at, y) = match float {
                    Float::F32 => (single.ptr(), wide(&y)),
                    Float::Bf16 => (half.ptr(), widened(half.get())),
                };
                let on_device = DeviceScatterLists {
                    rows: to.ptr(),
                    count: lists.rows.len(),
                    starts: starts.ptr(),
                    sources: sources.ptr(),
                    factors: if with { sorted.ptr() } else { Ptr::NULL },
                };
                layout::scatter(on, float, width, at, &on_device, onto).unwrap();
                let mut want = x.to_vec();
                for (i, id) in ids.iter().enumerate() {
                    let f = if with { f64::from(factors[i]) } else { 1.0 };
                    for c in 0..width {
                        want[*id as usize * width + c] += f * y[i * width + c];
                    }
                }
                want
            });
        }
    }
    assert!(ScatterLists::new(&[0, 3], 3).is_err());
}

#[test]
fn columns_are_copied_scaled_and_summed() {
    let Some(on) = emulator() else { return };
    let mut dice = Dice(5);
    for (rows, width) in [(3, 7), (130, 33), (1, 300)] {
        let x = dice.normals(rows * width);
        let (bias, factors) = (dice.normals(width), dice.normals(width));
        let (b, f) = (floats(&bias), floats(&factors));
        in_place(&x, 1e-5, |float, at, x| {
            let c = Columns { float, rows, width };
            c.scale(on, at, f.ptr(), b.ptr()).unwrap();
            let one = |(i, x): (usize, &f64)| {
                x * f64::from(factors[i % width]) + f64::from(bias[i % width])
            };
            x.iter().enumerate().map(one).collect()
        });
        let (y, inverse) = (dice.normals(rows * width), dice.normals(rows));
        let (yb, ib) = (floats(&y), floats(&inverse));
        let xb = floats(&x);
        for by in [false, true] {
            let c = Columns {
                float: Float::F32,
                rows,
                width,
            };
            let (parts, onto) = (room(c.room()), floats(&bias));
            let (x_at, parts_at, to) = (xb.ptr(), parts.ptr(), onto.ptr());
            match by {
                true => c.scale_gradient(on, yb.ptr(), Ptr::NULL, ib.ptr(), x_at, parts_at, to),
                false => c.sum(on, x_at, parts_at, to),
            }
            .unwrap();
            let mut want = wide(&bias);
            for r in 0..rows {
                for i in 0..width {
                    let more = if by {
                        f64::from(y[r * width + i]) * f64::from(inverse[r])
                    } else {
                        1.0
                    };
                    want[i] += f64::from(x[r * width + i]) * more;
                }
            }
            assert!(apart(wide(onto.get()), &want) < 1e-4);
        }
        // the middle columns, between others
        let (from, to) = (floats(&x), floats(&vec![7.0; rows * (width + 2)]));
        let part = (width / 3, width.div_ceil(2));
        let source = layout::Columns {
            at: from.ptr(),
            width,
            start: part.0,
        };
        let target = layout::Columns {
            at: to.ptr(),
            width: width + 2,
            start: 1,
        };
        layout::columns(on, Float::F32, source, target, (rows, part.1)).unwrap();
        for r in 0..rows {
            for i in 0..width + 2 {
                let inside = (1..1 + part.1).contains(&i);
                let want = if inside {
                    x[r * width + part.0 + i - 1]
                } else {
                    7.0
                };
                assert_eq!(to.get()[r * (width + 2) + i], want);
            }
        }
        let beyond = layout::Columns {
            at: from.ptr(),
            width,
            start: width,
        };
        assert!(layout::columns(on, Float::F32, beyond, target, (rows, 1)).is_err());
    }
}

#[test]
fn log_probs_and_their_gradient_are_those_of_f64() {
    let Some(on) = emulator() else { return };
    let mut dice = Dice(6);
    for (rows, vocab) in [(3, 11), (2, 1500), (4, 512)] {
        let z: Vec<f32> = dice
            .normals(rows * vocab)
            .iter()
            .map(|z| 6.0 * z + 20.0)
            .collect();
        // row 0 has no target, row 1 has two whose slopes cancel, the others one or two
        let entries: Vec<Vec<(u32, f32)>> = (0..rows)
            .map(|r| match r {
                0 => vec![],
                1 => vec![(3, 0.5), (7, -0.5)],
                _ => vec![(2, dice.normal()), (9, dice.normal())],
            })
            .collect();
        let mut starts = vec![0u32];
        entries
            .iter()
            .for_each(|e| starts.push(starts[starts.len() - 1] + e.len() as u32));
        let flat = entries.concat();
        let tokens: Vec<u32> = flat.iter().map(|e| e.0).collect();
        let slopes: Vec<f32> = flat.iter().map(|e| e.1).collect();
        let at_rows: Vec<u32> = (0..rows)
            .flat_map(|r| vec![r as u32; entries[r].len()])
            .collect();
        let totals: Vec<f32> = entries
            .iter()
            .map(|e| e.iter().map(|e| e.1).sum())
            .collect();
        let (sb, tb, lb) = (
            Buffer::of(&starts, 9),
            Buffer::of(&tokens, 9),
            floats(&slopes),
        );
        let (ab, ob) = (Buffer::of(&at_rows, 9), floats(&totals));
        in_place(&z, 2e-4, |float, at, z| {
            let logits = Logits {
                float,
                rows,
                vocab,
                at,
            };
            let (sums, picked) = (room(2 * rows), room(flat.len()));
            logits.sums(on, sums.ptr()).unwrap();
            logits
                .pick(on, ab.ptr(), tb.ptr(), flat.len(), picked.ptr())
                .unwrap();
            let slopes = Slopes {
                totals: ob.ptr(),
                starts: sb.ptr(),
                tokens: tb.ptr(),
                slopes: lb.ptr(),
            };
            logits.gradient(on, sums.ptr(), &slopes, 2).unwrap();
            let mut want = Vec::new();
            for (r, z) in z.chunks(vocab).enumerate() {
                let most = z.iter().copied().fold(f64::MIN, f64::max);
                let lse = most + z.iter().map(|z| (z - most).exp()).sum::<f64>().ln();
                let got = f64::from(sums.get()[2 * r]) + f64::from(sums.get()[2 * r + 1]);
                assert!((got - lse).abs() < 1e-5, "{got} for {lse}");
                let total = f64::from(totals[r]);
                let mut d: Vec<f64> = z.iter().map(|z| -total * (z - lse).exp()).collect();
                for (t, s) in &entries[r] {
                    d[*t as usize] += f64::from(*s);
                }
                want.extend(d);
            }
            for (i, t) in tokens.iter().enumerate() {
                assert_eq!(
                    f64::from(picked.get()[i]),
                    z[at_rows[i] as usize * vocab + *t as usize]
                );
            }
            want
        });
    }
    // a NaN logit makes its row's sum NaN
    let z = floats(&[1.0, f32::NAN, 2.0, 3.0]);
    let sums = room(4);
    let logits = Logits {
        float: Float::F32,
        rows: 2,
        vocab: 2,
        at: z.ptr(),
    };
    logits.sums(on, sums.ptr()).unwrap();
    assert!(sums.get()[1].is_nan() && sums.get()[3].is_finite());
}

fn turned(x: &[f64], cos: &[f32], sin: &[f32], r: &Rope, sign: f64) -> Vec<f64> {
    let mut y = x.to_vec();
    for (i, head) in y.chunks_mut(r.dim).enumerate() {
        for k in 0..r.pairs {
            let at = i / r.heads * r.pairs + k;
            let (c, s) = (f64::from(cos[at]), sign * f64::from(sin[at]));
            let (p, q) = if r.interleaved {
                (2 * k, 2 * k + 1)
            } else {
                (k, k + r.pairs)
            };
            let (a, b) = (head[p], head[q]);
            (head[p], head[q]) = (a * c - b * s, a * s + b * c);
        }
    }
    y
}

#[test]
fn rope_passes_what_it_does_not_turn_and_reads_16_bytes_as_it_reads_one_value() {
    let Some(on) = emulator() else { return };
    let mut dice = Dice(21);
    // (heads, d, pairs): whole vectors, tails, partial rotations, odd widths
    for (heads, d, pairs) in [
        (3, 64, 32),
        (2, 32, 8),
        (1, 6, 3),
        (2, 7, 2),
        (3, 80, 16),
        (2, 24, 12),
    ] {
        for (float, interleaved) in [Float::F32, Float::Bf16]
            .into_iter()
            .flat_map(|f| [(f, false), (f, true)])
        {
            let tokens = 5;
            let r = Rope {
                float,
                tokens,
                heads,
                dim: d,
                pairs,
                interleaved,
            };
            let angles: Vec<f64> = (0..tokens * pairs).map(|_| dice.unit() * 6.3).collect();
            let cos: Vec<f32> = angles.iter().map(|a| a.cos() as f32).collect();
            let sin: Vec<f32> = angles.iter().map(|a| a.sin() as f32).collect();
            let (cb, sb) = (floats(&cos), floats(&sin));
            let x = Any::of(float, &dice.normals(tokens * heads * d));
            let y = Any::room(float, tokens * heads * d);
            let most = match float {
                Float::F32 => 1e-6,
                Float::Bf16 => 0.02,
            };
            r.rotate(on, x.ptr(), (cb.ptr(), sb.ptr()), y.ptr(), false)
                .unwrap();
            let far = apart(y.get(), &turned(&x.get(), &cos, &sin, &r, 1.0));
            assert!(far < most, "{r:?}: {far}");
            // back, in place
            let want = turned(&y.get(), &cos, &sin, &r, -1.0);
            r.rotate(on, y.ptr(), (cb.ptr(), sb.ptr()), y.ptr(), true)
                .unwrap();
            let far = apart(y.get(), &want);
            assert!(far < most, "back {r:?}: {far}");
            assert!(
                Rope { pairs: d, ..r }
                    .rotate(on, x.ptr(), (cb.ptr(), sb.ptr()), y.ptr(), false)
                    .is_err()
            );
        }
    }
}

#[test]
fn columns_are_cut_out_and_joined_in_units_of_any_size() {
    let Some(on) = emulator() else { return };
    let mut dice = Dice(22);
    for float in [Float::F32, Float::Bf16] {
        for (rows, widths) in [
            (3, [8, 16, 24]),
            (5, [1, 7, 3]),
            (1, [40, 8, 3000]),
            (300, [4, 4, 8]),
        ] {
            let total: usize = widths.iter().sum();
            let whole = Any::of(float, &dice.normals(rows * total));
            let joined = Any::room(float, rows * total);
            let mut start = 0;
            for width in widths {
                let part = Any::room(float, rows * width);
                let of = |b: &Any, width, start| layout::Columns {
                    at: b.ptr(),
                    width,
                    start,
                };
                let (from, near) = (of(&whole, total, start), of(&part, width, 0));
                layout::columns(on, float, from, near, (rows, width)).unwrap();
                let want: Vec<f64> = whole
                    .get()
                    .chunks(total)
                    .flat_map(|r| r[start..start + width].to_vec())
                    .collect();
                assert_eq!(part.get(), want);
                layout::columns(on, float, near, of(&joined, total, start), (rows, width)).unwrap();
                start += width;
            }
            assert_eq!(joined.get(), whole.get());
        }
    }
}
