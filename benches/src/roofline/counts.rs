//! Lower bounds of a stage's operations and bytes.
//!
//! Only matrix products and attention count as operations (a multiply-add is two); norms, soft-max,
//! activations and the optimiser's arithmetic do not. Only what cannot stay in a cache counts as
//! bytes: weights, the tape, the KV cache, the adapter with its gradient and moments.

use std::ops::Add;

use randori_engine::{
    Base, Packed, Trace, trace,
    trace::{TracedLinear, Use},
    train::Pair,
};

use crate::adapter;

/// Operations to compute and bytes to move.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    /// Multiply-adds times two.
    pub flops: f64,
    /// To or from memory.
    pub bytes: f64,
}

impl Add for Work {
    type Output = Work;
    fn add(self, other: Work) -> Work {
        Work {
            flops: self.flops + other.flops,
            bytes: self.bytes + other.bytes,
        }
    }
}

/// Numbers of rows and of attended pairs in a pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct RowCounts {
    /// Rows through embedding and blocks.
    pub rows: f64,
    /// Rows through the head, each once.
    pub head: f64,
    /// (query, key) pairs.
    pub pairs: f64,
}

impl RowCounts {
    /// The counts of a packed micro-batch, whose segments see all that they continue, and
    /// themselves causally.
    pub fn of(plan: &Packed) -> RowCounts {
        let mut head: Vec<usize> = plan.targets.iter().map(|t| t.row).collect();
        head.sort_unstable();
        head.dedup();
        let pairs = plan
            .segments
            .iter()
            .map(|s| s.len * s.position + s.len * (s.len + 1) / 2);
        RowCounts {
            rows: plan.ids.len() as f64,
            head: head.len() as f64,
            pairs: pairs.sum::<usize>() as f64,
        }
    }

    /// The counts of a step of `batch` sequences, each with `new` tokens behind `old` cached ones;
    /// one row of each goes through the head.
    pub fn cached(batch: usize, old: usize, new: usize) -> RowCounts {
        RowCounts {
            rows: (batch * new) as f64,
            head: batch as f64,
            pairs: (batch * (old * new + new * (new + 1) / 2)) as f64,
        }
    }
}

/// Pairs packed as the trainer packs them: in order, while a micro-batch holds at most `budget`
/// rows.
pub fn micro_batches(pairs: &[Pair], budget: usize) -> Vec<Packed> {
    let mut plans: Vec<Packed> = Vec::new();
    for pair in pairs {
        let mut alone = Packed::default();
        let responses = [pair.real.as_slice(), pair.generated.as_slice()];
        alone.push(&pair.prompt, &responses);
        match plans.last_mut() {
            Some(plan) if plan.ids.len() + alone.ids.len() <= budget => {
                plan.push(&pair.prompt, &responses);
            }
            _ => plans.push(alone),
        }
    }
    plans
}

/// Operations and bytes of a model's parts.
pub struct Costs {
    trace: Trace,
    /// Bytes of all weights that every pass reads: those of the blocks …
    blocks: f64,
    /// … and the head.
    head: f64,
    /// Σ (in + out) over the blocks' projections, all of which carry LoRA.
    low_rank: f64,
    /// Σ in, and Σ in·out, over the projections whose input needs no gradient: nothing is trained
    /// below them.
    lowest: (f64, f64),
    /// The adapter's rank.
    rank: f64,
}

impl Costs {
    /// The costs of a model as it is stored, with the benches' adapter.
    pub fn of(base: &Base) -> Costs {
        let trace = trace(base.arch.as_ref()).unwrap();
        let blocks: Vec<&TracedLinear> =
            trace.linears.iter().filter(|l| l.layer.is_some()).collect();
        let head = trace.linears.iter().find(|l| l.layer.is_none()).unwrap();
        let head = format!("{}.weight", head.name);
        let bytes = |name: &str| base.weights[name].bytes() as f64;
        let others = trace.weights.iter().filter(|w| w.name != head);
        let of_blocks = others
            .filter(|w| w.used_as != Use::Embed)
            .map(|w| bytes(&w.name));
        // q, k and v of the first block stand on the frozen embedding and norm alone
        let lowest = blocks.iter().filter(|l| {
            l.layer == Some(0)
                && ["q_proj", "k_proj", "v_proj"]
                    .iter()
                    .any(|n| l.name.ends_with(n))
        });
        let lowest = lowest.fold((0.0, 0.0), |sum, l| {
            let inputs = l.inputs as f64;
            (sum.0 + inputs, sum.1 + inputs * l.outputs as f64)
        });
        Costs {
            blocks: of_blocks.sum(),
            head: bytes(&head),
            low_rank: blocks.iter().map(|l| (l.inputs + l.outputs) as f64).sum(),
            lowest,
            rank: adapter().rank as f64,
            trace,
        }
    }

