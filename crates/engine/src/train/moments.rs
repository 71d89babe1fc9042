//! What an optimiser keeps of a parameter: its moments, in f32 or in 8 bits.
//!
//! Eight bits (arXiv 2110.02861): blocks of 256 values share their largest magnitude, and a value
//! is one of 256 shares of it from bitsandbytes' dynamic maps, signed for the first moment and
//! unsigned for the second. As there, small tensors keep f32, and a step uses the moments as they
//! are before they are rounded.

use std::collections::BTreeMap;

use randori_qlora::{signed_map, unsigned_map};

/// Values that share a scale in 8 bits.
pub(crate) const SHARED: usize = 256;
/// Numbers from which a tensor's moments are kept in 8 bits (bitsandbytes' `min_8bit_size`).
pub(super) const SMALLEST: usize = 4096;

/// Moments by parameter name; a map stays empty where the optimiser keeps none.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Moments {
    pub first: BTreeMap<String, Moment>,
    pub second: BTreeMap<String, Moment>,
}

/// One moment of one parameter.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Moment {
    F32(Vec<f32>),
    Codes(Codes),
}

/// Which of the two it is: the second moment is never negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    First,
    Second,
}

/// Values as codes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Codes {
    which: Which,
    /// One a value, padded to whole blocks with the code of 0.
    pub codes: Vec<u8>,
    /// One a block: its largest magnitude.
    pub most: Vec<f32>,
}

impl Which {
    /// What its codes mean, ascending.
    pub(crate) fn map(self) -> &'static [f32; 256] {
        match self {
            Which::First => signed_map(),
            Which::Second => unsigned_map(),
        }
    }

    /// The code of 0.
    pub(crate) fn zero(self) -> u8 {
        match self {
            Which::First => 127,
            Which::Second => 0,
        }
    }
}

impl Moment {
    /// A moment of `n` zeros.
    pub(crate) fn new(which: Which, n: usize, in_8_bits: bool) -> Moment {
        match in_8_bits {
            true => {
                let (codes, scales) = Codes::lengths(n);
                let codes = vec![which.zero(); codes];
                Moment::Codes(Codes::new(which, codes, vec![0.0; scales]))
            }
            false => Moment::F32(vec![0.0; n]),
        }
    }
}

impl Codes {
    /// Moments as these codes and scales; their lengths are [`Codes::lengths`].
    pub(crate) fn new(which: Which, codes: Vec<u8>, most: Vec<f32>) -> Codes {
        Codes { which, codes, most }
    }

    /// Codes and scales of `n` values.
    pub(crate) fn lengths(n: usize) -> (usize, usize) {
        (n.next_multiple_of(SHARED), n.div_ceil(SHARED))
    }

    pub(super) fn which(&self) -> Which {
        self.which
    }
}

/// Decodes a block: each value is its code's share of the block's largest magnitude.
pub(super) fn decode(map: &[f32; 256], codes: &[u8], most: f32, values: &mut [f32]) {
    for (value, &code) in values.iter_mut().zip(codes) {
        *value = map[usize::from(code)] * most;
    }
}

/// Encodes a block's values and answers their largest magnitude. A code is the nearest entry, the
/// lower of two as near.
pub(super) fn encode(map: &[f32; 256], values: &[f32], codes: &mut [u8]) -> f32 {
    let most = values.iter().fold(0f32, |most, v| most.max(v.abs()));
    for (code, value) in codes.iter_mut().zip(values) {
        let share = if most > 0.0 { value / most } else { 0.0 };
        let mut below = 0; // midpoints below
        for step in [128, 64, 32, 16, 8, 4, 2, 1] {
            let at: usize = below + step - 1;
            if share > (map[at] + map[at + 1]) * 0.5 {
                below += step;
            }
        }
        *code = below as u8;
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By looking at every entry, in f64.
    #[test]
    fn a_code_is_the_nearest_entry() {
        for which in [Which::First, Which::Second] {
            let map = which.map();
            let mut values: Vec<f32> = (0..200).map(|i| (i as f32 * 0.7).sin().powi(3)).collect();
            if which == Which::Second {
                values.iter_mut().for_each(|v| *v = v.abs());
            }
            values.extend([0.0, 1e-9, 1.0]);
            let mut codes = vec![0; values.len()];
            let most = encode(map, &values, &mut codes);
            assert_eq!(most, 1.0);
            let mut back = vec![0.0; values.len()];
            decode(map, &codes, most, &mut back);
            for (got, value) in back.iter().zip(&values) {
                let away = |e: &f32| (f64::from(*e) - f64::from(*value)).abs();
                let least = map.iter().map(away).fold(f64::INFINITY, f64::min);
                assert!(away(got) <= least + 1e-9, "{value}: {got}");
            }
        }
    }

    #[test]
    fn zeros_are_whole_blocks() {
        for which in [Which::First, Which::Second] {
            let Moment::Codes(c) = Moment::new(which, 4097, true) else {
                unreachable!()
            };
            assert_eq!((c.codes.len(), c.most.len()), Codes::lengths(4097));
            assert_eq!((c.codes.len(), c.most.len()), (17 * 256, 17));
            assert_eq!(which.map()[usize::from(c.codes[0])], 0.0);
        }
        assert!(matches!(Moment::new(Which::First, 9, false), Moment::F32(v) if v == [0.0; 9]));
    }
}
