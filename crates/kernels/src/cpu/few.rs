//! Products x Wᵀ of a few rows of x, as in decoding: each weight is read once, in its stored order,
//! and multiplied with all rows while it is in a register. (A general product first copies W into
//! another order, which costs more than the product itself.)
//!
//! Implemented with x86 intrinsics, for AVX-512 and for AVX2 with FMA and F16C; other machines use
//! the general product.

use std::ops::Range;

use half::{bf16, f16};
use randori_qlora::QuantMatrix;
use rayon::prelude::*;

use super::{
    Shared,
    panel::{self, Panel},
};
use crate::work;

/// Most rows of x for which this is faster than a general product …
const ROWS: usize = 64;
/// … and for which it is if there are twice as many outputs, to share the work of transposing x.
const MOST: usize = 256;
/// Fewest rows of x for which registers of rows are faster than registers of features, although
/// some lanes stay empty.
const PANEL: usize = 5;
/// Multiply-adds of a task.
const TASK: usize = 1 << 18;
/// Floats of dequantised rows that stay in a core's first cache.
const FIRST_CACHE: usize = 6 * 1024;

/// Rows of W in a task: tasks are equal and even in number, so that no thread gets one more than
/// the others.
fn rows_per_task(n: usize, outputs: usize, k: usize) -> usize {
    let tasks = match (n * outputs * k).div_ceil(TASK) {
        0 | 1 => 1, // not worth another thread
        more => more.next_multiple_of(2),
    };
    outputs.div_ceil(tasks).max(1)
}

/// Whether these products are the fastest for n rows of x and so many outputs on this machine.
pub fn suits(n: usize, outputs: usize) -> bool {
    (n <= ROWS || n <= MOST && outputs >= 2 * n) && available()
}

/// Whether this machine has the instructions.
fn available() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// A weight's element: f32, f16 or bf16.
pub trait Element: Copy + Sync {
    /// Its value in f32.
    fn wide(self) -> f32;
    /// The same slice, if its elements are f32.
    fn floats(_: &[Self]) -> Option<&[f32]> {
        None
    }
    /// Loads eight elements from `at` on.
    ///
    /// # Safety
    /// `at` must point to eight readable elements; the machine must be [`available`].
    #[cfg(target_arch = "x86_64")]
    unsafe fn load8(at: *const Self) -> std::arch::x86_64::__m256;
    /// Loads sixteen elements from `at` on.
    ///
    /// # Safety
    /// `at` must point to sixteen readable elements; needs AVX-512.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load16(at: *const Self) -> std::arch::x86_64::__m512;
}

/// x Wᵀ for x (n, k) and W (outputs, k): (n, outputs). The caller has asked whether it [`suits`].
pub fn product<S: Element>(x: &[f32], w: &[S], k: usize) -> Vec<f32> {
    let (n, outputs) = (x.len() / k, w.len() / k);
    work::count((n, outputs, k));
    if n >= PANEL {
        let fill = |rows: Range<usize>, to: &mut [f32]| {
            let w = &w[rows.start * k..rows.end * k];
            to.iter_mut().zip(w).for_each(|(to, w)| *to = w.wide());
        };
        return by_panel(x, (outputs, k), S::floats(w), fill);
    }
    let mut y = vec![0f32; n * outputs];
    let out = Shared::new(&mut y);
    let rows = rows_per_task(n, outputs, k).next_multiple_of(8);
    in_tasks(outputs, (rows, rows), |_, here| {
        let to = out.at(here.start);
        // SAFETY: each call writes the columns of its own rows of W; the caller asked `suits`.
        unsafe { block(&w[here.start * k..here.end * k], x, k, to, outputs) };
    });
    y
}

