//! Fused products of one to four rows of x with a block-quantised matrix, for decoding one or two
//! sequences: codes are dequantised in registers and multiplied there, without a buffer.
//!
//! w = d·q + m in a block of 32, so w·x = d·Σ q·x + m·Σ x; the latter sum is the same for every row
//! of W. Implemented with x86 intrinsics for AVX-512 and for AVX2 with FMA and F16C; other machines
//! have no fused product.

use candle_core::quantized::GgmlDType;

/// Maximum number of rows of x; with more, dequantising to a buffer is faster.
const ROWS: usize = 4;

/// x·Wᵀ for x (n, columns) with n at most [`ROWS`]: (n, rows). `None` for formats without a fused
/// product, and on machines without the instructions.
pub(crate) fn product(
    dtype: GgmlDType,
    data: &[u8],
    shape: (usize, usize),
    x: &[f32],
) -> Option<Vec<f32>> {
    let known = matches!(dtype, GgmlDType::Q4_0 | GgmlDType::Q4_1 | GgmlDType::Q8_0);
    let n = x.len().checked_div(shape.1)?;
    if !known || n == 0 || n > ROWS {
        return None;
    }
    #[cfg(target_arch = "x86_64")]
    return x86::product(dtype, data, shape, x);
    #[cfg(not(target_arch = "x86_64"))]
    return None;
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use candle_core::quantized::GgmlDType;
    use rayon::prelude::*;

    /// Weights in a block.
    const BLOCK: usize = 32;
    /// Minimum number of multiply-adds per parallel task.
    const TASK: usize = 1 << 17;

    type Run = unsafe fn(&[u8], usize, &[f32], &[f32], &mut [f32]);

    pub(super) fn product(
        dtype: GgmlDType,
        data: &[u8],
        (rows, columns): (usize, usize),
        x: &[f32],
    ) -> Option<Vec<f32>> {
        let run = choose(dtype)?;
        let n = x.len() / columns;
        let sums: Vec<f32> = x.chunks_exact(BLOCK).map(|b| b.iter().sum()).collect();
        let stride = columns / BLOCK * dtype.type_size();
        let mut y = vec![0f32; rows * n]; // by row of W
        let per_task = (TASK / columns.max(1)).max(4);
        let task = |(y, data): (&mut [f32], &[u8])| {
            // SAFETY: `choose` detected the features on this machine; a row of x has as many blocks
            // as one of W.
            unsafe { run(data, stride, x, &sums, y) }
        };
        if rows <= per_task {
            task((&mut y, data));
        } else {
            y.par_chunks_mut(per_task * n)
                .zip(data.par_chunks(per_task * stride))
                .for_each(task);
        }
        let at = |i: usize| y[i % rows * n + i / rows];
        Some(match n {
            1 => y,
            _ => (0..n * rows).map(at).collect(),
        })
    }

    fn choose(dtype: GgmlDType) -> Option<Run> {
        let fma = is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        let run: [Run; 3] = if fma && crate::wide::available() {
            [run512::<0>, run512::<1>, run512::<8>]
        } else if fma && is_x86_feature_detected!("avx2") {
            [run256::<0>, run256::<1>, run256::<8>]
        } else {
            return None;
        };
        Some(match dtype {
            GgmlDType::Q4_0 => run[0],
            GgmlDType::Q4_1 => run[1],
            _ => run[2],
        })
    }

    /// Bytes of a block, and the offset of its codes, by the format's number: 0 for Q4_0, 1 for
    /// Q4_1, 8 for Q8_0.
    const fn layout(format: u8) -> (usize, usize) {
        match format {
            0 => (18, 2),
            1 => (20, 4),
            _ => (34, 2),
        }
    }

    /// The f16 at `at` as f32.
    ///
    /// # Safety
    /// `at` must point to two readable bytes; needs F16C.
    #[inline(always)]
    unsafe fn half(at: *const u8) -> f32 {
        // SAFETY: the caller's contract.
        unsafe {
            let bits = at.cast::<u16>().read_unaligned();
            _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits))))
        }
    }

    /// Defines the functions that multiply rows, for one register width.
    macro_rules! width {
        ($run:ident, $rows:ident, $features:literal, $vector:ty, $parts:literal, $zero:ident,
         $set:ident, $load:ident, $fma:ident, $mul:ident, $sum:expr, $codes:expr) => {
            /// # Safety
            /// The machine must have the features; `data` must hold whole rows of `stride` bytes; x
            /// and the sums must have as many blocks per row; y must have one element for each row
            /// of W and of x.
            #[target_feature(enable = $features)]
            unsafe fn $run<const F: u8>(
                data: &[u8],
                stride: usize,
                x: &[f32],
                sums: &[f32],
                y: &mut [f32],
            ) {
                let n = y.len() * stride / data.len().max(1);
                // SAFETY: the caller's contract.
                unsafe {
                    match n {
                        1 => $rows::<F, 1>(data, stride, x, sums, y),
                        2 => $rows::<F, 2>(data, stride, x, sums, y),
                        3 => $rows::<F, 3>(data, stride, x, sums, y),
                        _ => $rows::<F, 4>(data, stride, x, sums, y),
                    }
                }
            }

            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn $rows<const F: u8, const N: usize>(
                data: &[u8],
                stride: usize,
                x: &[f32],
                sums: &[f32],
                y: &mut [f32],
            ) {
                let (k, blocks) = (x.len() / N, sums.len() / N);
                let (size, first) = const { layout(F) };
                for (row, y) in data.chunks_exact(stride).zip(y.chunks_exact_mut(N)) {
                    let mut all = [$zero(); N];
                    let mut offsets = [0f32; N];
                    for i in 0..blocks {
                        // SAFETY: block i of the row and of each row of x exists.
                        unsafe {
                            let block = row.as_ptr().add(i * size);
                            let d = half(block);
                            let m = match F {
                                0 => -8.0 * d,
                                1 => half(block.add(2)),
                                _ => 0.0,
                            };
                            let codes: [$vector; $parts] = $codes(block.add(first), F == 8);
                            let d = $set(d);
                            for n in 0..N {
                                let x = x.as_ptr().add(n * k + i * BLOCK);
                                let mut dot = $mul(codes[0], $load(x));
                                for part in 1..$parts {
                                    let x = $load(x.add(part * BLOCK / $parts));
                                    dot = $fma(codes[part], x, dot);
                                }
                                all[n] = $fma(d, dot, all[n]);
                                offsets[n] += m * *sums.get_unchecked(n * blocks + i);
                            }
                        }
                    }
                    for n in 0..N {
                        y[n] = $sum(all[n]) + offsets[n];
                    }
                }
            }
        };
    }

    width!(
        run512,
        rows512,
        "avx512f,avx512vl,avx512bw,avx512dq,fma,f16c",
        __m512,
        2,
        _mm512_setzero_ps,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_fmadd_ps,
        _mm512_mul_ps,
        _mm512_reduce_add_ps,
        codes512
    );
    width!(
        run256,
        rows256,
        "avx2,fma,f16c",
        __m256,
        4,
        _mm256_setzero_ps,
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_fmadd_ps,
        _mm256_mul_ps,
        sum256,
        codes256
    );

    /// A block's 32 codes as floats: nibbles (the low ones first), or signed bytes.
    ///
    /// # Safety
    /// `at` must point to 16 readable bytes, or 32 if `signed`; needs AVX-512.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq")]
    unsafe fn codes512(at: *const u8, signed: bool) -> [__m512; 2] {
        // SAFETY: the caller's contract.
        unsafe {
            if signed {
                let part = |i: usize| _mm512_cvtepi8_epi32(_mm_loadu_si128(at.add(16 * i).cast()));
                return [_mm512_cvtepi32_ps(part(0)), _mm512_cvtepi32_ps(part(1))];
            }
            let bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(at.cast()));
            let low = _mm512_and_si512(bytes, _mm512_set1_epi32(15));
            let high = _mm512_srli_epi32::<4>(bytes);
            [_mm512_cvtepi32_ps(low), _mm512_cvtepi32_ps(high)]
        }
    }

    /// [`codes512`] for AVX2.
    ///
    /// # Safety
    /// `at` must point to 16 readable bytes, or 32 if `signed`; needs AVX2.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn codes256(at: *const u8, signed: bool) -> [__m256; 4] {
        // SAFETY: the caller's contract.
        unsafe {
            let eight = |i: usize| _mm_loadl_epi64(at.add(8 * i).cast());
            if signed {
                let part = |i: usize| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight(i)));
                return [part(0), part(1), part(2), part(3)];
            }
            let bytes = [
                _mm256_cvtepu8_epi32(eight(0)),
                _mm256_cvtepu8_epi32(eight(1)),
            ];
            let low = |v| _mm256_cvtepi32_ps(_mm256_and_si256(v, _mm256_set1_epi32(15)));
            let high = |v| _mm256_cvtepi32_ps(_mm256_srli_epi32::<4>(v));
            [low(bytes[0]), low(bytes[1]), high(bytes[0]), high(bytes[1])]
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn sum256(v: __m256) -> f32 {
        let mut lanes = [0f32; 8];
        // SAFETY: `lanes` has eight elements.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), v) };
        let [a, b, c, d, e, f, g, h] = lanes;
        ((a + e) + (b + f)) + ((c + g) + (d + h))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn both_widths_equal_f64_sums_over_the_dequantised_rows() {
            use candle_core::{Device, Tensor, quantized::QTensor};
            if choose(GgmlDType::Q4_0).is_none() {
                eprintln!("skipped: no AVX2 here");
                return;
            }
            let value = |i: usize, m: usize| ((i * 7919 + m) % 1009) as f32 / 1009.0 - 0.4;
            let (rows, k) = (37usize, 96usize);
            let w: Vec<f32> = (0..rows * k).map(|i| value(i, 11)).collect();
            let w = Tensor::from_vec(w, (rows, k), &Device::Cpu).unwrap();
            for (dtype, narrow) in [
                (GgmlDType::Q4_0, run256::<0> as Run),
                (GgmlDType::Q4_1, run256::<1>),
                (GgmlDType::Q8_0, run256::<8>),
            ] {
                let q = QTensor::quantize(&w, dtype).unwrap();
                let data = q.data().unwrap();
                let plain: Vec<f32> = q
                    .dequantize(&Device::Cpu)
                    .unwrap()
                    .flatten_all()
                    .unwrap()
                    .to_vec1()
                    .unwrap();
                for n in 1..=4usize {
                    let x: Vec<f32> = (0..n * k).map(|i| value(i, 3)).collect();
                    let got = product(dtype, &data, (rows, k), &x).unwrap();
                    let sums: Vec<f32> = x.chunks_exact(BLOCK).map(|b| b.iter().sum()).collect();
                    let mut by_row = vec![0f32; rows * n];
                    // SAFETY: AVX-512 implies AVX2; shapes are as in `product`.
                    unsafe { narrow(&data, data.len() / rows, &x, &sums, &mut by_row) };
                    for i in 0..n {
                        for r in 0..rows {
                            let want: f64 = (0..k)
                                .map(|c| f64::from(x[i * k + c]) * f64::from(plain[r * k + c]))
                                .sum();
                            for got in [got[i * rows + r], by_row[r * n + i]] {
                                assert!(
                                    (f64::from(got) - want).abs() < 2e-5,
                                    "{dtype:?} {n}: {got} for {want}"
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}
