//! Looking 4-bit codes up in vector registers: AVX-512's permutation holds all sixteen levels at once.

/// Whether this machine has the parts of AVX-512 that we compile for.
pub(crate) fn available() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512vl")
        && std::arch::is_x86_feature_detected!("avx512bw")
        && std::arch::is_x86_feature_detected!("avx512dq");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// out = levels\[code\] · scale for every code, two to a byte, the high one first. Whole runs of sixteen are done; answers
/// how many codes that were (none where the machine cannot).
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
        // SAFETY: sixteen levels.
        let levels = unsafe { _mm512_loadu_ps(levels.as_ptr()) };
        let scale = _mm512_set1_ps(scale);
        for (codes, out) in codes.iter().zip(out) {
            // each byte into the two halves of 64 bits, the high code first; a permutation reads four bits of each half
            let bytes = _mm_cvtsi64_si128(i64::from_le_bytes(*codes));
            let bytes = _mm512_cvtepu8_epi64(bytes);
            let index = _mm512_or_si512(
                _mm512_srli_epi64::<4>(bytes),
                _mm512_slli_epi64::<32>(bytes),
            );
            let values = _mm512_mul_ps(_mm512_permutexvar_ps(index, levels), scale);
            // SAFETY: sixteen places.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), values) };
        }
    }
}
