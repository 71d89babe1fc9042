//! x·Wᵀ for 9 to 64 rows of bf16, straight from 4-bit codes on the tensor cores: what decoding many sequences at once does.
//!
//! Weights are rounded to bf16 as dequantising rounds them; sums are f32 in an order that only the matrix decides, so that a row of
//! y does not depend on how many rows there are.

use crate::{Arg, Error, Grid, Launch, Ptr, Result, ops::nf4::Nf4};

/// Most rows of x.
pub const MOST: usize = 64;
/// Outputs of a block, and columns that it goes through at a time.
const OUTPUTS: usize = 128;
const CHUNK: usize = 128;
/// Blocks that keep a large card busy, and the fewest chunks that are worth a share.
const BLOCKS: usize = 160;
const CHUNKS: usize = 4;
/// 16-byte pieces that a row of x takes in shared memory.
const ROW: usize = 20;

/// x (n, columns) and y (n, rows) in bf16, and room for sums.
#[derive(Debug, Clone, Copy)]
pub struct Rows {
    /// Rows of x, up to [`MOST`].
    pub n: usize,
    /// (n, columns), at a multiple of 16.
    pub x: Ptr,
    /// (n, rows)
    pub y: Ptr,
    /// f32, as many as [`parts`] says.
    pub parts: Ptr,
}

/// Shares of the columns that blocks of their own go through, and a share's columns.
fn shares(outputs: usize, columns: usize) -> (usize, usize) {
    let chunks = columns.div_ceil(CHUNK).max(1);
    let wanted = BLOCKS.div_ceil(outputs.div_ceil(OUTPUTS).max(1));
    let most = wanted.clamp(1, (chunks / CHUNKS).max(1));
    let share = chunks.div_ceil(most);
    (chunks.div_ceil(share), share * CHUNK)
}

/// Numbers (f32) that the sums of `n` rows need room for.
pub fn parts(n: usize, outputs: usize, columns: usize) -> usize {
    match shares(outputs, columns).0 {
        1 => 0,
        shares => shares * n * outputs,
    }
}

/// y = x·Wᵀ. The codes lie at a multiple of 16.
///
/// # Errors
/// More than 64 rows, columns that are no multiple of 32, codes or rows that are not aligned, what the matrix refuses, as
/// [`Launch::launch`].
pub fn nf4(on: &dyn Launch, w: &Nf4, rows: &Rows) -> Result<()> {
    if !w.columns.is_multiple_of(32)
        || !w.codes.0.is_multiple_of(16)
        || !rows.x.0.is_multiple_of(16)
    {
        return Err(Error::rule(format!(
            "a product with 4-bit codes wants columns in 32s, codes and rows at multiples of 16, not {}, {:#x} and {:#x}",
            w.columns, w.codes.0, rows.x.0
        )));
    }
    if rows.n > MOST {
        return Err(Error::rule(format!(
            "a product with 4-bit codes takes {MOST} rows, not {}",
            rows.n
        )));
    }
    let mut args = w.args()?;
    if rows.n == 0 || w.rows == 0 || w.columns == 0 {
        return Ok(());
    }
    let n = rows.n.next_power_of_two().max(16);
    let (shares, share) = shares(w.rows, w.columns);
    args.extend::<[Arg; 7]>([
        rows.x.into(),
        rows.y.into(),
        rows.parts.into(),
        Arg::I32(rows.n as i32),
        (w.rows as u64).into(),
        (w.columns as u64).into(),
        (share as u32).into(),
    ]);
    let grid = Grid {
        blocks: [w.rows.div_ceil(OUTPUTS) as u32, shares as u32, 1],
        threads: [256, 1, 1],
        shared: (2 * n * ROW * 16) as u32,
    };
    on.launch(&format!("nf4_product_{n}"), grid, &args)?;
    if shares > 1 {
        let count = rows.n * w.rows;
        let args = [
            rows.parts.into(),
            rows.y.into(),
            (count as u64).into(),
            Arg::I32(shares as i32),
        ];
        on.launch("nf4_product_sum", Grid::each(count), &args)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_is_in_one_share() {
        for outputs in [1, 128, 1024, 4096, 14_336, 32_000] {
            for columns in [32, 576, 4096, 11_008, 14_336] {
                let (n, share) = shares(outputs, columns);
                assert!(share.is_multiple_of(CHUNK) && n * share >= columns);
                assert!(
                    (n - 1) * share < columns,
                    "{outputs} {columns}: an empty share"
                );
                assert!(n <= 65_535 && (n == 1 || share >= CHUNK * CHUNKS));
            }
        }
        // Mistral's projections: about as many blocks as a card has places
        assert_eq!(shares(4096, 4096), (5, 7 * CHUNK));
    }
}
