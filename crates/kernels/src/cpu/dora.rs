//! DoRA's factors on the outputs of a projection, and the gradient to its magnitudes.

use candle_core::Tensor;

use super::{Values, change, linear::floats};
use crate::{Gain, Result};

/// Multiplies y's columns by their factors, in place; nobody else may hold y.
pub(super) fn scale_columns(y: &Tensor, gain: &Gain) -> Result<()> {
    change(y, |y| {
        for row in y.chunks_exact_mut(gain.factors.len()) {
            row.iter_mut().zip(&gain.factors).for_each(|(y, g)| *y *= g);
        }
    })
}

/// dm += Σ dy · (y - bias) / m over the rows; nothing where m is 0.
pub(super) fn magnitude_gradient(
    y: &Tensor,
    bias: Option<&Tensor>,
    dy: &Tensor,
    gain: &Gain,
    dm: &Tensor,
) -> Result<()> {
    let width = gain.magnitude.len();
    let bias = bias.map(floats).transpose()?;
    let (y, dy) = (Values::of(y)?, Values::of(dy)?);
    let mut sums = vec![0f64; width];
    for (y, dy) in y.chunks_exact(width).zip(dy.chunks_exact(width)) {
        for (i, sum) in sums.iter_mut().enumerate() {
            let own = y[i] - bias.as_ref().map_or(0.0, |b| b[i]);
            *sum += f64::from(dy[i]) * f64::from(own);
        }
    }
    change(dm, |dm| {
        for ((dm, sum), &m) in dm.iter_mut().zip(&sums).zip(&gain.magnitude) {
            if m != 0.0 {
                *dm += (sum / f64::from(m)) as f32;
            }
        }
    })
}
