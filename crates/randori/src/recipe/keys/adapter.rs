//! Keys of what is trained.

use crate::recipe::keys::most;
use crate::recipe::plural::{Files, Texts};
use crate::recipe::refusal::RecipeError;
use crate::recipe::section::Section;
use crate::recipe::setting::{Bound, Key, OnResume, Setting, choice};
use crate::recipe::source::Entries;

choice! {
    /// What is trained.
    AdapterKind {
        /// Low-rank updates beside dense base weights.
        Lora = "lora",
        /// Low-rank updates beside quantised base weights.
        Qlora = "qlora",
        /// Every weight.
        Full = "full",
    }
}

choice! {
    /// How the frozen base of `qlora` is quantised.
    QuantKind {
        /// 4-bit NormalFloat, quantised while loading.
        Nf4 = "nf4",
        /// The GGUF file's own blocks, as they are.
        Gguf = "gguf",
    }
}

section! {
    /// What is trained: every player is the shared base plus its own adapter.
    ["adapter"] Adapter {
        /// Low-rank updates, the same over a quantised base, or every weight.
        kind: AdapterKind = "\"lora\"";
        /// Rank of the update.
        rank: usize = "16", Bound::between(1.0, most::RANK);
        /// The update is scaled by alpha / rank.
        alpha: f64 = "32.0", Bound::above(0.0);
        /// Scale by alpha / sqrt(rank) instead.
        rslora: bool = "false";
        /// Dropout in front of the update, in SFT only: the paper's game plays without. Unset: that
        /// of the adapter that is started from, none in a fresh one.
        dropout: Option<f64> = "", Bound::between(0.0, 0.9);
        /// Projections that get an update: names (`q_proj`, `lm_head`), patterns over full names,
        /// `regex:…`, or `all-linear` (all but the head). Each entry must match something.
        targets: Texts = "\"all-linear\"";
        /// Projections left out although `targets` names them, spelt alike. Each entry of a list
        /// of targets must keep something.
        exclude: Texts = "[]";
        /// Other ranks: `["PATTERN=RANK", …]`; a pattern is a regular expression that the
        /// projection's name ends with (PEFT's rank_pattern), the first that fits counts.
        rank_pattern: Texts = "[]";
        /// Other alphas, likewise: `["PATTERN=ALPHA", …]`.
        alpha_pattern: Texts = "[]";
        /// Train each output's magnitude apart from its direction (DoRA).
        dora: bool = "false";
        /// Modules trained in full beside the update, by how their names end: `["lm_head"]`. vLLM
        /// takes no such adapter; export it merged.
        modules_to_save: Texts = "[]";
        /// How the base of `qlora` is quantised.
        quant: QuantKind = "\"nf4\"";
        /// Quantise NF4's block scales too (0.37 bits a weight less).
        double_quant: bool = "true";
        /// A folder with an adapter of PEFT or mlx-lm to start from instead of a fresh one. What it
        /// is it says itself: `rank`, `alpha`, `targets` and the like need not be given, and are
        /// refused where they say something else. A list is a stack: the start is their sum.
        init: Files = "[]";
    }
}
