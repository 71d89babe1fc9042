//! How much memory a player takes and how much work its passes are, from its architecture's shapes
//! alone: nothing is loaded, nothing computed.
//!
//! Every figure is in bytes and is what *this engine* allocates on the CPU or, after
//! [`Planner::on_card`], on a GPU. The passes that are run are a player's, on kernels that compute
//! nothing and declare what they take (`kernels::shapes`): so the figures follow the architecture
//! and the tape, not a rule of thumb. They do not count what a process has before a model is opened
//! (some 20 MiB: program, plugins, thread stacks), the data set, or what lies in the operating
//! system's page cache. [`SLACK`] and [`THREAD`] are measured rather than counted. Pure: no file,
//! no clock (but for [`Ceilings::measure`]), no allocation of the sizes it speaks of.
mod card;
mod ceilings;
mod passes;
mod work;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use randori_lora::LoraSpec;
use randori_sdk::seam::{Architecture, Id};

pub use crate::kernels::shapes::Work;
pub use card::{CONTEXT, ROUNDING};
pub use ceilings::Ceilings;
pub use passes::Decoding;

use crate::{
    Error, Result, adapter,
    kernels::{QUERIES, shapes::BaseWeight},
    trace::{Trace, last_uses},
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
pub(crate) struct Learnt {
    /// Rank of each projection's update.
    pub(crate) ranks: BTreeMap<String, usize>,
    /// Weights that are trained in full.
    pub(crate) full: BTreeSet<String>,
    pub(crate) dora: bool,
    pub(crate) dropout: bool,
}

/// A packed micro-batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packing {
    /// Tokens computed: prompts once, responses but for their last token.
    pub rows: usize,
    /// Response tokens.
    pub targets: usize,
    /// Most tokens that one attends to: a prompt and a response.
    pub keys: usize,
    /// (query, key) pairs in all, as attention's blocks of queries go over them.
    pub attended: u64,
    /// Whether a step has more than one of them: gradients are then there from the beginning.
    pub several: bool,
}

impl Packing {
    /// The fullest micro-batch of items of a prompt and responses of these lengths, at most `batch`
    /// items and `tokens` rows; one larger item stands alone.
    pub fn fullest(prompt: usize, responses: &[usize], batch: usize, tokens: usize) -> Self {
        let item = Packing::item(prompt, responses);
        let all = item.saturating_mul(batch.max(1));
        let rows = item.max(tokens.min(all));
        let targets = responses.iter().sum::<usize>();
        let of_responses = responses
            .iter()
            .map(|r| attended(prompt, r.saturating_sub(1)));
        let of_item = attended(0, prompt) + of_responses.sum::<u64>();
        Packing {
            rows,
            targets: (rows * targets).div_ceil(item.max(1)),
            keys: prompt + responses.iter().max().unwrap_or(&0),
            attended: of_item * rows as u64 / item.max(1) as u64,
            several: all > rows,
        }
    }

    /// Rows of one prompt with its responses: what a response's last token would predict is not
    /// asked.
    pub fn item(prompt: usize, responses: &[usize]) -> usize {
        let each = responses.iter().map(|r| r.saturating_sub(1));
        prompt + each.sum::<usize>()
    }
}

