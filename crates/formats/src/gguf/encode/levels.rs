//! IQ4_NL: 16 levels that are not evenly spaced.

use super::{extreme, put_half};
use crate::gguf::decode::levels::IQ4;

/// Code of the level nearest to a value, the upper one of two.
fn code(v: f32) -> u8 {
    let middle = |i: usize| f32::from(i16::from(IQ4[i]) + i16::from(IQ4[i + 1]));
    (0..15).take_while(|i| v + v >= middle(*i)).count() as u8
}

/// The best factor of levels chosen by `inverse`, weighted by squares: Σwqx / Σwq² as a fraction.
fn fit(x: &[f32], inverse: f32) -> (f32, f32) {
    x.iter().fold((0.0, 0.0), |(qx, qq), x| {
        let (q, w) = (f32::from(IQ4[usize::from(code(inverse * x))]), x * x);
        (qx + w * q * x, qq + w * q * q)
    })
}

/// 32 values: of 16 scales that send the extreme value near the lowest level, the one whose best
/// factor leaves the least error.
pub(super) fn iq4_nl(x: &[f32], b: &mut [u8]) {
    let Some(extreme) = extreme(x) else {
        let zeros = code(0.0);
        b[2..].fill(zeros | zeros << 4);
        return;
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
    put_half(b, 0, scale);
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let (low, high) = x.split_at(16);
    for ((b, low), high) in b[2..].iter_mut().zip(low).zip(high) {
        *b = code(inverse * low) | code(inverse * high) << 4;
    }
}
