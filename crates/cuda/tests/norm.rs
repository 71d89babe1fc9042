//! The norms' kernels and sums over columns against f64.

use crate::emulator::*;
use randori_cuda::{
    Float, Ptr,
    ops::{
        columns::Columns,
        norm::{LayerNorm, RmsNorm},
    },
};

fn reference(x: &[f64], w: &[f64], dy: &[f64], n: &RmsNorm) -> (Vec<f64>, Vec<f64>) {
    let (mut y, mut dx) = (Vec::new(), Vec::new());
    let width = n.width as f64;
    for (x, dy) in x.chunks(n.width).zip(dy.chunks(n.width)) {
        let r = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / width + f64::from(n.eps)).sqrt();
        let g: Vec<f64> = dy
            .iter()
            .zip(w)
            .map(|(d, w)| d * (w + f64::from(n.plus)))
            .collect();
        let mean = x.iter().zip(&g).map(|(x, g)| x * g).sum::<f64>() / width;
        y.extend(
            x.iter()
                .zip(w)
                .map(|(x, w)| x * r * (w + f64::from(n.plus))),
        );
        dx.extend(x.iter().zip(&g).map(|(x, g)| r * (g - x * r * r * mean)));
    }
    (y, dx)
}

#[test]
fn rms_norm_and_its_gradient_are_those_of_f64() {
    let Some(on) = emulator() else { return };
    let mut dice = Dice(1);
    for (rows, width, plus) in [(3, 576, 0.0), (1, 7, 1.0), (5, 4097, 0.0), (2, 8200, 1.0)] {
        for float in [Float::F32, Float::Bf16] {
            let n = RmsNorm {
                float,
                rows,
                width,
                eps: 1e-5,
                plus,
            };
            let (x, w, dy) = (
                dice.normals(rows * width),
                dice.normals(width),
                dice.normals(rows * width),
            );
            let wide = |v: &[f32]| v.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
            let (wb, inverse) = (floats(&w), room(rows));
            let (y, dx, want, tolerance);
            match float {
                Float::F32 => {
                    let (xb, dyb, yb, dxb) =
                        (floats(&x), floats(&dy), room(x.len()), room(x.len()));
                    n.forward(on, xb.ptr(), wb.ptr(), yb.ptr(), inverse.ptr())
                        .unwrap();
                    n.backward(on, xb.ptr(), wb.ptr(), inverse.ptr(), dyb.ptr(), dxb.ptr())
                        .unwrap();
                    (y, dx) = (wide(yb.get()), wide(dxb.get()));
                    want = reference(&wide(&x), &wide(&w), &wide(&dy), &n);
                    tolerance = 1e-5;
                }
                Float::Bf16 => {
                    let (xb, dyb, yb, dxb) = (
                        halves(&x),
                        halves(&dy),
                        half_room(x.len()),
                        half_room(x.len()),
                    );
                    n.forward(on, xb.ptr(), wb.ptr(), yb.ptr(), inverse.ptr())
                        .unwrap();
                    n.backward(on, xb.ptr(), wb.ptr(), inverse.ptr(), dyb.ptr(), dxb.ptr())
                        .unwrap();
                    (y, dx) = (widened(yb.get()), widened(dxb.get()));
                    want = reference(&widened(xb.get()), &wide(&w), &widened(dyb.get()), &n);
                    tolerance = 0.05; // one rounding to 8 bits, of values some rms large
                }
            }
            inverse.get();
            let far = (apart(y, &want.0), apart(dx, &want.1));
            assert!(
                far.0 < tolerance && far.1 < tolerance,
                "{rows} x {width} {float:?}: {far:?}"
            );
        }
    }
}

#[test]
fn layer_norm_and_its_gradient_are_those_of_f64() {
    let Some(on) = emulator() else { return };
    let mut dice = Dice(2);
    for (rows, width, biased) in [(3, 576, true), (1, 7, false), (2, 8200, true), (4, 1, true)] {
        for float in [Float::F32, Float::Bf16] {
            let n = LayerNorm {
                float,
                rows,
                width,
                eps: 1e-5,
            };
            // far from 0, where mean(x^2) - mean^2 would fail
            let x = Any::of(
                float,
                &dice
                    .normals(rows * width)
                    .iter()
                    .map(|v| v + 30.0)
                    .collect::<Vec<_>>(),
            );
            let (w, b) = (dice.normals(width), dice.normals(width));
            let dy = Any::of(float, &dice.normals(rows * width));
            let (wb, bb, means, inverse) = (floats(&w), floats(&b), room(rows), room(rows));
            let (y, dx) = (
                Any::room(float, rows * width),
                Any::room(float, rows * width),
            );
            let bias = if biased { bb.ptr() } else { Ptr::NULL };
            n.forward(
                on,
                x.ptr(),
                wb.ptr(),
                bias,
                y.ptr(),
                means.ptr(),
                inverse.ptr(),
            )
            .unwrap();
            n.backward(
                on,
                x.ptr(),
                wb.ptr(),
                means.ptr(),
                inverse.ptr(),
                dy.ptr(),
                dx.ptr(),
            )
            .unwrap();
            means.get();
            inverse.get();
            let (mut want, mut back) = (Vec::new(), Vec::new());
            let over = width as f64;
            for (x, dy) in x.get().chunks(width).zip(dy.get().chunks(width)) {
                let mean = x.iter().sum::<f64>() / over;
                let r = 1.0
                    / (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / over + f64::from(n.eps))
                        .sqrt();
                let hat: Vec<f64> = x.iter().map(|x| (x - mean) * r).collect();
                let u: Vec<f64> = dy.iter().zip(&w).map(|(d, w)| d * f64::from(*w)).collect();
                let (mu, along) = (
                    u.iter().sum::<f64>() / over,
                    u.iter().zip(&hat).map(|(u, h)| u * h).sum::<f64>() / over,
                );
                for c in 0..width {
                    want.push(
                        hat[c] * f64::from(w[c]) + if biased { f64::from(b[c]) } else { 0.0 },
                    );
                    back.push(r * (u[c] - mu - hat[c] * along));
                }
            }
            let far = apart(y.get(), &want);
            // one column: the gradient is 0, and the rest is rounding times r = 316
            let off = if width == 1 {
                dx.get().iter().fold(0.0, |m: f64, v| m.max(v.abs())) / 316.0
            } else {
                apart(dx.get(), &back)
            };
            let most = match float {
                Float::F32 => 2e-5,
                Float::Bf16 => 0.05,
            };
            assert!(far < most && off < most, "{n:?}: {far} {off}");
        }
    }
}