/// [`product`] through a panel of x, with W as it is stored if it is f32, else some rows at a time,
/// which `fill` writes in f32.
fn by_panel(
    x: &[f32],
    (outputs, k): (usize, usize),
    floats: Option<&[f32]>,
    fill: impl Fn(Range<usize>, &mut [f32]) + Sync,
) -> Vec<f32> {
    let n = x.len() / k;
    let panel = Panel::new(x, k);
    let mut y = vec![0f32; n * outputs];
    let out = Shared::new(&mut y);
    let rows = (FIRST_CACHE / k.max(1)).clamp(panel::TILE, 64) / panel::TILE * panel::TILE;
    let per_task = rows_per_task(n, outputs, k).next_multiple_of(rows);
    in_tasks(outputs, (rows, per_task), |buffer, here| {
        let to = out.from(here.start);
        let w = match floats {
            Some(w) => &w[here.start * k..here.end * k],
            None => filled(buffer, here.len() * k, |buffer| fill(here, buffer)),
        };
        // SAFETY: each call writes the columns of its own rows of W; the caller asked `suits`.
        unsafe { panel.multiply(w, to, outputs) };
    });
    y
}

/// [`product`] with a quantised W: a few of its rows at a time are dequantised into the first cache
/// and multiplied there.
pub fn quantised(x: &[f32], w: &QuantMatrix) -> Vec<f32> {
    let (outputs, k) = w.shape();
    let n = x.len() / k;
    work::count((n, outputs, k));
    if n >= PANEL {
        return by_panel(x, (outputs, k), None, |rows, to| w.fill(rows, to));
    }
    let mut y = vec![0f32; n * outputs];
    let out = Shared::new(&mut y);
    let rows = (FIRST_CACHE / k.max(1)).clamp(4, 64) / 4 * 4;
    // dequantising costs about as much as a row of x
    let per_task = rows_per_task(n + 1, outputs, k).next_multiple_of(rows);
    in_tasks(outputs, (rows, per_task), |buffer, here| {
        let to = out.at(here.start);
        let w = filled(buffer, here.len() * k, |buffer| w.fill(here, buffer));
        // SAFETY: each call writes the columns of its own rows of W; the caller asked `suits`.
        unsafe { block(w, x, k, to, outputs) };
    });
    y
}

/// Calls `run` for every `rows` of the outputs' rows of W, in parallel tasks of `per_task` rows; a
/// task's calls share a buffer.
fn in_tasks(
    outputs: usize,
    (rows, per_task): (usize, usize),
    run: impl Fn(&mut Vec<f32>, Range<usize>) + Sync,
) {
    let task = |buffer: &mut Vec<f32>, task: usize| {
        let end = ((task + 1) * per_task).min(outputs);
        for first in (task * per_task..end).step_by(rows) {
            run(buffer, first..(first + rows).min(end));
        }
    };
    match outputs.div_ceil(per_task) {
        1 => task(&mut Vec::new(), 0),
        tasks => (0..tasks)
            .into_par_iter()
            .for_each_init(Vec::new, |buffer, i| task(buffer, i)),
    }
}

/// The first `len` values of a buffer, which `fill` has written.
fn filled(buffer: &mut Vec<f32>, len: usize, fill: impl FnOnce(&mut [f32])) -> &[f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    fill(&mut buffer[..len]);
    &buffer[..len]
}

