//! 4-bit quantisation as in bitsandbytes: each weight is one of 16 levels times the largest
//! magnitude of its block of 64. Blocks run over the flattened matrix; the first of two values is
//! in the high nibble.
//!
//! Quantisation is to NF4, whose levels are quantiles of a normal distribution, with the same bytes
//! as bitsandbytes 0.50 on the CPU. Its CUDA kernels give the same codes (the thresholds of their
//! decision tree are the same f32 midpoints, and both round a tie to the lower level), except in
//! blocks whose largest magnitude is below 1e-38: they divide by it unclamped, so zeros become NaN
//! and get the lowest code, times a scale of 0. Also, in a last, shorter block the CPU divides and
//! keeps the scale above 1e-38, while CUDA multiplies by the inverse as everywhere. Stored matrices
//! may have other levels (FP4) and larger blocks.

use rayon::prelude::*;

use super::Nf4Scales;
use crate::{Error, Result};

/// bitsandbytes' levels of NF4, ascending.
pub const NF4_LEVELS: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];
/// Number of weights per scale in matrices quantised here.
pub const BLOCK: usize = 64;
/// Lower bound of a divisor.
const LEAST: f32 = 1e-38;

/// Components of a 4-bit matrix, as a bitsandbytes checkpoint stores them.
#[derive(Debug, Clone, PartialEq)]
pub struct Nf4Parts {
    /// Number of outputs.
    pub rows: usize,
    /// Number of inputs.
    pub columns: usize,
    /// Number of weights per scale: a power of two from 32 to 4096.
    pub block: usize,
    /// Values of the 16 codes.
    pub levels: [f32; 16],
    /// Two codes per byte, the first in the high nibble.
    pub codes: Vec<u8>,
    /// One scale per block.
    pub scales: Nf4Scales,
}

impl Nf4Parts {
    /// Quantises a matrix to NF4; with `double`, its scales to 8 bits too.
    ///
    /// # Errors
    /// A value that is not finite.
    pub fn quantise(rows: usize, columns: usize, values: &[f32], double: bool) -> Result<Self> {
        if let Some(i) = values.iter().position(|v| !v.is_finite()) {
            let (row, column) = (i / columns, i % columns);
            return Err(Error::rule(format!(
                "NF4 wants finite weights; ({row}, {column}) is {}",
                values[i]
            )));
        }
        let mut codes = vec![0u8; values.len().div_ceil(2)];
        let scales: Vec<f32> = codes
            .par_chunks_mut(BLOCK / 2)
            .zip(values.par_chunks(BLOCK))
            .map(|(codes, block)| encode(block, codes))
            .collect();
        let scales = if double {
            Nf4Scales::double(&scales)
        } else {
            Nf4Scales::Plain(scales)
        };
        Ok(Nf4Parts {
            rows,
            columns,
            block: BLOCK,
            levels: NF4_LEVELS,
            codes,
            scales,
        })
    }

    /// Checks that the components of a stored matrix fit together.
    ///
    /// # Errors
    /// A block size that bitsandbytes does not have, or lengths that do not fit the shape.
    pub fn check(&self) -> Result<()> {
        let (rows, columns, block) = (self.rows, self.columns, self.block);
        if !block.is_power_of_two() || !(32..=4096).contains(&block) {
            return Err(Error::rule(format!(
                "blocks of {block} weights are not supported; 32, 64, 128, … 4096 are"
            )));
        }
        let count = rows.checked_mul(columns);
        let Some(count) = count.filter(|n| n.div_ceil(2) == self.codes.len()) else {
            return Err(Error::rule(format!(
                "{rows} x {columns} weights in 4 bits are not {} bytes",
                self.codes.len()
            )));
        };
        if self.levels.iter().any(|l| !l.is_finite()) {
            return Err(Error::rule("a level of the 4-bit codes is not finite"));
        }
        self.scales.check(count.div_ceil(block))
    }

    /// Size in memory, in bytes, without levels and map.
    pub fn bytes(&self) -> usize {
        self.codes.len() + self.scales.bytes()
    }
}

/// Writes the codes of one block and returns its scale.
fn encode(block: &[f32], codes: &mut [u8]) -> f32 {
    let largest = block.iter().fold(0f32, |m, v| m.max(v.abs()));
    let divisor = largest.max(LEAST);
    let (whole, inverse) = (block.len() == BLOCK, 1.0 / divisor);
    let code = |v: f32| nearest(if whole { v * inverse } else { v / divisor });
    for (byte, pair) in codes.iter_mut().zip(block.chunks(2)) {
        // an odd end is padded with a zero
        let [high, low] = [0, 1].map(|i| code(pair.get(i).copied().unwrap_or(0.0)));
        *byte = high << 4 | low;
    }
    if whole { largest } else { divisor }
}

/// Code of the level nearest to `v`; the lower of two as near.
fn nearest(v: f32) -> u8 {
    let v = v.clamp(-1.0, 1.0); // an inverse may round up
    let above = NF4_LEVELS
        .windows(2)
        .filter(|l| v > (l[0] + l[1]) / 2.0)
        .count();
    above as u8
}
