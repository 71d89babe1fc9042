//! What the ops of one pass share, and what an op holds besides its result, on the CPU and on a GPU.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

use randori_cuda::ops::{decode, matvec, product4};
use randori_sdk::seam::RopeSpec;

use super::{
    Learnt, Stored, Work,
    ledger::{Held, Ledger},
};
use crate::{kernels::attention::QUERIES, weights::Holding};

/// One pass.
pub(super) struct Pass<'a> {
    pub(super) ledger: Ledger,
    pub(super) learnt: &'a Learnt,
    /// Weights by name.
    pub(super) stored: &'a BTreeMap<String, Stored>,
    /// (query, key) pairs.
    pub(super) attended: u64,
    /// What has been done so far.
    pub(super) work: Cell<Work>,
    /// Most keys that a query sees.
    pub(super) keys: usize,
    pub(super) threads: u64,
    /// Rotary tables, made once a pass.
    pub(super) tables: RefCell<Vec<(RopeSpec, Held)>>,
    /// Gradients of what is trained, by name; they outlive the pass.
    pub(super) grads: RefCell<BTreeMap<String, Held>>,
    /// On a GPU: bytes of the numbers it computes in.
    pub(super) card: Option<u64>,
    /// On a GPU, over a cache: whether each sequence has a new token or a few.
    pub(super) decodes: bool,
}

impl Pass<'_> {
    /// Numbers of the pass's own kind.
    pub(super) fn values(&self, count: usize) -> Held {
        self.ledger.hold(self.card.unwrap_or(4) * count as u64)
    }

    /// f32 wherever the pass runs.
    pub(super) fn single(&self, count: usize) -> Held {
        self.ledger.hold(4 * count as u64)
    }

    pub(super) fn gradient(&self, name: &str, count: usize) {
        let mut grads = self.grads.borrow_mut();
        if !grads.contains_key(name) {
            grads.insert(name.into(), self.single(count));
        }
    }

    /// Counts `products` multiply-adds.
    pub(super) fn multiplies(&self, products: u64) {
        let mut work = self.work.get();
        work.multiply_adds += products as f64;
        self.work.set(work);
    }

    /// Counts a product of `rows` rows with a weight, and the memory that goes by.
    pub(super) fn goes_over(&self, weight: &str, rows: usize, numbers: usize) {
        self.multiplies((rows * numbers) as u64);
        let (bytes, widened) = match self.stored(weight) {
            Some(stored) => (stored.bytes, stored.widened),
            None => (4 * numbers as u64, false),
        };
        let mut work = self.work.get();
        work.bytes += bytes as f64;
        match self.card {
            // a card writes the dequantised matrix, and reads it again
            Some(float) => {
                let dequantised = match self.stored(weight).map(|s| s.held) {
                    Some(Holding::Nf4 { .. } | Holding::Blocks) => rows > self.coded(),
                    Some(Holding::Dense) | None => false,
                };
                if dequantised {
                    work.bytes += (2 * float) as f64 * numbers as f64;
                }
            }
            None => work.widened += if widened { numbers as f64 } else { 0.0 },
        }
        self.work.set(work);
    }

    /// The base's weight, unless the player has a copy of its own, in f32.
    fn stored(&self, weight: &str) -> Option<&Stored> {
        let own = self.learnt.full.contains(weight);
        self.stored.get(weight).filter(|_| !own)
    }

    /// Most rows whose products on the card read quantised weights as they are.
    fn coded(&self) -> usize {
        if self.card == Some(2) {
            product4::MOST
        } else {
            matvec::MOST
        }
    }

    /// Beside a product of `rows` rows with a weight (out, in): on the CPU, rows of it that lie widened in every thread's
    /// buffer; on a GPU, all of a quantised one dequantised, unless the rows are few
    /// enough to read it as it is: then room for sums, of more than a few.
    pub(super) fn widening(&self, weight: &str, rows: usize, (out, inputs): (usize, usize)) -> u64 {
        let Some(float) = self.card else {
            return match self.stored.get(weight).is_some_and(|s| s.widened) {
                true => self.threads * 4 * (64 * inputs) as u64,
                false => 0,
            };
        };
        let few = rows <= self.coded() && inputs.is_multiple_of(32);
        match self.stored(weight).map(|s| s.held) {
            Some(Holding::Nf4 { .. } | Holding::Blocks) if few && rows <= matvec::MOST => 0,
            Some(Holding::Nf4 { .. }) if few => {
                4 * product4::Stored::Nf4.parts(rows, out, inputs) as u64
            }
            Some(Holding::Blocks) if few => {
                4 * product4::Stored::Blocks.parts(rows, out, inputs) as u64
            }
            Some(Holding::Nf4 { .. } | Holding::Blocks) => float * (out * inputs) as u64,
            Some(Holding::Dense) | None => 0,
        }
    }

    /// The same beside the product with its transpose, which the CPU widens no rows for that last.
    pub(super) fn backward_widening(&self, weight: &str, (out, inputs): (usize, usize)) -> u64 {
        match self.card {
            Some(_) => self.widening(weight, usize::MAX, (out, inputs)),
            None => 0,
        }
    }

    /// DoRA's gains on a GPU: A·Wᵀ, and once the whole of a quantised weight in f32, for its rows' norms.
    pub(super) fn gain(&self, weight: &str, rank: usize, (out, inputs): (usize, usize)) {
        let Some(float) = self.card else { return };
        let dense = self.widening(weight, usize::MAX, (out, inputs));
        let product = float * (rank * out) as u64 + self.widening(weight, rank, (out, inputs));
        self.ledger.touch((4 / float * dense).max(product));
    }

    /// What a norm keeps of its rows: a mean and a deviation, of RMS norm on a GPU the latter alone.
    pub(super) fn row_stats(&self, rows: usize, rms: bool) -> Held {
        let alone = rms && self.card.is_some();
        self.single(if alone { rows } else { 2 * rows })
    }

    /// What attention keeps: a number for each query and head. Decoding on a GPU keeps nothing, but wants room for the
    /// parts of long sequences, `width` values and a weight for each head.
    pub(super) fn row_sums(&self, queries: usize, heads: usize, width: usize) -> Held {
        if self.decodes {
            let parts = Some(self.keys.div_ceil(decode::CHUNK)).filter(|n| *n > 1);
            return self.single(parts.unwrap_or(0) * queries * (width + heads));
        }
        self.single(queries * heads)
    }

    /// Queries' scores against their keys, in every thread: `of` matrices of one block of queries. A GPU's stay in its
    /// registers.
    pub(super) fn scores(&self, of: u64) -> u64 {
        match self.card {
            Some(_) => 0,
            None => self.threads * of * 4 * (QUERIES * self.keys) as u64,
        }
    }
}
