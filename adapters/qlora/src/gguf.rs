//! GGUF's block formats, kept in memory as stored in the file. Each decoder writes the floats of
//! one block exactly as ggml does.

use std::ops::Range;

use candle_core::quantized::GgmlDType;
use half::f16;
use randori_formats::gguf;

use crate::{
    Error, Result, fused,
    product::{self, DecodeRows},
};

/// candle's dtype for a block format that products here read; `None` for a format that is only
/// decoded.
pub fn dtype(block: gguf::Block) -> Option<GgmlDType> {
    Some(match block {
        gguf::Block::Q4_0 => GgmlDType::Q4_0,
        gguf::Block::Q4_1 => GgmlDType::Q4_1,
        gguf::Block::Q5_0 => GgmlDType::Q5_0,
        gguf::Block::Q5_1 => GgmlDType::Q5_1,
        gguf::Block::Q8_0 => GgmlDType::Q8_0,
        gguf::Block::Q4K => GgmlDType::Q4K,
        gguf::Block::Q5K => GgmlDType::Q5K,
        gguf::Block::Q6K => GgmlDType::Q6K,
        _ => return None,
    })
}

/// Decodes blocks to f32.
///
/// # Errors
/// Bytes that are not whole blocks.
pub fn decode(block: gguf::Block, bytes: &[u8]) -> Result<Vec<f32>> {
    let Some(dtype) = dtype(block) else {
        return Ok(gguf::decode(block, bytes)?);
    };
    let (rows, columns) = (bytes.len() / block.bytes(), block.values());
    let m = GgufMatrix::new(dtype, rows, columns, bytes, None)?;
    Ok(product::dequantise(&m)?.flatten_all()?.to_vec1()?)
}

/// A matrix (out, in) in one of GGUF's block formats.
pub struct GgufMatrix {
    dtype: GgmlDType,
    rows: usize,
    columns: usize,
    data: Vec<u8>,
}

impl GgufMatrix {
    /// Copies `data`, the blocks of (rows, columns) row after row. `row_order[i]` is the stored row
    /// that becomes row i of the matrix (llama.cpp permutes the rows of q and k).
    ///
    /// # Errors
    /// An unsupported format, rows that are not whole blocks, a length that does not fit, an order
    /// that is no permutation.
    pub fn new(
        dtype: GgmlDType,
        rows: usize,
        columns: usize,
        data: &[u8],
        row_order: Option<&[u32]>,
    ) -> Result<Self> {
        if !is_supported(dtype) {
            return Err(Error::rule(format!(
                "the block format {dtype:?} is not supported; Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4K, Q5K and Q6K are"
            )));
        }
        let block = dtype.block_size();
        if columns == 0 || !columns.is_multiple_of(block) {
            return Err(Error::rule(format!(
                "{dtype:?} wants rows of a multiple of {block} weights, not {columns}"
            )));
        }
        let stride = columns / block * dtype.type_size();
        if rows.checked_mul(stride) != Some(data.len()) {
            return Err(Error::rule(format!(
                "{rows} x {columns} weights in {dtype:?} are {rows} x {stride} bytes, not {}",
                data.len()
            )));
        }
        let data = match row_order {
            None => data.to_vec(),
            Some(order) => permuted(data, stride, rows, order)?,
        };
        Ok(Self {
            dtype,
            rows,
            columns,
            data,
        })
    }

    /// The block format.
    pub fn dtype(&self) -> GgmlDType {
        self.dtype
    }

