//! From one float to the other.

use crate::{Float, Grid, Launch, Ptr, Result};

/// y = x for `n` values, of the dtype `from` into the other one; to bf16 it rounds to nearest, ties to even.
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
