//! Keys of training, in the game and supervised.

use randori_core::PerIteration;

use crate::recipe::keys::most;
use crate::recipe::refusal::RecipeError;
use crate::recipe::section::Section;
use crate::recipe::setting::{Bound, Key, OnResume, OrAuto, Setting, choice};
use crate::recipe::source::Entries;

choice! {
    /// The optimiser.
    OptimizerKind {
        /// Adam with decoupled weight decay.
        AdamW = "adamw",
        /// The same with its state in 8 bits, as bitsandbytes keeps it.
        AdamW8 = "adamw_8bit",
        /// The paper's.
        RmsProp = "rmsprop",
    }
}

choice! {
    /// The learning rate's course after warm-up.
    ScheduleKind {
        /// Falls to zero in a line.
        Linear = "linear",
        /// Falls to zero along half a cosine.
        Cosine = "cosine",
        /// Stays.
        Constant = "constant",
    }
}

section! {
    /// Training in the game, each iteration afresh.
    ["train"] Train {
        /// The optimiser.
        optimizer: OptimizerKind = "\"adamw\"";
        /// Learning rate at its highest.
        lr: PerIteration<f64> = "5e-5", Bound::above(0.0);
        /// Passes over an iteration's pairs.
        epochs: PerIteration<usize> = "1", Bound::between(1.0, most::EPOCHS);
        /// Pairs in a step.
        batch: usize = "32", Bound::between(1.0, most::AT_ONCE);
        /// Tokens computed at a time; a step's pairs are split so and their gradients summed
        /// exactly. `auto`: as many as the memory that is free when the run begins allows, 4096 at
        /// most; the run's folder then holds the number.
        micro_batch_tokens: OrAuto = "4096", Bound::between(1.0, most::TOKENS) => Memory;
        /// The learning rate's course after warm-up.
        schedule: ScheduleKind = "\"linear\"";
        /// Share of the steps in which the learning rate rises from zero. Where it is not given and
        /// would be all of the steps, there is none.
        warmup: f64 = "0.1", Bound::between(0.0, 1.0);
        /// Longest gradient; a longer one is scaled to it. 0: never.
        clip: f64 = "1.0", Bound::at_least(0.0);
        /// Weight decay: with AdamW decoupled (weights shrink by rate times decay), with RMSProp
        /// added to the gradient, both as PyTorch.
        weight_decay: f64 = "0.0", Bound::at_least(0.0);
        /// AdamW: decay of the gradient's mean.
        beta1: f64 = "0.9", Bound::between(0.0, 0.9999999);
        /// AdamW: decay of the gradient's square.
        beta2: f64 = "0.999", Bound::between(0.0, 0.9999999);
        /// RMSProp: decay of the gradient's square.
        alpha: f64 = "0.99", Bound::between(0.0, 0.9999999);
        /// RMSProp: momentum.
        momentum: f64 = "0.0", Bound::between(0.0, 0.9999999);
        /// Added to the root of the square.
        eps: f64 = "1e-8", Bound::above(0.0);
        /// Keep block inputs only and compute each block again in the backward pass: less memory, a
        /// third more time.
        checkpoint: bool = "false" => Memory;
        /// On a GPU: parameters and the optimiser's state stay in the machine's memory, and the
        /// optimiser works there. Its sums are then rounded otherwise than the GPU's.
        offload_optimizer: bool = "false";
        /// Of the inputs that checkpointing keeps, let those that are not computed on wait in
        /// pinned memory of the host, copied while the GPU computes: less of its memory, the same
        /// results. Wants `train.checkpoint` and `model.device = "cuda"`.
        offload_inputs: bool = "false" => Memory;
        /// Steps between two saves; a killed run repeats at most so many, and no more than ten
        /// minutes. Ctrl-C saves before it ends.
        save_every: usize = "50", Bound::at_least(1.0) => Free;
    }
}

section! {
    /// A supervised stage before the game (and `randori sft`).
    ["sft"] Sft {
        /// Passes over the training data; 0: none before the game, the model is already fine-tuned
        /// (`randori sft`, which does nothing else, then makes one).
        epochs: usize = "0", Bound::between(0.0, most::EPOCHS);
        /// The optimiser; its constants are those of `[train]`.
        optimizer: OptimizerKind = "\"adamw\"";
        /// Learning rate at its highest.
        lr: f64 = "2e-4", Bound::above(0.0);
        /// Examples in a step.
        batch: usize = "32", Bound::between(1.0, most::AT_ONCE);
        /// The learning rate's course after warm-up.
        schedule: ScheduleKind = "\"cosine\"";
        /// Share of the steps in which the learning rate rises from zero. Where it is not given and
        /// would be all of the steps, there is none.
        warmup: f64 = "0.05", Bound::between(0.0, 1.0);
        /// Weight decay: with AdamW decoupled (weights shrink by rate times decay), with RMSProp
        /// added to the gradient, both as PyTorch.
        weight_decay: f64 = "0.0", Bound::at_least(0.0);
    }
}
