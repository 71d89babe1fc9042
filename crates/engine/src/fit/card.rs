//! What lies on a GPU's memory. The passes are those of the CPU, in the numbers that the card
//! computes in. Players lie in the machine's memory, and a copy of the one that works is on the
//! card; while it is trained, its parameters and their moments too, unless they are asked to stay.

use randori_kernels::{Error, PAGE, Result};

use super::{
    packing::Packing,
    passes::Decoding,
    planner::{Card, HEAP, OwnTensor, Peak, Planner},
};
use crate::{
    block_input::moves,
    generate::{PIECE, PREFILL},
    tape::{Carried, Pass},
    weights::{Dtype, HeldWeight, Holding},
};

/// What a process has on a card before it opens a model: the CUDA context, kernels, cuBLAS's
/// workspace. Assumed, not measured.
pub const CONTEXT: u64 = 614 << 20;
/// The share by which a card's pool of memory is taken to be larger than what lies in it. Assumed,
/// not measured.
pub const ROUNDING: f64 = 0.03;

/// Tables beside a matrix in 4 bits: 16 levels, and the 256 values of quantised scales.
const LEVELS: u64 = 4 * 16;
const MAP: u64 = 4 * 256;

impl Planner {
    /// The same planner for a GPU that computes in `float`.
    ///
    /// # Errors
    /// Numbers that it does not compute in.
    pub fn on_card(mut self, float: Dtype) -> Result<Self> {
        let size = match float {
            Dtype::F32 => 4,
            Dtype::Bf16 => 2,
            Dtype::F16 => return Err(Error::rule("a GPU computes in f32 or bf16, not f16")),
        };
        let whole = self.loading_peak().total();
        let full = |w: &HeldWeight| self.trainable.full.contains(&w.name);
        let stays = match self.weights.iter().all(full) {
            true => self.base_bytes(),
            false => 0,
        };
        let mut loading = 0;
        for held in &mut self.weights {
            let traced = self.trace.weights.iter().find(|w| w.name == held.name);
            let shape = traced.map_or(&[][..], |w| &w.shape);
            let number = if shape.len() > 1 { size } else { 4 };
            // in the machine's memory it is alone: made, in other numbers if need be, and gone
            let (made, scratch) = (held.bytes, held.scratch);
            match held.held {
                Holding::Dense => held.bytes = number * shape.iter().product::<usize>() as u64,
                Holding::Nf4 { double } => held.bytes += LEVELS + if double { MAP } else { 0 },
                Holding::Blocks => {}
            }
            let again = match held.held {
                Holding::Dense if held.bytes != made => held.bytes,
                _ => 0,
            };
            loading = loading.max(made + scratch.max(again));
            held.scratch = 0;
            if stays > 0 {
                held.bytes = 0;
            }
            if let Some(stored) = self.stored.get_mut(&held.name) {
                stored.bytes = held.bytes;
            }
        }
        self.card = Some(Card {
            float: size,
            offloads: false,
            offload_optimizer: false,
            // what was freed of a weight may stay with the process while the next is made
            loading: match stays {
                0 => loading + loading.min(HEAP),
                _ => whole,
            },
            stays,
        });
        Ok(self)
    }

    /// The same with block inputs offloaded in checkpointed training; says nothing of a machine
    /// without a card.
    pub fn offload_inputs(mut self, offloads: bool) -> Self {
        if let Some(card) = &mut self.card {
            card.offloads = offloads;
        }
        self
    }

    /// Whether parameters and moments stay in the machine's memory
    /// ([`crate::train::TrainSettings::offload_optimizer`]).
    pub fn offload_optimizer(mut self, offloads: bool) -> Self {
        if let Some(card) = &mut self.card {
            card.offload_optimizer = offloads;
        }
        self
    }

    /// Bytes of the numbers that passes compute in.
    fn float(&self) -> u64 {
        self.card.map_or(4, |card| card.float)
    }

    /// A player's own tensors as they are copied to the card.
    fn copy_bytes(&self) -> u64 {
        let float = self.float();
        let of = |matrix| if matrix { float } else { 4 };
        self.own.iter().map(|o| of(o.matrix) * o.numbers).sum()
    }

    /// Parameters and moments on the card, in training: what has one axis is in f32 in passes, too,
    /// and is there once.
    fn optimised(&self) -> (u64, u64) {
        if self.card.is_some_and(|card| card.offload_optimizer) {
            return (self.copy_bytes(), 0);
        }
        let shared = |o: &&OwnTensor| self.float() == 4 || !o.matrix;
        let shared: u64 = self.own.iter().filter(shared).map(|o| 4 * o.numbers).sum();
        let coded = self
            .own
            .iter()
            .any(|o| self.optimizer.in_8_bits(o.numbers as usize));
        let maps = if coded { 2 * MAP } else { 0 };
        let params = self.player_bytes() + self.copy_bytes() - shared;
        (params, self.moment_bytes() + maps)
    }

