//! 4-bit weights as bitsandbytes has them: each is one of 16 levels times the largest magnitude of its block of 64. Blocks
//! run over the flattened matrix, the first of two values lies in the high nibble.
//!
//! We quantise to NF4, whose levels are the quantiles of a normal distribution, with the bytes of bitsandbytes 0.50 on the
//! CPU. Its CUDA kernels give the same codes (the thresholds of their decision tree are the same f32 midpoints, and both
//! give a tie to the lower level), except in blocks whose largest magnitude is below 1e-38: they divide by it as it is,
//! which makes zeros NaN and so the lowest code, times a scale of 0. Also, the CPU divides in a last, shorter block and
//! keeps its scale above 1e-38; CUDA multiplies by the inverse there as everywhere.
//! Stored matrices may have other levels (FP4) and larger blocks.

use std::{
    ops::Range,
    sync::{Arc, LazyLock},
};

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use crate::{Error, Nf4Scales, Result, product::Rows, wide};

/// bitsandbytes' levels of NF4, lowest first.
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
/// Weights that share a scale, where we quantise.
const BLOCK: usize = 64;
/// Smaller scales count as this one in division.
const LEAST: f32 = 1e-38;

/// A matrix (out, in) in 4 bits.
pub struct Nf4Matrix {
    parts: Nf4Parts,
    /// Both levels of every byte.
    pairs: Arc<Pairs>,
}

/// What a 4-bit matrix is made of: what a bitsandbytes checkpoint stores.
#[derive(Debug, Clone, PartialEq)]
pub struct Nf4Parts {
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
    /// Weights that share a scale: a power of two from 32 to 4096.
    pub block: usize,
    /// What the 16 codes mean.
    pub levels: [f32; 16],
    /// Two codes a byte, the first in the high nibble.
    pub codes: Vec<u8>,
    /// One for each block.
    pub scales: Nf4Scales,
}

type Pairs = [[f32; 2]; 256];

fn pairs(levels: &[f32; 16]) -> Arc<Pairs> {
    static NF4: LazyLock<Arc<Pairs>> = LazyLock::new(|| table(&NF4_LEVELS));
    fn table(levels: &[f32; 16]) -> Arc<Pairs> {
        Arc::new(std::array::from_fn(|byte| {
            [levels[byte >> 4], levels[byte & 15]]
        }))
    }
    if *levels == NF4_LEVELS {
        NF4.clone()
    } else {
        table(levels)
    }
}

impl Nf4Matrix {
    /// Takes a stored matrix as it is.
    ///
    /// # Errors
    /// A block size that bitsandbytes does not have, or parts whose lengths do not fit the shape.
    pub fn from_parts(parts: Nf4Parts) -> Result<Self> {
        let Nf4Parts {
            rows,
            columns,
            block,
            ..
        } = parts;
        if !block.is_power_of_two() || !(32..=4096).contains(&block) {
            return Err(Error::rule(format!(
                "blocks of {block} weights are not supported; 32, 64, 128, … 4096 are"
            )));
        }
        let count = rows.checked_mul(columns);
        let Some(count) = count.filter(|n| n.div_ceil(2) == parts.codes.len()) else {
            return Err(Error::rule(format!(
                "{rows} x {columns} weights in 4 bits are not {} bytes",
                parts.codes.len()
            )));
        };
        if parts.levels.iter().any(|l| !l.is_finite()) {
            return Err(Error::rule("a level of the 4-bit codes is not finite"));
        }
        parts.scales.check(count.div_ceil(block))?;
        let pairs = pairs(&parts.levels);
        Ok(Self { parts, pairs })
    }

    /// What it is made of.
    pub fn parts(&self) -> &Nf4Parts {
        &self.parts
    }

    pub(crate) fn quantise(w: &Tensor, double: bool) -> Result<Self> {
        let (rows, columns) = w.dims2()?;
        let values = w.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
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
        Self::from_parts(Nf4Parts {
            rows,
            columns,
            block: BLOCK,
            levels: NF4_LEVELS,
            codes,
            scales,
        })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.parts.codes.len() + self.parts.scales.bytes()
    }

    /// `nf4`, or `fp4` for other levels (bitsandbytes has no third kind).
    pub(crate) fn format(&self) -> &'static str {
        if self.parts.levels == NF4_LEVELS {
            "nf4"
        } else {
            "fp4"
        }
    }

    /// Elements `start..start + out.len()` of the flattened matrix.
    fn decode(&self, start: usize, out: &mut [f32]) {
        let Nf4Parts {
            codes,
            block,
            levels,
            ..
        } = &self.parts;
        let mut done = 0;
        while done < out.len() {
            let at = start + done;
            let len = (block - at % block).min(out.len() - done);
            let scale = self.parts.scales.at(at / block);
            let out = &mut out[done..done + len];
            if at.is_multiple_of(2) && len.is_multiple_of(2) {
                let codes = &codes[at / 2..(at + len) / 2];
                let wide = wide::look_up(codes, levels, scale, out);
                let (out, codes) = (&mut out[wide..], &codes[wide / 2..]);
                for (pair, &byte) in out.chunks_exact_mut(2).zip(codes) {
                    let [high, low] = self.pairs[usize::from(byte)];
                    pair[0] = high * scale;
                    pair[1] = low * scale;
                }
            } else {
                for (i, v) in out.iter_mut().enumerate() {
                    let both = self.pairs[usize::from(codes[(at + i) / 2])];
                    *v = both[(at + i) % 2] * scale;
                }
            }
            done += len;
        }
    }
}

impl Rows for Nf4Matrix {
    fn shape(&self) -> (usize, usize) {
        (self.parts.rows, self.parts.columns)
    }

    fn grain(&self) -> usize {
        BLOCK
    }

    fn fill(&self, rows: Range<usize>, columns: Range<usize>, out: &mut [f32]) {
        let width = self.parts.columns;
        if columns.len() == width {
            return self.decode(rows.start * width, out);
        }
        for (row, out) in rows.zip(out.chunks_exact_mut(columns.len())) {
            self.decode(row * width + columns.start, out);
        }
    }
}

/// Codes of one block; answers its scale.
fn encode(block: &[f32], codes: &mut [u8]) -> f32 {
    let largest = block.iter().fold(0f32, |m, v| m.max(v.abs()));
    let divisor = largest.max(LEAST);
    let (whole, inverse) = (block.len() == BLOCK, 1.0 / divisor);
    let code = |v: f32| nearest(if whole { v * inverse } else { v / divisor });
    for (byte, pair) in codes.iter_mut().zip(block.chunks(2)) {
        // an odd end is filled with a zero
        let [high, low] = [0, 1].map(|i| code(pair.get(i).copied().unwrap_or(0.0)));
        *byte = high << 4 | low;
    }
    if whole { largest } else { divisor }
}

/// The level nearest to `v`; the lower of two as near.
fn nearest(v: f32) -> u8 {
    let v = v.clamp(-1.0, 1.0); // an inverse may round up
    let above = NF4_LEVELS
        .windows(2)
        .filter(|l| v > (l[0] + l[1]) / 2.0)
        .count();
    above as u8
}