/// Compares results of f32 arithmetic, rounded once, each relative to its own size.
fn rounded(got: &[f64], want: &[f64], float: Float, what: &str) {
    let own = match float {
        Float::F32 => 1e-6,
        Float::Bf16 => 1.0 / 256.0,
    };
    assert_eq!(got.len(), want.len());
    for (g, w) in got.iter().zip(want) {
        assert!((g - w).abs() <= own * w.abs() + 1e-6, "{what}: {g} {w}");
    }
}

#[test]
fn columns_are_added_scaled_and_summed() {
    let Some(on) = emulator() else { return };
    let mut dice = Dice(3);
    for (rows, width) in [(1, 1), (9, 40), (333, 7), (150, 520), (3, 2056)] {
        for float in [Float::F32, Float::Bf16] {
            let all = Columns { float, rows, width };
            let (y, dy) = (
                Any::of(float, &dice.normals(rows * width)),
                Any::of(float, &dice.normals(rows * width)),
            );
            let (b, mut m, means, inverse) = (
                dice.normals(width),
                dice.normals(width),
                dice.normals(rows),
                dice.normals(rows),
            );
            m[0] = 0.0;
            let (bb, mb, meanb, invb) = (floats(&b), floats(&m), floats(&means), floats(&inverse));
            let wide = |b: &Buffer<f32>| b.get().iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
            let (yv, dv) = (y.get(), dy.get());
            // sums, onto what is there
            let old = dice.normals(width);
            let f = |i: usize, kind: usize| {
                let (r, c) = (i / width, i % width);
                match kind {
                    0 => dv[i],
                    1 => dv[i] * (yv[i] - f64::from(means[r])) * f64::from(inverse[r]),
                    2 => dv[i] * yv[i] * f64::from(inverse[r]),
                    3 if m[c] != 0.0 => dv[i] * (yv[i] - f64::from(b[c])) / f64::from(m[c]),
                    4 if m[c] != 0.0 => dv[i] * yv[i] / f64::from(m[c]),
                    _ => 0.0,
                }
            };
            for kind in 0..5 {
                let (scratch, onto) = (room(all.room()), floats(&old));
                let (s, o) = (scratch.ptr(), onto.ptr());
                match kind {
                    0 => all.sum(on, dy.ptr(), s, o),
                    1 => all.scale_gradient(on, y.ptr(), meanb.ptr(), invb.ptr(), dy.ptr(), s, o),
                    2 => all.scale_gradient(on, y.ptr(), Ptr::NULL, invb.ptr(), dy.ptr(), s, o),
                    3 => all.magnitude_gradient(on, y.ptr(), bb.ptr(), dy.ptr(), mb.ptr(), s, o),
                    _ => all.magnitude_gradient(on, y.ptr(), Ptr::NULL, dy.ptr(), mb.ptr(), s, o),
                }
                .unwrap();
                scratch.get();
                let mut want: Vec<f64> = old.iter().map(|v| f64::from(*v)).collect();
                (0..rows * width).for_each(|i| want[i % width] += f(i, kind));
                let far = apart(wide(&onto), &want);
                assert!(far < 2e-5, "{all:?} sum {kind}: {far}"); // f32 whatever the input
            }
            all.scale(on, y.ptr(), mb.ptr(), Ptr::NULL).unwrap();
            let want: Vec<f64> = yv
                .iter()
                .enumerate()
                .map(|(i, v)| v * f64::from(m[i % width]))
                .collect();
            rounded(&y.get(), &want, float, &format!("{all:?} scale"));
            let before = y.get();
            all.scale(on, y.ptr(), Ptr::NULL, bb.ptr()).unwrap();
            let want: Vec<f64> = before
                .iter()
                .enumerate()
                .map(|(i, v)| v + f64::from(b[i % width]))
                .collect();
            rounded(&y.get(), &want, float, &format!("{all:?} add"));
        }
    }
}
