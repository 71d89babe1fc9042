//! Dequantises bitsandbytes' 4-bit weights (NF4, FP4): to f32 bit for bit as on the CPU, to bf16 by
//! rounding that.

use std::ops::Range;

use crate::{Arg, Error, Float, Grid, Launch, Ptr, Result};

/// Bytes that one thread block writes: 256 threads, 4 stores of 16 bytes each.
const BLOCK_BYTES: usize = 256 * 4 * 16;

/// The scales of the blocks of weights: their largest magnitudes.
#[derive(Debug, Clone, Copy)]
pub enum Scales {
    /// One f32 a block.
    Plain(Ptr),
    /// Double quantisation: offset + map\[code\] · (scale of the code's own block).
    Double {
        /// One u8 code a block of weights.
        codes: Ptr,
        /// One f32 for each `block` codes.
        scales: Ptr,
        /// Values of the codes: f32 (256).
        map: Ptr,
        /// The mean of the scales, subtracted before quantising.
        offset: f32,
        /// Codes that share a scale.
        block: usize,
    },
}

/// A matrix (rows, columns) in 4 bits, on the device.
#[derive(Debug, Clone, Copy)]
pub struct Nf4 {
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
    /// Weights that share a scale: a power of two from 32 to 4096.
    pub block: usize,
    /// The codes, two a byte, the first in the high nibble: u8 (rows · columns / 2, rounded up).
    pub codes: Ptr,
    /// Values of the codes: f32 (16).
    pub levels: Ptr,
    /// The blocks' scales.
    pub scales: Scales,
}

impl Nf4 {
    /// The leading arguments of every kernel on a 4-bit matrix.
    ///
    /// # Errors
    /// An unsupported block size, a matrix of 2^32 blocks or more.
    pub(crate) fn args(&self) -> Result<Vec<Arg>> {
        if !self.block.is_power_of_two() || !(32..=4096).contains(&self.block) {
            return Err(Error::rule(format!(
                "blocks of {} weights are not supported; 32, 64, 128, … 4096 are",
                self.block
            )));
        }
        let blocks = self
            .rows
            .checked_mul(self.columns)
            .map(|n| n.div_ceil(self.block));
        if blocks.is_none_or(|n| u32::try_from(n).is_err()) {
            return Err(Error::rule(format!(
                "a kernel cannot count the blocks of {} x {} weights",
                self.rows, self.columns
            )));
        }
        let (scale, codes, map, offset, nested) = match self.scales {
            Scales::Plain(scale) => (scale, Ptr::NULL, Ptr::NULL, 0.0, 1),
            Scales::Double {
                codes,
                scales,
                map,
                offset,
                block,
            } => (scales, codes, map, offset, block),
        };
        let nested = u32::try_from(nested)
            .ok()
            .filter(|n| *n > 0)
            .ok_or_else(|| Error::rule(format!("blocks of {nested} scales are not supported")))?;
        Ok(vec![
            self.codes.into(),
            self.levels.into(),
            scale.into(),
            codes.into(),
            map.into(),
            offset.into(),
            nested.into(),
            Arg::I32(self.block.trailing_zeros() as i32),
        ])
    }

    /// Dequantises `rows` to y (rows.len(), columns). Fastest where y and the range's first value
    /// in it are aligned to 16 bytes.
    ///
    /// # Errors
    /// Rows out of range, an unsupported block size, as [`Launch::launch`].
    pub fn dequantise(
        &self,
        on: &dyn Launch,
        float: Float,
        rows: Range<usize>,
        y: Ptr,
    ) -> Result<()> {
        if rows.start > rows.end || rows.end > self.rows {
            return Err(Error::rule(format!(
                "rows {rows:?} of a matrix of {}",
                self.rows
            )));
        }
        let mut args = self.args()?;
        let (first, count) = (rows.start * self.columns, rows.len() * self.columns);
        if count == 0 {
            return Ok(());
        }
        args.extend::<[Arg; 3]>([(first as u64).into(), (count as u64).into(), y.into()]);
        let kernel = format!("nf4_dequantise_{}", float.suffix());
        on.launch(&kernel, Grid::line(parts(count, float), 256), &args)
    }

    /// Dequantises row `ids[i]` (u32, n) to row i of y (n, columns); an id out of range gives NaN.
    ///
    /// # Errors
    /// Rows too long for a grid, an unsupported block size, as [`Launch::launch`].
    pub fn rows(&self, on: &dyn Launch, float: Float, ids: Ptr, n: usize, y: Ptr) -> Result<()> {
        let mut args = self.args()?;
        if n == 0 || self.columns == 0 {
            return Ok(());
        }
        let parts = parts(self.columns, float);
        if parts > 65_535 {
            return Err(Error::rule(format!(
                "a row of {} weights is too long to be looked up",
                self.columns
            )));
        }
        args.extend::<[Arg; 4]>([
            ids.into(),
            (self.rows as u64).into(),
            (self.columns as u64).into(),
            y.into(),
        ]);
        let grid = Grid {
            blocks: [n as u32, parts as u32, 1],
            threads: [256, 1, 1],
            shared: 0,
        };
        on.launch(&format!("nf4_rows_{}", float.suffix()), grid, &args)
    }
}

/// Thread blocks for `count` values, wherever within 16 bytes the first value lies.
fn parts(count: usize, float: Float) -> usize {
    let run = 16 / float.bytes();
    (count + run - 1).div_ceil(BLOCK_BYTES / float.bytes())
}
