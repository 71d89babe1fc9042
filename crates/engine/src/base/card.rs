//! A base in a GPU's memory, and players' own tensors beside it.
//!
//! Weights go up one at a time, as they are loaded: quantised ones as they are, dense matrices in
//! the numbers passes compute in, norms and biases in f32. A player's parameters come from the
//! machine's memory, or in training lie on the card in f32 (`train/on_card.rs`); passes read a copy
//! in their own numbers, which is made when the parameters have changed.

use std::sync::{Arc, Weak};

use candle_core::{DType, Device, Tensor};
use randori_cuda::gpu::Gpu;
use randori_kernels::{Error, GpuMatrix, Result, Weight, rounded};

use super::Compute;
use crate::Params;

/// The GPU's name and its memory in bytes (free, all).
///
/// # Errors
/// What is missing for computing on one.
pub fn card() -> Result<(String, usize, usize)> {
    let gpu = Gpu::open()?;
    let (free, all) = gpu.memory()?;
    Ok((gpu.name(), free, all))
}

impl Compute {
    /// A GPU's, in `float` (f32 or bf16).
    ///
    /// # Errors
    /// No GPU; another kind of numbers.
    pub fn on_gpu(float: DType) -> Result<Compute> {
        if !matches!(float, DType::F32 | DType::BF16) {
            return Err(Error::rule(format!(
                "a GPU computes in f32 or bf16, not {float:?}"
            )));
        }
        Ok(Compute {
            device: Gpu::open()?.device(),
            float,
            stays: false,
            uploads: Arc::default(),
            pinned: Default::default(),
        })
    }

    /// [`Compute::place`] on the GPU.
    pub(crate) fn upload(&self, weight: Weight) -> Result<Weight> {
        Ok(match weight {
            Weight::Dense(t) if self.stays => Weight::Dense(t),
            Weight::Dense(t) => Weight::Dense(self.upload_dense(&t)?),
            Weight::Quant(q) => {
                Weight::Gpu(Arc::new(GpuMatrix::new(Gpu::open()?, &q, self.float)?))
            }
            up @ Weight::Gpu(_) => up,
        })
    }

    /// A dense tensor on the GPU.
    pub(crate) fn upload_dense(&self, t: &Tensor) -> Result<Tensor> {
        upload(t, self.float, &self.device)
    }

    /// A player's own tensors on the GPU; made when they are asked for the first time.
    pub(crate) fn upload_params(&self, params: &Arc<Params>) -> Result<Arc<Params>> {
        if params.is_empty() {
            return Ok(params.clone());
        }
        let mut uploads = self
            .uploads
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        // parameters that changed have another address, since whoever changes them may not while we
        // hold a weak reference
        let known = |of: &Weak<Params>| std::ptr::eq(of.as_ptr(), Arc::as_ptr(params));
        if let Some((_, copy)) = uploads.iter().find(|(of, _)| known(of)) {
            return Ok(copy.clone());
        }
        // players take turns: another's copy is made again when its turn comes, and costs no memory
        // until then
        uploads.clear();
        let copy = params
            .iter()
            .map(|(name, t)| Ok((name.clone(), upload(t, self.float, &self.device)?)))
            .collect::<Result<Params>>()?;
        let copy = Arc::new(copy);
        uploads.push((Arc::downgrade(params), copy.clone()));
        Ok(copy)
    }
}

/// A tensor on the GPU: a matrix in the passes' numbers, what has one axis in f32; itself where it
/// is that already.
fn upload(t: &Tensor, float: DType, device: &Device) -> Result<Tensor> {
    let float = if t.rank() > 1 { float } else { DType::F32 };
    if t.device().is_cuda() {
        return match t.dtype() == float {
            true => Ok(t.clone()),
            false => rounded(t),
        };
    }
    let near = t.to_device(&Device::Cpu)?.to_dtype(float)?.contiguous()?;
    Ok(near.to_device(device)?)
}
