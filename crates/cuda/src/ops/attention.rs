//! Causal attention in O(tokens) memory, forward and backward (kernels/attention.cu,
//! kernels/attention_backward.cu).

use super::tiles::ROWS;
use crate::{Arg, Error, Float, Grid, Launch, Ptr, Result, int};

/// Sizes and constants of one call. Query head h attends with key head h / (heads / kv_heads).
#[derive(Debug, Clone, Copy)]
pub struct Attention {
    /// Type of q, k, v, out and their gradients.
    pub float: Float,
    /// Rows of q.
    pub tokens: usize,
    /// Heads of q.
    pub heads: usize,
    /// Heads of k and v.
    pub kv_heads: usize,
    /// Features of a head, at most 256. Multiples of 8 (bf16) or 4 (f32) are fastest: they move 16
    /// bytes at a time.
    pub dim: usize,
    /// Factor on q·k.
    pub scale: f32,
    /// Sliding window: a key is visible when `query position - window < key position <= query
    /// position`.
    pub window: Option<usize>,
    /// Soft cap of the scores: s becomes cap · tanh(s / cap).
    pub softcap: Option<f32>,
}

/// [`Lists`](super::tiles::Lists) in the device's memory.
#[derive(Debug, Clone, Copy)]
pub struct DeviceLists {
    /// The blocks: i32 (count, 5).
    pub blocks: Ptr,
    /// Number of blocks.
    pub count: usize,
    /// The runs: i32 (runs, 3).
    pub runs: Ptr,
}

/// Inputs of the backward pass: q, out, dout (tokens, heads, dim), k, v (rows, kv_heads, dim), lse
/// f32 (heads, tokens).
#[derive(Debug, Clone, Copy)]
pub struct BackwardInputs {
    /// Queries.
    pub q: Ptr,
    /// Keys.
    pub k: Ptr,
    /// Values.
    pub v: Ptr,
    /// Result of the forward pass.
    pub out: Ptr,
    /// Log-sum-exp of each query's scores, from the forward pass.
    pub lse: Ptr,
    /// Gradient of the loss to `out`.
    pub dout: Ptr,
}

/// Outputs of the backward pass, wholly overwritten.
#[derive(Debug, Clone, Copy)]
pub struct BackwardOutputs {
    /// Gradient to q (tokens, heads, dim).
    pub q: Ptr,
    /// Gradient to k (rows, kv_heads, dim).
    pub k: Ptr,
    /// Gradient to v (rows, kv_heads, dim).
    pub v: Ptr,
    /// Scratch: f32 (heads, tokens).
    pub delta: Ptr,
}

/// One of the three kernels: forward, gradient to q, gradients to k and v.
#[derive(Clone, Copy, PartialEq)]
enum Which {
    Forward,
    Queries,
    Keys,
}

impl Attention {
    /// The compiled head size that serves `dim`: the smallest sufficient one of 32, 64, 96, 128,
    /// 256.
    pub(super) fn compiled(&self) -> Result<usize> {
        if self.kv_heads == 0 || self.heads == 0 || !self.heads.is_multiple_of(self.kv_heads) {
            return Err(Error::rule(format!(
                "attention's heads must be a multiple of the key heads, got {} and {}",
                self.heads, self.kv_heads
            )));
        }
        if let Some(cap) = self.softcap.filter(|c| !(c.is_finite() && *c > 0.0)) {
            return Err(Error::rule(format!(
                "a soft cap must be finite and > 0, got {cap}"
            )));
        }
        if self.window == Some(0) {
            return Err(Error::rule("a window of attention must be >= 1, got 0"));
        }
        let sizes = [32, 64, 96, 128, 256];
        let fits = sizes.into_iter().find(|s| self.dim <= *s && self.dim > 0);
        fits.ok_or_else(|| {
            Error::rule(format!(
                "attention's heads have 1 to 256 values, got {}",
                self.dim
            ))
        })
    }

    /// The kernels' arguments tokens, heads, kv_heads, d, scale, window, softcap.
    pub(super) fn sizes(&self) -> Result<[Arg; 7]> {
        let window = self
            .window
            .map_or(i32::MAX, |w| w.min(i32::MAX as usize) as i32);
        Ok([
            int(self.tokens)?,
            int(self.heads)?,
            int(self.kv_heads)?,
            int(self.dim)?,
            self.scale.into(),
            window.into(),
            self.softcap.unwrap_or(0.0).into(),
        ])
    }

