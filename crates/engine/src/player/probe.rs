//! A probe in a pass: it keeps some of the rows that each projection multiplies.

use std::{cell::RefCell, collections::BTreeMap};

use candle_core::{Tensor, TensorId};
use randori_kernels::{OnCandle, Result};

/// By projection (`model.layers.0.mlp.up_proj`): some of the rows that it multiplied, (rows, in) in
/// f32.
pub type Inputs = BTreeMap<String, Tensor>;

/// Keeps rows of what the projections of a pass multiply.
pub(crate) struct Probe {
    rows: usize,
    seen: RefCell<Inputs>,
    /// q, k and v multiply the same value: its rows are kept once.
    last: RefCell<Option<(TensorId, Tensor)>>,
}

impl Probe {
    /// Keeps at most so many rows of each projection.
    pub(crate) fn new(rows: usize) -> Self {
        Probe {
            rows,
            seen: RefCell::default(),
            last: RefCell::default(),
        }
    }

    /// What it has seen so far.
    pub(crate) fn take(&self) -> Inputs {
        self.seen.take()
    }

    /// `x` (n, in) is what this projection multiplies.
    pub(crate) fn see<K: OnCandle>(&self, kernels: &K, projection: &str, x: &Tensor) -> Result<()> {
        let mut last = self.last.borrow_mut();
        let kept = match &*last {
            Some((id, kept)) if *id == x.id() => kept.clone(),
            _ => kernels.gather(x, &spread(x.dims()[0], self.rows).into())?,
        };
        *last = Some((x.id(), kept.clone()));
        self.seen.borrow_mut().insert(projection.into(), kept);
        Ok(())
    }
}

/// At most `wanted` of `n` rows, evenly spread.
pub(crate) fn spread(n: usize, wanted: usize) -> Vec<u32> {
    let count = wanted.min(n);
    (0..count).map(|i| (i * n / count) as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn rows_are_spread_evenly() {
        assert_eq!(spread(10, 4), [0, 2, 5, 7]);
        assert_eq!(spread(3, 8), [0, 1, 2]);
        assert!(spread(0, 8).is_empty());
    }
}
