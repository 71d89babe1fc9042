//! Base weights: loaded once, shared by every player.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use candle_core::{DType, Device, Tensor};
use randori_qlora::QuantMatrix;
use randori_sdk::seam::Architecture;

use crate::{Error, Result};

#[cfg(feature = "cuda")]
mod card;
#[cfg(feature = "cuda")]
pub use card::card;

/// One weight of the base.
#[derive(Clone)]
pub enum Weight {
    /// f32, f16 or bf16.
    Dense(Tensor),
    /// NF4 or a GGUF block format; two axes (out, in).
    Quant(Arc<QuantMatrix>),
    /// The same in a GPU's memory.
    #[cfg(feature = "cuda")]
    Gpu(Arc<crate::kernels::card::GpuMatrix>),
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

    /// Memory it holds.
    pub fn bytes(&self) -> usize {
        match self {
            Weight::Dense(t) => t.elem_count() * t.dtype().size_in_bytes(),
            Weight::Quant(q) => q.bytes(),
            #[cfg(feature = "cuda")]
            Weight::Gpu(q) => q.bytes(),
        }
    }

    /// What it is stored as: `f32`, `bf16`, `nf4`, `q4_1`, ….
    pub fn format(&self) -> String {
        match self {
            Weight::Dense(t) => t.dtype().as_str().to_string(),
            Weight::Quant(q) => q.format(),
            #[cfg(feature = "cuda")]
            Weight::Gpu(q) => q.format(),
        }
    }

    /// Its values in f32, in the machine's memory; a dense f32 weight that lies there is shared, not copied.
    ///
    /// # Errors
    /// What candle refuses.
    pub fn to_f32(&self) -> Result<Tensor> {
        match self {
            Weight::Dense(t) => Ok(t.to_device(&Device::Cpu)?.to_dtype(DType::F32)?),
            Weight::Quant(q) => q.dequantise().map_err(|e| Error::rule(e.to_string())),
            #[cfg(feature = "cuda")]
            Weight::Gpu(q) => q.to_f32(),
        }
    }
}

/// Where passes run, and in which numbers.
#[derive(Debug, Clone)]
pub struct Compute {
    /// Where values lie.
    pub device: Device,
    /// What they are: f32, or bf16 on a GPU.
    pub float: DType,
    /// Whether dense weights of the base stay in the machine's memory.
    #[cfg(feature = "cuda")]
    pub(crate) stays: bool,
    #[cfg(feature = "cuda")]
    pub(crate) uploads: Arc<Mutex<card::Uploads>>,
    /// Where block inputs wait for the backward pass, if they are offloaded; used again by every pass.
    #[cfg(feature = "cuda")]
    pub(crate) pinned: randori_cuda::gpu::host::PinnedPool,
}

impl Default for Compute {
    /// The processor, in f32.
    fn default() -> Self {
        Compute {
            device: Device::Cpu,
            float: DType::F32,
            #[cfg(feature = "cuda")]
            stays: false,
            #[cfg(feature = "cuda")]
            uploads: Arc::default(),
            #[cfg(feature = "cuda")]
            pinned: Default::default(),
        }
    }
}

impl Compute {
    /// For full training, where every player has all dense weights as its own: the base's stay in the machine's memory, and a
    /// GPU has room for the player's alone. A pass that wants one of the base's all the same takes it up for the while.
    pub fn for_full_training(self) -> Self {
        #[cfg(feature = "cuda")]
        let this = Compute {
            stays: true,
            ..self
        };
        #[cfg(not(feature = "cuda"))]
        let this = self; // the processor's memory is the machine's
        this
    }

    /// A dense weight of the base where passes run.
    pub(crate) fn near(&self, t: &Tensor) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if self.device.is_cuda() && t.device().is_cpu() {
            return self.copy(t);
        }
        Ok(t.clone())
    }

    /// A weight where passes want it. On a GPU: quantised ones as they are, dense matrices in the passes' numbers, what has one
    /// axis in f32.
    ///
    /// # Errors
    /// Not enough memory there.
    pub fn place(&self, weight: Weight) -> Result<Weight> {
        #[cfg(feature = "cuda")]
        if self.device.is_cuda() {
            return self.up(weight);
        }
        Ok(weight)
    }
}

/// A model without adapters.
pub struct Base {
    /// What runs it.
    pub arch: Arc<dyn Architecture>,
    /// The configuration in Hugging Face's spelling (also when it came from GGUF metadata).
    pub config: serde_json::Value,
    /// By full tensor name: `model.embed_tokens.weight`, `model.layers.0.self_attn.q_proj.weight`, `….bias`.
    pub weights: HashMap<String, Weight>,
    /// What DoRA has asked of them so far; begins empty.
    pub squares: RowSquares,
    /// Where its passes run.
    pub compute: Compute,
}

/// ‖row‖² of weights' rows, each computed when it is first asked for.
#[derive(Default)]
pub struct RowSquares(Mutex<HashMap<String, Arc<Vec<f64>>>>);

impl Base {
    /// ‖row‖² of every row of a matrix, by full name.
    pub(crate) fn row_squares(&self, name: &str) -> Result<Arc<Vec<f64>>> {
        let known = |s: &RowSquares| {
            let map = s.0.lock().unwrap_or_else(PoisonError::into_inner);
            map.get(name).cloned()
        };
        if let Some(squares) = known(&self.squares) {
            return Ok(squares);
        }
        let weight = self
            .weights
            .get(name)
            .ok_or_else(|| Error::rule(format!("the model has no weight `{name}`")))?;
        let squares = randori_lora::row_squares(&weight.to_f32()?)
            .map_err(|e| Error::rule(format!("{name}: {e}")))?;
        let squares = Arc::new(squares);
        let mut map = self
            .squares
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        map.insert(name.to_string(), squares.clone());
        Ok(squares)
    }

    /// Memory of all weights.
    pub fn bytes(&self) -> usize {
        self.weights.values().map(Weight::bytes).sum()
    }
}
