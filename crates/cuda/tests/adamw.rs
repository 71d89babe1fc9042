//! Optimiser steps against f64, and 8-bit moments against the algorithm written out.

use crate::emulator::*;
use randori_cuda::ops::adamw::{AdamW, Moments8, PART, RmsProp, squares};
use randori_qlora::{signed_map, unsigned_map};

fn options(count: usize) -> AdamW {
    AdamW {
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-6,
        weight_decay: 0.1,
        rate: 0.01,
        scale: 0.7,
        count,
    }
}

#[test]
fn adamw_is_that_of_f64() {
    let Some(on) = emulator() else { return };
    let mut dice = Dice(41);
    for n in [0, 1, 5, 1024 + 7] {
        for skip in [0, 1].into_iter().filter(|s| *s <= n) {
            let w = floats(&dice.normals(n));
            let (m, v) = (floats(&vec![0.0; n]), floats(&vec![0.0; n]));
            let mut want: Vec<[f64; 3]> =
                w.get().iter().map(|w| [f64::from(*w), 0.0, 0.0]).collect();
            for t in 1..=20 {
                let (o, g) = (options(t), floats(&dice.normals(n)));
                let [wp, gp, mp, vp] = [&w, &g, &m, &v].map(|b| b.ptr().offset(4 * skip));
                o.step(on, n - skip, wp, gp, mp, vp).unwrap();
                for ([w, m, v], g) in want.iter_mut().zip(g.get()).skip(skip) {
                    let g = f64::from(*g) * o.scale;
                    *m = o.beta1 * *m + (1.0 - o.beta1) * g;
                    *v = o.beta2 * *v + (1.0 - o.beta2) * g * g;
                    let (mean, square) = (
                        *m / (1.0 - o.beta1.powi(t as i32)),
                        *v / (1.0 - o.beta2.powi(t as i32)),
                    );
                    *w -= o.rate * o.weight_decay * *w + o.rate * mean / (square.sqrt() + o.eps);
                }
            }
            for (i, want) in want.iter().enumerate() {
                let got = [&w, &m, &v].map(|b| f64::from(b.get()[i]));
                for (got, want) in got.iter().zip(want) {
                    // some roundings of values about 1
                    assert!((got - want).abs() < 3e-6, "{n} {i}: {got} {want}");
                }
            }
        }
    }
}

#[test]
fn rmsprop_is_that_of_f64() {
    let Some(on) = emulator() else { return };
    let mut dice = Dice(42);
    for (n, momentum) in [(1, 0.0), (300, 0.0), (257, 0.6)] {
        let w = floats(&dice.normals(n));
        let (b, s) = (floats(&vec![0.0; n]), floats(&vec![0.0; n]));
        let o = RmsProp {
            alpha: 0.95,
            eps: 1e-4,
            weight_decay: 0.2,
            momentum,
            rate: 0.01,
            scale: 0.5,
        };
        let mut want: Vec<[f64; 3]> = w.get().iter().map(|w| [f64::from(*w), 0.0, 0.0]).collect();
        for _ in 0..10 {
            let g = floats(&dice.normals(n));
            let buffer = (momentum > 0.0).then_some(b.ptr());
            o.step(on, n, w.ptr(), g.ptr(), buffer, s.ptr()).unwrap();
            for ([w, b, s], g) in want.iter_mut().zip(g.get()) {
                let g = f64::from(*g) * o.scale + o.weight_decay * *w;
                *s = o.alpha * *s + (1.0 - o.alpha) * g * g;
                let change = g / (s.sqrt() + o.eps) + momentum * *b;
                *b = if momentum > 0.0 { change } else { 0.0 };
                *w -= o.rate * change;
            }
        }
        for (i, want) in want.iter().enumerate() {
            let got = [&w, &b, &s].map(|b| f64::from(b.get()[i]));
            for (got, want) in got.iter().zip(want) {
                assert!((got - want).abs() < 1e-5, "{n} {i}: {got} {want}");
            }
        }
    }
}

#[test]
fn squares_are_summed_in_f64() {
    let Some(on) = emulator() else { return };
    let mut dice = Dice(44);
    for n in [0, 1, 255, PART, PART + 1, 3 * PART + 777] {
        let values = dice.normals(n);
        let (x, parts) = (
            floats(&values),
            Buffer::of(&vec![f64::NAN; n.div_ceil(PART)], 7.0),
        );
        squares(on, n, x.ptr(), parts.ptr()).unwrap();
        for (got, part) in parts.get().iter().zip(values.chunks(PART)) {
            let want: f64 = part.iter().map(|v| f64::from(*v).powi(2)).sum();
            assert!((got - want).abs() <= 1e-12 * want, "{n}: {got} {want}");
        }
    }
}

/// One moment: codes and their blocks' scales.
struct Moment {
    codes: Vec<u8>,
    most: Vec<f32>,
    map: &'static [f32; 256],
}

