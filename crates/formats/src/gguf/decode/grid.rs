//! Formats whose codes choose points of a grid: eight or four values at once.

use super::{half_at, nibble, u16_at};

/// All grids (grids.py), 16 bits a point.
const GRIDS: &[u8; 2 * 4608] = include_bytes!("grids.bin");

/// A grid: its first point in [`GRIDS`].
#[derive(Clone, Copy)]
struct Grid(usize);

const IQ2_XXS: Grid = Grid(0);
const IQ2_XS: Grid = Grid(256);
const IQ2_S: Grid = Grid(768);
const IQ3_XXS: Grid = Grid(1792);
const IQ3_S: Grid = Grid(2048);
const IQ1: Grid = Grid(2560);

/// The numbers that coordinates stand for.
const OF_IQ2: [f32; 4] = [8.0, 25.0, 43.0, 0.0]; // the last is in no point
const OF_IQ3_XXS: [f32; 8] = [4.0, 12.0, 20.0, 28.0, 36.0, 44.0, 52.0, 62.0];
const OF_IQ3_S: [f32; 8] = [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0];
const OF_IQ1: [f32; 4] = [-1.0, 0.0, 1.0, 0.0];

impl Grid {
    /// A point of eight coordinates.
    fn eight(self, point: u16, of: &[f32; 4]) -> [f32; 8] {
        let bits = u16_at(GRIDS, 2 * (self.0 + usize::from(point)));
        std::array::from_fn(|i| of[usize::from(bits >> (2 * i) & 3)])
    }

    /// A point of four coordinates.
    fn four(self, point: u16, of: &[f32; 8]) -> [f32; 4] {
        let bits = u16_at(GRIDS, 2 * (self.0 + usize::from(point)));
        std::array::from_fn(|i| of[usize::from(bits >> (4 * i) & 7)])
    }
}

/// Seven signs and the eighth, by which the number of minus signs is even.
fn even(signs: u32) -> u8 {
    let seven = (signs & 127) as u8;
    seven | ((seven.count_ones() & 1) as u8) << 7
}

/// Writes a point's coordinates times `scale`, minus where `signs` has a bit.
fn signed(y: &mut [f32], point: &[f32], scale: f32, signs: u8) {
    for (i, (y, v)) in y.iter_mut().zip(point).enumerate() {
        let size = scale * v;
        *y = if signs >> i & 1 == 1 { -size } else { size };
    }
}

/// The little-endian 32 bits at `at`.
fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from(u16_at(b, at)) | u32::from(u16_at(b, at + 2)) << 16
}

/// A scale of 4 bits as IQ2 has it, with its factor.
fn quarter(d: f32, scale: u8) -> f32 {
    d * (0.5 + f32::from(scale)) * 0.25
}

/// 256 values: factor (f16); for 32 each four points, then four times seven signs and a scale.
pub(super) fn iq2_xxs(b: &[u8], y: &mut [f32]) {
    let d = half_at(b, 0);
    let groups = y.chunks_exact_mut(32).zip(b[2..].chunks_exact(8));
    for (y, group) in groups {
        let rest = u32_at(group, 4);
        let scale = quarter(d, (rest >> 28) as u8);
        for (k, (y, point)) in y.chunks_exact_mut(8).zip(group).enumerate() {
            let point = IQ2_XXS.eight(u16::from(*point), &OF_IQ2);
            signed(y, &point, scale, even(rest >> (7 * k)));
        }
    }
}

/// 256 values: factor (f16); for 8 each a point and seven signs; for 16 each a scale.
pub(super) fn iq2_xs(b: &[u8], y: &mut [f32]) {
    let d = half_at(b, 0);
    for (k, y) in y.chunks_exact_mut(8).enumerate() {
        let code = u16_at(b, 2 + 2 * k);
        let scale = quarter(d, nibble(&b[66..], k / 2));
        let point = IQ2_XS.eight(code & 511, &OF_IQ2);
        signed(y, &point, scale, even(u32::from(code >> 9)));
    }
}

