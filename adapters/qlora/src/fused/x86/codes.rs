//! A group's codes as floats in vector registers, and its scales: what the formats differ in.

use std::arch::x86_64::*;

use crate::gguf::scale_min;

// The formats' numbers, as `const` parameters.
pub(super) const Q4_0: u8 = 0;
pub(super) const Q4_1: u8 = 1;
pub(super) const Q5_0: u8 = 2;
pub(super) const Q5_1: u8 = 3;
pub(super) const Q4K: u8 = 4;
pub(super) const Q5K: u8 = 5;
pub(super) const Q6K: u8 = 6;
pub(super) const Q8_0: u8 = 8;

/// Bytes of a block, and groups of 32 weights in it.
pub(super) const fn layout(format: u8) -> (usize, usize) {
    match format {
        Q4_0 => (18, 1),
        Q4_1 => (20, 1),
        Q5_0 => (22, 1),
        Q5_1 => (24, 1),
        Q4K => (144, 8),
        Q5K => (176, 8),
        Q6K => (210, 8),
        _ => (34, 1),
    }
}

/// What turns a block's codes into weights, w = d·q + m.
pub(super) struct Scales {
    /// By group, one for each half of it.
    pub(super) d: [[f32; 2]; 8],
    /// By group.
    pub(super) m: [f32; 8],
}

/// Scales of a block.
///
/// # Safety
/// `block` must point to a readable block of the format; needs F16C.
#[inline(always)]
pub(super) unsafe fn scales<const F: u8>(block: *const u8) -> Scales {
    let mut of = Scales {
        d: [[0.0; 2]; 8],
        m: [0.0; 8],
    };
    // SAFETY: the caller's contract; all offsets lie in the block.
    unsafe {
        match F {
            Q4K | Q5K => {
                let (d, min) = (half(block), half(block.add(2)));
                let packed = std::slice::from_raw_parts(block.add(4), 12);
                for g in 0..8 {
                    let (scale, m) = scale_min(g, packed);
                    (of.d[g], of.m[g]) = ([d * scale; 2], -min * m);
                }
            }
            Q6K => {
                let d = half(block.add(208));
                for (g, of) in of.d.iter_mut().enumerate() {
                    for (i, of) in of.iter_mut().enumerate() {
                        *of = d * f32::from(*block.add(192 + 2 * g + i).cast::<i8>());
                    }
                }
            }
            _ => {
                let d = half(block);
                of.d[0] = [d; 2];
                of.m[0] = match F {
                    Q4_0 => -8.0 * d,
                    Q5_0 => -16.0 * d,
                    Q4_1 | Q5_1 => half(block.add(2)),
                    _ => 0.0,
                };
            }
        }
    }
    of
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

/// The 32 codes of group `g`, a byte each.
///
/// # Safety
/// `block` must point to a readable block of the format and have the group; needs AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn bytes<const F: u8>(block: *const u8, g: usize) -> __m256i {
    // SAFETY: the caller's contract; all offsets lie in the block.
    unsafe {
        let load = |at: usize| _mm256_loadu_si256(block.add(at).cast());
        // the `bits` lowest bits of each byte after a shift to the right; bits from a byte's
        // neighbour come in above them
        let field = |v: __m256i, by: usize, bits: i8| {
            let shifted = _mm256_srl_epi16(v, _mm_cvtsi64_si128(by as i64));
            _mm256_and_si256(shifted, _mm256_set1_epi8((1 << bits) - 1))
        };
        let fifth = |low, high| _mm256_or_si256(low, _mm256_slli_epi16::<4>(high));
        match F {
            Q4_0 | Q4_1 | Q5_0 | Q5_1 => {
                let at = const { layout(F).0 } - 16;
                let low = _mm_loadu_si128(block.add(at).cast());
                let both = _mm256_set_m128i(_mm_srli_epi16::<4>(low), low);
                let low = _mm256_and_si256(both, _mm256_set1_epi8(15));
                if matches!(F, Q4_0 | Q4_1) {
                    return low;
                }
                let high = block.add(at - 4).cast::<i32>().read_unaligned();
                // byte i of the word eight times over, of which each place tests its own bit
                let place = _mm256_set_epi64x(
                    0x0303_0303_0303_0303,
                    0x0202_0202_0202_0202,
                    0x0101_0101_0101_0101,
                    0,
                );
                let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
                let spread = _mm256_shuffle_epi8(_mm256_set1_epi32(high), place);
                let set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit);
                _mm256_or_si256(low, _mm256_and_si256(set, _mm256_set1_epi8(16)))
            }
            Q4K => field(load(16 + g / 2 * 32), g % 2 * 4, 4),
            Q5K => {
                let low = field(load(48 + g / 2 * 32), g % 2 * 4, 4);
                fifth(low, field(load(16), g, 1))
            }
            Q6K => {
                let (half, k) = (g / 4, g % 4);
                let low = field(load(64 * half + k % 2 * 32), k / 2 * 4, 4);
                let code = fifth(low, field(load(128 + 32 * half), 2 * k, 2));
                _mm256_sub_epi8(code, _mm256_set1_epi8(32))
            }
            _ => load(2),
        }
    }
}

/// The 32 codes of group `g` as floats.
///
/// # Safety
/// `block` must point to a readable block of the format and have the group; needs AVX-512.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq")]
pub(super) unsafe fn codes512<const F: u8>(block: *const u8, g: usize) -> [__m512; 2] {
    // SAFETY: the caller's contract.
    unsafe {
        if matches!(F, Q4_0 | Q4_1) {
            let at = block.add(const { layout(F).0 } - 16);
            let bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(at.cast()));
            let low = _mm512_and_si512(bytes, _mm512_set1_epi32(15));
            let high = _mm512_srli_epi32::<4>(bytes);
            return [_mm512_cvtepi32_ps(low), _mm512_cvtepi32_ps(high)];
        }
        let bytes = bytes::<F>(block, g);
        [
            _mm256_castsi256_si128(bytes),
            _mm256_extracti128_si256::<1>(bytes),
        ]
        .map(|sixteen| _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(sixteen)))
    }
}

/// [`codes512`] for AVX2.
///
/// # Safety
/// `block` must point to a readable block of the format and have the group; needs AVX2.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn codes256<const F: u8>(block: *const u8, g: usize) -> [__m256; 4] {
    // SAFETY: the caller's contract.
    unsafe {
        let eight = |at: usize| _mm_loadl_epi64(block.add(at).cast());
        match F {
            Q8_0 => {
                let part = |i: usize| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight(2 + 8 * i)));
                [part(0), part(1), part(2), part(3)]
            }
            Q4_0 | Q4_1 => {
                let at = const { layout(F).0 } - 16;
                let bytes = [
                    _mm256_cvtepu8_epi32(eight(at)),
                    _mm256_cvtepu8_epi32(eight(at + 8)),
                ];
                let low = |v| _mm256_cvtepi32_ps(_mm256_and_si256(v, _mm256_set1_epi32(15)));
                let high = |v| _mm256_cvtepi32_ps(_mm256_srli_epi32::<4>(v));
                [low(bytes[0]), low(bytes[1]), high(bytes[0]), high(bytes[1])]
            }
            _ => {
                let bytes = bytes::<F>(block, g);
                let (a, b) = (
                    _mm256_castsi256_si128(bytes),
                    _mm256_extracti128_si256::<1>(bytes),
                );
                [a, _mm_srli_si128::<8>(a), b, _mm_srli_si128::<8>(b)]
                    .map(|eight| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight)))
            }
        }
    }
}
