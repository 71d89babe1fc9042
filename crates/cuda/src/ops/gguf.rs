//! Dequantises GGUF's block formats: to f32 bit for bit as on the CPU, to bf16 by rounding that.

use std::ops::Range;

use candle_core::quantized::GgmlDType;

use crate::{Error, Float, Grid, Launch, Ptr, Result};

/// Values that one thread block writes.
const TILE: usize = 4096;

/// A matrix (rows, columns) in one of GGUF's block formats, on the device.
#[derive(Debug, Clone, Copy)]
pub struct Gguf {
    /// The block format: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4K, Q5K or Q6K.
    pub dtype: GgmlDType,
    /// Outputs.
    pub rows: usize,
    /// Inputs: a multiple of the format's block.
    pub columns: usize,
    /// The blocks, row after row, at an even address. Fastest where each row (or a range's first)
    /// lies at a multiple of 16.
    pub data: Ptr,
}

impl Gguf {
    /// Dequantises `rows` to y (rows.len(), columns).
    ///
    /// # Errors
    /// A format without a kernel, rows that are not whole blocks or out of range, an odd address,
    /// as [`Launch::launch`].
    pub fn dequantise(
        &self,
        on: &dyn Launch,
        float: Float,
        rows: Range<usize>,
        y: Ptr,
    ) -> Result<()> {
        let (format, stride) = self.check()?;
        if rows.start > rows.end || rows.end > self.rows {
            return Err(Error::rule(format!(
                "rows {rows:?} of a matrix of {}",
                self.rows
            )));
        }
        let count = rows.len() * self.columns;
        if count == 0 {
            return Ok(());
        }
        let args = [
            self.data.offset(rows.start * stride).into(),
            (count as u64).into(),
            y.into(),
        ];
        let kernel = format!("gguf_{format}_{}", float.suffix());
        on.launch(&kernel, Grid::line(count.div_ceil(TILE), 256), &args)
    }

    /// Dequantises row `ids[i]` (u32, n) to row i of y (n, columns); an id out of range gives NaN.
    ///
    /// # Errors
    /// Rows longer than a grid; otherwise as [`Gguf::dequantise`].
    pub fn rows(&self, on: &dyn Launch, float: Float, ids: Ptr, n: usize, y: Ptr) -> Result<()> {
        let (format, _) = self.check()?;
        if n == 0 {
            return Ok(());
        }
        let tiles = self.columns.div_ceil(TILE);
        if tiles > 65_535 {
            return Err(Error::rule(format!(
                "a row of {} weights is too long to be looked up",
                self.columns
            )));
        }
        let grid = Grid {
            blocks: [n as u32, tiles as u32, 1],
            threads: [256, 1, 1],
            shared: 0,
        };
        let args = [
            self.data.into(),
            ids.into(),
            (self.rows as u64).into(),
            (self.columns as u64).into(),
            y.into(),
        ];
        let kernel = format!("gguf_rows_{format}_{}", float.suffix());
        on.launch(&kernel, grid, &args)
    }

    /// The format's name in kernels' names, and a row's bytes.
    pub(super) fn check(&self) -> Result<(&'static str, usize)> {
        let format = match self.dtype {
            GgmlDType::Q4_0 => "q4_0",
            GgmlDType::Q4_1 => "q4_1",
            GgmlDType::Q5_0 => "q5_0",
            GgmlDType::Q5_1 => "q5_1",
            GgmlDType::Q8_0 => "q8_0",
            GgmlDType::Q4K => "q4k",
            GgmlDType::Q5K => "q5k",
            GgmlDType::Q6K => "q6k",
            other => {
                return Err(Error::rule(format!(
                    "the block format {other:?} has no kernel; Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4K, Q5K and Q6K have"
                )));
            }
        };
        let block = self.dtype.block_size();
        if self.columns == 0 || !self.columns.is_multiple_of(block) {
            return Err(Error::rule(format!(
                "{:?} wants rows of a multiple of {block} weights, not {}",
                self.dtype, self.columns
            )));
        }
        if !self.data.0.is_multiple_of(2) {
            return Err(Error::rule(format!(
                "blocks of {:?} at the odd address {:#x}",
                self.dtype, self.data.0
            )));
        }
        Ok((format, self.columns / block * self.dtype.type_size()))
    }
}
