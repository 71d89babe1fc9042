//! DoRA (arXiv 2402.09353): a projection's outputs brought to trained magnitudes, y = g · (W +
//! s·B·A)·x with g = m / ‖W + s·B·A‖ a row. As in the paper (section 4.3) and PEFT, the norm counts
//! as a constant in the backward pass.

use std::sync::{Arc, PoisonError};

use randori_kernels::{Error, Gain, OnCandle, Result, host};

use crate::{player::weights::PassWeights, tape::Matrix};

impl PassWeights<'_> {
    /// The gain of a projection whose update has a magnitude; `name` is its weight's.
    pub(super) fn known_gain<K: OnCandle>(
        &self,
        kernels: &K,
        name: &str,
        matrix: &Matrix<K>,
        update: &randori_lora::Update,
    ) -> Result<Option<Arc<Gain>>> {
        let Some(magnitude) = &update.magnitude else {
            return Ok(None);
        };
        let mut known = self.gains.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gain) = known.get(name) {
            return Ok(Some(gain.clone()));
        }
        let squares = match &matrix.own {
            Some(own) => randori_lora::row_squares(&matrix.weight.to_f32()?)
                .map(Arc::new)
                .map_err(|e| Error::rule(format!("`{own}`: {e}")))?,
            None => self.player.base.row_squares(&format!("{name}.weight"))?,
        };
        let aw = host(&kernels.product(&update.a, &matrix.weight)?)?; // (rank, out)
        let (a, b) = (host(&update.a)?, host(&update.b)?);
        let norms = randori_lora::row_norms(&squares, &aw, &a, &b, update.scale)
            .map_err(|e| Error::rule(format!("`{name}`: {e}")))?;
        let magnitude: Vec<f32> = host(magnitude)?.to_vec1()?;
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
