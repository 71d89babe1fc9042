//! Allocations without memory: how many bytes are allocated at a time, and their peak.

use std::{cell::Cell, rc::Rc};

/// A count of allocated bytes. Clones share it.
#[derive(Clone, Default)]
pub struct Ledger(Rc<Counts>);

#[derive(Default)]
struct Counts {
    live: Cell<u64>,
    peak: Cell<u64>,
}

/// An allocation, counted until its last clone is dropped, like a tensor's memory.
#[derive(Clone)]
pub struct Allocation(Rc<Bytes>);

struct Bytes {
    bytes: u64,
    counts: Rc<Counts>,
}

impl Ledger {
    /// Allocates bytes.
    pub fn hold(&self, bytes: u64) -> Allocation {
        let live = self.0.live.get() + bytes;
        self.0.live.set(live);
        self.0.peak.set(self.0.peak.get().max(live));
        let counts = self.0.clone();
        Allocation(Rc::new(Bytes { bytes, counts }))
    }

    /// Allocates bytes and frees them at once: scratch.
    pub fn touch(&self, bytes: u64) {
        drop(self.hold(bytes));
    }

    /// Bytes allocated now.
    pub fn live(&self) -> u64 {
        self.0.live.get()
    }

    /// The most bytes that were allocated at a time.
    pub fn peak(&self) -> u64 {
        self.0.peak.get()
    }
}

impl Allocation {
    /// Its size.
    #[cfg(test)]
    pub fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// Another allocation of the same size.
    pub(super) fn again(&self) -> Allocation {
        Ledger(self.0.counts.clone()).hold(self.0.bytes)
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        self.counts.live.set(self.counts.live.get() - self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::Ledger;

    #[test]
    fn what_is_shared_counts_once_and_until_the_last_holder_goes() {
        let ledger = Ledger::default();
        let a = ledger.hold(3);
        let b = a.clone();
        drop(a);
        ledger.touch(4);
        assert_eq!((ledger.live(), ledger.peak(), b.bytes()), (3, 7, 3));
        drop(b);
        assert_eq!((ledger.live(), ledger.peak()), (0, 7));
    }
}