/// (query, key) pairs of `n` queries in a row behind `before` keys: a block of queries sees all
/// keys up to its last.
pub(crate) fn attended(before: usize, n: usize) -> u64 {
    let block = |from: usize| {
        let to = n.min(from + QUERIES);
        (to - from) as u64 * (before + to) as u64
    };
    (0..n).step_by(QUERIES).map(block).sum()
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

/// Answers what each stage takes.
pub struct Planner {
    arch: Arc<dyn Architecture>,
    trace: Trace,
    weights: Vec<HeldWeight>,
    /// By name.
    stored: BTreeMap<String, BaseWeight>,
    learnt: Learnt,
    threads: usize,
    /// As the tape gets them, by block.
    last_uses: Vec<Option<Arc<[Vec<Id>]>>>,
    /// Each tensor of a player's own.
    own: Vec<Own>,
    optimizer: Optimizer,
    /// The GPU that it is about.
    card: Option<card::Card>,
}

/// A tensor of a player's own.
#[derive(Debug, Clone, Copy)]
struct Own {
    numbers: u64,
    /// Whether it has more than one axis.
    matrix: bool,
}

impl Planner {
    /// `threads`: those that will work.
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
        let (learnt, own) = learnt(&trace, learns)?;
        let last_uses = (0..arch.layers())
            .map(|layer| last_uses(&*arch, layer, trace.width).map(Arc::from))
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
            learnt,
            threads,
            last_uses,
            own,
            optimizer,
            card: None,
        })
    }

    /// The frozen base.
    pub fn base(&self) -> u64 {
        self.weights.iter().map(|w| w.bytes).sum()
    }

    /// One player's own tensors; their gradients take as much.
    pub fn player(&self) -> u64 {
        4 * self.trained()
    }

    /// The largest of them.
    pub(crate) fn largest(&self) -> u64 {
        4 * self.own.iter().map(|o| o.numbers).max().unwrap_or(0)
    }

    /// The optimiser's moments.
    pub fn moments(&self) -> u64 {
        let of = |o: &Own| self.optimizer.moment_bytes(o.numbers as usize);
        self.own.iter().map(of).sum()
    }

    /// How many numbers are trained.
    pub fn trained(&self) -> u64 {
        self.own.iter().map(|o| o.numbers).sum()
    }

    /// The architecture's trace.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Loading: the weights so far and what the next needs beside it.
    pub fn load(&self) -> Peak {
        let (mut done, mut most) = (0, 0);
        for w in &self.weights {
            done += w.bytes;
            most = most.max(done + w.beside);
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
fn learnt(trace: &Trace, learns: Learns) -> Result<(Learnt, Vec<Own>)> {
    let size = |name: &str| -> Result<Own> {
        let weight = trace.weights.iter().find(|w| w.name == name);
        let weight =
            weight.ok_or_else(|| Error::rule(format!("the model has no weight `{name}`")))?;
        Ok(Own {
            numbers: weight.shape.iter().product::<usize>() as u64,
            matrix: weight.shape.len() > 1,
        })
    };
    let tensor = |numbers: usize, matrix| Own {
        numbers: numbers as u64,
        matrix,
    };
    let mut learnt = Learnt::default();
    let mut own = Vec::new();
    match learns {
        Learns::Full => learnt.full = trace.weights.iter().map(|w| w.name.clone()).collect(),
        Learns::Lora(spec, dropout) => {
            let wanted = adapter::wanted_of(trace, spec)?;
            for l in &wanted.projections {
                let rank = spec.rank_of(&l.name);
                learnt.ranks.insert(l.weight.clone(), rank);
                own.extend([rank * l.inputs, rank * l.outputs].map(|n| tensor(n, true)));
                own.extend(spec.dora.then_some(tensor(l.outputs, false)));
            }
            learnt.full = wanted.saved.iter().map(|w| trace.source(w)).collect();
            learnt.dora = spec.dora;
            learnt.dropout = dropout && spec.dropout > 0.0;
        }
    }
    for name in &learnt.full {
        own.push(size(name)?);
    }
    Ok((learnt, own))
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

    #[test]
    fn a_micro_batch_is_as_full_as_its_items_allow() {
        let of = |batch, tokens| Packing::fullest(100, &[51, 51], batch, tokens);
        assert_eq!(
            (of(1, 4096).rows, of(1, 4096).targets, of(1, 4096).several),
            (200, 102, false)
        );
        assert_eq!(
            (
                of(64, 1000).rows,
                of(64, 1000).targets,
                of(64, 1000).several
            ),
            (1000, 510, true)
        );
        assert_eq!((of(64, 10).rows, of(64, 10).keys), (200, 151)); // a larger item stands alone
        // blocks of 64 queries, all of which see as far as the last
        let of_prompt = 64 * 64 + 36 * 100;
        let of_pair = of_prompt + 2 * 50 * 150;
        assert_eq!(of(1, 4096).attended, of_pair);
        assert_eq!(of(64, 1000).attended, 5 * of_pair);
    }
}
