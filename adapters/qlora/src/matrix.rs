//! The quantised matrix type that the engine uses, of either kind.

use candle_core::{Tensor, quantized::QTensor};

use crate::{GgufMatrix, Nf4Matrix, Result, product};

/// A frozen quantised matrix (out, in).
pub enum QuantMatrix {
    /// NormalFloat, 4 bits per weight and a scale for each 64 (QLoRA, arXiv 2305.14314).
    Nf4(Nf4Matrix),
    /// A block format of GGUF, as stored in the file.
    Gguf(GgufMatrix),
}

impl QuantMatrix {
    /// Quantises a matrix (out, in) to NF4; with `double`, its scales to 8 bits too.
    ///
    /// # Errors
    /// A tensor without exactly two axes, or a value that is not finite.
    pub fn nf4(w: &Tensor, double: bool) -> Result<Self> {
        Nf4Matrix::quantise(w, double).map(QuantMatrix::Nf4)
    }

    /// Takes over a GGUF tensor (out, in) as stored. `row_order[i]` is the stored row that becomes
    /// row i of the matrix.
    ///
    /// # Errors
    /// An unsupported block format, a tensor without exactly two axes, rows that are not whole
    /// blocks, an order that is no permutation.
    pub fn gguf(q: QTensor, row_order: Option<Vec<u32>>) -> Result<Self> {
        let (outputs, inputs) = q.shape().dims2()?;
        let data = q.data()?;
        GgufMatrix::new(q.dtype(), outputs, inputs, &data, row_order.as_deref())
            .map(QuantMatrix::Gguf)
    }

    /// The shape (out, in).
    pub fn shape(&self) -> (usize, usize) {
        self.source().shape()
    }

    /// Size in memory, in bytes.
    pub fn bytes(&self) -> usize {
        match self {
            QuantMatrix::Nf4(m) => m.bytes(),
            QuantMatrix::Gguf(m) => m.bytes(),
        }
    }

    /// Name of the format, for reports: `nf4`, `q4_1`, ….
    pub fn format(&self) -> String {
        match self {
            QuantMatrix::Nf4(m) => m.format().into(),
            QuantMatrix::Gguf(m) => format!("{:?}", m.dtype()).to_lowercase(),
        }
    }

    /// The whole matrix in f32: (out, in).
    ///
    /// # Errors
    /// candle fails.
    pub fn dequantise(&self) -> Result<Tensor> {
        product::dequantise(self.source())
    }

    /// Rows `ids` in f32, in that order: (ids, in).
    ///
    /// # Errors
    /// A row out of range.
    pub fn rows(&self, ids: &[u32]) -> Result<Tensor> {
        product::rows(self.source(), ids)
    }

    /// x·Wᵀ for at most four rows of x, (n, in) as a slice: (n, out); `None` if this format or
    /// machine has no product that is faster than dequantising.
    pub fn fused(&self, x: &[f32]) -> Option<Vec<f32>> {
        match self {
            QuantMatrix::Nf4(_) => None,
            QuantMatrix::Gguf(m) => m.fused(x),
        }
    }

    /// Writes these rows in f32, one after another, for products that dequantise a block of rows at
    /// a time.
    ///
    /// # Panics
    /// Rows out of range, or an `out` of another length.
    pub fn fill(&self, rows: std::ops::Range<usize>, out: &mut [f32]) {
        let (outputs, inputs) = self.shape();
        assert!(
            rows.end <= outputs && out.len() == rows.len() * inputs,
            "rows {rows:?} of {outputs} x {inputs} do not fill {} places",
            out.len()
        );
        self.source().fill(rows, 0..inputs, out);
    }

    /// x·Wᵀ: (n, in) f32 -> (n, out) f32.
    ///
    /// # Errors
    /// Another shape or dtype.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        product::forward(self.source(), x)
    }

    /// The gradient to the input, dy·W: (n, out) f32 -> (n, in) f32.
    ///
    /// # Errors
    /// Another shape or dtype.
    pub fn backward(&self, dy: &Tensor) -> Result<Tensor> {
        product::backward(self.source(), dy)
    }

    fn source(&self) -> &dyn product::DecodeRows {
        match self {
            QuantMatrix::Nf4(m) => m,
            QuantMatrix::Gguf(m) => m,
        }
    }
}
