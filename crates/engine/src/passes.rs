//! The passes through a model that every use of it is made of: embedding, blocks, head. Written
//! once, over the kernels of any machine; a player's and those that `fit` plans are the same.

use randori_kernels::{Error, Kernels, Result, Shaped};

use crate::{
    tape::{Carried, Context, Pass, Recorded, Tape, shapes},
    trace::{Call, Use, call::weights_of},
};

/// Rows from which a block's values are let go at their last use rather than at its end.
const EARLY: usize = 64;

impl<K: Kernels> Pass<'_, K> {
    /// Runs the embedding: the pass's token ids to (tokens, width).
    pub(crate) fn run_embed(
        &self,
        record: bool,
        carried: &mut Carried<K::Tensor>,
    ) -> Result<Recorded<K>> {
        let ids = self.kernels.tokens(&self.plan)?;
        let arch = self.model.arch();
        Tape::run(
            self,
            Context::Alone,
            record,
            (ids, false),
            carried,
            None,
            |tape, ids| arch.embed(tape, ids),
        )
        .map_err(|e| self.at(Call::Embed, e))
    }

    /// Runs one block on the hidden state x, (rows, width), and on what is carried to it.
    pub(crate) fn run_block(
        &self,
        context: Context<K>,
        layer: usize,
        record: bool,
        x: K::Tensor,
        needs: bool,
        carried: &mut Carried<K::Tensor>,
    ) -> Result<Recorded<K>> {
        let shape = x.dims().to_vec();
        let early = matches!(context, Context::Packed) && shape[0] >= EARLY;
        let uses = early
            .then(|| self.model.last_uses(layer, shape[1], &shapes(carried)))
            .flatten();
        let arch = self.model.arch();
        let input = (x, needs);
        let done = Tape::run(self, context, record, input, carried, uses, |tape, x| {
            arch.block(tape, layer, x)
        })
        .map_err(|e| self.at(Call::Block(layer), e))?;
        if done.output.dims() != shape {
            return Err(self.at(
                Call::Block(layer),
                Error::rule(format!(
                    "it answered {:?} for {shape:?}",
                    done.output.dims()
                )),
            ));
        }
        Ok(done)
    }

    /// Runs the head: hidden state (rows, width) to logits (rows, vocab).
    pub(crate) fn run_head(
        &self,
        context: Context<K>,
        record: bool,
        x: K::Tensor,
        needs: bool,
    ) -> Result<Recorded<K>> {
        let arch = self.model.arch();
        let (input, carried) = ((x, needs), &mut Carried::new()); // none reaches it
        let done = Tape::run(self, context, record, input, carried, None, |tape, x| {
            arch.head(tape, x)
        })
        .map_err(|e| self.at(Call::Head, e))?;
        match done.output.dims().len() {
            2 => Ok(done),
            _ => Err(self.at(
                Call::Head,
                Error::rule(format!(
                    "it answered {:?}, not (rows, vocab)",
                    done.output.dims()
                )),
            )),
        }
    }

    /// The hidden state after the last block, (tokens, width), of packed rows; nothing is recorded.
    pub(crate) fn run_blocks(&self) -> Result<K::Tensor> {
        let mut carried = Carried::new();
        let mut x = self.run_embed(false, &mut carried)?.output;
        for layer in 0..self.model.arch().layers() {
            x = self
                .run_block(Context::Packed, layer, false, x, false, &mut carried)?
                .output;
        }
        Ok(x)
    }

    /// Logits (entries, vocab) after each entry's last row, behind what a cache holds.
    pub(crate) fn cached_logits(
        &self,
        cache: &mut K::Cache,
        last: &K::Indices,
    ) -> Result<K::Tensor> {
        let carried = &mut Carried::new();
        let mut x = self.run_embed(false, carried)?.output;
        for layer in 0..self.model.arch().layers() {
            let context = Context::Cached {
                cache: &mut *cache,
                layer,
                call: 0,
                recurrent: 0,
            };
            let done = self.run_block(context, layer, false, x, false, carried)?;
            x = done.output;
        }
        let ends = self.kernels.pick(&x, last)?;
        Ok(self.run_head(Context::Alone, false, ends, false)?.output)
    }

    /// Logits (rows, vocab) of these rows of a hidden state.
    pub(crate) fn head_rows(&self, hidden: &K::Tensor, rows: &K::Indices) -> Result<K::Tensor> {
        let picked = self.kernels.gather(hidden, rows)?;
        let context = Context::Picked(rows.clone());
        Ok(self.run_head(context, false, picked, false)?.output)
    }

    /// Whether a weight of the head's own is trained; `width` is the hidden state's.
    pub(crate) fn head_trains(&self, width: usize) -> Result<bool> {
        let trains = |w: &crate::trace::TracedWeight| -> Result<bool, String> {
            let module = w.name.strip_suffix(".weight").unwrap_or(&w.name);
            match (w.used_as, w.shape.as_slice()) {
                (Use::Linear | Use::Embed, &[out, inputs]) => {
                    let updated = self.model.update(self.model.goes_by(module)).is_some();
                    Ok(updated || self.projection(module, (out, inputs))?.own.is_some())
                }
                (Use::Param, shape) => Ok(self.param(&w.name, shape)?.own.is_some()),
                (_, shape) => {
                    let vector = self.vector(w.name.clone(), shape)?;
                    Ok(vector.own.is_some())
                }
            }
        };
        for w in weights_of(self.model.arch(), Call::Head, width, &[])? {
            if trains(&w).map_err(Error::rule)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn at(&self, call: Call, error: Error) -> Error {
        let name = self.model.arch().name();
        Error::rule(format!("`{name}`, {call}: {error}"))
    }
}
