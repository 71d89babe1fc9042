//! The logits of every row of a sequence, a chunk of rows at a time: (tokens, vocab) never exists.

use candle_core::Tensor;
use randori_kernels::{Error, Result, host};

use crate::{
    Packed, Player,
    base::on_kernels,
    player::{passes::in_pool, weights::PassWeights},
    tape::Pass,
    training_pass::chunk_rows,
};

impl Player {
    /// Tells `see` the logits (vocab) of each of a sequence's tokens, in order: those of token i
    /// are of what follows it. It is computed as [`crate::score`] computes it.
    ///
    /// # Errors
    /// As [`Player::hidden`]; no token; an error of `see`.
    pub fn each_row(
        &self,
        tokens: &[u32],
        see: &mut dyn FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        if tokens.is_empty() {
            return Err(Error::rule("a sequence of no token has no logits"));
        }
        let mut packed = Packed::with_border(self.border());
        packed.push(tokens, &[]);
        let on_gpu = self.base.compute.device.is_cuda();
        let mut from = 0;
        // the vocabulary is known from the first row on
        let mut size = 1;
        let hidden = self.hidden(&packed)?;
        while from < tokens.len() {
            let to = tokens.len().min(from + size);
            let logits = host(&self.head_of(&packed, &hidden, from..to)?)?;
            let (rows, vocab) = logits.dims2()?;
            if rows != to - from || vocab == 0 {
                return Err(Error::rule(format!(
                    "the model answered {rows} rows of {vocab} logits for {} tokens",
                    to - from
                )));
            }
            let values = logits.flatten_all()?.to_vec1::<f32>()?;
            for (i, row) in values.chunks_exact(vocab).enumerate() {
                see(from + i, row)?;
            }
            (from, size) = (to, chunk_rows(vocab, on_gpu));
        }
        Ok(())
    }

    /// Logits of some rows of a hidden state.
    fn head_of(
        &self,
        packed: &Packed,
        hidden: &Tensor,
        rows: std::ops::Range<usize>,
    ) -> Result<Tensor> {
        in_pool(|| {
            let weights = PassWeights::new(self, Default::default())?;
            let plan = packed.to_plan(None)?;
            let rows: std::rc::Rc<[u32]> = rows.map(|row| row as u32).collect();
            on_kernels!(self.base.compute, kernels => {
                Pass::new(kernels, &weights, plan).head_rows(hidden, &rows)
            })
        })
    }
}
