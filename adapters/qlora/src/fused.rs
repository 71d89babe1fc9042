//! Fused products of one to four rows of x with a block-quantised matrix, for decoding one or two
//! sequences: codes are dequantised in registers and multiplied there, without a buffer.
//!
//! w = d·q + m in a group of 32 weights, so w·x = d·Σ q·x + m·Σ x; the latter sum is the same for
//! every row of W. Implemented with x86 intrinsics for AVX-512 and for AVX2 with FMA and F16C;
//! other machines have no fused product.

use candle_core::quantized::GgmlDType;

/// Maximum number of rows of x; with more, dequantising to a buffer is faster.
const ROWS: usize = 4;

/// x·Wᵀ for x (n, columns) with n at most [`ROWS`]: (n, rows). `None` on machines without the
/// instructions.
pub(crate) fn product(
    dtype: GgmlDType,
    data: &[u8],
    shape: (usize, usize),
    x: &[f32],
) -> Option<Vec<f32>> {
    let n = x.len().checked_div(shape.1)?;
    if n == 0 || n > ROWS {
        return None;
    }
    #[cfg(target_arch = "x86_64")]
    return x86::product(dtype, data, shape, x);
    #[cfg(not(target_arch = "x86_64"))]
    return None;
}

#[cfg(target_arch = "x86_64")]
mod x86;
