//! Formats whose values are integers of a few bits, times a scale, in blocks of 256.

use super::{extreme, nearest, put_half};

/// A part of a block: values are near `scale * code - low`.
#[derive(Clone, Copy)]
struct Part<const N: usize> {
    scale: f32,
    low: f32,
    codes: [u8; N],
}

/// How scales and minima are searched for.
struct Search {
    /// The highest code.
    top: i32,
    /// Whether errors are magnitudes; squares otherwise.
    magnitudes: bool,
}

impl Search {
    /// The code of `v` in units of the scale.
    fn code(&self, v: f32) -> u8 {
        nearest(v).clamp(0, self.top) as u8
    }

    /// Codes of values, and the weighted error of a scale and a minimum with them.
    fn error<const N: usize>(
        &self,
        (x, weights): (&[f32; N], &[f32; N]),
        codes: &[u8; N],
        scale: f32,
        min: f32,
    ) -> f32 {
        let mut sum = 0.0;
        for ((x, w), code) in x.iter().zip(weights).zip(codes) {
            let off = scale * f32::from(*code) + min - x;
            let off = if self.magnitudes {
                off.abs()
            } else {
                off * off
            };
            sum += w * off;
        }
        sum
    }

    /// The scale and minimum (at most 0) with the least error among 17: evenly spread codes, then
    /// for 16 steps of codes spread a little wider or narrower the weighted least squares.
    fn part<const N: usize>(&self, x: &[f32; N], weights: &[f32; N]) -> Part<N> {
        let (mut min, mut max) = (x[0], x[0]);
        let (mut sum_w, mut sum_x) = (0.0, 0.0);
        for (x, w) in x.iter().zip(weights) {
            (min, max) = (min.min(*x), max.max(*x));
            (sum_w, sum_x) = (sum_w + w, sum_x + w * x);
        }
        min = min.min(0.0);
        if max == min {
            return Part {
                scale: 0.0,
                low: -min,
                codes: [0; N],
            };
        }
        let top = self.top as f32;
        let even = top / (max - min);
        let mut scale = 1.0 / even;
        let mut codes: [u8; N] = std::array::from_fn(|i| self.code(even * (x[i] - min)));
        let mut least = self.error((x, weights), &codes, scale, min);
        for step in 0..=15u8 {
            let inverse = (-0.5 + 0.1 * f32::from(step) + top) / (max - min);
            let other: [u8; N] = std::array::from_fn(|i| self.code(inverse * (x[i] - min)));
            let (mut l, mut ll, mut xl) = (0.0, 0.0, 0.0);
            for ((x, w), code) in x.iter().zip(weights).zip(&other) {
                let code = f32::from(*code);
                (l, ll, xl) = (l + w * code, ll + w * code * code, xl + w * code * x);
            }
            let determinant = sum_w * ll - l * l;
            if determinant <= 0.0 {
                continue;
            }
            let mut best = (
                (sum_w * xl - sum_x * l) / determinant,
                (ll * sum_x - l * xl) / determinant,
            );
            if best.1 > 0.0 {
                best = (xl / ll, 0.0);
            }
            let error = self.error((x, weights), &other, best.0, best.1);
            if error < least {
                (least, codes, (scale, min)) = (error, other, best);
            }
        }
        Part {
            scale,
            low: -min,
            codes,
        }
    }

    /// Chooses a part's codes anew, for a scale and minimum as they are stored; a scale of 0 leaves
    /// them.
    fn again<const N: usize>(&self, part: &mut Part<N>, x: &[f32; N], scale: f32, low: f32) {
        if scale != 0.0 {
            part.codes = std::array::from_fn(|i| self.code((x[i] + low) / scale));
        }
    }
}

/// The largest scale and the largest minimum of a block's parts, 0 at least.
fn largest<const N: usize>(parts: &[Part<N>]) -> (f32, f32) {
    // `f32::max` may choose the minus zero of a part whose minimum is 0
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    parts.iter().fold((0.0, 0.0), |(scale, low), part| {
        (larger(scale, part.scale), larger(low, part.low))
    })
}

/// `top` divided by `largest`; 0 where there is none.
fn inverse(top: f32, largest: f32) -> f32 {
    if largest > 0.0 { top / largest } else { 0.0 }
}

/// 256 codes of 2 bits in 64 bytes: 32 bytes hold 128 of them, the first 32 in their lowest bits.
fn put_two_bits(b: &mut [u8], codes: impl Iterator<Item = u8>) {
    for (i, code) in codes.enumerate() {
        b[i / 128 * 32 + i % 32] |= code << (2 * (i / 32 % 4));
    }
}

/// For 16 values each a scale and a minimum of 4 bits, codes of 2 bits, the factors.
pub(super) fn q2_k(x: &[f32], b: &mut [u8]) {
    const SEARCH: Search = Search {
        top: 3,
        magnitudes: true,
    };
    let x = x.as_chunks::<16>().0;
    let mut parts: Vec<Part<16>> = x.iter().map(|x| SEARCH.part(x, &x.map(f32::abs))).collect();
    let (scale, low) = largest(&parts);
    let (d, min) = (put_half(b, 80, scale / 15.0), put_half(b, 82, low / 15.0));
    let (scales, lows) = (inverse(15.0, scale), inverse(15.0, low));
    for ((part, x), b) in parts.iter_mut().zip(x).zip(b.iter_mut()) {
        let (s, m) = (nearest(scales * part.scale), nearest(lows * part.low));
        *b = s as u8 | (m as u8) << 4;
        SEARCH.again(part, x, d * f32::from(*b & 15), min * f32::from(*b >> 4));
    }
    put_two_bits(&mut b[16..80], parts.iter().flat_map(|part| part.codes));
}

