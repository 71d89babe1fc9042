//! Look-up of 4-bit codes in vector registers: AVX-512's permutation holds all sixteen levels,
//! AVX2's eight, and two of them are blended.

/// Whether this machine has the features of AVX-512 that we compile for.
pub(crate) fn available() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512vl")
        && std::arch::is_x86_feature_detected!("avx512bw")
        && std::arch::is_x86_feature_detected!("avx512dq");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// out = levels\[code\] · scale for every code, two per byte, the high one first. Processes whole
/// groups of sixteen, or of eight with AVX2, and returns the number of codes done (0 on machines
/// with neither).
pub(crate) fn look_up(codes: &[u8], levels: &[f32; 16], scale: f32, out: &mut [f32]) -> usize {
    #[cfg(target_arch = "x86_64")]
    if available() {
        let (codes, out) = (codes.as_chunks::<8>().0, out.as_chunks_mut::<16>().0);
        // SAFETY: the machine has AVX-512.
        unsafe { x86::look_up(codes, levels, scale, out) };
        return 16 * codes.len().min(out.len());
    } else if std::arch::is_x86_feature_detected!("avx2") {
        let (codes, out) = (codes.as_chunks::<4>().0, out.as_chunks_mut::<8>().0);
        // SAFETY: the machine has AVX2.
        unsafe { x86::look_up_in_halves(codes, levels, scale, out) };
        return 8 * codes.len().min(out.len());
    }
    let _ = (codes, levels, scale, out);
    0
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq")]
    pub(super) fn look_up(
        codes: &[[u8; 8]],
        levels: &[f32; 16],
        scale: f32,
        out: &mut [[f32; 16]],
    ) {
        // SAFETY: the array has sixteen elements.
        let levels = unsafe { _mm512_loadu_ps(levels.as_ptr()) };
        let scale = _mm512_set1_ps(scale);
        for (codes, out) in codes.iter().zip(out) {
            // spread each byte over two 32-bit lanes, the high code in the first; the permutation
            // reads the low four bits of each lane
            let bytes = _mm_cvtsi64_si128(i64::from_le_bytes(*codes));
            let bytes = _mm512_cvtepu8_epi64(bytes);
            let index = _mm512_or_si512(
                _mm512_srli_epi64::<4>(bytes),
                _mm512_slli_epi64::<32>(bytes),
            );
            let values = _mm512_mul_ps(_mm512_permutexvar_ps(index, levels), scale);
            // SAFETY: `out` has sixteen elements.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), values) };
        }
    }

    /// [`look_up`] with AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) fn look_up_in_halves(
        codes: &[[u8; 4]],
        levels: &[f32; 16],
        scale: f32,
        out: &mut [[f32; 8]],
    ) {
        // SAFETY: the array has sixteen elements.
        let (low, high) = unsafe {
            let first = levels.as_ptr();
            (_mm256_loadu_ps(first), _mm256_loadu_ps(first.add(8)))
        };
        let scale = _mm256_set1_ps(scale);
        for (codes, out) in codes.iter().zip(out) {
            // as above; the permutation reads the low three bits of each lane, and the blend the
            // highest, where the fourth is moved
            let bytes = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(i32::from_le_bytes(*codes)));
            let index = _mm256_or_si256(
                _mm256_srli_epi64::<4>(bytes),
                _mm256_slli_epi64::<32>(bytes),
            );
            let fourth = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(index));
            let level = _mm256_blendv_ps(
                _mm256_permutevar8x32_ps(low, index),
                _mm256_permutevar8x32_ps(high, index),
                fourth,
            );
            // SAFETY: `out` has eight elements.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), _mm256_mul_ps(level, scale)) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::look_up;

    /// Whatever this machine has: the same bits as one code after another.
    #[test]
    fn codes_are_looked_up() {
        let levels: [f32; 16] = std::array::from_fn(|i| (i as f32 - 7.3) * 0.11);
        let codes: Vec<u8> = (0..=255).chain([0x5a, 0xc3, 0x17]).collect();
        let mut out = vec![f32::NAN; 2 * codes.len()];
        let done = look_up(&codes, &levels, 0.37, &mut out);
        assert!(done == 0 || done >= 512, "{done}");
        for (i, got) in out[..done].iter().enumerate() {
            let code = codes[i / 2] >> (4 * (1 - i % 2)) & 15;
            assert_eq!(*got, levels[usize::from(code)] * 0.37, "{i}");
        }
    }
}
