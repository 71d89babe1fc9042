//! Products x Wᵀ of some tens of rows of x, as in decoding many sequences at once: x is transposed
//! into a panel whose rows hold one feature of all sequences, then each weight is read once, in its
//! stored order, and multiplied with a register of sequences. (A general product first copies W
//! into another order, which with few rows of x costs as much as the product.)
//!
//! Each number is summed over the features in an order that does not depend on the number of
//! sequences, so neither do results. Implemented with x86 intrinsics, for AVX-512 and for AVX2 with
//! FMA.

use super::Shared;

/// Sequences in a lane group: one register of AVX-512, two of AVX2.
const GROUP: usize = 16;
/// Lane groups in a tile of AVX-512.
const WIDEST: usize = 3;
/// Features that are summed in one chain. Adding the chains' sums in order loses less precision
/// than one long chain.
const CHAIN: usize = 128;
/// Rows of W in a tile.
pub(super) const TILE: usize = 8;

/// x (n, k), transposed: by piece of a few lane groups, then feature, then lane.
pub(super) struct Panel {
    values: Vec<f32>,
    n: usize,
    k: usize,
}

impl Panel {
    /// Transposes x, rows of k values.
    pub(super) fn new(x: &[f32], k: usize) -> Self {
        let n = x.len() / k.max(1);
        let groups = n.div_ceil(GROUP);
        let mut values = vec![0f32; groups * GROUP * k];
        let mut panel = Panel {
            values: Vec::new(),
            n,
            k,
        };
        for (first, width) in panel.pieces() {
            let to = &mut values[first * k..(first + width) * k];
            for (i, x) in x.chunks_exact(k).skip(first).take(width).enumerate() {
                for (to, x) in to[i..].iter_mut().step_by(width).zip(x) {
                    *to = *x;
                }
            }
        }
        panel.values = values;
        panel
    }

    /// First sequence and lanes of every piece; they are as even as whole groups allow.
    fn pieces(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let groups = self.n.div_ceil(GROUP);
        let count = groups.div_ceil(WIDEST).max(1);
        let start = move |i: usize| i * groups / count * GROUP;
        (0..count).map(move |i| (start(i), start(i + 1) - start(i)))
    }

    /// Multiplies rows of W (rows · k values) with all of x, to y\[sequence · y_row + row\].
    ///
    /// # Safety
    /// Those elements must be writable and used by no other task; the machine must have AVX2 and
    /// FMA.
    pub(super) unsafe fn multiply(&self, w: &[f32], y: Shared, y_row: usize) {
        let rows = w.len() / self.k.max(1);
        let mut out = [0f32; TILE * WIDEST * GROUP];
        for first in (0..rows).step_by(TILE) {
            let count = TILE.min(rows - first);
            let w = &w[first * self.k..][..count * self.k];
            for (sequence, lanes) in self.pieces() {
                let x = &self.values[sequence * self.k..][..lanes * self.k];
                // SAFETY: the caller's contract; `count` rows of W, `lanes` sequences of x, and
                // room for both.
                unsafe { tiles(w, x, self.k, lanes / GROUP, count, &mut out) };
                for i in 0..lanes.min(self.n - sequence) {
                    let to = y.at((sequence + i) * y_row + first);
                    for (r, value) in out[i..].iter().step_by(lanes).take(count).enumerate() {
                        // SAFETY: `count` elements of this task's own columns in a row of y.
                        unsafe { *to.add(r) = *value };
                    }
                }
            }
        }
    }
}

