//! Weights without values: how they are stored, and what a product with one takes.

use randori_cuda::ops::{matvec, product4};

use super::machine::Shapes;

/// How a weight is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holding {
    /// f32, bf16 or f16.
    Dense,
    /// 4-bit codes.
    Nf4 {
        /// Whether their scales are quantised too (double quantisation).
        double: bool,
    },
    /// GGUF's blocks, as stored in the file.
    Blocks,
}

/// A weight of the base in memory.
#[derive(Debug, Clone, Copy)]
pub struct BaseWeight {
    /// Size in bytes.
    pub bytes: u64,
    /// Whether the processor's products widen or dequantise it, a few rows at a time.
    pub widened: bool,
    /// How it is held.
    pub held: Holding,
}

/// A weight (out, in) without values.
#[derive(Debug, Clone, Copy)]
pub struct Matrix {
    /// The shape (out, in).
    pub shape: (usize, usize),
    /// The base's weight, if the base has it.
    pub stored: Option<BaseWeight>,
    /// Whether the player has its own copy, in f32.
    pub own: bool,
}

impl Matrix {
    /// The base's weight, unless the player has its own copy.
    fn stored(&self) -> Option<&BaseWeight> {
        self.stored.as_ref().filter(|_| !self.own)
    }

    /// Number of weights.
    fn count(&self) -> usize {
        self.shape.0 * self.shape.1
    }
}

impl Shapes {
    /// Counts the multiply-adds and memory traffic of a product of `rows` rows with a weight.
    pub fn count_product(&self, w: &Matrix, rows: usize) {
        let count = w.count();
        self.count_multiply_adds((rows * count) as u64);
        let (bytes, widened) = match w.stored() {
            Some(stored) => (stored.bytes, stored.widened),
            None => (4 * count as u64, false),
        };
        let mut work = self.work.get();
        work.bytes += bytes as f64;
        match self.card {
            // a card writes the dequantised matrix and reads it again
            Some(float) => {
                let dequantised = match w.stored().map(|s| s.held) {
                    Some(Holding::Nf4 { .. } | Holding::Blocks) => rows > self.most_direct_rows(),
                    Some(Holding::Dense) | None => false,
                };
                if dequantised {
                    work.bytes += (2 * float) as f64 * count as f64;
                }
            }
            None => work.widened += if widened { count as f64 } else { 0.0 },
        }
        self.work.set(work);
    }

    /// Most rows whose products on the card read quantised weights directly.
    fn most_direct_rows(&self) -> usize {
        if self.card == Some(2) {
            product4::MOST
        } else {
            matvec::MOST
        }
    }

    /// Bytes of scratch of a product of `rows` rows with a weight. On the processor: widened rows
    /// of it in each thread's buffer. On a GPU: a quantised matrix dequantised or, if the rows are
    /// few enough to read it directly, partial sums.
    pub(super) fn product_scratch(&self, w: &Matrix, rows: usize) -> u64 {
        let (out, inputs) = w.shape;
        let Some(float) = self.card else {
            return match w.stored.is_some_and(|s| s.widened) {
                true => self.threads * 4 * (64 * inputs) as u64,
                false => 0,
            };
        };
        let few = rows <= self.most_direct_rows() && inputs.is_multiple_of(32);
        match w.stored().map(|s| s.held) {
            Some(Holding::Nf4 { .. } | Holding::Blocks) if few && rows <= matvec::MOST => 0,
            Some(Holding::Nf4 { .. }) if few => {
                4 * product4::Encoding::Nf4.parts(rows, out, inputs) as u64
            }
            Some(Holding::Blocks) if few => {
                4 * product4::Encoding::Blocks.parts(rows, out, inputs) as u64
            }
            Some(Holding::Nf4 { .. } | Holding::Blocks) => float * w.count() as u64,
            Some(Holding::Dense) | None => 0,
        }
    }

    /// Bytes of scratch of the backward pass of a product; the processor's few are not counted.
    pub(super) fn backward_scratch(&self, w: &Matrix) -> u64 {
        match self.card {
            Some(_) => self.product_scratch(w, usize::MAX),
            None => 0,
        }
    }

    /// Counts the scratch of computing DoRA's factors of a projection on a GPU: A·Wᵀ, and once a
    /// quantised weight in f32, for its rows' norms.
    pub fn touch_gain(&self, w: &Matrix, rank: usize) {
        let Some(float) = self.card else { return };
        let dense = self.product_scratch(w, usize::MAX);
        let product = float * (rank * w.shape.0) as u64 + self.product_scratch(w, rank);
        self.ledger.touch((4 / float * dense).max(product));
    }
}