/// 256 values: factor (f16); for 8 each the lower bits of a point, signs, the upper two bits; for
/// 16 each a scale.
pub(super) fn iq2_s(b: &[u8], y: &mut [f32]) {
    let d = half_at(b, 0);
    for (k, y) in y.chunks_exact_mut(8).enumerate() {
        let upper = u16::from(b[66 + k / 4] >> (2 * (k % 4)) & 3);
        let point = IQ2_S.eight(u16::from(b[2 + k]) | upper << 8, &OF_IQ2);
        signed(y, &point, quarter(d, nibble(&b[74..], k / 2)), b[34 + k]);
    }
}

/// 256 values: factor (f16); for 4 each a point; for 32 each four times seven signs and a scale.
pub(super) fn iq3_xxs(b: &[u8], y: &mut [f32]) {
    let d = half_at(b, 0);
    for (k, y) in y.chunks_exact_mut(8).enumerate() {
        let rest = u32_at(b, 66 + k / 4 * 4);
        let scale = d * (0.5 + (rest >> 28) as f32) * 0.5;
        let signs = even(rest >> (7 * (k % 4)));
        for (half, y) in y.chunks_exact_mut(4).enumerate() {
            let point = IQ3_XXS.four(u16::from(b[2 + 2 * k + half]), &OF_IQ3_XXS);
            signed(y, &point, scale, signs >> (4 * half));
        }
    }
}

/// 256 values: factor (f16); for 4 each the lower bits of a point, then its ninth; signs; for 32
/// each a scale.
pub(super) fn iq3_s(b: &[u8], y: &mut [f32]) {
    let d = half_at(b, 0);
    for (k, y) in y.chunks_exact_mut(4).enumerate() {
        let ninth = u16::from(b[66 + k / 8] >> (k % 8) & 1);
        let point = IQ3_S.four(u16::from(b[2 + k]) | ninth << 8, &OF_IQ3_S);
        let scale = d * f32::from(1 + 2 * nibble(&b[106..], k / 8));
        signed(y, &point, scale, b[74 + k / 2] >> (4 * (k % 2)));
    }
}

/// Writes a point of IQ1, moved by 1/8 up or `down`, times `scale`.
fn moved(y: &mut [f32], point: u16, down: bool, scale: f32) {
    let delta = if down { -0.125 } else { 0.125 };
    for (y, v) in y.iter_mut().zip(IQ1.eight(point, &OF_IQ1)) {
        *y = scale * (v + delta);
    }
}

/// 256 values: factor (f16); for 8 each the lower bits of a point; for 32 each the upper three bits
/// of four points, a scale of 3 bits, and which way the points are moved.
pub(super) fn iq1_s(b: &[u8], y: &mut [f32]) {
    let d = half_at(b, 0);
    for (k, y) in y.chunks_exact_mut(8).enumerate() {
        let rest = u16_at(b, 34 + k / 4 * 2);
        let point = u16::from(b[2 + k]) | (rest >> (3 * (k % 4)) & 7) << 8;
        let scale = d * f32::from(2 * (rest >> 12 & 7) + 1);
        moved(y, point, rest >> 15 == 1, scale);
    }
}

/// 256 values: for 8 each the lower bits of a point, then its upper three and which way it is
/// moved; for 16 each a scale of 3 bits, and a quarter of the factor (f16) above four of these.
pub(super) fn iq1_m(b: &[u8], y: &mut [f32]) {
    let scales: [u16; 4] = std::array::from_fn(|i| u16_at(b, 48 + 2 * i));
    let factor = |i: usize| scales[i] >> 12 << (4 * i);
    let d = half::f16::from_bits(factor(0) | factor(1) | factor(2) | factor(3)).to_f32();
    for (k, y) in y.chunks_exact_mut(8).enumerate() {
        let upper = nibble(&b[32..48], k);
        let point = u16::from(b[k]) | u16::from(upper & 7) << 8;
        let scale = scales[k / 8] >> (3 * (k / 2 % 4)) & 7;
        moved(y, point, upper >> 3 == 1, d * f32::from(2 * scale + 1));
    }
}