/// Multiplies `count` rows of W, up to [`TILE`], to out\[row · lanes + lane\].
///
/// # Safety
/// Needs AVX2 and FMA; `w` must hold `count` rows of k, `x` `groups` lane groups for each of k.
unsafe fn tiles(w: &[f32], x: &[f32], k: usize, groups: usize, count: usize, out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's contract; a tile reads `count` rows of k and writes as many of the
    // lanes.
    unsafe {
        let wide = super::math::instructions() == 2;
        let (w, x, out) = (w.as_ptr(), x.as_ptr(), out.as_mut_ptr());
        let lanes = groups * GROUP;
        if count == TILE {
            match (wide, groups) {
                (true, 1) => x86::wide::<TILE, 1>(w, x, k, out),
                (true, 2) => x86::wide::<TILE, 2>(w, x, k, out),
                (true, _) => x86::wide::<TILE, 3>(w, x, k, out),
                (false, _) => x86::narrow_all::<4>(w, x, k, lanes, TILE, out),
            }
            return;
        }
        for r in 0..count {
            let (w, out) = (w.add(r * k), out.add(r * lanes));
            match (wide, groups) {
                (true, 1) => x86::wide::<1, 1>(w, x, k, out),
                (true, 2) => x86::wide::<1, 2>(w, x, k, out),
                (true, _) => x86::wide::<1, 3>(w, x, k, out),
                (false, _) => x86::narrow_all::<1>(w, x, k, lanes, 1, out),
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (w, x, k, groups, count, out);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{CHAIN, GROUP};

    /// Floats in a cache line.
    const LINE: usize = 16;

    /// Multiplies R rows of W with V registers of sequences.
    ///
    /// # Safety
    /// Needs AVX-512; `w` must point to R rows of k, `x` to V·16 lanes for each of k, `out` to
    /// R·V·16 writable values.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn wide<const R: usize, const V: usize>(
        w: *const f32,
        x: *const f32,
        k: usize,
        out: *mut f32,
    ) {
        // SAFETY: the caller's contract.
        unsafe {
            let mut x = x;
            for first in (0..k).step_by(CHAIN) {
                let mut sums = [[_mm512_setzero_ps(); V]; R];
                for at in first..k.min(first + CHAIN) {
                    if at % LINE == 0 {
                        // prefetch the next tile's rows: eight streams are more than the hardware
                        // follows
                        for r in R..2 * R {
                            _mm_prefetch::<_MM_HINT_T0>(w.wrapping_add(r * k + at).cast());
                        }
                    }
                    let mut xs = [_mm512_setzero_ps(); V];
                    for (v, to) in xs.iter_mut().enumerate() {
                        *to = _mm512_loadu_ps(x.add(v * GROUP));
                    }
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let w = _mm512_set1_ps(*w.add(r * k + at));
                        for (sum, x) in sums.iter_mut().zip(xs) {
                            *sum = _mm512_fmadd_ps(w, x, *sum);
                        }
                    }
                    x = x.add(V * GROUP);
                }
                for (r, sums) in sums.iter().enumerate() {
                    for (v, sum) in sums.iter().enumerate() {
                        let out = out.add((r * V + v) * GROUP);
                        let before = match first {
                            0 => _mm512_setzero_ps(),
                            _ => _mm512_loadu_ps(out),
                        };
                        _mm512_storeu_ps(out, _mm512_add_ps(before, *sum));
                    }
                }
            }
        }
    }

    /// Multiplies `rows` rows of W, R at a time, with `lanes` sequences, a group at a time.
    ///
    /// # Safety
    /// Needs AVX2 and FMA; otherwise as [`wide`], and R divides `rows`.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn narrow_all<const R: usize>(
        w: *const f32,
        x: *const f32,
        k: usize,
        lanes: usize,
        rows: usize,
        out: *mut f32,
    ) {
        for r in (0..rows).step_by(R) {
            for lane in (0..lanes).step_by(GROUP) {
                // SAFETY: the caller's contract.
                unsafe {
                    let out = out.add(r * lanes + lane);
                    narrow::<R>(w.add(r * k), x.add(lane), k, lanes, out);
                }
            }
        }
    }

    /// Multiplies R rows of W with sixteen of `lanes` sequences.
    ///
    /// # Safety
    /// As [`narrow_all`].
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn narrow<const R: usize>(
        w: *const f32,
        x: *const f32,
        k: usize,
        lanes: usize,
        out: *mut f32,
    ) {
        // SAFETY: the caller's contract.
        unsafe {
            for first in (0..k).step_by(CHAIN) {
                let mut sums = [[_mm256_setzero_ps(); 2]; R];
                for at in first..k.min(first + CHAIN) {
                    let x = x.add(at * lanes);
                    let (low, high) = (_mm256_loadu_ps(x), _mm256_loadu_ps(x.add(8)));
                    for (r, [first, second]) in sums.iter_mut().enumerate() {
                        let w = _mm256_set1_ps(*w.add(r * k + at));
                        *first = _mm256_fmadd_ps(w, low, *first);
                        *second = _mm256_fmadd_ps(w, high, *second);
                    }
                }
                for (r, sums) in sums.iter().enumerate() {
                    for (half, sum) in sums.iter().enumerate() {
                        let out = out.add(r * lanes + 8 * half);
                        let before = match first {
                            0 => _mm256_setzero_ps(),
                            _ => _mm256_loadu_ps(out),
                        };
                        _mm256_storeu_ps(out, _mm256_add_ps(before, *sum));
                    }
                }
            }
        }
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn narrow_registers_give_the_same_bits() {
        if super::super::math::instructions() < 2 {
            eprintln!("skipped: no AVX-512 here to compare with");
            return;
        }
        let value = |i: usize| ((i * 7919) % 1009) as f32 / 1009.0 - 0.4;
        // more than two chains, and a rest
        let (k, lanes) = (300, 2 * GROUP);
        let w: Vec<f32> = (0..TILE * k).map(value).collect();
        let x: Vec<f32> = (0..k * lanes).map(|i| value(i + 3)).collect();
        let [mut wide, mut narrow, mut single] = [(); 3].map(|()| vec![0f32; TILE * lanes]);
        // SAFETY: whoever has AVX-512 has AVX2 and FMA; TILE rows of k, two groups of lanes, room
        // for both.
        unsafe {
            let (w, x) = (w.as_ptr(), x.as_ptr());
            x86::wide::<TILE, 2>(w, x, k, wide.as_mut_ptr());
            x86::narrow_all::<4>(w, x, k, lanes, TILE, narrow.as_mut_ptr());
            x86::narrow_all::<1>(w, x, k, lanes, TILE, single.as_mut_ptr());
        }
        assert_eq!(wide, narrow);
        assert_eq!(wide, single);
    }
}
