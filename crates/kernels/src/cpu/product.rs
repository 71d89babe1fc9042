//! Matrix products on slices through the gemm crate.

use gemm::Parallelism;

use crate::work;

/// Multiply-adds from which a product uses all threads, rather than one. Results are the same.
const PARALLEL: usize = 1 << 20;

/// A matrix inside a slice, with the strides of its rows and columns.
#[derive(Clone, Copy)]
pub struct View<'a> {
    values: &'a [f32],
    row: usize,
    col: usize,
}

impl<'a> View<'a> {
    /// The matrix whose element (i, j) lies at `i * row + j * col`.
    pub fn new(values: &'a [f32], row: usize, col: usize) -> Self {
        View { values, row, col }
    }
    /// The matrix of consecutive rows of `width` values.
    pub fn rows(values: &'a [f32], width: usize) -> Self {
        View::new(values, width, 1)
    }
    /// The transpose.
    pub fn t(self) -> Self {
        View::new(self.values, self.col, self.row)
    }
    /// Whether the slice holds (rows, cols) elements.
    fn holds(&self, rows: usize, cols: usize) -> bool {
        rows == 0 || cols == 0 || (rows - 1) * self.row + (cols - 1) * self.col < self.values.len()
    }
}

/// The output of a product.
#[derive(Clone, Copy)]
pub struct Output {
    to: *mut f32,
    row: usize,
    add: bool,
}

impl Output {
    /// The output that begins at `to`, with rows `row` values apart and adjacent columns. With
    /// `add` the product is added to the old values.
    pub fn new(to: *mut f32, row: usize, add: bool) -> Self {
        Output { to, row, add }
    }
}

/// out = factor · a b, or += as `out` says, for a (m, k) and b (k, n).
///
/// # Safety
/// `out` must begin at (m - 1) · row + n writable values, initialised if the product is added, that
/// nobody else uses meanwhile.
pub unsafe fn multiply_into(
    (m, n, k): (usize, usize, usize),
    a: View,
    b: View,
    factor: f32,
    out: Output,
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

/// The threads that a product of this size is worth.
fn threads((m, n, k): (usize, usize, usize)) -> Parallelism {
    if m * n * k < PARALLEL {
        Parallelism::None
    } else {
        Parallelism::Rayon(0)
    }
}

/// a b, (m, n).
pub fn multiply(size: (usize, usize, usize), a: View, b: View) -> Vec<f32> {
    let (m, n, k) = size;
    if k == 0 {
        return vec![0.0; m * n];
    }
    let mut out: Vec<f32> = Vec::with_capacity(m * n);
    let into = Output::new(out.as_mut_ptr(), n, false);
    // SAFETY: room for m rows of n values, which a product without `add` writes wholly.
    unsafe {
        multiply_into(size, a, b, 1.0, into, threads(size));
        out.set_len(m * n);
    }
    out
}

/// out = factor · a b, or += if `add`, for an `out` of rows of n values.
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
    let into = Output::new(out.as_mut_ptr(), n, add);
    // SAFETY: `out` is borrowed mutably and long enough.
    unsafe { multiply_into(size, a, b, factor, into, threads(size)) }
}
