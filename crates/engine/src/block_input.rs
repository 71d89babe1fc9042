//! A block's input between the forward and the backward pass, from which the block is run again: it stays where it lies, or it
//! is moved to the host while the block computes, and fetched while the one above is run again.

use candle_core::Tensor;

#[cfg(feature = "cuda")]
use crate::gpu::offload::Offloaded;
use crate::{Compute, Error, PassOptions, Result};

/// A block's input.
pub(crate) struct Input {
    place: Place,
    /// Whether a gradient must reach it.
    needs: bool,
}

enum Place {
    Here(Tensor),
    Moved(Offloaded),
}

/// Whether a pass can run as it is asked to.
///
/// # Errors
/// Inputs to be offloaded that nobody keeps, or from a processor.
pub(crate) fn check(options: &PassOptions, compute: &Compute) -> Result<()> {
    match (options.offload_inputs, options.checkpoint) {
        (true, false) => Err(Error::rule(
            "offload_inputs moves the block inputs that checkpoint keeps; it is true, and checkpoint false",
        )),
        (true, true) if !compute.device.is_cuda() => Err(Error::rule(
            "offload_inputs moves block inputs from a GPU to the host; it is true, and the model on the processor",
        )),
        _ => Ok(()),
    }
}

/// Whether a block's input is worth moving: the last one is wanted again at once, and the first one is the embedding's result,
/// which stays anyway where the embedding is trained.
pub(crate) fn moves(layer: usize, layers: usize, embedding_stays: bool) -> bool {
    layer + 1 < layers && !(layer == 0 && embedding_stays)
}

impl Input {
    /// Of a block that is about to run. `moves`: it begins to leave for the host.
    ///
    /// # Errors
    /// A host without memory for it.
    pub(crate) fn of(x: &Tensor, needs: bool, moves: Option<&Compute>) -> Result<Input> {
        let place = match moves {
            Some(compute) => Place::Moved(Offloaded::of(x, compute)?),
            None => Place::Here(x.clone()),
        };
        Ok(Input { place, needs })
    }

    /// The block has run: what leaves is held no longer.
    pub(crate) fn was_used(&mut self) {
        if let Place::Moved(moved) = &mut self.place {
            moved.let_go();
        }
    }

    /// Lets it begin to come back.
    ///
    /// # Errors
    /// No memory for it.
    pub(crate) fn fetch(&mut self) -> Result<()> {
        match &mut self.place {
            Place::Here(_) => Ok(()),
            Place::Moved(moved) => moved.fetch(),
        }
    }

    /// The input, and whether a gradient must reach it.
    ///
    /// # Errors
    /// No memory for it.
    pub(crate) fn take(self) -> Result<(Tensor, bool)> {
        let x = match self.place {
            Place::Here(x) => x,
            Place::Moved(moved) => moved.take()?,
        };
        Ok((x, self.needs))
    }
}

/// A program that knows no GPU moves nothing.
#[cfg(not(feature = "cuda"))]
enum Offloaded {}

#[cfg(not(feature = "cuda"))]
impl Offloaded {
    fn of(_: &Tensor, _: &Compute) -> Result<Self> {
        Err(Error::rule(
            "this program was built without the feature cuda",
        ))
    }
    fn let_go(&mut self) {
        match *self {}
    }
    fn fetch(&mut self) -> Result<()> {
        match *self {}
    }
    fn take(self) -> Result<Tensor> {
        match self {}
    }
}
