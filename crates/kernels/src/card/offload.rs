//! Offloading block inputs to the host's pinned memory until the backward pass, so that only two of
//! a deep model's lie on the card at a time. Each is copied down while its block computes, and back
//! while the block above is recomputed.

use candle_core::Tensor;
use randori_cuda::gpu::{
    Gpu,
    host::{Away, Coming, Leaving, PinnedPool},
};

use crate::{Error, Result};

/// An offloaded tensor: on its way to the host, there, or on its way back.
pub struct Offloaded(State);

enum State {
    Leaving(Leaving),
    Away(Away),
    Coming(Coming),
    /// Fetching it failed, and so does the pass.
    Lost,
}

impl Offloaded {
    /// Starts to copy a tensor to the host. Nobody may write to it any more.
    ///
    /// # Errors
    /// The host refuses to pin more memory.
    pub fn of(x: &Tensor, pinned: &PinnedPool) -> Result<Self> {
        let leaving = Leaving::of(Gpu::open()?, x, pinned).map_err(|e| {
            Error::rule(format!(
                "a block's input cannot leave the card: {e}; keep inputs on the card (train.offload_inputs = false) or compute fewer at a time (train.micro_batch_tokens)"
            ))
        })?;
        Ok(Offloaded(State::Leaving(leaving)))
    }

    /// Frees the tensor's memory on the card once the copy is done.
    pub fn release(&mut self) {
        self.0 = match std::mem::replace(&mut self.0, State::Lost) {
            State::Leaving(leaving) => State::Away(leaving.gone()),
            other => other,
        };
    }

    /// Starts to copy it back.
    ///
    /// # Errors
    /// Not enough memory on the card.
    pub fn fetch(&mut self) -> Result<()> {
        self.release();
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