    /// The blocks, row after row.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    pub(crate) fn fused(&self, x: &[f32]) -> Option<Vec<f32>> {
        fused::product(self.dtype, &self.data, (self.rows, self.columns), x)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.data.len()
    }

    #[inline(always)]
    fn fill_with(&self, rows: Range<usize>, columns: Range<usize>, out: &mut [f32]) {
        match self.dtype {
            GgmlDType::Q4_0 => self.each::<18, 32, Q4_0>(rows, columns, out),
            GgmlDType::Q4_1 => self.each::<20, 32, Q4_1>(rows, columns, out),
            GgmlDType::Q5_0 => self.each::<22, 32, Q5_0>(rows, columns, out),
            GgmlDType::Q5_1 => self.each::<24, 32, Q5_1>(rows, columns, out),
            GgmlDType::Q8_0 => self.each::<34, 32, Q8_0>(rows, columns, out),
            GgmlDType::Q4K => self.each::<144, 256, Q4K>(rows, columns, out),
            GgmlDType::Q5K => self.each::<176, 256, Q5K>(rows, columns, out),
            GgmlDType::Q6K => self.each::<210, 256, Q6K>(rows, columns, out),
            _ => {} // `new` refuses all others
        }
    }

    #[inline(always)]
    fn each<const B: usize, const N: usize, F: Block<B, N>>(
        &self,
        rows: Range<usize>,
        columns: Range<usize>,
        out: &mut [f32],
    ) {
        let per_row = self.columns / N;
        for (row, out) in rows.zip(out.chunks_exact_mut(columns.len())) {
            let first = row * per_row + columns.start / N;
            let (blocks, _) = self.data[first * B..].as_chunks::<B>();
            let (outs, _) = out.as_chunks_mut::<N>();
            for (b, o) in blocks.iter().zip(outs) {
                F::write(b, o);
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn fill_avx2(&self, rows: Range<usize>, columns: Range<usize>, out: &mut [f32]) {
        self.fill_with(rows, columns, out);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq")]
    fn fill_avx512(&self, rows: Range<usize>, columns: Range<usize>, out: &mut [f32]) {
        self.fill_with(rows, columns, out);
    }
}

impl DecodeRows for GgufMatrix {
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    fn grain(&self) -> usize {
        self.dtype.block_size()
    }

    fn fill(&self, rows: Range<usize>, columns: Range<usize>, out: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        if crate::wide::available() {
            // SAFETY: this processor has these features of AVX-512.
            return unsafe { self.fill_avx512(rows, columns, out) };
        } else if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: this processor has AVX2.
            return unsafe { self.fill_avx2(rows, columns, out) };
        }
        self.fill_with(rows, columns, out);
    }
}

fn is_supported(dtype: GgmlDType) -> bool {
    use GgmlDType::*;
    matches!(dtype, Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | Q4K | Q5K | Q6K)
}

/// Permutes rows: row i of the result is row `order[i]` of `data`.
fn permuted(data: &[u8], stride: usize, rows: usize, order: &[u32]) -> Result<Vec<u8>> {
    let mut seen = vec![false; rows];
    let fits = order.len() == rows
        && order.iter().all(|&r| {
            seen.get_mut(r as usize)
                .is_some_and(|s| !std::mem::replace(s, true))
        });
    if !fits {
        return Err(Error::rule(format!(
            "the row order of a matrix of {rows} rows is no permutation of them"
        )));
    }
    Ok(order
        .iter()
        .flat_map(|&r| &data[r as usize * stride..(r as usize + 1) * stride])
        .copied()
        .collect())
}

/// The f16 at `at`, exactly. (The half crate tests for the processor's instructions at every
/// number.)
#[inline(always)]
fn half(bytes: &[u8], at: usize) -> f32 {
    let bits = u32::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    if bits & 0x7c00 == 0x7c00 {
        return f16::from_bits(bits as u16).to_f32(); // infinite or NaN
    }
    // the exponent's bias is 15 instead of 127: times 2^112 corrects it, also for subnormals
    let size = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits(0x7780_0000);
    f32::from_bits(size.to_bits() | (bits & 0x8000) << 16)
}

/// Decoder of a block of B bytes into N floats. A type per format instead of a function pointer: a
/// function behind a pointer is compiled without the caller's vector instructions.
trait Block<const B: usize, const N: usize> {
    fn write(b: &[u8; B], y: &mut [f32; N]);
}

struct Q4_0;
impl Block<18, 32> for Q4_0 {
    #[inline(always)]
    fn write(b: &[u8; 18], y: &mut [f32; 32]) {
        let d = half(b, 0);
        for j in 0..16 {
            y[j] = f32::from((b[2 + j] & 15) as i8 - 8) * d;
            y[j + 16] = f32::from((b[2 + j] >> 4) as i8 - 8) * d;
        }
    }
}

struct Q4_1;
impl Block<20, 32> for Q4_1 {
    #[inline(always)]
    fn write(b: &[u8; 20], y: &mut [f32; 32]) {
        let (d, m) = (half(b, 0), half(b, 2));
        for j in 0..16 {
            y[j] = f32::from(b[4 + j] & 15) * d + m;
            y[j + 16] = f32::from(b[4 + j] >> 4) * d + m;
        }
    }
}

struct Q5_0;
impl Block<22, 32> for Q5_0 {
    #[inline(always)]
    fn write(b: &[u8; 22], y: &mut [f32; 32]) {
        let d = half(b, 0);
        let high = u32::from_le_bytes([b[2], b[3], b[4], b[5]]);
        for j in 0..16 {
            let (h0, h1) = ((high >> j << 4 & 16) as u8, (high >> (j + 12) & 16) as u8);
            y[j] = f32::from((b[6 + j] & 15 | h0) as i8 - 16) * d;
            y[j + 16] = f32::from((b[6 + j] >> 4 | h1) as i8 - 16) * d;
        }
    }
}

struct Q5_1;
impl Block<24, 32> for Q5_1 {
    #[inline(always)]
    fn write(b: &[u8; 24], y: &mut [f32; 32]) {
        let (d, m) = (half(b, 0), half(b, 2));
        let high = u32::from_le_bytes([b[4], b[5], b[6], b[7]]);
        for j in 0..16 {
            let (h0, h1) = ((high >> j << 4 & 16) as u8, (high >> (j + 12) & 16) as u8);
            y[j] = f32::from(b[8 + j] & 15 | h0) * d + m;
            y[j + 16] = f32::from(b[8 + j] >> 4 | h1) * d + m;
        }
    }
}

struct Q8_0;
impl Block<34, 32> for Q8_0 {
    #[inline(always)]
    fn write(b: &[u8; 34], y: &mut [f32; 32]) {
        let d = half(b, 0);
        for j in 0..32 {
            y[j] = f32::from(b[2 + j] as i8) * d;
        }
    }
}

/// Scale and minimum of sub-block `j` (6 bits each, packed in 12 bytes).
#[inline(always)]
pub(crate) fn scale_min(j: usize, q: &[u8]) -> (f32, f32) {
    let (s, m) = if j < 4 {
        (q[j] & 63, q[j + 4] & 63)
    } else {
        (
            q[j + 4] & 15 | q[j - 4] >> 6 << 4,
            q[j + 4] >> 4 | q[j] >> 6 << 4,
        )
    };
    (f32::from(s), f32::from(m))
}

struct Q4K;
impl Block<144, 256> for Q4K {
    #[inline(always)]
    fn write(b: &[u8; 144], y: &mut [f32; 256]) {
        let (d, min) = (half(b, 0), half(b, 2));
        let (scales, q) = (&b[4..16], &b[16..144]);
        for g in 0..4 {
            let ((s1, m1), (s2, m2)) = (scale_min(2 * g, scales), scale_min(2 * g + 1, scales));
            let (d1, m1, d2, m2) = (d * s1, min * m1, d * s2, min * m2);
            for l in 0..32 {
                let byte = q[32 * g + l];
                y[64 * g + l] = d1 * f32::from(byte & 15) - m1;
                y[64 * g + 32 + l] = d2 * f32::from(byte >> 4) - m2;
            }
        }
    }
}

struct Q5K;
impl Block<176, 256> for Q5K {
    #[inline(always)]
    fn write(b: &[u8; 176], y: &mut [f32; 256]) {
        let (d, min) = (half(b, 0), half(b, 2));
        let (scales, high, q) = (&b[4..16], &b[16..48], &b[48..176]);
        for g in 0..4 {
            let ((s1, m1), (s2, m2)) = (scale_min(2 * g, scales), scale_min(2 * g + 1, scales));
            let (d1, m1, d2, m2) = (d * s1, min * m1, d * s2, min * m2);
            for l in 0..32 {
                let (byte, bits) = (q[32 * g + l], high[l] >> (2 * g));
                y[64 * g + l] = d1 * f32::from(byte & 15 | (bits & 1) << 4) - m1;
                y[64 * g + 32 + l] = d2 * f32::from(byte >> 4 | (bits >> 1 & 1) << 4) - m2;
            }
        }
    }
}

struct Q6K;
impl Block<210, 256> for Q6K {
    #[inline(always)]
    fn write(b: &[u8; 210], y: &mut [f32; 256]) {
        let d = half(b, 208);
        for half in 0..2 {
            let (low, high, scales) =
                (&b[64 * half..], &b[128 + 32 * half..], &b[192 + 8 * half..]);
            for l in 0..32 {
                let (a, c, h) = (low[l], low[l + 32], high[l]);
                let codes = [
                    a & 15 | (h & 3) << 4,
                    c & 15 | (h >> 2 & 3) << 4,
                    a >> 4 | (h >> 4 & 3) << 4,
                    c >> 4 | h >> 6 << 4,
                ];
                for (k, code) in codes.into_iter().enumerate() {
                    let scale = f32::from(scales[l / 16 + 2 * k] as i8);
                    y[128 * half + 32 * k + l] = d * scale * f32::from(code as i8 - 32);
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::borrow::Cow;

    use candle_core::{
        Device,
        quantized::{QStorage, QTensor},
    };

    use super::*;

    /// candle reads llama.cpp's bytes; it writes other ones for Q4_K, Q5_K and Q6_K.
    #[test]
    fn what_is_decoded_is_what_candle_reads() {
        use gguf::Block::*;
        // more blocks than are encoded together, with a shorter last group
        let values: Vec<f32> = (0..130 * 256).map(|i| (i as f32 * 0.7).sin()).collect();
        for block in [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4K, Q5K, Q6K] {
            let bytes = gguf::encode(block, &values).unwrap();
            assert_eq!(
                bytes.len() as u64,
                gguf::Kind::Block(block).bytes(values.len())
            );
            let storage = QStorage::from_data(
                Cow::Borrowed(&bytes[..]),
                &Device::Cpu,
                dtype(block).unwrap(),
            );
            let theirs = QTensor::new(storage.unwrap(), values.len()).unwrap();
            let theirs: Vec<f32> = theirs.dequantize(&Device::Cpu).unwrap().to_vec1().unwrap();
            assert_eq!(decode(block, &bytes).unwrap(), theirs, "{block:?}");
            assert!(decode(block, &bytes[1..]).is_err());
        }
    }
}
