//! A weight as it is stored.

use std::sync::Arc;

use candle_core::Tensor;
use randori_qlora::QuantMatrix;

use crate::{Error, Result, host};

/// A weight of the base, dense or quantised, in the machine's memory or a GPU's.
#[derive(Clone)]
pub enum Weight {
    /// f32, f16 or bf16.
    Dense(Tensor),
    /// NF4 or a GGUF block format; two axes (out, in).
    Quant(Arc<QuantMatrix>),
    /// A quantised matrix in a GPU's memory.
    #[cfg(feature = "cuda")]
    Gpu(Arc<crate::GpuMatrix>),
}

impl Weight {
    /// Its axes.
    pub fn shape(&self) -> Vec<usize> {
        match self {
            Weight::Dense(t) => t.dims().to_vec(),
            Weight::Quant(q) => vec![q.shape().0, q.shape().1],
            #[cfg(feature = "cuda")]
            Weight::Gpu(q) => vec![q.shape().0, q.shape().1],
        }
    }

    /// Size in memory, in bytes.
    pub fn bytes(&self) -> usize {
        match self {
            Weight::Dense(t) => t.elem_count() * t.dtype().size_in_bytes(),
            Weight::Quant(q) => q.bytes(),
            #[cfg(feature = "cuda")]
            Weight::Gpu(q) => q.bytes(),
        }
    }

    /// Name of the format: `f32`, `bf16`, `nf4`, `q4_1`, ….
    pub fn format(&self) -> String {
        match self {
            Weight::Dense(t) => t.dtype().as_str().to_string(),
            Weight::Quant(q) => q.format(),
            #[cfg(feature = "cuda")]
            Weight::Gpu(q) => q.format(),
        }
    }

    /// Its values in f32 in the machine's memory. A dense f32 weight there is shared, not copied.
    ///
    /// # Errors
    /// candle fails.
    pub fn to_f32(&self) -> Result<Tensor> {
        match self {
            Weight::Dense(t) => host(t),
            Weight::Quant(q) => q.dequantise().map_err(|e| Error::rule(e.to_string())),
            #[cfg(feature = "cuda")]
            Weight::Gpu(q) => q.to_f32(),
        }
    }

    /// The error of kernels that cannot reach this weight.
    #[cfg(feature = "cuda")]
    pub(super) fn elsewhere(&self) -> Error {
        Error::rule(format!(
            "a weight ({}) lies on another device",
            self.format()
        ))
    }
}