/// Multiplies rows of W with all rows of x, to y\[row of x · y_row + row of W\].
///
/// # Safety
/// Those elements must be writable and used by no other task; the machine must be [`available`].
unsafe fn block<S: Element>(w: &[S], x: &[f32], k: usize, y: *mut f32, y_row: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the features were detected; the rest is the caller's contract.
    unsafe {
        if super::math::instructions() == 2 {
            x86::block512(w, x, k, y, y_row);
        } else {
            x86::block256(w, x, k, y, y_row);
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (w, x, k, y, y_row);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Element, bf16, f16};

    /// Rows of W in a tile of one row of x: fewer sums would wait for each other.
    const ALONE: usize = 8;

    impl Element for f32 {
        #[inline(always)]
        fn wide(self) -> f32 {
            self
        }
        fn floats(all: &[Self]) -> Option<&[f32]> {
            Some(all)
        }
        #[inline(always)]
        unsafe fn load8(at: *const Self) -> __m256 {
            // SAFETY: the caller's contract.
            unsafe { _mm256_loadu_ps(at) }
        }
        #[inline(always)]
        unsafe fn load16(at: *const Self) -> __m512 {
            // SAFETY: the caller's contract.
            unsafe { _mm512_loadu_ps(at) }
        }
    }

    impl Element for bf16 {
        #[inline(always)]
        fn wide(self) -> f32 {
            self.to_f32()
        }
        #[inline(always)]
        unsafe fn load8(at: *const Self) -> __m256 {
            // SAFETY: the caller's contract. A bf16 is the upper half of an f32.
            unsafe {
                let halves = _mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(halves))
            }
        }
        #[inline(always)]
        unsafe fn load16(at: *const Self) -> __m512 {
            // SAFETY: as above.
            unsafe {
                let halves = _mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(halves))
            }
        }
    }

    impl Element for f16 {
        #[inline(always)]
        fn wide(self) -> f32 {
            self.to_f32()
        }
        #[inline(always)]
        unsafe fn load8(at: *const Self) -> __m256 {
            // SAFETY: the caller's contract.
            unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.cast())) }
        }
        #[inline(always)]
        unsafe fn load16(at: *const Self) -> __m512 {
            // SAFETY: the caller's contract.
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
        }
    }

    #[inline(always)]
    unsafe fn sum256(v: __m256) -> f32 {
        let mut lanes = [0f32; 8];
        // SAFETY: eight places.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), v) };
        let [a, b, c, d, e, f, g, h] = lanes;
        ((a + e) + (b + f)) + ((c + g) + (d + h))
    }

    #[inline(always)]
    unsafe fn sum512(v: __m512) -> f32 {
        // SAFETY: the caller has AVX-512.
        unsafe { _mm512_reduce_add_ps(v) }
    }

    /// Defines the functions that multiply rows of W with rows of x, for one register width.
    macro_rules! block {
        ($block:ident, $tile:ident, $features:literal, $lanes:literal, $rows:literal,
         $load:ident, $load_x:ident, $zero:ident, $fma:ident, $sum:ident) => {
            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn $tile<S: Element, const R: usize, const N: usize>(
                w: *const S,
                x: *const f32,
                k: usize,
                y: *mut f32,
                y_row: usize,
            ) {
                // SAFETY: the caller gives R rows of W, N rows of x and their elements of y.
                unsafe {
                    let mut sums = [[$zero(); N]; R];
                    let whole = k / $lanes * $lanes;
                    let mut at = 0;
                    while at < whole {
                        let mut xs = [$zero(); N];
                        for n in 0..N {
                            xs[n] = $load_x(x.add(n * k + at));
                        }
                        for r in 0..R {
                            let w = S::$load(w.add(r * k + at));
                            for n in 0..N {
                                sums[r][n] = $fma(w, xs[n], sums[r][n]);
                            }
                        }
                        at += $lanes;
                    }
                    for r in 0..R {
                        for n in 0..N {
                            let mut sum = $sum(sums[r][n]);
                            for at in whole..k {
                                sum = (*w.add(r * k + at)).wide().mul_add(*x.add(n * k + at), sum);
                            }
                            *y.add(n * y_row + r) = sum;
                        }
                    }
                }
            }

            /// # Safety
            /// As [`super::block`], on a machine with these features.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $block<S: Element>(
                w: &[S],
                x: &[f32],
                k: usize,
                y: *mut f32,
                y_row: usize,
            ) {
                let (outputs, n) = (w.len() / k, x.len() / k);
                let mut begin = 0;
                if n == 1 {
                    while begin + ALONE <= outputs {
                        // SAFETY: so many rows of W from `begin` on exist, and their elements of y.
                        unsafe {
                            let w = w.as_ptr().add(begin * k);
                            $tile::<S, ALONE, 1>(w, x.as_ptr(), k, y.add(begin), y_row);
                        }
                        begin += ALONE;
                    }
                }
                for o in (begin..outputs).step_by($rows) {
                    for i in (0..n).step_by(4) {
                        // SAFETY: rows o.. of W and i.. of x exist, as many as each arm says.
                        unsafe {
                            let (w, x) = (w.as_ptr().add(o * k), x.as_ptr().add(i * k));
                            let y = y.add(i * y_row + o);
                            if outputs - o >= $rows {
                                match n - i {
                                    1 => $tile::<S, $rows, 1>(w, x, k, y, y_row),
                                    2 => $tile::<S, $rows, 2>(w, x, k, y, y_row),
                                    3 => $tile::<S, $rows, 3>(w, x, k, y, y_row),
                                    _ => $tile::<S, $rows, 4>(w, x, k, y, y_row),
                                }
                                continue;
                            }
                            for r in 0..outputs - o {
                                let (w, y) = (w.add(r * k), y.add(r));
                                for n in 0..(n - i).min(4) {
                                    $tile::<S, 1, 1>(w, x.add(n * k), k, y.add(n * y_row), y_row);
                                }
                            }
                        }
                    }
                }
            }
        };
    }

    block!(
        block256,
        tile256,
        "avx2,fma,f16c",
        8,
        2,
        load8,
        _mm256_loadu_ps,
        _mm256_setzero_ps,
        _mm256_fmadd_ps,
        sum256
    );
    block!(
        block512,
        tile512,
        "avx512f,avx512vl,avx512dq,avx512bw",
        16,
        4,
        load16,
        _mm512_loadu_ps,
        _mm512_setzero_ps,
        _mm512_fmadd_ps,
        sum512
    );
}

