//! DoRA (arXiv 2402.09353): a projection's outputs brought to trained magnitudes, y = g · (W + s·B·A)·x with
//! g = m / ‖W + s·B·A‖ a row. As in the paper (section 4.3) and PEFT, the norm counts as a constant in the backward pass.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use candle_core::Tensor;

use super::{Pass, forward::project, weights::Matrix};
use crate::{
    Error, Result,
    kernels::{self, Values, change, linear::floats},
};

/// Each output's factor.
pub(crate) struct Gain {
    /// m / ‖row‖; 0 for a row of zeros.
    pub(crate) factors: Vec<f32>,
    /// m
    pub(crate) magnitude: Vec<f32>,
}

/// The gains of one player's projections: they hold for as long as its parameters do, one training pass or one
/// generation.
#[derive(Default)]
pub(crate) struct Gains(Mutex<HashMap<String, Arc<Gain>>>);

impl Pass<'_> {
    /// The gain of a projection whose update has a magnitude; `name` is its weight's.
    pub(crate) fn gain(
        &self,
        name: &str,
        matrix: &Matrix,
        update: &randori_lora::Update,
    ) -> Result<Option<Arc<Gain>>> {
        let Some(magnitude) = &update.magnitude else {
            return Ok(None);
        };
        let mut known = self.gains.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gain) = known.get(name) {
            return Ok(Some(gain.clone()));
        }
        let squares = match matrix {
            Matrix::Own(w, own) => randori_lora::row_squares(&kernels::host(w)?)
                .map(Arc::new)
                .map_err(|e| Error::rule(format!("`{own}`: {e}")))?,
            _ => self.player.base.row_squares(&format!("{name}.weight"))?,
        };
        let aw = kernels::host(&project(&update.a, matrix)?)?; // (rank, out)
        let (a, b) = (kernels::host(&update.a)?, kernels::host(&update.b)?);
        let norms = randori_lora::row_norms(&squares, &aw, &a, &b, update.scale)
            .map_err(|e| Error::rule(format!("`{name}`: {e}")))?;
        let magnitude = floats(magnitude)?;
        if magnitude.len() != norms.len() {
            return Err(Error::rule(format!(
                "`{name}` has {} outputs and {} magnitudes",
                norms.len(),
                magnitude.len()
            )));
        }
        let factor = |(m, norm): (&f32, &f32)| if *norm > 0.0 { m / norm } else { 0.0 };
        let gain = Arc::new(Gain {
            factors: magnitude.iter().zip(&norms).map(factor).collect(),
            magnitude,
        });
        known.insert(name.to_string(), gain.clone());
        Ok(Some(gain))
    }
}

impl Gain {
    /// y's columns times their factors, in place: y must be held by nobody else.
    pub(crate) fn apply(&self, y: &Tensor) -> Result<()> {
        #[cfg(feature = "cuda")]
        if kernels::gpu::on(y) {
            return kernels::gpu::elementwise::scale_columns(y, &self.factors);
        }
        change(y, |y| {
            for row in y.chunks_exact_mut(self.factors.len()) {
                row.iter_mut().zip(&self.factors).for_each(|(y, g)| *y *= g);
            }
        })
    }

    /// dm += Σ dy · (y - bias) / m over the rows, since y - bias = m · (W + s·B·A)·x / ‖row‖.
    pub(crate) fn gradient(
        &self,
        y: &Tensor,
        bias: Option<&Tensor>,
        dy: &Tensor,
        dm: &Tensor,
    ) -> Result<()> {
        #[cfg(feature = "cuda")]
        if kernels::gpu::on(y) {
            return kernels::gpu::norm::magnitude_gradient(y, bias, dy, &self.magnitude, dm);
        }
        let width = self.magnitude.len();
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
            for ((dm, sum), &m) in dm.iter_mut().zip(&sums).zip(&self.magnitude) {
                if m != 0.0 {
                    *dm += (sum / f64::from(m)) as f32;
                }
            }
        })
    }
}
