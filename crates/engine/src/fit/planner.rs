//! The planner: a player's sizes, from its architecture's shapes alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use randori_kernels::{Error, Result, shapes::BaseWeight};
use randori_lora::LoraSpec;
use randori_sdk::seam::{Architecture, Id};

use crate::{
    adapter,
    trace::{Trace, call::last_uses},
    train::Optimizer,
    weights::HeldWeight,
};

/// The allocator's share: what a pass frees and asks for again does not always fit where it was.
pub const SLACK: f64 = 1.02;
/// Of every thread: what the products pack their factors into, and its part of the allocator.
pub const THREAD: u64 = 2 << 20;

/// Freed blocks up to this size stay with the process (glibc's largest threshold for a map of their
/// own).
pub const HEAP: u64 = 32 << 20;

/// What is trained.
#[derive(Debug, Clone, Copy)]
pub enum Learns<'a> {
    /// Low-rank updates; whether their dropout is used.
    Lora(&'a LoraSpec, bool),
    /// Every weight, as an f32 copy.
    Full,
}

/// What a player has of its own.
#[derive(Debug, Clone, Default)]
pub(super) struct Trainable {
    /// Rank of each projection's update.
    pub(super) ranks: BTreeMap<String, usize>,
    /// Weights that are trained in full.
    pub(super) full: BTreeSet<String>,
    pub(super) dora: bool,
    pub(super) dropout: bool,
}

/// One stage's memory at its peak, by what it is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Peak {
    /// The frozen base.
    pub base: u64,
    /// What players have of their own.
    pub players: u64,
    /// The optimiser's moments.
    pub moments: u64,
    /// Gradients of what is trained.
    pub gradients: u64,
    /// What the forward pass leaves for the backward pass, or keys and values of sequences.
    pub kept: u64,
    /// Everything else that lives at the worst moment, the allocator's share included.
    pub work: u64,
    /// Of `work`, at its own worst: attention's scores and gradients to each head's keys and
    /// values.
    pub attention: u64,
    /// Of `work`, at its own worst: logits.
    pub logits: u64,
}

impl Peak {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.base + self.players + self.moments + self.gradients + self.kept + self.work
    }
}

/// A GPU, as far as memory goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Card {
    /// Bytes of the numbers it computes in.
    pub(super) float: u64,
    /// Whether block inputs wait for the backward pass in the host's memory.
    pub(super) offloads: bool,
    /// What loading takes in the machine's own memory: the weight that needs most.
    pub(super) loading: u64,
    /// Whether parameters and moments stay in the machine's memory while they are trained.
    pub(super) offload_optimizer: bool,
    /// The base where it stays there: in full training, in which every player has all of it as its
    /// own.
    pub(super) stays: u64,
}

/// Predicts the memory and the work of each stage.
pub struct Planner {
    pub(super) arch: Arc<dyn Architecture>,
    pub(super) trace: Trace,
    pub(super) weights: Vec<HeldWeight>,
    /// How each weight is stored, by its name.
    pub(super) stored: BTreeMap<String, BaseWeight>,
    pub(super) trainable: Trainable,
    pub(super) threads: usize,
    /// What each block lets go of early, as the tape gets it.
    pub(super) last_uses: Vec<Option<Arc<[Vec<Id>]>>>,
    /// Each tensor of a player's own.
    pub(super) own: Vec<OwnTensor>,
    pub(super) optimizer: Optimizer,
    /// The GPU that it is about.
    pub(super) card: Option<Card>,
}

/// A tensor of a player's own.
#[derive(Debug, Clone, Copy)]
pub(super) struct OwnTensor {
    pub(super) numbers: u64,
    /// Whether it has more than one axis.
    pub(super) matrix: bool,
}

impl Planner {
    /// A planner for a machine in which `threads` work.
    ///
    /// # Errors
    /// An adapter that does not fit the model, naming the projections there are.
    pub fn new(
        arch: Arc<dyn Architecture>,
        trace: Trace,
        weights: Vec<HeldWeight>,
        learns: Learns,
        optimizer: Optimizer,
        threads: usize,
    ) -> Result<Self> {
        let (trainable, own) = trainable_of(&trace, learns)?;
        let last_uses = (0..arch.layers())
            .map(|layer| last_uses(&*arch, layer, trace.width, &trace.carried).map(Arc::from))
            .collect();
        let stored = weights.iter().map(|w| {
            let stored = BaseWeight {
                bytes: w.bytes,
                widened: w.widened,
                held: w.held,
            };
            (w.name.clone(), stored)
        });
        Ok(Planner {
            stored: stored.collect(),
            arch,
            trace,
            weights,
            trainable,
            threads,
            last_uses,
            own,
            optimizer,
            card: None,
        })
    }

