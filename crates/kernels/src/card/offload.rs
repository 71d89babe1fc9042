//! Block inputs that wait for the backward pass in pinned memory of the host's, so that of a deep
//! model's only two lie on the card at a time. They leave while their block computes, and come back
//! while the block above is run again.

use candle_core::Tensor;
use randori_cuda::gpu::{
    Gpu,
    host::{Away, Coming, Leaving, PinnedPool},
};

use crate::{Error, Result};

/// A tensor on its way to the host, there, or on its way back.
pub struct Offloaded(State);

enum State {
    Leaving(Leaving),
    Away(Away),
    Coming(Coming),
    /// Its fetching failed; the pass is given up.
    Lost,
}

impl Offloaded {
    /// Begins to move a tensor, which must not be written to any more.
    ///
    /// # Errors
    /// A host that pins no more memory.
    pub fn of(x: &Tensor, pinned: &PinnedPool) -> Result<Self> {
        let leaving = Leaving::of(Gpu::open()?, x, pinned).map_err(|e| {
            Error::rule(format!(
                "a block's input cannot leave the card: {e}; keep inputs on the card (train.offload_inputs = false) or compute fewer at a time (train.micro_batch_tokens)"
            ))
        })?;
        Ok(Offloaded(State::Leaving(leaving)))
    }

    /// Holds the tensor's memory on the card no longer than the copy takes.
    pub fn let_go(&mut self) {
        self.0 = match std::mem::replace(&mut self.0, State::Lost) {
            State::Leaving(leaving) => State::Away(leaving.gone()),
            other => other,
        };
    }

    /// Lets it begin to come back.
    ///
    /// # Errors
    /// No memory for it on the card.
    pub fn fetch(&mut self) -> Result<()> {
        self.let_go();
        self.0 = match std::mem::replace(&mut self.0, State::Lost) {
            State::Away(away) => State::Coming(away.fetch()?),
            other => other,
        };
        Ok(())
    }

    /// The tensor on the card.
    ///
    /// # Errors
    /// As [`Offloaded::fetch`].
    pub fn take(mut self) -> Result<Tensor> {
        self.fetch()?;
        match self.0 {
            State::Coming(coming) => Ok(coming.here()),
            _ => Err(Error::rule("a block's input that was lost cannot be used")),
        }
    }
}
