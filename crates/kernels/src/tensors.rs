//! What `cpu` and `card` have in common: both work on candle's tensors.

use std::{borrow::Cow, rc::Rc};

use candle_core::{DType, Device, Tensor};

use super::{Cache, Kernels, Shaped, route::Routing};
use crate::{Result, Weight};

/// Kernels that work on candle's tensors: players have these.
pub trait OnCandle:
    Kernels<
        Tensor = Tensor,
        Matrix = Weight,
        Update = randori_lora::Update,
        Rows = Rc<[u32]>,
        Wanted = Vec<Wanted>,
        Plan = Plan,
        Cache = Cache,
        Routing = Routing,
    >
{
    /// a·b of each row (the first axis), a number for each.
    fn row_dots(&self, a: &Tensor, b: &Tensor) -> Result<Tensor>;
    /// onto[row] += x's row, in order, each times its factor where there are factors.
    fn scatter_by(
        &self,
        x: &Tensor,
        rows: &[u32],
        factors: Option<&[f32]>,
        onto: &Tensor,
    ) -> Result<()>;
}

impl Shaped for Tensor {
    fn dims(&self) -> &[usize] {
        Tensor::dims(self)
    }
    fn in_shape(&self, dims: &[usize]) -> Result<Self> {
        Ok(self.reshape(dims)?)
    }
    fn duplicate(&self) -> Result<Self> {
        Ok(self.copy()?)
    }
    fn is_float(&self) -> bool {
        matches!(self.dtype(), DType::F32 | DType::BF16)
    }
}

/// One wanted log-prob inside a chunk of rows.
#[derive(Clone, Copy)]
pub struct Wanted {
    /// Row in the chunk.
    pub row: usize,
    /// Which token.
    pub token: u32,
    /// Its place in the plan's list of targets.
    pub target: usize,
}

/// Rows of a segment and their place in the sequence.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// The first of them.
    pub row: usize,
    /// How many.
    pub len: usize,
    /// Place of the first in its sequence.
    pub position: usize,
}

/// A segment with all that it may see: its ancestors, outermost first, then itself.
pub struct Sight {
    /// Its own rows.
    pub own: Run,
    /// Those that these see.
    pub seen: Vec<Run>,
    /// Number of the root segment it belongs to; gradients to keys meet inside a tree.
    pub tree: usize,
}

/// The rows of a pass.
#[derive(Default)]
pub struct Plan {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Place in its sequence, by row.
    pub positions: Vec<u32>,
    /// Who sees whom, where rows are packed.
    pub sights: Vec<Sight>,
    /// Key of each row's dropout masks; `None`: no dropout.
    pub dropout: Option<Vec<u64>>,
    /// Who sees whom, as a GPU's kernels read it.
    #[cfg(feature = "cuda")]
    pub lists: super::card::attention::Sights,
}

impl Plan {
    /// Packed rows.
    pub fn packed(
        ids: Vec<u32>,
        positions: Vec<u32>,
        sights: Vec<Sight>,
        dropout: Option<Vec<u64>>,
    ) -> Self {
        Plan {
            ids,
            positions,
            sights,
            dropout,
            #[cfg(feature = "cuda")]
            lists: Default::default(),
        }
    }

    /// Keys of the dropout masks of some rows, one for each (`None`: all).
    pub(super) fn keys(&self, rows: Option<&Rc<[u32]>>) -> Cow<'_, [u64]> {
        match (&self.dropout, rows) {
            (None, _) => Cow::Borrowed(&[]),
            (Some(keys), None) => keys.into(),
            (Some(keys), Some(rows)) => rows.iter().map(|&row| keys[row as usize]).collect(),
        }
    }
}

/// (rows, last axis) of a shape.
pub fn rows(dims: &[usize]) -> (usize, usize) {
    let last = dims.last().copied().unwrap_or(1);
    (dims[..dims.len().saturating_sub(1)].iter().product(), last)
}

/// A copy of x's values in f32 in the machine's memory; x itself where it is that already.
pub fn host(x: &Tensor) -> Result<Tensor> {
    Ok(x.to_device(&Device::Cpu)?.to_dtype(DType::F32)?)
}

/// y in the numbers of `like`, and where that lies.
pub fn beside(y: Tensor, like: &Tensor) -> Result<Tensor> {
    Ok(y.to_dtype(like.dtype())?.to_device(like.device())?)
}

/// Token ids, which go to a kernel from the machine's memory.
pub(super) fn tokens(ids: &[u32]) -> Result<Tensor> {
    Ok(Tensor::from_slice(ids, ids.len(), &Device::Cpu)?)
}

/// The ids that `embed` looks up.
pub(super) fn ids(embed: &str, x: &Tensor, vocab: usize) -> Result<Rc<[u32]>, String> {
    let ids: Vec<u32> = x
        .to_vec1()
        .map_err(|_| format!("embed `{embed}` wants token ids"))?;
    match ids.iter().find(|id| **id as usize >= vocab) {
        Some(bad) => Err(format!(
            "token {bad} is outside the model's vocabulary of {vocab}"
        )),
        None => Ok(ids.into()),
    }
}

/// The rows of the pass that these are, where values have `outer`'s.
pub(super) fn among(outer: Option<&Rc<[u32]>>, rows: &Rc<[u32]>) -> Rc<[u32]> {
    let of_pass = |outer: &Rc<[u32]>| rows.iter().map(|&row| outer[row as usize]).collect();
    outer.map_or_else(|| rows.clone(), of_pass)
}

/// Where a kind of kernels has no side for a weight.
#[cfg(feature = "cuda")]
pub(super) fn elsewhere(w: &Weight) -> crate::Error {
    crate::Error::rule(format!("a weight ({}) lies on another device", w.format()))
}

/// onto[row] += slope · d's row of every wanted token.
pub(super) fn scatter_slopes<K: OnCandle>(
    kernels: &K,
    d: &Tensor,
    rows: &[u32],
    wanted: &[Wanted],
    slopes: &[f64],
    onto: &Tensor,
) -> Result<()> {
    let factors: Vec<f32> = wanted.iter().map(|w| slopes[w.target] as f32).collect();
    kernels.scatter_by(d, rows, Some(&factors), onto)
}
