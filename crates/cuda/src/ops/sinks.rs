//! Attention's sinks (kernels/attention_sinks.cu): one logit more for each head in the soft-max of
//! all its queries, whose value is 0. They are added to what attention gave without them.

use crate::{Arg, Float, Grid, Launch, Ptr, Result, int};

/// Sinks beside attention's results, which they change.
#[derive(Debug, Clone, Copy)]
pub struct Sinks {
    /// Type of the sinks, of `out` and of the gradients.
    pub float: Float,
    /// Queries.
    pub tokens: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Features of a head of the result.
    pub dim: usize,
    /// The sinks: (heads).
    pub sinks: Ptr,
    /// Attention's result: (tokens, heads, dim).
    pub out: Ptr,
    /// log Σ e^score of each query: f32 (heads, tokens).
    pub lse: Ptr,
}

impl Sinks {
    /// Adds the sinks to both results.
    ///
    /// # Errors
    /// As [`Launch::launch`].
    pub fn add(&self, on: &dyn Launch) -> Result<()> {
        let rows = self.tokens * self.heads;
        if rows == 0 {
            return Ok(());
        }
        let mut args: Vec<Arg> = [self.sinks, self.out, self.lse].map(Arg::from).to_vec();
        args.extend(self.sizes()?);
        let kernel = format!("attention_sinks_{}", self.float.suffix());
        on.launch(&kernel, Grid::line(rows.div_ceil(8), 256), &args)
    }

    /// Writes the gradient to the sinks, (heads), from the results with them and the gradient to
    /// the first, `dout`.
    ///
    /// # Errors
    /// As [`Launch::launch`].
    pub fn gradient(&self, on: &dyn Launch, dout: Ptr, gradient: Ptr) -> Result<()> {
        if self.heads == 0 {
            return Ok(());
        }
        let pointers = [self.sinks, self.out, self.lse, dout, gradient];
        let mut args: Vec<Arg> = pointers.map(Arg::from).to_vec();
        args.extend(self.sizes()?);
        let kernel = format!("attention_sinks_gradient_{}", self.float.suffix());
        on.launch(&kernel, Grid::line(self.heads, 256), &args)
    }

    fn sizes(&self) -> Result<[Arg; 3]> {
        Ok([int(self.tokens)?, int(self.heads)?, int(self.dim)?])
    }
}
