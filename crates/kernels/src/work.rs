//! A count of the arithmetic done by this process: every product counts itself, so that a test can
//! compare a step's work with what its trace predicts. Unlike time, work is the same on every
//! machine.

use std::sync::atomic::{AtomicU64, Ordering};

static MULTIPLY_ADDS: AtomicU64 = AtomicU64::new(0);

/// Multiply-adds of all matrix products and of attention in this process so far.
pub fn multiply_adds() -> u64 {
    MULTIPLY_ADDS.load(Ordering::Relaxed)
}

/// Counts a product of (m, k) and (k, n).
pub fn count((m, n, k): (usize, usize, usize)) {
    MULTIPLY_ADDS.fetch_add((m * n * k) as u64, Ordering::Relaxed);
}
