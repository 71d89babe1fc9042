//! A block's input between the forward and the backward pass, from which the block is run again: it
//! stays where it lies, or it is moved to the host while the block computes, and fetched while the
//! one above is run again.

use randori_kernels::{Error, Kernels, Result};

use crate::{Compute, PassOptions};

/// A block's input.
pub(crate) struct Input<K: Kernels> {
    memory: Memory<K>,
    /// Whether a gradient must reach it.
    needs: bool,
}

/// The memory in which an input waits for the backward pass.
enum Memory<K: Kernels> {
    Device(K::Tensor),
    Host(K::Offloaded),
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

/// Whether a block's input is worth moving: the last one is wanted again at once, and the first one
/// is the embedding's result, which stays anyway where the embedding is trained.
pub(crate) fn moves(layer: usize, layers: usize, embedding_stays: bool) -> bool {
    layer + 1 < layers && !(layer == 0 && embedding_stays)
}

impl<K: Kernels> Input<K> {
    /// Keeps the input of a block that is about to run. With `moves` it begins to leave for the
    /// host.
    ///
    /// # Errors
    /// A host without memory for it.
    pub(crate) fn of(kernels: &K, x: &K::Tensor, needs: bool, moves: bool) -> Result<Self> {
        let memory = match moves {
            true => Memory::Host(kernels.offload(x)?),
            false => Memory::Device(x.clone()),
        };
        Ok(Input { memory, needs })
    }

    /// Frees the device's copy of an input that moves, once its block has run.
    pub(crate) fn was_used(&mut self, kernels: &K) {
        if let Memory::Host(moved) = &mut self.memory {
            kernels.release(moved);
        }
    }

    /// Begins to copy an input that was moved back to the device.
    ///
    /// # Errors
    /// No memory for it.
    pub(crate) fn fetch(&mut self, kernels: &K) -> Result<()> {
        match &mut self.memory {
            Memory::Device(_) => Ok(()),
            Memory::Host(moved) => kernels.fetch(moved),
        }
    }

    /// The input, and whether a gradient must reach it.
    ///
    /// # Errors
    /// No memory for it.
    pub(crate) fn take(self, kernels: &K) -> Result<(K::Tensor, bool)> {
        let x = match self.memory {
            Memory::Device(x) => x,
            Memory::Host(moved) => kernels.take(moved)?,
        };
        Ok((x, self.needs))
    }
}
