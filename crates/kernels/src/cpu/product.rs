//! Matrix products on slices through the gemm crate.

use gemm::Parallelism;

use crate::work;

/// Multiply-adds from which a product is worth all threads. Below, one thread; the result is the
/// same either way.
const PARALLEL: usize = 1 << 20;

/// A matrix inside a slice: its first element, and the distances of its rows and columns.
#[derive(Clone, Copy)]
pub struct View<'a> {
    values: &'a [f32],
    row: usize,
    col: usize,
}

impl<'a> View<'a> {
    /// Element (i, j) lies at `i * row + j * col`.
    pub fn new(values: &'a [f32], row: usize, col: usize) -> Self {
        View { values, row, col }
    }
    /// Rows of `width` values after each other.
    pub fn rows(values: &'a [f32], width: usize) -> Self {
        View::new(values, width, 1)
    }
    /// The same, turned.
    pub fn t(self) -> Self {
        View::new(self.values, self.col, self.row)
    }
    /// Whether a (rows, cols) matrix fits.
    fn holds(&self, rows: usize, cols: usize) -> bool {
        rows == 0 || cols == 0 || (rows - 1) * self.row + (cols - 1) * self.col < self.values.len()
    }
}

/// Where a product goes.
#[derive(Clone, Copy)]
pub struct Into {
    /// First element.
    pub to: *mut f32,
    /// Distance of rows; columns lie next to each other.
    pub row: usize,
    /// Add to what is there, rather than overwrite.
    pub add: bool,
}

/// `out = factor · a b (+ out)` for a (m, k) and b (k, n).
///
/// # Safety
/// `out.to` must point at (m - 1) · row + n writable values, initialised when `add`, that nobody
/// else touches meanwhile.
pub unsafe fn multiply_into(
    (m, n, k): (usize, usize, usize),
    a: View,
    b: View,
    factor: f32,
    out: Into,
    threads: Parallelism,
) {
    assert!(
        a.holds(m, k) && b.holds(k, n),
        "a product of ({m}, {k}) and ({k}, {n}) reaches outside its operands"
    );
    work::count((m, n, k));
    // SAFETY: the operands were checked just now; the caller answers for `out`.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.to,
            1,
            out.row as isize,
            out.add,
            a.values.as_ptr(),
            a.col as isize,
            a.row as isize,
            b.values.as_ptr(),
            b.col as isize,
            b.row as isize,
            1.0,
            factor,
            false,
            false,
            false,
            threads,
        );
    }
}

fn threads((m, n, k): (usize, usize, usize)) -> Parallelism {
    if m * n * k < PARALLEL {
        Parallelism::None
    } else {
        Parallelism::Rayon(0)
    }
}

/// a b as a new vector of m · n values.
pub fn multiply(size: (usize, usize, usize), a: View, b: View) -> Vec<f32> {
    let (m, n, k) = size;
    if k == 0 {
        return vec![0.0; m * n];
    }
    let mut out: Vec<f32> = Vec::with_capacity(m * n);
    let into = Into {
        to: out.as_mut_ptr(),
        row: n,
        add: false,
    };
    // SAFETY: room for m rows of n values, which a product without `add` writes wholly.
    unsafe {
        multiply_into(size, a, b, 1.0, into, threads(size));
        out.set_len(m * n);
    }
    out
}

/// out += factor · a b, or out = factor · a b, on rows of n values.
pub fn multiply_onto(
    size: (usize, usize, usize),
    a: View,
    b: View,
    factor: f32,
    out: &mut [f32],
    add: bool,
) {
    let (m, n, _) = size;
    assert!(out.len() >= m * n, "a product does not fit its output");
    let into = Into {
        to: out.as_mut_ptr(),
        row: n,
        add,
    };
    // SAFETY: `out` is borrowed mutably and long enough.
    unsafe { multiply_into(size, a, b, factor, into, threads(size)) }
}
