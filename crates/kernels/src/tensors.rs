//! The rows of a pass and of a step, and candle's tensors as values: what the processor's kernels
//! and the GPU's have in common.

use std::{borrow::Cow, rc::Rc};

use candle_core::{DType, Device, Tensor};

use crate::{Error, Result, Shaped};

/// Tokens in a page of a KV cache on a GPU.
pub const PAGE: usize = 64;

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

/// A target token of a chunk of rows, whose log-prob is computed.
#[derive(Clone, Copy)]
pub struct ChunkTarget {
    /// The row that predicts it, in the chunk.
    pub row: usize,
    /// The token.
    pub token: u32,
    /// Its index in the plan's list of targets.
    pub target: usize,
}

/// Consecutive rows at consecutive positions of a sequence.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// First row.
    pub row: usize,
    /// Number of rows.
    pub len: usize,
    /// Position of the first row.
    pub position: usize,
}

/// A segment's part of the attention mask: its rows, and the rows that they may see.
pub struct SegmentMask {
    /// The segment's rows.
    pub queries: Run,
    /// The rows that they may see: the segment's ancestors, outermost first, then itself.
    pub keys: Vec<Run>,
    /// Number of the tree of segments (a root and all that continue it). Gradients to keys are
    /// summed within a tree.
    pub tree: usize,
}

/// The new rows of one sequence of a cache in a step.
#[derive(Clone, Copy)]
pub struct Entry {
    /// The sequence's slot.
    pub slot: usize,
    /// Its first row in the step.
    pub row: usize,
    /// Number of new tokens.
    pub len: usize,
}

/// How many tokens the sequences have that a row belongs to, each with its whole response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lengths {
    /// The shortest of them; of a cached sequence, what it was taken to have when its first rows
    /// came.
    pub least: usize,
    /// The longest.
    pub most: usize,
}

impl Lengths {
    /// Of a row of one sequence with so many tokens.
    pub fn of(tokens: usize) -> Self {
        Lengths {
            least: tokens,
            most: tokens,
        }
    }

    /// Of a row that belongs to those sequences too.
    pub fn with(self, others: Option<Lengths>) -> Self {
        let others = others.unwrap_or(self);
        Lengths {
            least: self.least.min(others.least),
            most: self.most.max(others.most),
        }
    }
}

/// The rows of a pass.
#[derive(Default)]
pub struct Plan {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Each row's position in its sequence.
    pub positions: Vec<u32>,
    /// Each row's lengths; empty: nobody knows, and what depends on them is refused.
    pub lengths: Vec<Lengths>,
    /// The attention mask of packed rows, by segment.
    pub masks: Vec<SegmentMask>,
    /// Key of each row's dropout masks; `None`: no dropout.
    pub dropout: Option<Vec<u64>>,
    /// The attention mask as a GPU's kernels read it, made at first use.
    #[cfg(feature = "cuda")]
    pub lists: crate::card::lists::ListsByWindow,
}

impl Plan {
    /// A plan of packed rows.
    pub fn packed(
        ids: Vec<u32>,
        positions: Vec<u32>,
        masks: Vec<SegmentMask>,
        dropout: Option<Vec<u64>>,
    ) -> Self {
        Plan {
            ids,
            positions,
            lengths: Vec::new(),
            masks,
            dropout,
            #[cfg(feature = "cuda")]
            lists: Default::default(),
        }
    }

    /// Whether each row's sequence has more than `border` tokens.
    ///
    /// # Errors
    /// A row that belongs to sequences on both sides of it.
    pub(super) fn longer_than(&self, border: usize) -> Result<Vec<bool>> {
        if self.lengths.len() != self.positions.len() {
            return Err(Error::rule(
                "rotary frequencies depend on the sequences' lengths, which nobody told this pass",
            ));
        }
        let beyond = |lengths: &Lengths| match (lengths.least > border, lengths.most > border) {
            (true, true) => Ok(true),
            (false, false) => Ok(false),
            _ => Err(Error::rule(format!(
                "sequences of {} and of {} tokens share rows: of one longer than {border} tokens all \
                 positions are rotated otherwise",
                lengths.least, lengths.most
            ))),
        };
        self.lengths.iter().map(beyond).collect()
    }

    /// The dropout keys of some rows (`None`: all); empty without dropout.
    pub(super) fn keys(&self, rows: Option<&Rc<[u32]>>) -> Cow<'_, [u64]> {
        match (&self.dropout, rows) {
            (None, _) => Cow::Borrowed(&[]),
            (Some(keys), None) => keys.into(),
            (Some(keys), Some(rows)) => rows.iter().map(|&row| keys[row as usize]).collect(),
        }
    }
}

/// A shape as (rows, width): all axes but the last together, and the last.
pub fn rows(dims: &[usize]) -> (usize, usize) {
    let last = dims.last().copied().unwrap_or(1);
    (dims[..dims.len().saturating_sub(1)].iter().product(), last)
}

/// A shape with another last axis.
pub(super) fn with_last(dims: &[usize], last: usize) -> Vec<usize> {
    let mut dims = dims.to_vec();
    if let Some(l) = dims.last_mut() {
        *l = last;
    }
    dims
}

/// A tensor in f32 in the machine's memory; x itself if it is that already.
///
/// # Errors
/// candle fails.
pub fn host(x: &Tensor) -> Result<Tensor> {
    Ok(x.to_device(&Device::Cpu)?.to_dtype(DType::F32)?)
}

/// y in the dtype and on the device of `like`.
pub(super) fn beside(y: Tensor, like: &Tensor) -> Result<Tensor> {
    Ok(y.to_dtype(like.dtype())?.to_device(like.device())?)
}

/// Reads token ids: see [`Kernels::token_ids`](crate::Kernels::token_ids).
pub(super) fn token_ids(embed: &str, x: &Tensor, vocab: usize) -> Result<Rc<[u32]>, String> {
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

/// Composes indices: see [`Kernels::compose`](crate::Kernels::compose).
pub(super) fn compose(outer: Option<&Rc<[u32]>>, inner: &Rc<[u32]>) -> Rc<[u32]> {
    let of_outer = |outer: &Rc<[u32]>| inner.iter().map(|&i| outer[i as usize]).collect();
    outer.map_or_else(|| inner.clone(), of_outer)
}
