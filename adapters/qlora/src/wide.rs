//! Look-up of 4-bit codes in vector registers: AVX-512's permutation holds all sixteen levels.

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
/// groups of sixteen and returns the number of codes done (0 on machines without AVX-512).
pub(crate) fn look_up(codes: &[u8], levels: &[f32; 16], scale: f32, out: &mut [f32]) -> usize {
    #[cfg(target_arch = "x86_64")]
    if available() {
        let (codes, out) = (codes.as_chunks::<8>().0, out.as_chunks_mut::<16>().0);
        // SAFETY: the machine has AVX-512.
        unsafe { x86::look_up(codes, levels, scale, out) };
        return 16 * codes.len().min(out.len());
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
}
