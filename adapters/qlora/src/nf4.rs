//! NF4: each weight is one of 16 levels (the quantiles of a normal distribution) times the largest magnitude of its block
//! of 64. Layout and rounding are bitsandbytes': blocks run over the flattened matrix, the first of two values in the high
//! nibble. Double quantisation stores those magnitudes, less their mean, in 8 bits each with a scale for each 256.

use std::{ops::Range, sync::LazyLock};

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use crate::{Error, Result, product::Rows};

/// bitsandbytes' levels, lowest first.
const LEVELS: [f32; 16] = [
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
/// Weights that share a scale.
const BLOCK: usize = 64;
/// Scales that share a scale, with double quantisation.
const NESTED: usize = 256;

/// A matrix (out, in) in NF4.
pub struct Nf4Matrix {
    rows: usize,
    columns: usize,
    /// Two codes a byte, the first in the high nibble.
    codes: Vec<u8>,
    scales: Scales,
}

/// The largest magnitude of each block of weights.
enum Scales {
    Plain(Vec<f32>),
    /// offset + map\[code\] · scale of its 256.
    Double {
        codes: Vec<u8>,
        scales: Vec<f32>,
        offset: f32,
    },
}

impl Nf4Matrix {
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
            Scales::double(&scales)
        } else {
            Scales::Plain(scales)
        };
        Ok(Self {
            rows,
            columns,
            codes,
            scales,
        })
    }

    pub(crate) fn bytes(&self) -> usize {
        let scales = match &self.scales {
            Scales::Plain(s) => 4 * s.len(),
            Scales::Double { codes, scales, .. } => codes.len() + 4 * scales.len() + 4,
        };
        self.codes.len() + scales
    }

    /// Elements `start..start + out.len()` of the flattened matrix.
    fn decode(&self, start: usize, out: &mut [f32]) {
        let mut done = 0;
        while done < out.len() {
            let at = start + done;
            let len = (BLOCK - at % BLOCK).min(out.len() - done);
            let scale = self.scales.at(at / BLOCK);
            let out = &mut out[done..done + len];
            if at.is_multiple_of(2) && len.is_multiple_of(2) {
                for (pair, &byte) in out
                    .chunks_exact_mut(2)
                    .zip(&self.codes[at / 2..(at + len) / 2])
                {
                    let [high, low] = PAIRS[usize::from(byte)];
                    pair[0] = high * scale;
                    pair[1] = low * scale;
                }
            } else {
                for (i, v) in out.iter_mut().enumerate() {
                    let byte = self.codes[(at + i) / 2];
                    let code = if (at + i).is_multiple_of(2) {
                        byte >> 4
                    } else {
                        byte & 15
                    };
                    *v = LEVELS[usize::from(code)] * scale;
                }
            }
            done += len;
        }
    }
}

impl Rows for Nf4Matrix {
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    fn grain(&self) -> usize {
        BLOCK
    }

    fn fill(&self, rows: Range<usize>, columns: Range<usize>, out: &mut [f32]) {
        if columns.len() == self.columns {
            return self.decode(rows.start * self.columns, out);
        }
        for (row, out) in rows.zip(out.chunks_exact_mut(columns.len())) {
            self.decode(row * self.columns + columns.start, out);
        }
    }
}

/// Both levels of every byte.
static PAIRS: LazyLock<[[f32; 2]; 256]> =
    LazyLock::new(|| std::array::from_fn(|byte| [LEVELS[byte >> 4], LEVELS[byte & 15]]));

/// Codes of one block; answers its scale.
fn encode(block: &[f32], codes: &mut [u8]) -> f32 {
    let scale = block.iter().fold(0f32, |m, v| m.max(v.abs()));
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    for (byte, pair) in codes.iter_mut().zip(block.chunks(2)) {
        let code = |i: usize| pair.get(i).map_or(0, |v| nearest(&LEVELS, v * inverse));
        *byte = code(0) << 4 | code(1);
    }
    scale
}

/// The entry of an ascending table nearest to `v`; the lower of two as near.
fn nearest(table: &[f32], v: f32) -> u8 {
    let upper = table
        .partition_point(|&level| level < v)
        .min(table.len() - 1);
    let lower = upper.saturating_sub(1);
    (if v > (table[lower] + table[upper]) / 2.0 {
        upper
    } else {
        lower
    }) as u8
}

impl Scales {
    fn double(plain: &[f32]) -> Self {
        let offset =
            (plain.iter().map(|&s| f64::from(s)).sum::<f64>() / plain.len().max(1) as f64) as f32;
        let mut codes = Vec::with_capacity(plain.len());
        let mut scales = Vec::with_capacity(plain.len().div_ceil(NESTED));
        for block in plain.chunks(NESTED) {
            let scale = block.iter().fold(0f32, |m, s| m.max((s - offset).abs()));
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            codes.extend(
                block
                    .iter()
                    .map(|s| nearest(&*DYNAMIC, (s - offset) * inverse)),
            );
            scales.push(scale);
        }
        Scales::Double {
            codes,
            scales,
            offset,
        }
    }

    fn at(&self, block: usize) -> f32 {
        match self {
            Scales::Plain(s) => s[block],
            Scales::Double {
                codes,
                scales,
                offset,
            } => DYNAMIC[usize::from(codes[block])] * scales[block / NESTED] + offset,
        }
    }
}

/// bitsandbytes' signed dynamic map: for each decade 10^-6 … 1, the midpoints of 2^i equal parts of (0.1, 1) and their
/// negatives, with 0 and 1; ascending.
static DYNAMIC: LazyLock<[f32; 256]> = LazyLock::new(|| {
    let mut map = vec![0.0, 1.0];
    for i in 0..7i32 {
        let parts = 1u32 << i;
        let edge = |k: u32| (0.1 + 0.9 * f64::from(k) / f64::from(parts)) as f32;
        for k in 0..parts {
            let mid = 10f64.powi(i - 6) as f32 * ((edge(k) + edge(k + 1)) / 2.0);
            map.extend([mid, -mid]);
        }
    }
    map.sort_by(f32::total_cmp);
    std::array::from_fn(|i| map[i])
});
