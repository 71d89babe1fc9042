//! [`super::product`] in AVX-512 or AVX2.

use std::arch::x86_64::*;

use candle_core::quantized::GgmlDType;
use rayon::prelude::*;

mod codes;

use codes::{Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, codes256, codes512, layout, scales};

/// Weights in a group, which share a scale (two in Q6_K) and an offset.
const GROUP: usize = 32;
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
    let sums: Vec<f32> = x.chunks_exact(GROUP).map(|b| b.iter().sum()).collect();
    let stride = columns / dtype.block_size() * dtype.type_size();
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

/// The formats that have a fused product.
const FORMATS: [GgmlDType; 8] = {
    use GgmlDType::*;
    [Q4_0, Q4_1, Q5_0, Q5_1, Q4K, Q5K, Q6K, Q8_0]
};

/// A function for each of [`FORMATS`].
macro_rules! all {
    ($run:ident) => {
        [
            $run::<{ Q4_0 }>,
            $run::<{ Q4_1 }>,
            $run::<{ Q5_0 }>,
            $run::<{ Q5_1 }>,
            $run::<{ Q4K }>,
            $run::<{ Q5K }>,
            $run::<{ Q6K }>,
            $run::<{ Q8_0 }>,
        ]
    };
}

fn choose(dtype: GgmlDType) -> Option<Run> {
    let fma = is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
    let run: [Run; 8] = if fma && crate::wide::available() {
        all!(run512)
    } else if fma && is_x86_feature_detected!("avx2") {
        all!(run256)
    } else {
        return None;
    };
    let at = FORMATS.iter().position(|format| *format == dtype)?;
    Some(run[at])
}

/// Defines the functions that multiply rows, for one register width.
macro_rules! width {
    ($run:ident, $rows:ident, $features:literal, $vector:ty, $parts:literal, $zero:ident,
     $set:ident, $load:ident, $fma:ident, $mul:ident, $sum:ident, $codes:ident) => {
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
            let (k, groups) = (x.len() / N, sums.len() / N);
            let (size, inside) = const { layout(F) };
            for (row, y) in data.chunks_exact(stride).zip(y.chunks_exact_mut(N)) {
                let mut all = [$zero(); N];
                let mut offsets = [0f32; N];
                for b in 0..groups / inside {
                    // SAFETY: block b of the row exists.
                    let block = unsafe { row.as_ptr().add(b * size) };
                    // SAFETY: it is one.
                    let scales = unsafe { scales::<F>(block) };
                    for g in 0..inside {
                        let i = b * inside + g;
                        // SAFETY: group g of the block and group i of each row of x exist.
                        unsafe {
                            let codes: [$vector; $parts] = $codes::<F>(block, g);
                            let d = scales.d[g].map(|d| $set(d));
                            for n in 0..N {
                                let x = x.as_ptr().add(n * k + i * GROUP);
                                let mut dot = $mul(codes[0], $load(x));
                                for part in 1..$parts {
                                    let x = $load(x.add(part * GROUP / $parts));
                                    if F == Q6K && part == $parts / 2 {
                                        all[n] = $fma(d[0], dot, all[n]);
                                        dot = $mul(codes[part], x);
                                    } else {
                                        dot = $fma(codes[part], x, dot);
                                    }
                                }
                                all[n] = $fma(d[1], dot, all[n]);
                                offsets[n] += scales.m[g] * *sums.get_unchecked(n * groups + i);
                            }
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
mod tests;
