//! IQ4: 16 levels that are not evenly spaced.

use super::{extreme, nearest, put_half};
use crate::gguf::decode::levels::IQ4;

/// Twice the middle between each level and the next.
const MIDDLES: [f32; 15] = {
    let mut middles = [0.0; 15];
    let mut i = 0;
    while i < middles.len() {
        middles[i] = (IQ4[i] as i16 + IQ4[i + 1] as i16) as f32;
        i += 1;
    }
    middles
};

/// Code of the level nearest to a value, the upper one of two.
fn code(v: f32) -> u8 {
    let above = |middle: &f32| u8::from(v + v >= *middle);
    MIDDLES.iter().map(above).sum() // all of them: a branch would be guessed wrong
}

/// The best factor of levels chosen by `inverse`, weighted by squares: Σwqx / Σwq² as a fraction.
fn fit(x: &[f32], inverse: f32) -> (f32, f32) {
    x.iter().fold((0.0, 0.0), |(qx, qq), x| {
        let (q, w) = (f32::from(IQ4[usize::from(code(inverse * x))]), x * x);
        (qx + w * q * x, qq + w * q * q)
    })
}

/// Of 16 scales that send the extreme value near the lowest level, the one whose best factor leaves
/// the least error; 0 for values that are as good as 0.
fn scale(x: &[f32]) -> f32 {
    let Some(extreme) = extreme(x.iter().copied()) else {
        return 0.0;
    };
    let lowest = f32::from(IQ4[0]);
    let (qx, qq) = fit(x, 1.0 / (-extreme / lowest));
    let mut scale = qx / qq;
    let mut best = scale * qx;
    for step in -7i8..=7 {
        let (qx, qq) = fit(x, (f32::from(step) + lowest) / extreme);
        if qq > 0.0 && qx * qx > best * qq {
            scale = qx / qq;
            best = scale * qx;
        }
    }
    scale
}

/// Codes of 32 values in 16 bytes, the first half in the lower bits.
fn put_codes(b: &mut [u8], x: &[f32], scale: f32) {
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let (low, high) = x.split_at(16);
    for ((b, low), high) in b.iter_mut().zip(low).zip(high) {
        *b = code(inverse * low) | code(inverse * high) << 4;
    }
}

/// 32 values: scale, codes.
pub(super) fn iq4_nl(x: &[f32], b: &mut [u8]) {
    let scale = scale(x);
    put_half(b, 0, scale);
    put_codes(&mut b[2..], x, scale);
}

/// 256 values: factor of the scales, the upper two bits of 8 scales, their lower four, codes.
pub(super) fn iq4_xs(x: &[f32], b: &mut [u8]) {
    let scales: Vec<f32> = x.chunks_exact(32).map(scale).collect();
    let further = |most: f32, s: &f32| if s.abs() > most.abs() { *s } else { most };
    let factor = -scales.iter().fold(0.0, further) / 32.0;
    put_half(b, 0, factor);
    let inverse = if factor == 0.0 { 0.0 } else { 1.0 / factor };
    let mut upper = 0u16;
    for (j, (x, scale)) in x.chunks_exact(32).zip(&scales).enumerate() {
        let whole = nearest(inverse * scale).clamp(-32.0, 31.0);
        let six = (whole + 32.0) as u8;
        upper |= u16::from(six >> 4) << (2 * j);
        b[4 + j / 2] |= (six & 15) << (4 * (j % 2));
        // the codes follow the factor before it is rounded to f16
        put_codes(&mut b[8 + 16 * j..][..16], x, factor * whole);
    }
    b[2..4].copy_from_slice(&upper.to_le_bytes());
}