#[cfg(not(target_arch = "x86_64"))]
mod elsewhere {
    use super::{Element, bf16, f16};

    impl Element for f32 {
        fn wide(self) -> f32 {
            self
        }
        fn floats(all: &[Self]) -> Option<&[f32]> {
            Some(all)
        }
    }
    impl Element for bf16 {
        fn wide(self) -> f32 {
            self.to_f32()
        }
    }
    impl Element for f16 {
        fn wide(self) -> f32 {
            self.to_f32()
        }
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    fn check<S: Element>(store: fn(f32) -> S) {
        for (n, k, outputs) in [
            (1, 5, 1),
            (2, 16, 3),
            (3, 33, 7),
            (1, 40, 19),
            (4, 40, 2),
            (7, 100, 9),
            (9, 40, 20),
            (24, 576, 900),
            (40, 33, 37),
            (64, 100, 16),
        ] {
            let value = |i: usize, m: usize| ((i * 7919 + m) % 1009) as f32 / 1009.0 - 0.5;
            let x: Vec<f32> = (0..n * k).map(|i| value(i, 3)).collect();
            let w: Vec<S> = (0..outputs * k).map(|i| store(value(i, 11))).collect();
            let both = [false, true].map(|narrow| {
                let mut y = vec![0f32; n * outputs];
                match narrow {
                    // SAFETY: y has room for n rows of outputs; `available` was asked.
                    true => unsafe { x86::block256(&w, &x, k, y.as_mut_ptr(), outputs) },
                    false => y = product(&x, &w, k),
                }
                y
            });
            for y in both {
                for i in 0..n {
                    for o in 0..outputs {
                        let (mut want, mut size) = (0f64, 0f64);
                        for c in 0..k {
                            let term = f64::from(x[i * k + c]) * f64::from(w[o * k + c].wide());
                            want += term;
                            size += term.abs();
                        }
                        let got = f64::from(y[i * outputs + o]);
                        assert!(
                            (got - want).abs() < 1e-6 * size,
                            "{n} {k} {outputs}: {got} for {want}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn equals_f64_products_for_every_remainder() {
        if !available() {
            eprintln!("skipped: no AVX2 here");
            return;
        }
        check::<f32>(|v| v);
        check::<bf16>(bf16::from_f32);
        check::<f16>(f16::from_f32);
    }
}
