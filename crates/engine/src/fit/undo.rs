//! The backward pass without numbers: each op here stands beside one of `tape/backward.rs`.

use randori_sdk::seam::Id;

use super::{ledger::Held, meter::Recorded, pass::Pass};

/// What a recorded op's backward pass does, besides freeing what it kept.
pub(super) enum Undo {
    /// Weights' gradients, then a gradient to each input of so many numbers, all at once.
    Each(Vec<(Id, usize)>),
    Linear {
        name: String,
        x: Id,
        /// Numbers in x, rows, features in and out.
        size: (usize, usize, usize, usize),
        own: bool,
        bias: bool,
    },
    Norm {
        x: Id,
        count: usize,
        own: Vec<(String, usize)>,
    },
    Attention {
        ids: [Id; 3],
        counts: [usize; 3],
        /// Of a query over all heads.
        width: usize,
        heads: usize,
    },
    /// Both inputs get the same gradient.
    Add {
        a: Id,
        b: Id,
        same: bool,
        b_count: usize,
    },
    /// `first`: the first factor, which goes when b has its gradient, or what it is computed from; `again`: its numbers then.
    Multiply {
        a: Id,
        b: Id,
        counts: (usize, usize),
        first: Option<Held>,
        again: usize,
    },
    /// Each input's gradient at once where both are wanted, or else over another value.
    SwiGlu {
        gate: Id,
        up: Id,
        count: usize,
    },
    /// The gradient's memory is shared.
    Alias(Id),
    Embed {
        own: (String, usize),
        count: usize,
    },
}

/// Gradients to a call's values; whether each has memory of its own.
struct Arena {
    grads: Vec<Option<(Held, bool)>>,
    needed: Vec<bool>,
}

impl Arena {
    fn needs(&self, id: Id) -> bool {
        self.needed[id as usize - 1]
    }

    /// Adds a gradient to what is there: in place of whichever of the two owns its memory.
    fn add(&mut self, pass: &Pass, id: Id, held: Held, owned: bool) {
        if !self.needs(id) {
            return;
        }
        let slot = &mut self.grads[id as usize - 1];
        *slot = Some(match slot.take() {
            None => (held, owned),
            Some((old, true)) => (old, true),
            Some(_) if owned => (held, true),
            Some((old, false)) => (pass.ledger.hold(old.bytes()), true),
        });
    }
}

impl Recorded {
    /// From the gradient to the result to the input's, if it needs one.
    pub(super) fn backward(self, pass: &Pass, dout: Held) -> Option<Held> {
        let mut arena = Arena {
            grads: self.needed.iter().map(|_| None).collect(),
            needed: self.needed,
        };
        arena.add(pass, self.out, dout, false);
        for node in self.nodes.into_iter().rev() {
            if let Some((dy, _)) = arena.grads[node.out as usize - 1].take() {
                step(pass, node.undo, dy, &mut arena);
            }
            drop(node.kept);
        }
        let input = arena.grads.first_mut().and_then(Option::take);
        drop(self.output); // the call's result lives until here
        input.map(|(held, _)| held)
    }
}

fn step(pass: &Pass, undo: Undo, dy: Held, arena: &mut Arena) {
    let hold = |count: usize| pass.values(count);
    match undo {
        Undo::Embed { own, count } => {
            pass.gradient(&own.0, own.1);
            if pass.card == Some(2) {
                drop(pass.single(count)); // what is added is widened first
            }
        }
        Undo::Each(to) => {
            let wanted = to.into_iter().filter(|(id, _)| arena.needs(*id));
            let made: Vec<(Id, Held)> = wanted.map(|(id, n)| (id, hold(n))).collect();
            for (id, held) in made {
                arena.add(pass, id, held, true);
            }
        }
        Undo::Alias(x) => arena.add(pass, x, dy.clone(), false),
        Undo::Norm { x, count, own } => {
            own.iter().for_each(|(name, n)| pass.gradient(name, *n));
            if arena.needs(x) {
                arena.add(pass, x, hold(count), true);
            }
        }
        Undo::Linear {
            name,
            x,
            size: (count, n, inputs, outputs),
            own,
            bias,
        } => {
            if bias {
                pass.gradient(&format!("{name}.bias"), outputs);
            }
            if own {
                pass.gradient(&format!("{name}.weight"), inputs * outputs);
                pass.multiplies((n * inputs * outputs) as u64);
            }
            let learnt = pass.learnt;
            let rank = learnt.ranks.get(&name).copied();
            let scaled = (learnt.dora && rank.is_some()).then(|| {
                pass.gradient(&format!("{name}.lora_magnitude_vector"), outputs);
                hold(n * outputs)
            });
            let dx = arena.needs(x).then(|| hold(count));
            if dx.is_some() {
                let weight = format!("{name}.weight");
                pass.ledger
                    .touch(pass.backward_widening(&weight, (outputs, inputs)));
                pass.goes_over(&weight, n, inputs * outputs);
            }
            if let Some(rank) = rank {
                // B's gradient and the slope through it, A's, and on to x
                let over_a = inputs * (1 + usize::from(dx.is_some()));
                pass.multiplies((n * rank * (2 * outputs + over_a)) as u64);
                let masked = learnt.dropout.then(|| hold(count));
                pass.gradient(&format!("{name}.lora_A"), rank * inputs);
                pass.gradient(&format!("{name}.lora_B"), rank * outputs);
                let through = hold(n * rank);
                let more = (learnt.dropout && dx.is_some()).then(|| hold(2 * count));
                drop((masked, through, more));
            }
            drop(scaled);
            if let Some(dx) = dx {
                arena.add(pass, x, dx, true);
            }
        }
        Undo::Attention {
            ids,
            counts,
            width,
            heads,
        } => {
            let dq = hold(counts[0]);
            // a gradient to keys and values for every query head, before those that share keys are summed; on a GPU they are
            // summed at once, and what is made is a number for each query and head
            let shares = match pass.card {
                Some(_) => pass.single(counts[0] / width.max(1) * heads),
                None => hold(2 * counts[0]),
            };
            pass.ledger.touch(pass.scores(2));
            // scores again, then to them, to v, to q and to k
            pass.multiplies(5 * width as u64 * pass.attended);
            let (dk, dv) = (hold(counts[1]), hold(counts[2]));
            drop(shares);
            for (id, held) in ids.into_iter().zip([dq, dk, dv]) {
                arena.add(pass, id, held, true);
            }
        }
        Undo::Add {
            a,
            b,
            same,
            b_count,
        } => {
            if arena.needs(b) {
                match same {
                    true => arena.add(pass, b, dy.clone(), false),
                    false => arena.add(pass, b, hold(b_count), true),
                }
            }
            arena.add(pass, a, dy, false);
        }
        Undo::SwiGlu { gate, up, count } => {
            let (first, second) = (hold(count), hold(count));
            match (arena.needs(gate), arena.needs(up)) {
                (true, true) => {
                    arena.add(pass, gate, first, true);
                    arena.add(pass, up, second, true);
                }
                (true, false) => arena.add(pass, gate, first, true),
                (false, _) => arena.add(pass, up, second, true),
            }
        }
        Undo::Multiply {
            a,
            b,
            counts,
            first,
            again,
        } => {
            if arena.needs(b) {
                let made = hold(again);
                let db = hold(counts.1);
                drop((first, made));
                arena.add(pass, b, db, true);
            }
            if arena.needs(a) {
                arena.add(pass, a, hold(counts.0), true);
            }
        }
    }
}
