//! Where an op's weights come from: the player's own tensors first, then the base.

use std::sync::Arc;

use candle_core::Tensor;
use randori_qlora::QuantMatrix;

use super::Pass;
use crate::{
    Weight,
    head::{self, HEAD},
};

/// A projection's or embedding's weight, (out, in) or (vocab, width).
#[derive(Clone)]
pub(crate) enum Matrix {
    /// The base's, dense and frozen.
    Frozen(Tensor),
    /// The base's, quantised and frozen.
    Quant(Arc<QuantMatrix>),
    /// The same on a GPU.
    #[cfg(feature = "cuda")]
    Gpu(Arc<crate::gpu::GpuMatrix>),
    /// The player's own: its gradient goes by this name.
    Own(Tensor, String),
}

/// A norm's scale, or a bias.
#[derive(Clone)]
pub(crate) struct Vector {
    pub(crate) values: Tensor,
    /// Its name when it is trainable.
    pub(crate) own: Option<String>,
}

/// The low-rank update of a projection.
#[derive(Clone)]
pub(crate) struct Update {
    pub(crate) lora: randori_lora::Update,
    pub(crate) dropout: f32,
}

impl Pass<'_> {
    pub(crate) fn matrix(&self, name: &str, shape: (usize, usize)) -> Result<Matrix, String> {
        let full = format!("{name}.weight");
        match self.params.get(&full) {
            Some(own) => {
                check(&full, own.dims(), &[shape.0, shape.1])?;
                Ok(Matrix::Own(own.clone(), full))
            }
            None => self.bases(full, shape),
        }
    }

    /// The base's weight of this full name.
    fn bases(&self, full: String, shape: (usize, usize)) -> Result<Matrix, String> {
        let (matrix, found) = match self.player.base.weights.get(&full) {
            Some(Weight::Dense(w)) => (Matrix::Frozen(self.near(w)?), w.dims().to_vec()),
            Some(Weight::Quant(w)) => (Matrix::Quant(w.clone()), vec![w.shape().0, w.shape().1]),
            #[cfg(feature = "cuda")]
            Some(Weight::Gpu(w)) => (Matrix::Gpu(w.clone()), vec![w.shape().0, w.shape().1]),
            None => return Err(format!("the model has no weight `{full}`")),
        };
        check(&full, &found, &[shape.0, shape.1])?;
        Ok(matrix)
    }

    /// What this projection's own tensors go by: a tied head's by its own name, not by the
    /// embedding's.
    pub(crate) fn goes_by<'n>(&self, name: &'n str) -> &'n str {
        if self.tied.as_deref() == Some(name) {
            HEAD
        } else {
            name
        }
    }

    /// A projection's weight: for a tied head its own, where it has one, else what the base's
    /// embedding is.
    pub(crate) fn projection(&self, name: &str, shape: (usize, usize)) -> Result<Matrix, String> {
        if self.tied.as_deref() != Some(name) {
            return self.matrix(name, shape);
        }
        let (own, shared) = (head::weight(HEAD), head::weight(name));
        if let Some(t) = self.params.get(&own) {
            check(&own, t.dims(), &[shape.0, shape.1])?;
            return Ok(Matrix::Own(t.clone(), own));
        }
        let spec = self.player.lora.as_ref();
        match spec.is_some_and(|spec| spec.replaced.contains(&shared)) {
            true => self.matrix(name, shape),
            false => self.bases(shared, shape),
        }
    }

    pub(crate) fn vector(&self, full: String, width: usize) -> Result<Vector, String> {
        let vector = if let Some(own) = self.params.get(&full) {
            Vector {
                values: own.clone(),
                own: Some(full.clone()),
            }
        } else {
            match self.player.base.weights.get(&full) {
                Some(Weight::Dense(w)) => Vector {
                    values: self.near(w)?,
                    own: None,
                },
                Some(_) => {
                    return Err(format!(
                        "`{full}` is quantised, but norms and biases must be dense"
                    ));
                }
                None => return Err(format!("the model has no weight `{full}`")),
            }
        };
        check(&full, vector.values.dims(), &[width])?;
        Ok(vector)
    }

    fn near(&self, w: &Tensor) -> Result<Tensor, String> {
        self.player.base.compute.near(w).map_err(|e| e.to_string())
    }

    pub(crate) fn update(&self, name: &str) -> Option<Update> {
        let spec = self.player.lora.as_ref()?;
        Some(Update {
            lora: spec.update(&self.params, name)?,
            dropout: spec.dropout,
        })
    }
}

fn check(name: &str, found: &[usize], wanted: &[usize]) -> Result<(), String> {
    if found == wanted {
        return Ok(());
    }
    Err(format!(
        "weight `{name}` has the shape {found:?}, but the architecture wants {wanted:?}"
    ))
}
