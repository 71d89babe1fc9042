//! Formats whose values are integers of a few bits, times a scale, in blocks of 256.

use super::{
    extreme, nearest, put_half,
    search::{LANES, Parts, Search, symmetric, transposed},
};

/// The largest scale and the largest minimum of a block's parts, 0 at least.
fn largest<const N: usize>(groups: &[Parts<N>]) -> (f32, f32) {
    // `f32::max` may choose the minus zero of a part whose minimum is 0
    let larger = |most: f32, v: &f32| if *v > most { *v } else { most };
    (
        groups.iter().flat_map(|g| &g.scale).fold(0.0, larger),
        groups.iter().flat_map(|g| &g.low).fold(0.0, larger),
    )
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
        top: 3.0,
        magnitudes: true,
        first: -0.5,
        last: 15,
    };
    let groups = x.chunks_exact(16 * LANES).map(|x| {
        let x = transposed::<16>(x);
        SEARCH.parts(&x, &x.map(|x| x.map(f32::abs)))
    });
    let mut groups: Vec<Parts<16>> = groups.collect();
    let (scale, low) = largest(&groups);
    let (d, min) = (put_half(b, 80, scale / 15.0), put_half(b, 82, low / 15.0));
    let (scales, lows) = (inverse(15.0, scale), inverse(15.0, low));
    for (i, (b, x)) in b.iter_mut().zip(x.chunks_exact(16)).enumerate() {
        let (part, j) = (&mut groups[i / LANES], i % LANES);
        let (s, m) = (nearest(scales * part.scale[j]), nearest(lows * part.low[j]));
        *b = s as u8 | (m as u8) << 4;
        let (scale, low) = (d * f32::from(*b & 15), min * f32::from(*b >> 4));
        SEARCH.again(&mut part.codes[j], x, scale, low);
    }
    let codes = groups.iter().flat_map(|g| g.codes.as_flattened());
    put_two_bits(&mut b[16..80], codes.copied());
}

/// Factors, for 32 values each a scale and a minimum of 6 bits; returns the codes.
fn eight_parts(x: &[f32], b: &mut [u8], search: &Search) -> [[u8; 32]; LANES] {
    let lanes = transposed::<32>(x);
    let mut squares = [0f32; LANES];
    for x in &lanes {
        for (sum, x) in squares.iter_mut().zip(x) {
            *sum += x * x;
        }
    }
    let mean = squares.map(|sum| (sum / 32.0).sqrt());
    let weights = lanes.map(|x| std::array::from_fn(|j| mean[j] + x[j].abs()));
    let mut parts = [search.parts(&lanes, &weights)];
    let (scale, low) = largest(&parts);
    let (d, min) = (put_half(b, 0, scale / 63.0), put_half(b, 2, low / 63.0));
    let (scales, lows) = (inverse(63.0, scale), inverse(63.0, low));
    let [parts] = &mut parts;
    for (j, x) in x.chunks_exact(32).enumerate() {
        let six = |v: f32| (nearest(v) as u8).min(63);
        let (s, m) = (six(scales * parts.scale[j]), six(lows * parts.low[j]));
        let packed = &mut b[4..16];
        if j < 4 {
            (packed[j], packed[j + 4]) = (s, m);
        } else {
            packed[j + 4] = s & 15 | (m & 15) << 4;
            packed[j - 4] |= s >> 4 << 6;
            packed[j] |= m >> 4 << 6;
        }
        let (scale, low) = (d * f32::from(s), min * f32::from(m));
        search.again(&mut parts.codes[j], x, scale, low);
    }
    parts.codes
}

/// The lower four bits of codes in 128 bytes: 32 bytes hold two parts, the first in the lower half.
fn put_four_bits(b: &mut [u8], codes: &[[u8; 32]; LANES]) {
    for (b, pair) in b.chunks_exact_mut(32).zip(codes.as_chunks::<2>().0) {
        for (l, b) in b.iter_mut().enumerate() {
            *b = pair[0][l] & 15 | pair[1][l] << 4;
        }
    }
}

/// Factors, for 32 values each a scale and a minimum of 6 bits, codes of 4 bits.
pub(super) fn q4_k(x: &[f32], b: &mut [u8]) {
    const SEARCH: Search = Search {
        top: 15.0,
        magnitudes: false,
        first: -1.0,
        last: 20,
    };
    let codes = eight_parts(x, b, &SEARCH);
    put_four_bits(&mut b[16..], &codes);
}

