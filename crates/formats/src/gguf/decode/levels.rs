//! Formats whose 4-bit codes stand for 16 levels that are not evenly spaced.

use super::{half_at, nibble, u16_at};

/// The levels of IQ4.
pub(in crate::gguf) const IQ4: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

/// Twice the numbers of 4 bits with two of exponent and one of mantissa.
const E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Values of codes, two a byte: first all lower halves, then all upper ones.
fn halves(codes: &[u8], levels: &[i8; 16], scale: f32, y: &mut [f32]) {
    let (low, high) = y.split_at_mut(codes.len());
    for ((low, high), code) in low.iter_mut().zip(high).zip(codes) {
        *low = scale * f32::from(levels[usize::from(code & 15)]);
        *high = scale * f32::from(levels[usize::from(code >> 4)]);
    }
}

/// 32 values: scale (f16), codes.
pub(super) fn iq4_nl(b: &[u8], y: &mut [f32]) {
    halves(&b[2..], &IQ4, half_at(b, 0), y);
}

/// 256 values: factor of the scales (f16), the upper two bits of 8 scales, their lower four, codes.
pub(super) fn iq4_xs(b: &[u8], y: &mut [f32]) {
    let (d, upper) = (half_at(b, 0), u16_at(b, 2));
    let groups = y.chunks_exact_mut(32).zip(b[8..].chunks_exact(16));
    for (j, (y, codes)) in groups.enumerate() {
        let scale = nibble(&b[4..8], j) | ((upper >> (2 * j) & 3) as u8) << 4;
        halves(codes, &IQ4, d * f32::from(scale as i8 - 32), y);
    }
}

/// 32 values: scale (a power of two by its exponent, halved since the levels are doubled), codes.
pub(super) fn mxfp4(b: &[u8], y: &mut [f32]) {
    let bits = match b[0] {
        e @ (0 | 1) => 0x0020_0000_u32 << e, // below f32's least normal number
        e => u32::from(e - 1) << 23,
    };
    halves(&b[1..], &E2M1, f32::from_bits(bits), y);
}

/// 64 values: for 16 each a scale, 4 bits of exponent and 3 of mantissa (halved since the levels
/// are doubled; 127, which would be NaN, is 0), then codes.
pub(super) fn nvfp4(b: &[u8], y: &mut [f32]) {
    let groups = y.chunks_exact_mut(16).zip(b[4..].chunks_exact(8));
    for ((y, codes), scale) in groups.zip(&b[..4]) {
        let (exponent, mantissa) = (scale >> 3 & 15, f32::from(scale & 7));
        let d = match (*scale, exponent) {
            (0x7f, _) => 0.0,
            (_, 0) => mantissa / 1024.0,
            _ => (1.0 + mantissa / 8.0) * f32::from_bits((u32::from(exponent) + 119) << 23),
        };
        halves(codes, &E2M1, d, y);
    }
}