    /// Bytes of the frozen base.
    pub fn base_bytes(&self) -> u64 {
        self.weights.iter().map(|w| w.bytes).sum()
    }

    /// Bytes of one player's own tensors; their gradients take as much.
    pub fn player_bytes(&self) -> u64 {
        4 * self.trainable_parameters()
    }

    /// Bytes of a player's largest tensor.
    pub(super) fn largest_bytes(&self) -> u64 {
        4 * self.own.iter().map(|o| o.numbers).max().unwrap_or(0)
    }

    /// Bytes of the optimiser's moments.
    pub fn moment_bytes(&self) -> u64 {
        let of = |o: &OwnTensor| self.optimizer.moment_bytes(o.numbers as usize);
        self.own.iter().map(of).sum()
    }

    /// How many parameters are trained.
    pub fn trainable_parameters(&self) -> u64 {
        self.own.iter().map(|o| o.numbers).sum()
    }

    /// The architecture's trace.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Peak memory of loading: the weights so far and what the next needs beside it.
    pub fn loading_peak(&self) -> Peak {
        let (mut done, mut most) = (0, 0);
        for w in &self.weights {
            done += w.bytes;
            most = most.max(done + w.scratch);
        }
        Peak {
            base: done,
            work: most - done,
            ..Peak::default()
        }
    }
}

/// The largest `n` of `1..=most` for which `bytes(n)`, which must not fall, is at most `limit`;
/// `None`: not even 1.
///
/// # Errors
/// Those of `bytes`.
pub fn largest(
    limit: u64,
    most: usize,
    bytes: &mut dyn FnMut(usize) -> Result<u64>,
) -> Result<Option<usize>> {
    if bytes(1)? > limit {
        return Ok(None);
    }
    let (mut fits, mut above) = (1, 2);
    while above <= most && bytes(above)? <= limit {
        (fits, above) = (above, 2 * above);
    }
    let mut above = above.min(most + 1);
    while above - fits > 1 {
        let middle = fits + (above - fits) / 2;
        match bytes(middle)? <= limit {
            true => fits = middle,
            false => above = middle,
        }
    }
    Ok(Some(fits))
}

/// What a player of this kind has of its own, and its tensors.
fn trainable_of(trace: &Trace, learns: Learns) -> Result<(Trainable, Vec<OwnTensor>)> {
    let size = |name: &str| -> Result<OwnTensor> {
        let weight = trace.weights.iter().find(|w| w.name == name);
        let weight =
            weight.ok_or_else(|| Error::rule(format!("the model has no weight `{name}`")))?;
        Ok(OwnTensor {
            numbers: weight.shape.iter().product::<usize>() as u64,
            matrix: weight.shape.len() > 1,
        })
    };
    let tensor = |numbers: usize, matrix| OwnTensor {
        numbers: numbers as u64,
        matrix,
    };
    let mut trainable = Trainable::default();
    let mut own = Vec::new();
    match learns {
        Learns::Full => trainable.full = trace.weights.iter().map(|w| w.name.clone()).collect(),
        Learns::Lora(spec, dropout) => {
            let wanted = adapter::resolve(trace, spec)?;
            for l in &wanted.projections {
                let rank = spec.rank_of(&l.name);
                trainable.ranks.insert(l.weight.clone(), rank);
                own.extend([rank * l.inputs, rank * l.outputs].map(|n| tensor(n, true)));
                own.extend(spec.dora.then_some(tensor(l.outputs, false)));
            }
            trainable.full = wanted.saved.iter().map(|w| trace.source(w)).collect();
            trainable.dora = spec.dora;
            trainable.dropout = dropout && spec.dropout > 0.0;
        }
    }
    for name in &trainable.full {
        own.push(size(name)?);
    }
    Ok((trainable, own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_that_fits_is_found() {
        for (limit, most, want) in [
            (9, 100, None),
            (10, 100, Some(1)),
            (57, 100, Some(5)),
            (5000, 100, Some(100)),
        ] {
            assert_eq!(
                largest(limit, most, &mut |n| Ok(10 * n as u64)).unwrap(),
                want
            );
        }
    }
}
