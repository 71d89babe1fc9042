//! Tensors without values, and the memory that they would take.

use std::{ops::Deref, rc::Rc};

use randori_cuda::ops::decode;

use super::{ledger::Allocation, machine::Shapes};
use crate::{
    Heads, QUERIES, Result, Shaped,
    cpu::delta::{self, Sizes},
    error::on_processor,
    tensors::with_last,
};

/// The axes of a tensor. Up to four are stored in place, since a pass has thousands of tensors.
#[derive(Clone)]
pub(super) enum Axes {
    Few([usize; 4], usize),
    Many(Rc<[usize]>),
}

impl From<&[usize]> for Axes {
    fn from(dims: &[usize]) -> Self {
        let mut axes = [0; 4];
        match axes.get_mut(..dims.len()) {
            Some(few) => {
                few.copy_from_slice(dims);
                Axes::Few(axes, dims.len())
            }
            None => Axes::Many(dims.into()),
        }
    }
}

impl Deref for Axes {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        match self {
            Axes::Few(axes, len) => &axes[..*len],
            Axes::Many(axes) => axes,
        }
    }
}

/// A tensor without values: its axes, and its memory as counted by a ledger.
#[derive(Clone)]
pub struct Placeholder {
    pub(super) memory: Allocation,
    pub(super) dims: Axes,
    /// Whether it stands for token ids.
    pub(super) ids: bool,
}

impl Placeholder {
    /// Number of values.
    pub(super) fn count(&self) -> usize {
        self.dims.iter().product()
    }
}

impl Shaped for Placeholder {
    fn dims(&self) -> &[usize] {
        &self.dims
    }
    fn in_shape(&self, dims: &[usize]) -> Result<Self> {
        Ok(Placeholder {
            dims: dims.into(),
            ..self.clone()
        })
    }
    fn duplicate(&self) -> Result<Self> {
        Ok(Placeholder {
            memory: self.memory.again(),
            ..self.clone()
        })
    }
    fn is_float(&self) -> bool {
        !self.ids
    }
}

impl Shapes {
    /// Allocates a tensor of these axes, of the pass's dtype.
    pub fn values(&self, dims: &[usize]) -> Placeholder {
        let count: usize = dims.iter().product();
        self.tensor(self.allocate(count), dims)
    }

    /// A tensor whose memory is counted elsewhere, like the base's weights.
    pub fn outside(&self, dims: &[usize]) -> Placeholder {
        self.tensor(self.nothing.clone(), dims)
    }

    /// A tensor of these axes in this memory.
    pub(super) fn tensor(&self, memory: Allocation, dims: &[usize]) -> Placeholder {
        Placeholder {
            memory,
            dims: dims.into(),
            ids: false,
        }
    }

    /// Allocates values of the pass's dtype.
    pub(super) fn allocate(&self, count: usize) -> Allocation {
        self.ledger.hold(self.card.unwrap_or(4) * count as u64)
    }

    /// Allocates f32 values.
    pub(super) fn allocate_f32(&self, count: usize) -> Allocation {
        self.ledger.hold(4 * count as u64)
    }

    /// Counts multiply-adds.
    pub(super) fn count_multiply_adds(&self, count: u64) {
        let mut work = self.work.get();
        work.multiply_adds += count as f64;
        self.work.set(work);
    }

    /// Bytes of attention's scratch: in every thread `of` score matrices of a block of queries. A
    /// GPU keeps scores in registers.
    pub fn scores(&self, of: u64) -> u64 {
        match self.card {
            Some(_) => 0,
            None => self.threads * of * 4 * (QUERIES * self.keys) as u64,
        }
    }

    /// Allocates the soft-max's statistics, a number for each query and head. Decoding on a GPU
    /// saves none, but needs scratch for the parts of long sequences: `width` values and a weight a
    /// head.
    fn softmax_stats(&self, queries: usize, heads: usize, width: usize) -> Allocation {
        if self.decodes {
            let parts = Some(self.keys.div_ceil(decode::CHUNK)).filter(|n| *n > 1);
            return self.allocate_f32(parts.unwrap_or(0) * queries * (width + heads));
        }
        self.allocate_f32(queries * heads)
    }

    /// Allocates a tensor of x's axes.
    pub(super) fn like(&self, x: &Placeholder) -> Result<Placeholder> {
        Ok(self.values(&x.dims))
    }

    /// Allocates a tensor of x's axes but the last.
    pub(super) fn with_last(&self, x: &Placeholder, width: usize) -> Result<Placeholder> {
        Ok(self.values(&with_last(&x.dims, width)))
    }

    /// Counts a convolution of x, or of the gradient to its result, with all taps of w.
    pub(super) fn conv(&self, x: &Placeholder, w: &Placeholder) -> Result<Placeholder> {
        if self.card.is_some() {
            return Err(on_processor("conv"));
        }
        self.count_multiply_adds((x.dims[0] * w.count()) as u64);
        self.like(x)
    }

    /// Counts the delta rule's forward pass; a thread has a few states.
    pub(super) fn scan(&self, inputs: [&Placeholder; 5]) -> Result<Placeholder> {
        if self.card.is_some() {
            return Err(on_processor("delta_rule"));
        }
        let sizes = Sizes::of(&inputs[0].dims, &inputs[2].dims)?;
        let out = self.like(inputs[2])?;
        self.ledger
            .touch(self.threads * 4 * 4 * sizes.state() as u64);
        self.count_scan(&sizes, delta::FORWARD);
        Ok(out)
    }

    /// Counts the multiply-adds of a pass of the delta rule.
    pub(super) fn count_scan(&self, sizes: &Sizes, each: usize) {
        let states = sizes.rows * sizes.heads * sizes.state();
        self.count_multiply_adds((each * states) as u64);
    }

    /// Counts attention's forward pass; returns its result and the soft-max's statistics.
    pub(super) fn attend(&self, q: &Placeholder, heads: &Heads) -> (Placeholder, Allocation) {
        let (queries, (width, _)) = (q.dims[0], heads.widths());
        let (values, _) = heads.value_widths();
        let out = self.values(&[queries, heads.heads, heads.value_dim]);
        let stats = self.softmax_stats(queries, heads.heads, width);
        self.ledger.touch(self.scores(1));
        // scores, then their sum over v
        self.count_multiply_adds((width + values) as u64 * self.attended);
        self.widest.set(self.widest.get().max(q.count()));
        (out, stats)
    }
}
