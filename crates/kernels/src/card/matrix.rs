//! Frozen quantised matrices in a GPU's memory, with product and backward to the input.

use candle_core::{DType, Tensor};
use randori_cuda::{
    Float,
    gpu::{self, Gpu},
    ops::{
        gguf::Gguf,
        matvec, nf4,
        product4::{self, Encoding},
    },
};
use randori_qlora::{Nf4Scales, QuantMatrix};

use super::{linear, memory::maybe};
use crate::{Error, Result, host, rows};

/// A frozen quantised matrix (out, in). Products of many rows dequantise it into memory that is
/// freed afterwards; products of up to 8 rows, in bf16 up to 64, read the stored weights directly.
pub struct GpuMatrix {
    shape: (usize, usize),
    format: String,
    /// The type it dequantises to.
    float: Float,
    bytes: usize,
    data: Data,
}

/// The stored weights.
enum Data {
    Nf4 {
        block: usize,
        /// Two 4-bit codes a byte.
        codes: Tensor,
        /// The codes' values: f32 (16).
        levels: Tensor,
        scales: Scales,
    },
    Gguf {
        dtype: candle_core::quantized::GgmlDType,
        blocks: Tensor,
    },
}

/// The scales of NF4's blocks, plain or quantised themselves.
enum Scales {
    Plain(Tensor),
    Double {
        codes: Tensor,
        scales: Tensor,
        map: Tensor,
        offset: f32,
        block: usize,
    },
}

impl GpuMatrix {
    /// Uploads a matrix, for passes in `float` (f32 or bf16).
    ///
    /// # Errors
    /// Not enough memory.
    pub fn new(gpu: &Gpu, q: &QuantMatrix, float: DType) -> Result<Self> {
        let data = match q {
            QuantMatrix::Nf4(m) => {
                let parts = m.parts();
                Data::Nf4 {
                    block: parts.block,
                    codes: gpu.upload(&parts.codes)?,
                    levels: gpu.upload(&parts.levels)?,
                    scales: Scales::new(gpu, &parts.scales)?,
                }
            }
            QuantMatrix::Gguf(m) => Data::Gguf {
                dtype: m.dtype(),
                blocks: gpu.upload(m.data())?,
            },
        };
        Ok(GpuMatrix {
            shape: q.shape(),
            format: q.format(),
            float: match float {
                DType::BF16 => Float::Bf16,
                _ => Float::F32,
            },
            bytes: q.bytes(),
            data,
        })
    }

    /// The shape (out, in).
    pub fn shape(&self) -> (usize, usize) {
        self.shape
    }

    /// Size in the GPU's memory, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Name of the format, for reports: `nf4`, `q4_1`, ….
    pub fn format(&self) -> String {
        self.format.clone()
    }

