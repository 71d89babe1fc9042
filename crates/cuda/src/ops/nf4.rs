//! 4-bit weights of bitsandbytes (NF4, FP4) dequantised: f32 bit for bit as on the CPU, bf16 rounded from that.

use std::ops::Range;

use crate::{Arg, Error, Float, Grid, Launch, Ptr, Result};

/// Values of y that a block writes: 256 threads, 4 stores of 16 bytes each.
const BLOCK_BYTES: usize = 256 * 4 * 16;

/// The largest magnitudes of the blocks of weights.
#[derive(Debug, Clone, Copy)]
pub enum Scales {
    /// f32, one a block.
    Plain(Ptr),
    /// offset + map\[code\] · scale of its block of codes.
    Double {
        /// u8, one a block of weights.
        codes: Ptr,
        /// f32, one for each `block` codes.
        scales: Ptr,
        /// f32 (256): what the codes mean.
        map: Ptr,
        /// The mean that was taken off.
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
    /// u8 (rows · columns / 2, rounded up): two codes each, the first in the high nibble.
    pub codes: Ptr,
    /// f32 (16): what the codes mean.
    pub levels: Ptr,
    /// One for each block.
    pub scales: Scales,
}

impl Nf4 {
    /// The first arguments of every kernel on such a matrix.
    ///
    /// # Errors
    /// A block size that there is not, a matrix whose blocks a kernel cannot count.
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

    /// Writes these rows to y (rows asked for, columns). Fast where the range starts and y lies at a multiple of 16 bytes of y.
    ///
    /// # Errors
    /// Rows that are not there, a block size that is not supported, as [`Launch::launch`].
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

    /// Writes row `ids[i]` (u32, n) to row i of y (n, columns); an id that is no row gives NaN.
    ///
    /// # Errors
    /// Rows longer than a grid, a block size that is not supported, as [`Launch::launch`].
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

/// Blocks that `count` values take, wherever in a run of 16 bytes the first one lies.
fn parts(count: usize, float: Float) -> usize {
    let run = 16 / float.bytes();
    (count + run - 1).div_ceil(BLOCK_BYTES / float.bytes())
}
