//! Products x·Wᵀ of 9 to 64 rows of bf16 with a quantised W, on the tensor cores: the products of
//! decoding many sequences at once.
//!
//! Weights are rounded to bf16 as in dequantising; sums are f32 in an order that depends on the
//! matrix alone, so that a row of y does not depend on the number of rows.

use crate::{
    Arg, Error, Grid, Launch, Ptr, Result,
    ops::{gguf::Gguf, nf4::Nf4},
};

/// Most rows of x.
pub const MOST: usize = 64;
/// Outputs of a thread block, and the columns that it multiplies at a time.
const OUTPUTS: usize = 128;
const CHUNK: usize = 128;
/// Thread blocks that fill a large GPU, and the fewest chunks of a share.
const BLOCKS: usize = 160;
const CHUNKS: usize = 4;
/// 16-byte pieces of a row of x in shared memory, padding included.
const ROW: usize = 20;

/// The two dense matrices of a product in bf16: the rows to multiply, and the results; and scratch.
#[derive(Debug, Clone, Copy)]
pub struct Operands {
    /// Rows of x, up to [`MOST`].
    pub n: usize,
    /// The rows: (n, columns), at a multiple of 16.
    pub x: Ptr,
    /// The results: (n, rows).
    pub y: Ptr,
    /// Scratch of [`Encoding::parts`] f32 values.
    pub parts: Ptr,
}

/// Number of shares that the columns are split into, one thread block each, and the columns of a
/// share, a multiple of `unit`.
fn shares(outputs: usize, columns: usize, unit: usize) -> (usize, usize) {
    let units = columns.div_ceil(unit).max(1);
    let wanted = BLOCKS.div_ceil(outputs.div_ceil(OUTPUTS).max(1));
    let most = wanted.clamp(1, (units * unit / CHUNK / CHUNKS).max(1));
    let share = units.div_ceil(most);
    (units.div_ceil(share), share * unit)
}

/// How a matrix's weights are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// bitsandbytes' 4-bit codes.
    Nf4,
    /// GGUF's blocks.
    Blocks,
}

impl Encoding {
    /// The unit of a share's columns: a chunk, or the longest GGUF block.
    fn unit(self) -> usize {
        match self {
            Encoding::Nf4 => CHUNK,
            Encoding::Blocks => 2 * CHUNK,
        }
    }

    /// Size of the scratch for `n` rows, in f32 values.
    pub fn parts(self, n: usize, outputs: usize, columns: usize) -> usize {
        match shares(outputs, columns, self.unit()).0 {
            1 => 0,
            shares => shares * n * outputs,
        }
    }
}

/// y = x·Wᵀ from 4-bit codes at a multiple of 16.
///
/// # Errors
/// More than 64 rows, columns that are no multiple of 32, codes or rows that are not aligned, what
/// the matrix refuses, as [`Launch::launch`].
pub fn nf4(on: &dyn Launch, w: &Nf4, rows: &Operands) -> Result<()> {
    let kind = Kind {
        name: "nf4_product",
        encoding: Encoding::Nf4,
        weights: 0,
    };
    launch(on, kind, w.args()?, w.codes, (w.rows, w.columns), rows)
}

/// y = x·Wᵀ from GGUF's blocks at a multiple of 16.
///
/// # Errors
/// As [`nf4`].
pub fn gguf(on: &dyn Launch, w: &Gguf, rows: &Operands) -> Result<()> {
    let (format, _) = w.check()?;
    let (size, bytes) = (w.dtype.block_size(), w.dtype.type_size());
    // a stage of 128 columns or of one block, and how far into its first 16 bytes a row may begin
    let stage = size.max(CHUNK) / size * bytes;
    let offset = 16 - (1 << bytes.trailing_zeros().min(4));
    let kind = Kind {
        name: &format!("product_{format}"),
        encoding: Encoding::Blocks,
        // two stages of 16 rows for each of 8 warps
        weights: 8 * 2 * 16 * (stage + offset).div_ceil(16) * 16,
    };
    let shape = (w.rows, w.columns);
    launch(on, kind, vec![w.data.into()], w.data, shape, rows)
}

struct Kind<'a> {
    name: &'a str,
    encoding: Encoding,
    /// Bytes of shared memory for the weights.
    weights: usize,
}

fn launch(
    on: &dyn Launch,
    kind: Kind,
    mut args: Vec<Arg>,
    weights: Ptr,
    (outputs, columns): (usize, usize),
    rows: &Operands,
) -> Result<()> {
    let aligned = [weights, rows.x].iter().all(|p| p.0.is_multiple_of(16));
    if !columns.is_multiple_of(32) || !aligned {
        return Err(Error::rule(format!(
            "a product with a quantised matrix wants columns in 32s, weights and rows at multiples of 16, not {columns}, {:#x} and {:#x}",
            weights.0, rows.x.0
        )));
    }
    if rows.n > MOST {
        return Err(Error::rule(format!(
            "a product with a quantised matrix takes {MOST} rows, not {}",
            rows.n
        )));
    }
    if rows.n == 0 || outputs == 0 || columns == 0 {
        return Ok(());
    }
    let n = rows.n.next_power_of_two().max(16);
    let (shares, share) = shares(outputs, columns, kind.encoding.unit());
    args.extend::<[Arg; 7]>([
        rows.x.into(),
        rows.y.into(),
        rows.parts.into(),
        Arg::I32(rows.n as i32),
        (outputs as u64).into(),
        (columns as u64).into(),
        (share as u32).into(),
    ]);
    let grid = Grid {
        blocks: [outputs.div_ceil(OUTPUTS) as u32, shares as u32, 1],
        threads: [256, 1, 1],
        shared: (2 * n * ROW * 16 + kind.weights) as u32,
    };
    on.launch(&format!("{}_{n}", kind.name), grid, &args)?;
    if shares > 1 {
        let count = rows.n * outputs;
        let args = [
            rows.parts.into(),
            rows.y.into(),
            (count as u64).into(),
            Arg::I32(shares as i32),
        ];
        on.launch("product_sum", Grid::each(count), &args)?;
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
                for unit in [CHUNK, 2 * CHUNK] {
                    let (n, share) = shares(outputs, columns, unit);
                    assert!(share.is_multiple_of(unit) && n * share >= columns);
                    assert!(
                        (n - 1) * share < columns,
                        "{outputs} {columns}: an empty share"
                    );
                    assert!(n <= 65_535 && (n == 1 || share >= CHUNK * CHUNKS));
                }
            }
        }
        // Mistral's projections: about as many thread blocks as a GPU runs at once
        assert_eq!(shares(4096, 4096, CHUNK), (5, 7 * CHUNK));
    }
}
