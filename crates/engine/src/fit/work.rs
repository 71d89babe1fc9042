//! What passes do, counted on shapes: the time they take follows from it and from what a machine
//! can do ([`super::Ceilings`]).

use randori_kernels::{
    Result,
    shapes::{Shapes, Work},
};

use super::{
    packing::{Packing, attended},
    passes::Decoding,
    planner::Planner,
};
use crate::tape::Gradients;

impl Planner {
    /// Work of a training pass, forward and backward, over a micro-batch.
    ///
    /// # Errors
    /// What the architecture refuses.
    pub fn training_work(&self, packing: &Packing, checkpoint: bool) -> Result<Work> {
        let kernels = self.kernels(packing.keys, packing.attended);
        self.forward_backward(
            &kernels,
            packing,
            checkpoint,
            &mut Gradients::<Shapes>::new(),
        )?;
        Ok(kernels.work.get())
    }

    /// Work of a step's update: every parameter, gradient and moment is read, and all but the
    /// gradient written.
    pub fn update_work(&self) -> Work {
        let bytes = 3 * self.player_bytes() + 2 * self.moment_bytes();
        Work {
            bytes: bytes as f64,
            ..Work::default()
        }
    }

    /// Work of scoring a micro-batch.
    ///
    /// # Errors
    /// What the architecture refuses.
    pub fn scoring_work(&self, packing: &Packing) -> Result<Work> {
        let kernels = self.kernels(packing.keys, packing.attended);
        self.logps(&kernels, packing)?;
        Ok(kernels.work.get())
    }

    /// Work of generating answers, all of the greatest length, to as many prompts as there are
    /// slots.
    ///
    /// # Errors
    /// What the architecture refuses.
    pub fn generation_work(&self, d: &Decoding) -> Result<Work> {
        let slots = d.slots.max(1);
        // keys and values are read; states are read and written
        let of_one =
            |tokens: usize| tokens * self.trace.cache_bytes_per_token + 2 * self.trace.state_bytes;
        let cached = |tokens: usize| (slots * of_one(tokens)) as f64;
        let rows = slots * d.prompt;
        let mut work = self.cached_work(rows, slots, slots as u64 * attended(0, d.prompt))?;
        work.bytes += cached(d.prompt);
        // every token sees all before it: on average half the answer
        let seen = d.prompt + d.response.div_ceil(2);
        let mut token = self.cached_work(slots, slots, (slots * seen) as u64)?;
        token.bytes += cached(seen);
        // the first token falls out of the prompt's pass
        work += token * d.response.saturating_sub(1) as f64;
        Ok(work)
    }

    /// Work of a pass over `rows` new tokens of so many sequences.
    fn cached_work(&self, rows: usize, sequences: usize, attended: u64) -> Result<Work> {
        let kernels = self.kernels(0, attended);
        self.next_logits(&kernels, rows, sequences)?;
        Ok(kernels.work.get())
    }
}