    /// The whole matrix in f32 in the machine's memory.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn to_f32(&self) -> Result<Tensor> {
        host(&self.dequantise(Float::F32)?)
    }

    fn dequantise(&self, float: Float) -> Result<Tensor> {
        let gpu = Gpu::open()?;
        let (rows, columns) = self.shape;
        let y = gpu.room(&[rows, columns], dtype(float))?; // written whole
        match &self.data {
            Data::Nf4 { .. } => self.nf4()?.dequantise(gpu, float, 0..rows, gpu::ptr(&y)?)?,
            Data::Gguf { .. } => self
                .gguf()?
                .dequantise(gpu, float, 0..rows, gpu::ptr(&y)?)?,
        }
        Ok(y)
    }

    fn nf4(&self) -> Result<nf4::Nf4> {
        let Data::Nf4 {
            block,
            codes,
            levels,
            scales,
        } = &self.data
        else {
            return Err(Error::rule("not a matrix of 4-bit codes"));
        };
        Ok(nf4::Nf4 {
            rows: self.shape.0,
            columns: self.shape.1,
            block: *block,
            codes: gpu::ptr(codes)?,
            levels: gpu::ptr(levels)?,
            scales: scales.addresses()?,
        })
    }

    fn gguf(&self) -> Result<Gguf> {
        let Data::Gguf { dtype, blocks } = &self.data else {
            return Err(Error::rule("not a matrix of GGUF's blocks"));
        };
        Ok(Gguf {
            dtype: *dtype,
            rows: self.shape.0,
            columns: self.shape.1,
            data: gpu::ptr(blocks)?,
        })
    }

    /// Rows `ids` in that order: (ids, in).
    ///
    /// # Errors
    /// A row out of range; not enough memory.
    pub fn rows(&self, ids: &[u32]) -> Result<Tensor> {
        if let Some(id) = ids.iter().find(|id| **id as usize >= self.shape.0) {
            return Err(Error::rule(format!(
                "row {id} of a matrix of {}",
                self.shape.0
            )));
        }
        let gpu = Gpu::open()?;
        let y = gpu.room(&[ids.len(), self.shape.1], dtype(self.float))?; // written whole
        let at = gpu.upload(ids)?;
        let (at, to) = (gpu::ptr(&at)?, gpu::ptr(&y)?);
        match &self.data {
            Data::Nf4 { .. } => self.nf4()?.rows(gpu, self.float, at, ids.len(), to)?,
            Data::Gguf { .. } => self.gguf()?.rows(gpu, self.float, at, ids.len(), to)?,
        }
        Ok(y)
    }

    /// x·Wᵀ: (n, in) -> (n, out).
    ///
    /// # Errors
    /// Rows of another width; not enough memory.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let ((n, inputs), (outputs, columns)) = (rows(x.dims()), self.shape);
        if inputs != columns {
            return Err(Error::rule(format!(
                "a matrix of {columns} inputs does not take rows of {inputs}"
            )));
        }
        if n <= matvec::MOST && inputs.is_multiple_of(32) {
            let gpu = Gpu::open()?;
            let y = gpu.room(&[n, outputs], x.dtype())?; // written whole
            crate::work::count((n, outputs, inputs));
            let rows = matvec::Operands {
                float: gpu::float(x)?,
                n,
                x: gpu::ptr(x)?,
                y: gpu::ptr(&y)?,
            };
            match &self.data {
                Data::Nf4 { .. } => matvec::nf4(gpu, &self.nf4()?, &rows)?,
                Data::Gguf { .. } => matvec::gguf(gpu, &self.gguf()?, &rows)?,
            }
            return Ok(y);
        }
        match self.by_codes(x, n)? {
            Some(y) => Ok(y),
            None => linear::forward(x, &self.dequantise(gpu::float(x)?)?),
        }
    }

    /// The product with n rows of bf16 from the stored weights, on the tensor cores; `None` if
    /// there is no such kernel for these sizes.
    fn by_codes(&self, x: &Tensor, n: usize) -> Result<Option<Tensor>> {
        let (outputs, inputs) = self.shape;
        let fits = n <= product4::MOST && inputs.is_multiple_of(32) && x.dtype() == DType::BF16;
        if !fits || !gpu::ptr(x)?.0.is_multiple_of(16) {
            return Ok(None);
        }
        let encoding = match self.data {
            Data::Nf4 { .. } => Encoding::Nf4,
            Data::Gguf { .. } => Encoding::Blocks,
        };
        let gpu = Gpu::open()?;
        let y = gpu.room(&[n, outputs], x.dtype())?; // written whole
        // partial sums, each of which is written before it is read
        let parts = match encoding.parts(n, outputs, inputs) {
            0 => None,
            many => Some(gpu.room(&[many], DType::F32)?),
        };
        crate::work::count((n, outputs, inputs));
        let rows = product4::Operands {
            n,
            x: gpu::ptr(x)?,
            y: gpu::ptr(&y)?,
            parts: maybe(parts.as_ref())?,
        };
        match encoding {
            Encoding::Nf4 => product4::nf4(gpu, &self.nf4()?, &rows)?,
            Encoding::Blocks => product4::gguf(gpu, &self.gguf()?, &rows)?,
        }
        Ok(Some(y))
    }

    /// The gradient to the input, dy·W: (n, out) -> (n, in).
    ///
    /// # Errors
    /// Not enough memory.
    pub fn backward(&self, dy: &Tensor) -> Result<Tensor> {
        linear::backward(dy, &self.dequantise(gpu::float(dy)?)?)
    }
}

impl Scales {
    fn new(gpu: &Gpu, scales: &Nf4Scales) -> Result<Scales> {
        Ok(match scales {
            Nf4Scales::Plain(s) => Scales::Plain(gpu.upload(s)?),
            Nf4Scales::Double {
                codes,
                scales,
                offset,
                map,
                block,
            } => Scales::Double {
                codes: gpu.upload(codes)?,
                scales: gpu.upload(scales)?,
                map: gpu.upload(map.as_slice())?,
                offset: *offset,
                block: *block,
            },
        })
    }

    /// The scales' addresses, as a kernel takes them.
    fn addresses(&self) -> Result<nf4::Scales> {
        Ok(match self {
            Scales::Plain(s) => nf4::Scales::Plain(gpu::ptr(s)?),
            Scales::Double {
                codes,
                scales,
                map,
                offset,
                block,
            } => nf4::Scales::Double {
                codes: gpu::ptr(codes)?,
                scales: gpu::ptr(scales)?,
                map: gpu::ptr(map)?,
                offset: *offset,
                block: *block,
            },
        })
    }
}

fn dtype(float: Float) -> DType {
    match float {
        Float::F32 => DType::F32,
        Float::Bf16 => DType::BF16,
    }
}