    /// The grid: one block for each (block of rows, head), with shared memory for the block's own
    /// rows (q, or q and dout, or k and v) and for the rows it iterates over. Its numbers repeat
    /// those of the kernels' templates.
    fn grid(&self, which: Which, compiled: usize, blocks: usize) -> Result<Grid> {
        let heads = if which == Which::Keys {
            self.kv_heads
        } else {
            self.heads
        };
        let count = blocks * heads;
        int(count)?;
        let mut grid = Grid::line(count, 128);
        let (stay, pass, extra) = match self.float {
            Float::F32 => {
                grid.blocks[1] = 2; // halves of 32 rows
                let pass = if compiled > 128 { 16 } else { 32 };
                let stay = if which == Which::Forward { 32 } else { 64 };
                (stay, pass, 32 * (pass + 4) * 4)
            }
            Float::Bf16 => {
                let (narrow, wide) = (compiled > 64, compiled > 128);
                match which {
                    Which::Forward => (ROWS, 2 * if wide { 32 } else { 64 }, 0),
                    Which::Queries => (2 * ROWS, 2 * if narrow { 32 } else { 64 }, 0),
                    Which::Keys => {
                        grid.threads[0] = if wide { 256 } else { 128 };
                        (2 * ROWS, 2 * 32, 2 * 32 * 4)
                    }
                }
            }
        };
        let padding = match self.float {
            Float::F32 => 4,
            Float::Bf16 if compiled.is_multiple_of(64) => 0,
            Float::Bf16 => 8,
        };
        let row = (compiled + padding) * self.float.bytes();
        Ok(grid.shared((stay + pass) * row + extra))
    }

    /// Attention of q (tokens, heads, dim) over k, v (rows, kv_heads, dim), as a list of queries
    /// says: writes out (tokens, heads, dim) and lse f32 (heads, tokens), the log of Σ e^score. A
    /// query that sees no key gets zeros and -∞.
    ///
    /// # Errors
    /// Sizes that no kernel supports; as [`Launch::launch`].
    #[allow(clippy::too_many_arguments)] // tensors by name
    pub fn forward(
        &self,
        on: &dyn Launch,
        q: Ptr,
        k: Ptr,
        v: Ptr,
        queries: DeviceLists,
        out: Ptr,
        lse: Ptr,
    ) -> Result<()> {
        let compiled = self.compiled()?;
        if queries.count == 0 {
            return Ok(());
        }
        let mut args: Vec<Arg> = [q, k, v, out, lse, queries.blocks, queries.runs]
            .map(Arg::from)
            .to_vec();
        args.extend(self.sizes()?);
        let kernel = format!("attention_forward_{compiled}_{}", self.float.suffix());
        let grid = self.grid(Which::Forward, compiled, queries.count)?;
        on.launch(&kernel, grid, &args)
    }

    /// The gradients to q, k and v; `keys` is the inverse of `queries`
    /// ([`Lists::keys`](super::tiles::Lists::keys)).
    ///
    /// # Errors
    /// As [`Attention::forward`].
    pub fn backward(
        &self,
        on: &dyn Launch,
        inputs: &BackwardInputs,
        queries: DeviceLists,
        keys: DeviceLists,
        outputs: &BackwardOutputs,
    ) -> Result<()> {
        let compiled = self.compiled()?;
        let suffix = self.float.suffix();
        let rows = self.tokens * self.heads;
        if rows > 0 {
            let grid = Grid::line(rows.div_ceil(8), 256);
            let sizes = [int(self.tokens)?, int(self.heads)?, int(self.dim)?];
            let mut args = vec![inputs.out.into(), inputs.dout.into(), outputs.delta.into()];
            args.extend(sizes);
            on.launch(&format!("attention_delta_{suffix}"), grid, &args)?;
        }
        let read = [
            inputs.q,
            inputs.k,
            inputs.v,
            inputs.dout,
            inputs.lse,
            outputs.delta,
        ];
        let parts = [
            (Which::Queries, "queries", queries, vec![outputs.q]),
            (Which::Keys, "keys", keys, vec![outputs.k, outputs.v]),
        ];
        for (which, name, lists, written) in parts {
            if lists.count == 0 {
                continue;
            }
            let addresses = [lists.blocks, lists.runs];
            let pointers = read.into_iter().chain(written).chain(addresses);
            let mut args: Vec<Arg> = pointers.map(Arg::from).collect();
            args.extend(self.sizes()?);
            let kernel = format!("attention_backward_{name}_{compiled}_{suffix}");
            on.launch(&kernel, self.grid(which, compiled, lists.count)?, &args)?;
        }
        Ok(())
    }
}
