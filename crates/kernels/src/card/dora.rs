//! DoRA's factors on the outputs of a projection, and the gradient to its magnitudes.

use candle_core::Tensor;

use super::{
    memory::{gpu, maybe, ptr},
    norm::{self, columns},
};
use crate::{Gain, Result};

/// Multiplies y's columns by their factors, in place.
pub(super) fn scale_columns(y: &Tensor, gain: &Gain) -> Result<()> {
    let factors = gpu()?.upload(&gain.factors)?;
    norm::scale_columns(y, Some(&factors), None)
}

/// dm += Σ dy · (y - bias) / m over the rows; nothing where m is 0.
pub(super) fn magnitude_gradient(
    y: &Tensor,
    bias: Option<&Tensor>,
    dy: &Tensor,
    gain: &Gain,
    dm: &Tensor,
) -> Result<()> {
    let (columns, parts) = columns(dy)?;
    let magnitude = gpu()?.upload(&gain.magnitude)?;
    let (y, bias, dy) = (ptr(y)?, maybe(bias)?, ptr(dy)?);
    let (magnitude, parts) = (ptr(&magnitude)?, ptr(&parts)?);
    Ok(columns.magnitude_gradient(gpu()?, y, bias, dy, magnitude, parts, ptr(dm)?)?)
}