impl Moment {
    fn new(n: usize, map: &'static [f32; 256]) -> Moment {
        let blocks = n.div_ceil(256);
        Moment {
            codes: vec![map.iter().position(|v| *v == 0.0).unwrap() as u8; 256 * blocks],
            most: vec![0.0; blocks],
            map,
        }
    }
    fn get(&self, i: usize) -> f32 {
        self.map[usize::from(self.codes[i])] * self.most[i / 256]
    }
    /// Quantises by comparing with every entry of the map.
    fn set(&mut self, values: &[f32]) {
        for (b, values) in values.chunks(256).enumerate() {
            let most = values.iter().fold(0f32, |m, v| m.max(v.abs()));
            self.most[b] = most;
            for i in 0..256 {
                let v = values.get(i).copied().unwrap_or(0.0);
                let v = if most > 0.0 { v / most } else { 0.0 };
                let above = self
                    .map
                    .windows(2)
                    .filter(|p| v > (p[0] + p[1]) * 0.5)
                    .count();
                let away = |e: &f32| (f64::from(*e) - f64::from(v)).abs();
                let least = self.map.iter().map(away).fold(f64::INFINITY, f64::min);
                // the middle of two entries is rounded
                let most = least + f64::from(v.abs()) * 2.5e-7 + 1e-12;
                assert!(
                    away(&self.map[above]) <= most,
                    "not the nearest entry: {v:e} {:e} {least:e} {:e}",
                    self.map[above],
                    away(&self.map[above])
                );
                self.codes[256 * b + i] = above as u8;
            }
        }
    }
}

/// AdamW's step in f32 as in the paper, with moments quantised between steps.
fn step8(o: &AdamW, w: &mut [f32], g: &[f32], first: &mut Moment, second: &mut Moment) {
    let [scale, beta1, rest1, beta2, rest2, eps] = [
        o.scale,
        o.beta1,
        1.0 - o.beta1,
        o.beta2,
        1.0 - o.beta2,
        o.eps,
    ]
    .map(|v| v as f32);
    let shrink = (o.rate * o.weight_decay) as f32;
    let size = (o.rate / (1.0 - o.beta1.powf(o.count as f64))) as f32;
    let root = (1.0 - o.beta2.powf(o.count as f64)).sqrt() as f32;
    let (mut ms, mut vs) = (Vec::new(), Vec::new());
    for (i, (w, g)) in w.iter_mut().zip(g).enumerate() {
        let g = g * scale;
        let m = beta1 * first.get(i) + rest1 * g;
        let v = beta2 * second.get(i) + rest2 * (g * g);
        *w -= shrink * *w + size * m / (v.sqrt() / root + eps);
        ms.push(m);
        vs.push(v);
    }
    first.set(&ms);
    second.set(&vs);
}

#[test]
fn moments_in_8_bits_are_the_algorithm_bit_for_bit_and_near_f32() {
    let Some(on) = emulator() else { return };
    let mut dice = Dice(43);
    for n in [1, 256, 2 * 256 + 77, 9 * 256 + 3] {
        let start = dice.normals(n);
        let (w, plain) = (floats(&start), floats(&start));
        let (m, v) = (floats(&vec![0.0; n]), floats(&vec![0.0; n]));
        let mut want = start.clone();
        let (mut first, mut second) =
            (Moment::new(n, signed_map()), Moment::new(n, unsigned_map()));
        let words = |codes: &[u8]| {
            let (words, _) = codes.as_chunks::<8>();
            Buffer::of(
                &words
                    .iter()
                    .map(|w| u64::from_le_bytes(*w))
                    .collect::<Vec<_>>(),
                7,
            )
        };
        let (fc, sc) = (words(&first.codes), words(&second.codes));
        let (fm, sm) = (floats(&first.most), floats(&second.most));
        let (signed, unsigned) = (floats(signed_map()), floats(unsigned_map()));
        let by = Moments8 {
            first: fc.ptr(),
            second: sc.ptr(),
            first_most: fm.ptr(),
            second_most: sm.ptr(),
            signed_map: signed.ptr(),
            unsigned_map: unsigned.ptr(),
        };
        for t in 1..=20 {
            let mut g = dice.normals(n);
            if t == 3 {
                g.fill(0.0);
            }
            let (o, g) = (options(t), floats(&g));
            o.step8(on, n, w.ptr(), g.ptr(), &by).unwrap();
            o.step(on, n, plain.ptr(), g.ptr(), m.ptr(), v.ptr())
                .unwrap();
            step8(&o, &mut want, g.get(), &mut first, &mut second);
            let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(w.get()), bits(&want), "{n}, step {t}");
            assert_eq!(
                (bits(fm.get()), bits(sm.get())),
                (bits(&first.most), bits(&second.most))
            );
            let bytes = |b: &Buffer<u64>| {
                b.get()
                    .iter()
                    .flat_map(|w| w.to_le_bytes())
                    .collect::<Vec<_>>()
            };
            assert!(
                bytes(&fc) == first.codes && bytes(&sc) == second.codes,
                "{n}, step {t}: codes"
            );
        }
        // 20 steps of 0.01: the moments' steps are within some percent, at random
        for (w, plain) in w.get().iter().zip(plain.get()) {
            assert!((w - plain).abs() < 0.02, "{n}: {w} {plain}");
        }
        assert!(n == 1 || w.get() != plain.get(), "8 bits that lose nothing");
    }
}

#[test]
fn misfits_are_errors() {
    let Some(on) = emulator() else { return };
    let w = floats(&[1.0; 8]);
    let p = w.ptr();
    let e = options(0).step(on, 8, p, p, p, p).unwrap_err();
    assert!(e.to_string().contains("number 1"), "{e}");
    let by = Moments8 {
        first: p.offset(1),
        second: p,
        first_most: p,
        second_most: p,
        signed_map: p,
        unsigned_map: p,
    };
    let e = options(1).step8(on, 8, p, p, &by).unwrap_err();
    assert!(e.to_string().contains("multiple of 8"), "{e}");
}
