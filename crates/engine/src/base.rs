//! Base weights: loaded once, shared by every player.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use candle_core::{DType, Device, Tensor};
use randori_kernels::{Error, Result, Weight};
use randori_sdk::seam::Architecture;

#[cfg(feature = "cuda")]
pub(crate) mod card;

/// The player's tensors that lie on the GPU: the parameters that a copy was made of, and the copy.
#[cfg(feature = "cuda")]
pub(crate) type Uploads = Vec<(std::sync::Weak<crate::Params>, Arc<crate::Params>)>;

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
    pub(crate) uploads: Arc<Mutex<Uploads>>,
    /// Where block inputs wait for the backward pass, if they are offloaded; used again by every
    /// pass.
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
    /// For full training, where every player has all dense weights as its own: the base's stay in
    /// the machine's memory, and a GPU has room for the player's alone. A pass that wants one of
    /// the base's all the same takes it up for the while.
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

    /// A dense weight of the base on the device where passes run.
    pub(crate) fn on_device(&self, t: &Tensor) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if self.device.is_cuda() && t.device().is_cpu() {
            return self.upload_dense(t);
        }
        Ok(t.clone())
    }

    /// A dense tensor that lies where passes run, in the numbers that they compute in.
    pub(crate) fn activation(&self, t: &Tensor) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if self.device.is_cuda() {
            return randori_kernels::in_float(t, self.float);
        }
        Ok(t.to_dtype(self.float)?)
    }

    /// Moves a weight to the device on which passes run. On a GPU: quantised ones as they are,
    /// dense matrices in the passes' numbers, what has one axis in f32.
    ///
    /// # Errors
    /// Not enough memory there.
    pub fn place(&self, weight: Weight) -> Result<Weight> {
        #[cfg(feature = "cuda")]
        if self.device.is_cuda() {
            return self.upload(weight);
        }
        Ok(weight)
    }
}

/// Runs `$run` with `$kernels`, those of the machine that a player's base computes on: the one
/// choice there is.
#[cfg(feature = "cuda")]
macro_rules! on_kernels {
    ($compute:expr, $kernels:ident => $run:expr) => {
        if $compute.device.is_cuda() {
            let $kernels = &randori_kernels::Card::new($compute.pinned.clone());
            $run
        } else {
            let $kernels = &randori_kernels::Cpu;
            $run
        }
    };
}
#[cfg(not(feature = "cuda"))]
macro_rules! on_kernels {
    ($compute:expr, $kernels:ident => $run:expr) => {{
        let $kernels = &randori_kernels::Cpu;
        $run
    }};
}
pub(crate) use on_kernels;

/// A model without adapters.
pub struct Base {
    /// What runs it.
    pub arch: Arc<dyn Architecture>,
    /// The configuration in Hugging Face's spelling (also when it came from GGUF metadata).
    pub config: serde_json::Value,
    /// By full tensor name: `model.embed_tokens.weight`, `model.layers.0.self_attn.q_proj.weight`,
    /// `….bias`.
    pub weights: HashMap<String, Weight>,
    /// ‖row‖² of the rows that DoRA has asked for so far; begins empty.
    pub squares: RowSquares,
    /// Where its passes run.
    pub compute: Compute,
}

/// ‖row‖² of weights' rows, each computed when it is first asked for.
#[derive(Default)]
pub struct RowSquares(Mutex<HashMap<String, Arc<Vec<f64>>>>);

impl RowSquares {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Vec<f64>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Base {
    /// ‖row‖² of every row of a matrix, by full name.
    pub(crate) fn row_squares(&self, name: &str) -> Result<Arc<Vec<f64>>> {
        let known = self.squares.lock().get(name).cloned();
        if let Some(squares) = known {
            return Ok(squares);
        }
        let weight = self
            .weights
            .get(name)
            .ok_or_else(|| Error::rule(format!("the model has no weight `{name}`")))?;
        let squares = randori_lora::row_squares(&weight.to_f32()?)
            .map_err(|e| Error::rule(format!("{name}: {e}")))?;
        let squares = Arc::new(squares);
        self.squares
            .lock()
            .insert(name.to_string(), squares.clone());
        Ok(squares)
    }

    /// Memory of all weights.
    pub fn bytes(&self) -> usize {
        self.weights.values().map(Weight::bytes).sum()
    }
}