    /// Weights that are multiplied with, embedding as head included.
    pub fn weights(&self) -> f64 {
        (self.trace.flops_per_token + self.trace.flops_per_head_row) / 2.0
    }

    /// A pass of the bare base that records nothing: operations = rows·token + pairs·pair + head
    /// rows·head row; bytes = weights once, and the embedding's rows.
    pub fn forward(&self, r: &RowCounts) -> Work {
        let t = &self.trace;
        Work {
            flops: r.rows * t.flops_per_token
                + r.pairs * t.flops_per_token_pair
                + r.head * t.flops_per_head_row,
            bytes: self.blocks + self.head + r.rows * 4.0 * t.width as f64,
        }
    }

    /// A pass over cached sequences: as [`Costs::forward`], and every key and value of a sequence
    /// once, those of its new tokens written, the older ones read.
    pub fn step(&self, batch: usize, old: usize, new: usize) -> Work {
        let cache = (batch * (old + new) * self.trace.cache_bytes_per_token) as f64;
        self.forward(&RowCounts::cached(batch, old, new))
            + Work {
                flops: 0.0,
                bytes: cache,
            }
    }

    /// A training step with LoRA on every projection of the blocks, without checkpointing.
    ///
    /// Operations: forward, then the gradient to the input of every projection (as much again, but
    /// for the lowest ones) and of the head; attention's backward is five products where forward is
    /// two, since the tape keeps no scores; LoRA's own, 2·r·(in + out) a row forward and twice that
    /// backward. No gradient of a frozen weight.
    ///
    /// Bytes: a micro-batch reads the weights in each direction, and writes the tape and reads it
    /// back; adapters are read in each direction and their gradients written; AdamW reads
    /// parameter, gradient and two moments and writes three.
    pub fn training(&self, micro_batches: &[RowCounts]) -> Work {
        let t = &self.trace;
        let trained = 4.0 * self.rank * self.low_rank;
        let update = Work {
            flops: 0.0,
            bytes: 7.0 * trained,
        };
        micro_batches.iter().fold(update, |sum, r| {
            let back = r.rows * (t.flops_per_token - 2.0 * self.lowest.1)
                + r.pairs * 2.5 * t.flops_per_token_pair
                + r.head * t.flops_per_head_row;
            let low_rank = self.rank * (6.0 * self.low_rank - 2.0 * self.lowest.0);
            let tape = r.rows * t.activation_bytes_per_token as f64;
            sum + self.forward(r)
                + Work {
                    flops: back + r.rows * low_rank,
                    bytes: self.blocks + self.head + 2.0 * tape + 3.0 * trained,
                }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Probe, pairs_of};

    #[test]
    fn rows_and_pairs_are_those_of_a_plan_counted_by_hand() {
        // rows: prompt 3, responses 2 - 1 and 3 - 1; both responses' first tokens share the
        // prompt's last row
        let plan = &micro_batches(&pairs_of(1, [3, 2, 3]), 100)[0];
        let r = RowCounts::of(plan);
        assert_eq!((r.rows, r.head), (6.0, 1.0 + 1.0 + 2.0));
        assert_eq!(r.pairs, (1 + 2 + 3 + 4 + 4 + 5) as f64);
        assert_eq!(RowCounts::cached(2, 3, 1).pairs, 8.0);
        assert_eq!(RowCounts::cached(1, 0, 3).pairs, 6.0);
    }

    #[test]
    fn micro_batches_are_the_trainers() {
        let of = |n, budget| -> Vec<usize> {
            let plans = micro_batches(&pairs_of(n, [3, 2, 3]), budget);
            plans.iter().map(|p| p.ids.len()).collect()
        };
        assert_eq!(of(3, 12), [12, 6]);
        assert_eq!(of(2, 5), [6, 6]);
    }

    #[test]
    fn a_pass_costs_its_products() {
        let base = Probe {
            vocab: 7,
            width: 4,
            layers: 2,
            block: |ops: &mut dyn randori_sdk::seam::Backend, x| ops.linear("square", x, 4, false),
        }
        .base();
        let costs = Costs::of(&base);
        let r = RowCounts {
            rows: 10.0,
            head: 3.0,
            pairs: 0.0,
        };
        let products = 10.0 * 2.0 * 2.0 * 16.0 + 3.0 * 2.0 * 4.0 * 7.0;
        assert_eq!(costs.forward(&r).flops, products);
        // both blocks share one weight here, which the trace names once: LoRA's part is of one
        // projection
        let low_rank = 10.0 * 8.0 * 6.0 * 8.0;
        assert_eq!(costs.training(&[r]).flops, 2.0 * products + low_rank);
    }
}
