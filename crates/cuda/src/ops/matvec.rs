//! Products x·Wᵀ of up to 8 rows of x, reading W as it is stored: the products of decoding.
//!
//! Sums are f32 in an order that depends on the columns alone: a row of y does not depend on the
//! number of rows.

use crate::{
    Arg, Error, Float, Grid, Launch, Ptr, Result,
    ops::{gguf::Gguf, nf4::Nf4},
};

/// Most rows of x.
pub const MOST: usize = 8;
const PIECE: usize = 1024;
/// Bytes of a piece of a row of x in shared memory, padded.
const PIECE_BYTES: usize = PIECE / 32 * 36 * 4;
/// Bytes of dynamic shared memory for x: what a block gets by default, less the 16 levels, or less
/// one piece's GGUF blocks for 8 outputs (at most 34 bytes for 32 columns).
const SHARED: usize = 47 << 10;
const SHARED_BLOCKS: usize = (48 << 10) - 8 * PIECE / 32 * 34;

/// The two dense matrices of a product: the rows to multiply, and the results.
#[derive(Debug, Clone, Copy)]
pub struct Operands {
    /// Type of x and y.
    pub float: Float,
    /// Rows of x, up to [`MOST`].
    pub n: usize,
    /// The rows: (n, columns).
    pub x: Ptr,
    /// The results: (n, rows).
    pub y: Ptr,
}

/// y = x·Wᵀ from 4-bit codes at a multiple of 16; each sum of 32 products is scaled once.
///
/// # Errors
/// More than 8 rows, columns that are no multiple of 32, codes that are not aligned, what the
/// matrix refuses, as [`Launch::launch`].
pub fn nf4(on: &dyn Launch, w: &Nf4, rows: &Operands) -> Result<()> {
    if !w.columns.is_multiple_of(32) || !w.codes.0.is_multiple_of(16) {
        return Err(Error::rule(format!(
            "a product with 4-bit codes wants columns in 32s and codes at a multiple of 16, not {} and {:#x}",
            w.columns, w.codes.0
        )));
    }
    let several = several(w.rows, rows.n);
    let kind = Kind {
        name: "nf4",
        several,
        shared: SHARED,
    };
    launch(on, kind, w.args()?, (w.rows, w.columns), rows)
}

/// y = x·Wᵀ from GGUF's blocks; weights are not rounded to bf16.
///
/// # Errors
/// More than 8 rows, what the matrix refuses, as [`Launch::launch`].
pub fn gguf(on: &dyn Launch, w: &Gguf, rows: &Operands) -> Result<()> {
    let (name, _) = w.check()?;
    let kind = Kind {
        name,
        several: 2,
        shared: SHARED_BLOCKS,
    };
    launch(on, kind, vec![w.data.into()], (w.rows, w.columns), rows)
}

/// Outputs of a warp. Several share their reads of x, where that leaves enough warps to fill the
/// GPU.
fn several(outputs: usize, n: usize) -> usize {
    let several = if n <= 2 { 4 } else { 2 };
    match outputs >= 2048 * several {
        true => several,
        false => 1,
    }
}

/// A family of kernels, by how W is stored.
struct Kind {
    name: &'static str,
    /// Outputs of a warp.
    several: usize,
    /// Bytes of shared memory for x.
    shared: usize,
}

fn launch(
    on: &dyn Launch,
    kind: Kind,
    mut args: Vec<Arg>,
    (outputs, columns): (usize, usize),
    rows: &Operands,
) -> Result<()> {
    if rows.n > MOST {
        return Err(Error::rule(format!(
            "a product of a few rows takes {MOST}, not {}",
            rows.n
        )));
    }
    if rows.n == 0 || outputs == 0 {
        return Ok(());
    }
    let n = rows.n.next_power_of_two();
    let each = kind.several;
    let most = (kind.shared / (n * PIECE_BYTES)).max(1);
    let pieces = columns.div_ceil(PIECE).clamp(1, most);
    args.extend::<[Arg; 6]>([
        rows.x.into(),
        rows.y.into(),
        Arg::I32(rows.n as i32),
        (outputs as u64).into(),
        (columns as u64).into(),
        Arg::I32((pieces * PIECE) as i32),
    ]);
    let grid = Grid::line(outputs.div_ceil(4 * each), 128).shared(n * pieces * PIECE_BYTES);
    let kernel = format!("matvec_{}_{n}x{each}_{}", kind.name, rows.float.suffix());
    on.launch(&kernel, grid, &args)
}