    /// The machine's own memory beside a card: a weight of the base while it loads (in full
    /// training all of it, which then stays); afterwards the parameters of `players`, and where the
    /// optimiser works there, the moments, a step's gradients and the tensor that is being changed;
    /// otherwise what comes down to be saved. What is pinned for block inputs comes on top
    /// ([`Planner::pinned_bytes`]).
    pub fn beside_card(&self, players: usize) -> (u64, u64) {
        let (loading, stays) = self.card.map_or((0, 0), |card| (card.loading, card.stays));
        let training = stays
            + (players as u64 + 1) * self.player_bytes()
            + self.moment_bytes()
            + self.largest_bytes();
        (loading, training)
    }

    /// Whether block inputs wait for the backward pass in the host's memory.
    pub(super) fn offloads(&self) -> bool {
        self.card.is_some_and(|card| card.offloads)
    }

    /// Bytes of the host's memory that are pinned for the inputs of a micro-batch's blocks.
    ///
    /// # Errors
    /// What the architecture refuses.
    pub fn pinned_bytes(&self, packing: &Packing) -> Result<u64> {
        if !self.offloads() {
            return Ok(0);
        }
        let kernels = self.kernels(packing.keys, packing.attended);
        let pass = Pass::new(&kernels, self, packing.rows);
        let embed = pass.run_embed(true, &mut Carried::new())?;
        let layers = self.arch.layers();
        let moved = (0..layers).filter(|layer| moves(*layer, layers, embed.has_backward()));
        let input = self.float() * (packing.rows * self.trace.width) as u64;
        Ok(moved.count() as u64 * input)
    }

    /// A training step's peak by its parts; `peak` is that of its passes, gradients included.
    pub(super) fn training_peak_on_card(&self, peak: u64, kept: u64) -> Peak {
        let gradients = self.player_bytes().min(peak);
        let kept = kept.min(peak - gradients);
        let (players, moments) = self.optimised();
        Peak {
            players,
            moments,
            gradients,
            kept,
            work: peak - gradients - kept,
            ..self.scoring_peak_on_card(0)
        }
    }

    /// The peak of a pass by its parts.
    pub(super) fn scoring_peak_on_card(&self, peak: u64) -> Peak {
        let vocab = self.trace.vocab;
        Peak {
            base: self.base_bytes(),
            players: self.copy_bytes(),
            work: peak,
            logits: self.float() * (self.chunk_rows() * vocab) as u64,
            ..Peak::default()
        }
    }

    /// Peak memory of generating answers, all as long as can be.
    pub(super) fn generation_peak_on_card(&self, d: &Decoding) -> Result<Peak> {
        let float = self.float();
        let slots = d.slots.max(1);
        let all = (d.prompt + d.response).saturating_sub(1).max(1); // the last token is not fed
        let step = |rows, sequences, decodes| {
            let mut kernels = self.kernels(all, 0);
            kernels.decodes = decodes;
            self.cached_step(kernels, rows, sequences)
        };
        let mut most = step(slots, slots, true)?;
        let entrance = Entrance::of(slots, d.prompt);
        // the round with the most rows, and that with the most sequences
        let last = entrance.round(entrance.rounds.saturating_sub(1));
        let rounds = (0..entrance.rounds).map(|round| entrance.round(round));
        for (rows, sequences) in rounds.max().into_iter().chain([last]) {
            most = most.max(step(rows, sequences, false)?);
        }
        if d.refilled {
            let rows = entrance.fed * d.prompt.min(PIECE) + slots - entrance.fed;
            most = most.max(step(rows, slots, false)?);
        }
        let pages = slots * all.div_ceil(PAGE);
        let kept = (pages * PAGE * self.trace.cache_bytes_per_token) as u64 * float / 4;
        Ok(Peak {
            kept,
            logits: float * (slots * self.trace.vocab) as u64,
            ..self.scoring_peak_on_card(most)
        })
    }
}

/// Prompts enter the cache some at a time, while those that are in go on.
struct Entrance {
    slots: usize,
    prompt: usize,
    /// Prompts in a step, and steps that each takes.
    fed: usize,
    pieces: usize,
    rounds: usize,
}

impl Entrance {
    fn of(slots: usize, prompt: usize) -> Self {
        let prompt = prompt.max(1);
        let fed = (PREFILL / prompt.min(PIECE)).clamp(1, slots);
        let pieces = prompt.div_ceil(PIECE);
        Entrance {
            slots,
            prompt,
            fed,
            pieces,
            rounds: slots.div_ceil(fed) * pieces,
        }
    }

    /// New rows, and sequences.
    fn round(&self, round: usize) -> (usize, usize) {
        let inside = round / self.pieces * self.fed;
        let outside = self.slots - inside.min(self.slots);
        let entering = self.fed.min(outside);
        let before = round % self.pieces * PIECE;
        let piece = PIECE.min(self.prompt - before);
        // beside long prompts' last pieces the next ones' first have room
        let next = match before {
            0 => 0,
            _ => (PREFILL.saturating_sub(entering * piece) / PIECE).min(outside - entering),
        };
        let rows = entering * piece + next * PIECE + inside;
        (rows, entering + next + inside)
    }
}
