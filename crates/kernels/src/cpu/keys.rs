//! Products of one query with many keys, and of its probabilities with many values, as in decoding.
//! Rows are prefetched, since they are read once and seldom lie in a processor's cache. Every
//! instruction set gives the same bits, as in [`super::math`].

use super::math;

/// Partial sums, as in [`math::dot`].
const LANES: usize = 16;
/// How many rows ahead a row is prefetched.
const AHEAD: usize = 12;

/// A query's scores: out\[i\] = factor · q·kᵢ for rows kᵢ `stride` apart, to the bit as
/// [`math::dot`] computes them.
pub fn dots(q: &[f32], k: &[f32], stride: usize, factor: f32, out: &mut [f32]) {
    let d = q.len();
    let factor = f64::from(factor);
    #[cfg(target_arch = "x86_64")]
    if d.is_multiple_of(LANES) && d <= math::RUN && out.len() <= rows(k, stride, d) {
        match math::instructions() {
            // SAFETY: the features are there, and k holds a row of d values for each place of
            // `out`.
            2 => return unsafe { x86::dots512(q, k.as_ptr(), stride, factor, out) },
            // SAFETY: as above.
            1 => return unsafe { x86::dots256(q, k.as_ptr(), stride, factor, out) },
            _ => {}
        }
    }
    for (out, k) in out.iter_mut().zip(k.chunks(stride)) {
        *out = (math::dot(q, &k[..d]) * factor) as f32;
    }
}

/// Number of whole rows of `d` values, `stride` apart, in `k`.
#[cfg(target_arch = "x86_64")]
fn rows(k: &[f32], stride: usize, d: usize) -> usize {
    match k.len().checked_sub(d) {
        Some(room) => room / stride.max(1) + 1,
        None => 0,
    }
}

/// A query's result: out += Σ pᵢ·vᵢ for rows vᵢ `stride` apart, added in order.
pub fn weigh(p: &[f32], v: &[f32], stride: usize, out: &mut [f32]) {
    let wide = out.len() / (4 * LANES) * (4 * LANES);
    for (piece, out) in out[..wide].chunks_exact_mut(4 * LANES).enumerate() {
        run(p, &v[piece * 4 * LANES..], stride, out);
    }
    if wide < out.len() {
        for (p, v) in p.iter().zip(v.chunks(stride)) {
            for (out, v) in out[wide..].iter_mut().zip(&v[wide..]) {
                *out += p * v;
            }
        }
    }
}

