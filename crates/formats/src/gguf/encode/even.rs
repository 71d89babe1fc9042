//! Formats of 32 values with a scale, and a minimum or not, whose levels are evenly spaced.

use super::put_half;

/// 1 / `v`; 0 where there is none.
fn inverse(v: f32) -> f32 {
    if v == 0.0 { 0.0 } else { 1.0 / v }
}

/// 32 codes; and where they have more than four bits, the fifth bits of all in 4 bytes before the
/// lower four: of the first half in the lower parts of 16 bytes, of the second in the upper.
fn put_codes(b: &mut [u8], five: bool, code: impl Fn(usize) -> u8) {
    let at = if five { 4 } else { 0 };
    let mut fifths = 0u32;
    for i in 0..16 {
        let (low, high) = (code(i), code(i + 16));
        b[at + i] = low & 15 | high << 4;
        fifths |= u32::from(low >> 4) << i | u32::from(high >> 4) << (i + 16);
    }
    if five {
        b[..4].copy_from_slice(&fifths.to_le_bytes());
    }
}

/// Codes around `middle`, the extreme value at the lowest.
fn around(x: &[f32], b: &mut [u8], middle: f32) {
    let further = |most: f32, v: &f32| if v.abs() > most.abs() { *v } else { most };
    let scale = x.iter().fold(0.0, further) / -middle;
    put_half(b, 0, scale);
    let (inverse, top) = (inverse(scale), 2.0 * middle - 1.0);
    put_codes(&mut b[2..], middle > 8.0, |i| {
        (x[i] * inverse + middle + 0.5).min(top) as u8
    });
}

/// Codes from the least value at 0 to the greatest at `top`.
fn between(x: &[f32], b: &mut [u8], top: f32) {
    let (min, max) = x.iter().fold((f32::MAX, f32::MIN), |(min, max), v| {
        (
            if *v < min { *v } else { min },
            if *v > max { *v } else { max },
        )
    });
    let scale = (max - min) / top;
    put_half(b, 0, scale);
    put_half(b, 2, min);
    let inverse = inverse(scale);
    put_codes(&mut b[4..], top > 15.0, |i| {
        ((x[i] - min) * inverse + 0.5).min(top) as u8
    });
}

/// Scale, codes of 4 bits.
pub(super) fn q4_0(x: &[f32], b: &mut [u8]) {
    around(x, b, 8.0);
}

/// Scale, minimum, codes of 4 bits.
pub(super) fn q4_1(x: &[f32], b: &mut [u8]) {
    between(x, b, 15.0);
}

/// Scale, codes of 5 bits.
pub(super) fn q5_0(x: &[f32], b: &mut [u8]) {
    around(x, b, 16.0);
}

/// Scale, minimum, codes of 5 bits.
pub(super) fn q5_1(x: &[f32], b: &mut [u8]) {
    between(x, b, 31.0);
}

/// Scale, whole numbers from -127 to 127, halves away from 0.
pub(super) fn q8_0(x: &[f32], b: &mut [u8]) {
    let most = x.iter().fold(0f32, |most, v| most.max(v.abs()));
    let scale = most / 127.0;
    put_half(b, 0, scale);
    let inverse = inverse(scale);
    for (b, x) in b[2..].iter_mut().zip(x) {
        *b = (x * inverse).round() as i8 as u8;
    }
}
