//! Element-wise functions, forward and backward, SwiGLU and LoRA's dropout. A result may overwrite
//! an argument.

use crate::{Arg, Error, Float, Grid, Launch, Ptr, Result};

/// Launches `name` with one thread for every 16 bytes of `n` values.
pub(super) fn each(
    on: &dyn Launch,
    name: &str,
    float: Float,
    n: usize,
    args: &[Arg],
) -> Result<()> {
    if n == 0 {
        return Ok(());
    }
    let grid = Grid::each(n.div_ceil(16 / float.bytes()));
    on.launch(&format!("{name}_{}", float.suffix()), grid, args)
}

fn count(n: usize) -> Arg {
    Arg::U64(n as u64)
}

/// y = f(x), `n` values; `f` is a function's name in kernels/elementwise.cu.
///
/// # Errors
/// As [`Launch::launch`].
pub fn unary(on: &dyn Launch, f: &str, float: Float, n: usize, x: Ptr, y: Ptr) -> Result<()> {
    each(on, f, float, n, &[x.into(), y.into(), count(n)])
}

/// dx = dy · f', `n` values; `saved` is x or f(x), as the function's derivative in
/// kernels/elementwise.cu needs.
///
/// # Errors
/// As [`Launch::launch`].
pub fn unary_backward(
    on: &dyn Launch,
    f: &str,
    float: Float,
    n: usize,
    saved: Ptr,
    dy: Ptr,
    dx: Ptr,
) -> Result<()> {
    let args = [saved.into(), dy.into(), dx.into(), count(n)];
    each(on, &format!("{f}_backward"), float, n, &args)
}

/// y = x · mul + add, `n` values.
///
/// # Errors
/// As [`Launch::launch`].
pub fn affine(
    on: &dyn Launch,
    float: Float,
    n: usize,
    x: Ptr,
    mul: f32,
    add: f32,
    y: Ptr,
) -> Result<()> {
    let args = [x.into(), y.into(), count(n), mul.into(), add.into()];
    each(on, "affine", float, n, &args)
}

/// y += x, `n` values.
///
/// # Errors
/// As [`Launch::launch`].
pub fn add_onto(on: &dyn Launch, float: Float, n: usize, x: Ptr, y: Ptr) -> Result<()> {
    let args = [Arg::I32(1), y.into(), x.into(), y.into(), count(n)];
    each(on, "binary", float, n, &args)
}

/// y = silu(g) · u, `n` values.
///
/// # Errors
/// As [`Launch::launch`].
pub fn swiglu(on: &dyn Launch, float: Float, n: usize, g: Ptr, u: Ptr, y: Ptr) -> Result<()> {
    let args = [g.into(), u.into(), y.into(), count(n)];
    each(on, "swiglu", float, n, &args)
}

/// The gradients of [`swiglu`] to g and u. dg may overwrite g, du may overwrite u, and one of them
/// dy.
///
/// # Errors
/// As [`Launch::launch`].
pub fn swiglu_backward(
    on: &dyn Launch,
    float: Float,
    n: usize,
    g: Ptr,
    u: Ptr,
    dy: Ptr,
    dg: Ptr,
    du: Ptr,
) -> Result<()> {
    let args = [
        g.into(),
        u.into(),
        dy.into(),
        dg.into(),
        du.into(),
        count(n),
    ];
    each(on, "swiglu_backward", float, n, &args)
}

/// y = x / (1 - p) where the mask keeps it, else 0: the mask of `randori_lora::dropout`, a pure
/// function of the row's key (u64 in `keys.0`, `keys.1` of them), `salt` and the index in the row,
/// so the backward pass is this same function of dy.
///
/// # Errors
/// `p` outside 0..1; a number of rows that does not divide `n`; as [`Launch::launch`].
pub fn dropout(
    on: &dyn Launch,
    float: Float,
    n: usize,
    x: Ptr,
    p: f32,
    keys: (Ptr, usize),
    salt: u64,
    y: Ptr,
) -> Result<()> {
    if !(0.0..1.0).contains(&p) {
        return Err(Error::rule(format!("a dropout must be in 0..1, not {p}")));
    }
    let (keys, rows) = keys;
    let width = n.checked_div(rows).and_then(|w| u32::try_from(w).ok());
    let Some(width) = width.filter(|&w| w as usize * rows == n) else {
        return Err(Error::rule(format!(
            "dropout of {n} values wants as many in each of {rows} rows"
        )));
    };
    let threshold = (f64::from(p) * (1u64 << 24) as f64) as u64;
    let keep = 1.0 / (1.0 - p);
    let args = [
        x.into(),
        y.into(),
        count(n),
        keys.into(),
        width.into(),
        salt.into(),
        threshold.into(),
        keep.into(),
    ];
    each(on, "dropout", float, n, &args)
}