math::vectorised! {
    /// [`weigh`] for 64 columns, whose sums stay in registers over all rows.
    fn run(p: &[f32], v: &[f32], stride: usize, out: &mut [f32]) {
        let mut sums = [0f32; 4 * LANES];
        sums.copy_from_slice(out);
        for (p, v) in p.iter().zip(v.chunks(stride)) {
            #[cfg(target_arch = "x86_64")]
            x86::fetch(v.as_ptr().wrapping_add(AHEAD * stride), 4 * LANES);
            let v = &v[..4 * LANES];
            for i in 0..4 * LANES {
                sums[i] += p * v[i];
            }
        }
        out.copy_from_slice(&sums);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{AHEAD, LANES};

    /// Prefetches `count` values from `at` on, which may be any address.
    #[inline(always)]
    pub(super) fn fetch(at: *const f32, count: usize) {
        for line in (0..count).step_by(16) {
            // SAFETY: a prefetch touches nothing; any address will do.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(line).cast()) };
        }
    }

    /// Pairwise sum of eight lanes, in the order of `math::fold`.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn fold(v: __m256) -> f32 {
        let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
    }

    /// [`dots`](super::dots) for AVX-512.
    ///
    /// # Safety
    /// Needs AVX-512; a row of `q.len()` values, whole lanes, for every place of `out`.
    #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2")]
    pub(super) unsafe fn dots512(
        q: &[f32],
        k: *const f32,
        stride: usize,
        factor: f64,
        out: &mut [f32],
    ) {
        let q = q.as_chunks::<LANES>().0;
        for (row, out) in out.iter_mut().enumerate() {
            let k = k.wrapping_add(row * stride);
            fetch(k.wrapping_add(AHEAD * stride), q.len() * LANES);
            let mut sums = _mm512_setzero_ps();
            for (i, q) in q.iter().enumerate() {
                // SAFETY: whole lanes of q, and of a row.
                let (q, k) = unsafe {
                    let k = k.add(i * LANES);
                    (_mm512_loadu_ps(q.as_ptr()), _mm512_loadu_ps(k))
                };
                sums = _mm512_add_ps(sums, _mm512_mul_ps(q, k));
            }
            let halves = _mm256_add_ps(
                _mm512_castps512_ps256(sums),
                _mm512_extractf32x8_ps::<1>(sums),
            );
            *out = (f64::from(fold(halves)) * factor) as f32;
        }
    }

    /// [`dots`](super::dots) for AVX2.
    ///
    /// # Safety
    /// Needs AVX2; otherwise as [`dots512`].
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn dots256(
        q: &[f32],
        k: *const f32,
        stride: usize,
        factor: f64,
        out: &mut [f32],
    ) {
        let q = q.as_chunks::<LANES>().0;
        for (row, out) in out.iter_mut().enumerate() {
            let k = k.wrapping_add(row * stride);
            fetch(k.wrapping_add(AHEAD * stride), q.len() * LANES);
            let mut sums = [_mm256_setzero_ps(); 2];
            for (i, q) in q.iter().enumerate() {
                for (half, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: whole lanes of q, and of a row.
                    let (q, k) = unsafe {
                        let k = k.add(i * LANES + 8 * half);
                        (
                            _mm256_loadu_ps(q.as_ptr().add(8 * half)),
                            _mm256_loadu_ps(k),
                        )
                    };
                    *sum = _mm256_add_ps(*sum, _mm256_mul_ps(q, k));
                }
            }
            *out = (f64::from(fold(_mm256_add_ps(sums[0], sums[1]))) * factor) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_at_once_are_rows_one_by_one() {
        let value = |i: usize| ((i * 7919) % 1009) as f32 / 1009.0 - 0.4;
        for d in [5, 16, 48, 64, 80, 130, 528] {
            let (stride, n) = (d + 7, 9);
            let rows: Vec<f32> = (0..n * stride).map(value).collect();
            let q: Vec<f32> = (0..d).map(|i| value(i + 3)).collect();
            let (mut scores, mut sum) = (vec![0f32; n], vec![0.5f32; d]);
            dots(&q, &rows, stride, 0.3, &mut scores);
            let mut wanted = sum.clone();
            for (i, row) in rows.chunks(stride).enumerate() {
                let want = (math::dot(&q, &row[..d]) * f64::from(0.3f32)) as f32;
                assert_eq!(scores[i], want, "{d}");
                math::add_scaled(&mut wanted, value(i), &row[..d]);
            }
            let p: Vec<f32> = (0..n).map(value).collect();
            weigh(&p, &rows, stride, &mut sum);
            assert_eq!(sum, wanted, "{d}");
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn narrow_registers_give_the_same_bits() {
        if math::instructions() == 0 {
            eprintln!("skipped: no AVX2 here");
            return;
        }
        let value = |i: usize| ((i * 7919) % 1009) as f32 / 1009.0 - 0.4;
        let (d, stride, n) = (96, 100, 7);
        let k: Vec<f32> = (0..n * stride).map(value).collect();
        let q: Vec<f32> = (0..d).map(|i| value(i + 5)).collect();
        let (mut wide, mut narrow) = (vec![0f32; n], vec![0f32; n]);
        dots(&q, &k, stride, 0.7, &mut wide);
        // SAFETY: AVX2 was found; n rows of d values.
        unsafe { x86::dots256(&q, k.as_ptr(), stride, f64::from(0.7f32), &mut narrow) };
        assert_eq!(wide, narrow);
    }
}