/// Factors, for 32 values each a scale and a minimum of 6 bits, fifth bits, codes of 4 bits.
pub(super) fn q5_k(x: &[f32], b: &mut [u8]) {
    const SEARCH: Search = Search {
        top: 31.0,
        magnitudes: false,
        first: -0.5,
        last: 15,
    };
    let codes = eight_parts(x, b, &SEARCH);
    for (l, b) in b[16..48].iter_mut().enumerate() {
        *b = (0..LANES).fold(0, |bits, j| bits | codes[j][l] >> 4 << j);
    }
    put_four_bits(&mut b[48..], &codes);
}

/// Lower four bits of codes, upper two, for 16 values each a scale of 8 bits, their factor.
pub(super) fn q6_k(x: &[f32], b: &mut [u8]) {
    let groups = x.chunks_exact(16 * LANES);
    let mut groups: Vec<Parts<16>> = groups
        .map(|x| symmetric(&transposed::<16>(x), 32.0))
        .collect();
    let scales = groups.iter().flat_map(|g| g.scale);
    let Some(largest) = extreme(scales) else {
        return;
    };
    let inverse = -128.0 / largest;
    let d = put_half(b, 208, 1.0 / inverse);
    for (i, x) in x.chunks_exact(16).enumerate() {
        let (part, j) = (&mut groups[i / LANES], i % LANES);
        let stored = nearest(inverse * part.scale[j]).min(127.0) as i8;
        b[192 + i] = stored as u8;
        let scale = d * f32::from(stored);
        if scale != 0.0 {
            for (code, x) in part.codes[j].iter_mut().zip(x) {
                *code = (nearest(x / scale).clamp(-32.0, 31.0) + 32.0) as u8;
            }
        }
    }
    let codes = groups.iter().flat_map(|g| g.codes.as_flattened());
    for (i, code) in codes.enumerate() {
        let (half, quarter, l) = (i / 128, i / 32 % 4, i % 32);
        b[64 * half + 32 * (quarter % 2) + l] |= (code & 15) << (4 * (quarter / 2));
        b[128 + 32 * half + l] |= code >> 4 << (2 * quarter);
    }
}

/// A scale for 16 values and their codes, 4 more than whole numbers from -4 to 3: the best factor
/// of evenly spread codes by squares, each code then changed as long as that makes it better.
fn three_bits(x: &[f32; 16]) -> (f32, [u8; 16]) {
    let Some(extreme) = extreme(x.iter().copied()) else {
        return (0.0, [0; 16]);
    };
    let inverse = -4.0 / extreme;
    let mut codes: [f32; 16] = x.map(|x| nearest(inverse * x).clamp(-4.0, 3.0));
    let (mut xl, mut ll) = (0.0, 0.0);
    for (x, l) in x.iter().zip(codes) {
        let w = x * x;
        (xl, ll) = (xl + w * x * l, ll + w * l * l);
    }
    for _ in 0..5 {
        let mut changed = false;
        for (x, code) in x.iter().zip(&mut codes) {
            let (w, l) = (x * x, *code);
            let (other_xl, other_ll) = (xl - w * x * l, ll - w * l * l);
            if other_xl <= 0.0 {
                continue;
            }
            let l = nearest(x * other_ll / other_xl).clamp(-4.0, 3.0);
            let (new_xl, new_ll) = (other_xl + w * x * l, other_ll + w * l * l);
            if l != *code && new_ll > 0.0 && new_xl * new_xl * ll > xl * xl * new_ll {
                (*code, xl, ll, changed) = (l, new_xl, new_ll, true);
            }
        }
        if !changed {
            break;
        }
    }
    let scale = if ll > 0.0 { xl / ll } else { 0.0 };
    (scale, codes.map(|code| (code + 4.0) as u8))
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
            _ => (nearest(inverse * *scale).clamp(-32.0, 31.0) + 32.0) as u8,
        };
        b[96 + j % 8] |= (six & 15) << (4 * (j / 8));
        b[104 + j % 4] |= six >> 4 << (2 * (j / 4));
        let scale = d * (f32::from(six) - 32.0);
        if scale != 0.0 {
            *codes = x.map(|x| (nearest(x / scale).clamp(-4.0, 3.0) + 4.0) as u8);
        }
    }
    let codes = || parts.iter().flat_map(|(_, codes)| *codes);
    for (i, code) in codes().enumerate() {
        b[i % 32] |= (code >> 2) << (i / 32);
    }
    put_two_bits(&mut b[32..96], codes().map(|code| code & 3));
}
