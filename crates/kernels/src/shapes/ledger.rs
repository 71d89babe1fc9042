//! Bytes that live at a time, and the most there ever were: allocations without memory.

use std::{cell::Cell, rc::Rc};

/// Counts what is held.
#[derive(Clone, Default)]
pub struct Ledger(Rc<Counts>);

#[derive(Default)]
struct Counts {
    live: Cell<u64>,
    peak: Cell<u64>,
}

/// An allocation: it counts as long as somebody holds it, as a tensor's memory does.
#[derive(Clone)]
pub struct Held(Rc<Allocation>);

struct Allocation {
    bytes: u64,
    counts: Rc<Counts>,
}

impl Ledger {
    /// An allocation of so many bytes.
    pub fn hold(&self, bytes: u64) -> Held {
        let live = self.0.live.get() + bytes;
        self.0.live.set(live);
        self.0.peak.set(self.0.peak.get().max(live));
        let counts = self.0.clone();
        Held(Rc::new(Allocation { bytes, counts }))
    }

    /// Something that is gone at once.
    pub fn touch(&self, bytes: u64) {
        drop(self.hold(bytes));
    }

    /// Bytes that live now.
    pub fn live(&self) -> u64 {
        self.0.live.get()
    }

    /// The most there ever were.
    pub fn peak(&self) -> u64 {
        self.0.peak.get()
    }
}

impl Held {
    /// Bytes of it.
    #[cfg(test)]
    pub fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// As much again.
    pub(super) fn again(&self) -> Held {
        Ledger(self.0.counts.clone()).hold(self.0.bytes)
    }
}

impl Drop for Allocation {
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
