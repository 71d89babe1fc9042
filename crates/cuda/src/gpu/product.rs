//! Matrix products by cuBLAS: factors in bf16 or f32, sums in f32, results in bf16 or f32.

use std::ffi::c_void;

use candle_core::cuda_backend::cudarc::cublas::{result, sys};

use super::Gpu;
use crate::{Error, Float, Ptr, Result};

/// A row-major matrix at an address, or its transpose.
#[derive(Debug, Clone, Copy)]
pub struct Matrix {
    /// Address of the first value.
    pub at: Ptr,
    /// Type of its values.
    pub float: Float,
    /// Values from one stored row to the next.
    pub stride: usize,
    /// Whether it is transposed in the product.
    pub transposed: bool,
}

impl Matrix {
    /// The stored matrix, with rows `stride` values apart.
    pub fn rows(at: Ptr, float: Float, stride: usize) -> Matrix {
        Matrix {
            at,
            float,
            stride,
            transposed: false,
        }
    }

    /// The transpose.
    pub fn t(self) -> Matrix {
        Matrix {
            transposed: !self.transposed,
            ..self
        }
    }
}

/// c = alpha · a b + beta · c, with a (m, k), b (k, n), c (m, n).
#[derive(Debug, Clone, Copy)]
pub struct Product {
    /// Rows of c.
    pub m: usize,
    /// Columns of c.
    pub n: usize,
    /// Columns of a and rows of b.
    pub k: usize,
    /// (m, k)
    pub a: Matrix,
    /// (k, n)
    pub b: Matrix,
    /// (m, n), not transposed.
    pub c: Matrix,
    /// Factor on the product.
    pub alpha: f32,
    /// Factor on c's old values; with 0 they may be anything.
    pub beta: f32,
}

impl Gpu {
    /// Queues a product. f32 factors are multiplied in full precision (no TF32), since f32 serves
    /// to check bf16.
    ///
    /// # Errors
    /// Factors of different types, a size over 2^31 - 1, an error of cuBLAS.
    pub fn multiply(&self, p: &Product) -> Result<()> {
        if p.m == 0 || p.n == 0 {
            return Ok(());
        }
        if p.a.float != p.b.float {
            return Err(Error::rule(format!(
                "a product of {:?} and {:?}",
                p.a.float, p.b.float
            )));
        }
        let int = |n: usize| {
            i32::try_from(n).map_err(|_| Error::rule(format!("cuBLAS cannot count to {n}")))
        };
        let op = |m: &Matrix| match m.transposed {
            true => sys::cublasOperation_t::CUBLAS_OP_T,
            false => sys::cublasOperation_t::CUBLAS_OP_N,
        };
        let kind = |f: Float| match f {
            Float::F32 => sys::cudaDataType::CUDA_R_32F,
            Float::Bf16 => sys::cudaDataType::CUDA_R_16BF,
        };
        let stream = self.device.cuda_stream();
        stream.context().bind_to_thread().map_err(super::driver)?;
        let blas = self.device.cublas_handle();
        // cuBLAS is column-major: c = a b in row-major order is cᵀ = bᵀ aᵀ in column-major order,
        // the same memory with the factors swapped.
        // SAFETY: addresses are of live tensors of these shapes, as the ops that call this say.
        unsafe {
            result::gemm_ex(
                *blas.handle(),
                op(&p.b),
                op(&p.a),
                int(p.n)?,
                int(p.m)?,
                int(p.k)?,
                (&raw const p.alpha).cast::<c_void>(),
                p.b.at.0 as *const c_void,
                kind(p.b.float),
                int(p.b.stride)?,
                p.a.at.0 as *const c_void,
                kind(p.a.float),
                int(p.a.stride)?,
                (&raw const p.beta).cast::<c_void>(),
                p.c.at.0 as *mut c_void,
                kind(p.c.float),
                int(p.c.stride)?,
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .map_err(|e| {
            Error::rule(format!(
                "cuBLAS refused a product of ({}, {}, {}): {e}",
                p.m, p.n, p.k
            ))
        })
    }
}
