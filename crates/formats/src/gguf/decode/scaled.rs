//! Formats whose values are integers of a few bits, times a scale (and less a minimum).

use super::half_at;

/// The `i`-th of 256 codes of 2 bits: 32 bytes hold 128 of them, the first 32 in their lowest bits.
fn two_bits(q: &[u8], i: usize) -> u8 {
    q[i / 128 * 32 + i % 32] >> (2 * (i / 32 % 4)) & 3
}

/// 128 signs of one size: size (f16), a bit for each.
pub(super) fn q1_0(b: &[u8], y: &mut [f32]) {
    let d = half_at(b, 0);
    for (i, y) in y.iter_mut().enumerate() {
        let plus = b[2 + i / 8] >> (i % 8) & 1 == 1;
        *y = if plus { d } else { -d };
    }
}

/// 64 values: scale (f16), four codes a byte, -1 to 2.
pub(super) fn q2_0(b: &[u8], y: &mut [f32]) {
    let d = half_at(b, 0);
    for (i, y) in y.iter_mut().enumerate() {
        let code = b[2 + i / 4] >> (2 * (i % 4)) & 3;
        *y = f32::from(code as i8 - 1) * d;
    }
}

/// 256 values: for 16 each a scale and a minimum of 4 bits, codes of 2 bits, the factors of scales
/// and minima (f16).
pub(super) fn q2_k(b: &[u8], y: &mut [f32]) {
    let (d, min) = (half_at(b, 80), half_at(b, 82));
    for (j, y) in y.chunks_exact_mut(16).enumerate() {
        let (scale, low) = (d * f32::from(b[j] & 15), min * f32::from(b[j] >> 4));
        for (l, y) in y.iter_mut().enumerate() {
            *y = scale * f32::from(two_bits(&b[16..80], 16 * j + l)) - low;
        }
    }
}

/// The `j`-th of 16 scales of 6 bits: the lower four of all, then the upper two.
fn six_bits(s: &[u8], j: usize) -> i8 {
    let low = if j < 8 { s[j] & 15 } else { s[j - 8] >> 4 };
    (low | (s[8 + j % 4] >> (2 * (j / 4)) & 3) << 4) as i8 - 32
}

/// 256 values: third bits, codes of 2 bits, 16 scales of 6 bits, their factor (f16).
pub(super) fn q3_k(b: &[u8], y: &mut [f32]) {
    let d = half_at(b, 108);
    for (j, y) in y.chunks_exact_mut(16).enumerate() {
        let scale = d * f32::from(six_bits(&b[96..108], j));
        for (l, y) in y.iter_mut().enumerate() {
            let i = 16 * j + l;
            let third = b[i % 32] >> (i / 32) & 1;
            let code = two_bits(&b[32..96], i) as i8 - 4 * (1 - third as i8);
            *y = scale * f32::from(code);
        }
    }
}

/// 256 values -1, 0, 1 times a scale (f16, last): five a byte in 48 bytes, four a byte in 4, as a
/// fraction in base 3, of which each product with a power of 3 brings one more digit to the top.
pub(super) fn tq1_0(b: &[u8], y: &mut [f32]) {
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    let d = half_at(b, 52);
    let (first, rest) = y.split_at_mut(160);
    let (second, third) = rest.split_at_mut(80);
    for (y, bytes) in [(first, &b[..32]), (second, &b[32..48]), (third, &b[48..52])] {
        for (y, power) in y.chunks_exact_mut(bytes.len()).zip(POWERS) {
            for (y, byte) in y.iter_mut().zip(bytes) {
                let digit = (u16::from(byte.wrapping_mul(power)) * 3) >> 8;
                *y = d * f32::from(digit as i8 - 1);
            }
        }
    }
}

/// 256 values -1, 0, 1 (or 2) times a scale (f16, last): codes of 2 bits.
pub(super) fn tq2_0(b: &[u8], y: &mut [f32]) {
    let d = half_at(b, 64);
    for (i, y) in y.iter_mut().enumerate() {
        *y = d * f32::from(two_bits(b, i) as i8 - 1);
    }
}