/// Factors, for 32 values each a scale and a minimum of 6 bits, fifth bits, codes of 4 bits.
pub(super) fn q5_k(x: &[f32], b: &mut [u8]) {
    const SEARCH: Search = Search {
        top: 31,
        magnitudes: false,
    };
    let x = x.as_chunks::<32>().0;
    let part = |x: &[f32; 32]| {
        let mean = (x.iter().fold(0.0, |sum, x| sum + x * x) / 32f32).sqrt();
        SEARCH.part(x, &x.map(|x| mean + x.abs()))
    };
    let mut parts: Vec<Part<32>> = x.iter().map(part).collect();
    let (scale, low) = largest(&parts);
    let (d, min) = (put_half(b, 0, scale / 63.0), put_half(b, 2, low / 63.0));
    let (scales, lows) = (inverse(63.0, scale), inverse(63.0, low));
    for (j, (part, x)) in parts.iter_mut().zip(x).enumerate() {
        let six = |v: f32| (nearest(v) as u8).min(63);
        let (s, m) = (six(scales * part.scale), six(lows * part.low));
        let packed = &mut b[4..16];
        if j < 4 {
            (packed[j], packed[j + 4]) = (s, m);
        } else {
            packed[j + 4] = s & 15 | (m & 15) << 4;
            packed[j - 4] |= s >> 4 << 6;
            packed[j] |= m >> 4 << 6;
        }
        SEARCH.again(part, x, d * f32::from(s), min * f32::from(m));
        for (l, code) in part.codes.into_iter().enumerate() {
            b[16 + l] |= (code >> 4) << j;
            b[48 + j / 2 * 32 + l] |= (code & 15) << (4 * (j % 2));
        }
    }
}

/// A scale for 16 values and their codes, 4 more than whole numbers from -4 to 3: the best factor
/// of evenly spread codes by squares, each code then changed as long as that makes it better.
fn three_bits(x: &[f32; 16]) -> (f32, [u8; 16]) {
    let Some(extreme) = extreme(x) else {
        return (0.0, [0; 16]);
    };
    let inverse = -4.0 / extreme;
    let mut codes: [i32; 16] = std::array::from_fn(|i| nearest(inverse * x[i]).clamp(-4, 3));
    let (mut xl, mut ll) = (0.0, 0.0);
    for (x, l) in x.iter().zip(codes) {
        let (w, l) = (x * x, l as f32);
        (xl, ll) = (xl + w * x * l, ll + w * l * l);
    }
    for _ in 0..5 {
        let mut changed = false;
        for (x, code) in x.iter().zip(&mut codes) {
            let (w, l) = (x * x, *code as f32);
            let (other_xl, other_ll) = (xl - w * x * l, ll - w * l * l);
            if other_xl <= 0.0 {
                continue;
            }
            let new = nearest(x * other_ll / other_xl).clamp(-4, 3);
            let l = new as f32;
            let (new_xl, new_ll) = (other_xl + w * x * l, other_ll + w * l * l);
            if new != *code && new_ll > 0.0 && new_xl * new_xl * ll > xl * xl * new_ll {
                (*code, xl, ll, changed) = (new, new_xl, new_ll, true);
            }
        }
        if !changed {
            break;
        }
    }
    let scale = if ll > 0.0 { xl / ll } else { 0.0 };
    (scale, codes.map(|code| (code + 4) as u8))
}

/// Third bits, codes of 2 bits, for 16 values each a scale of 6 bits, their factor.
pub(super) fn q3_k(x: &[f32], b: &mut [u8]) {
    let x = x.as_chunks::<16>().0;
    let mut parts: Vec<(f32, [u8; 16])> = x.iter().map(three_bits).collect();
    let largest = parts.iter().fold(0f32, |most, (scale, _)| {
        if scale.abs() > most.abs() {
            *scale
        } else {
            most
        }
    });
    let inverse = if largest == 0.0 { 0.0 } else { -32.0 / largest };
    let d = match largest {
        0.0 => 0.0,
        _ => put_half(b, 108, 1.0 / inverse),
    };
    for (j, ((scale, codes), x)) in parts.iter_mut().zip(x).enumerate() {
        let six = match largest {
            0.0 => 0,
            _ => (nearest(inverse * *scale).clamp(-32, 31) + 32) as u8,
        };
        b[96 + j % 8] |= (six & 15) << (4 * (j / 8));
        b[104 + j % 4] |= six >> 4 << (2 * (j / 4));
        let scale = d * (f32::from(six) - 32.0);
        if scale != 0.0 {
            *codes = x.map(|x| (nearest(x / scale).clamp(-4, 3) + 4) as u8);
        }
    }
    let codes = || parts.iter().flat_map(|(_, codes)| *codes);
    for (i, code) in codes().enumerate() {
        b[i % 32] |= (code >> 2) << (i / 32);
    }
    put_two_bits(&mut b[32..96], codes().map(|code| code & 3));
}
