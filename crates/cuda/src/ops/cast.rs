//! Conversion between f32 and bf16.

use crate::{Float, Grid, Launch, Ptr, Result};

/// Converts `n` values of type `from` to the other type; to bf16 by rounding to nearest, ties to
/// even.
///
/// # Errors
/// As [`Launch::launch`].
pub fn cast(on: &dyn Launch, from: Float, n: usize, x: Ptr, y: Ptr) -> Result<()> {
    if n == 0 {
        return Ok(());
    }
    let kernel = match from {
        Float::F32 => "cast_f32_bf16",
        Float::Bf16 => "cast_bf16_f32",
    };
    let args = [x.into(), y.into(), (n as u64).into()];
    on.launch(kernel, Grid::each(n.div_ceil(8)), &args)
}
