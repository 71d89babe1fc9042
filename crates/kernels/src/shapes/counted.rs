//! Values without numbers, and room for them.

use std::{ops::Deref, rc::Rc};

use randori_cuda::ops::decode;

use super::{Shapes, ledger::Held};
use crate::{Heads, Result, Shaped, cpu::QUERIES};

/// A value's axes. As many as most have lie in place: a plan is made of thousands of them.
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

/// A value without numbers.
#[derive(Clone)]
pub struct Counted {
    pub(super) held: Held,
    pub(super) dims: Axes,
    /// Whether these are token ids.
    pub(super) ids: bool,
}

impl Counted {
    /// How many numbers it stands for.
    pub(super) fn count(&self) -> usize {
        self.dims.iter().product()
    }
}

impl Shaped for Counted {
    fn dims(&self) -> &[usize] {
        &self.dims
    }
    fn in_shape(&self, dims: &[usize]) -> Result<Self> {
        Ok(Counted {
            dims: dims.into(),
            ..self.clone()
        })
    }
    fn duplicate(&self) -> Result<Self> {
        Ok(Counted {
            held: self.held.again(),
            ..self.clone()
        })
    }
    fn is_float(&self) -> bool {
        !self.ids
    }
}

impl Shapes {
    /// A value of these axes, in the pass's own numbers.
    pub fn values(&self, dims: &[usize]) -> Counted {
        let count: usize = dims.iter().product();
        self.in_memory(self.room(count), dims)
    }

    /// A value whose memory is counted elsewhere: the base's weights.
    pub fn outside(&self, dims: &[usize]) -> Counted {
        self.in_memory(self.nothing.clone(), dims)
    }

    pub(super) fn in_memory(&self, held: Held, dims: &[usize]) -> Counted {
        Counted {
            held,
            dims: dims.into(),
            ids: false,
        }
    }

    /// So many numbers of the pass's own kind.
    pub(super) fn room(&self, count: usize) -> Held {
        self.ledger.hold(self.card.unwrap_or(4) * count as u64)
    }

    /// f32 wherever the pass runs.
    pub(super) fn single(&self, count: usize) -> Held {
        self.ledger.hold(4 * count as u64)
    }

    /// Counts `products` multiply-adds.
    pub(super) fn multiplies(&self, products: u64) {
        let mut work = self.work.get();
        work.multiply_adds += products as f64;
        self.work.set(work);
    }

    /// Queries' scores against their keys, in every thread: `of` matrices of one block of queries.
    /// A GPU's stay in its registers.
    pub fn scores(&self, of: u64) -> u64 {
        match self.card {
            Some(_) => 0,
            None => self.threads * of * 4 * (QUERIES * self.keys) as u64,
        }
    }

    /// What attention keeps: a number for each query and head. Decoding on a GPU keeps nothing, but
    /// wants room for the parts of long sequences, `width` values and a weight for each head.
    pub(super) fn row_sums(&self, queries: usize, heads: usize, width: usize) -> Held {
        if self.decodes {
            let parts = Some(self.keys.div_ceil(decode::CHUNK)).filter(|n| *n > 1);
            return self.single(parts.unwrap_or(0) * queries * (width + heads));
        }
        self.single(queries * heads)
    }

    /// The same value's axes, in memory of its own.
    pub(super) fn like(&self, x: &Counted) -> Result<Counted> {
        Ok(self.values(&x.dims))
    }

    /// x with another last axis.
    pub(super) fn with_last(&self, x: &Counted, width: usize) -> Result<Counted> {
        let mut dims = x.dims.to_vec();
        if let Some(last) = dims.last_mut() {
            *last = width;
        }
        Ok(self.values(&dims))
    }

    pub(super) fn attend(&self, q: &Counted, heads: &Heads) -> (Counted, Held) {
        let (queries, (width, _)) = (q.dims[0], heads.widths());
        let out = self.values(&q.dims);
        let sums = self.row_sums(queries, heads.heads, width);
        self.ledger.touch(self.scores(1));
        // scores, then their sum over v
        self.multiplies(2 * width as u64 * self.attended);
        self.widest.set(self.widest.get().max(q.count()));
        (out, sums)
    }
}
