//! The machine that shapes stand for, and what its kernels have counted.

use std::cell::Cell;

use super::{
    ledger::{Allocation, Ledger},
    work::Work,
};

/// Kernels that compute nothing and count what they would take.
pub struct Shapes {
    /// The memory of tensors and scratch.
    pub ledger: Ledger,
    /// The work counted so far.
    pub work: Cell<Work>,
    /// Most keys that a query sees.
    pub keys: usize,
    /// Pairs of query and key.
    pub attended: u64,
    /// Whether attention over a cache is decoding, with a few new tokens a sequence (on a GPU).
    pub decodes: bool,
    /// Whether the pass has dropout on the inputs of updates.
    pub drops: bool,
    /// Values of the largest queries of a call of attention so far.
    pub widest: Cell<usize>,
    pub(super) threads: u64,
    /// On a GPU: bytes of a value of the pass's dtype.
    pub(super) card: Option<u64>,
    /// The memory of tensors that are counted elsewhere.
    pub(super) nothing: Allocation,
}

impl Shapes {
    /// The kernels of a processor with so many threads or, if `card` is the bytes of a value, of a
    /// GPU.
    pub fn new(threads: usize, card: Option<u64>) -> Self {
        let ledger = Ledger::default();
        Shapes {
            nothing: ledger.hold(0),
            ledger,
            work: Cell::default(),
            keys: 0,
            attended: 0,
            decodes: false,
            drops: false,
            widest: Cell::default(),
            threads: threads as u64,
            card,
        }
    }
}
