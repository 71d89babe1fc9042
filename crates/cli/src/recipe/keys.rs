//! Every key of a recipe, declared once: name, type, default (as TOML), bounds, documentation.

use std::path::PathBuf;

use super::RecipeError;
use super::plural::{Files, PerIteration, PluginChoice, Texts};
use super::setting::{Bound, Key, ModelSource, OrAuto, Section, Setting, choice};
use super::source::Entries;

macro_rules! section {
    ($(#[doc = $sdoc:literal])* [$path:literal] $name:ident {
        $( $(#[doc = $doc:literal])* $key:ident : $ty:ty = $default:literal $(, $bound:expr)? ; )*
    }) => {
        $(#[doc = $sdoc])*
        #[derive(Debug, Clone, PartialEq)]
        #[allow(missing_docs)]
        pub struct $name { $( $(#[doc = $doc])* pub $key: $ty, )* }
        impl $name {
            /// What the section is for.
            pub const DOC: &'static [&'static str] = &[$($sdoc),*];
        }
        impl Section for $name {
            const NAME: &'static str = $path;
            fn keys() -> Vec<Key> {
                vec![$( Key {
                    section: $path, name: stringify!($key), doc: &[$($doc),*], default: $default,
                    shape: <$ty as Setting>::shape(), bound: section!(@bound $($bound)?),
                } ),*]
            }
            fn read(entries: &mut Entries) -> Result<Self, RecipeError> {
                Ok($name { $( $key: entries.take($path, stringify!($key), $default, &section!(@bound $($bound)?))?, )* })
            }
            fn show(&self) -> Vec<(&'static str, Option<String>)> {
                vec![$( (stringify!($key), Setting::show(&self.$key)) ),*]
            }
        }
    };
    (@bound) => { Bound::ANY };
    (@bound $bound:expr) => { $bound };
}

impl PartialEq for PluginChoice {
    fn eq(&self, other: &Self) -> bool {
        self.show() == other.show()
    }
}

section! {
    /// The run itself.
    [""] Run {
        /// Name of the run; its folder is `runs/NAME`.
        name: String = "\"run\"";
        /// Seed of everything random: initial adapters, the order of examples, sampling.
        seed: u64 = "42";
        /// Folder that relative paths start from; the recipe's own folder where it is not given.
        root: Option<PathBuf> = "";
    }
}

choice! {
    /// How dense weights are kept in memory.
    Dtype {
        /// 4 bytes.
        F32 = "f32",
        /// 2 bytes, the range of f32.
        Bf16 = "bf16",
        /// 2 bytes, IEEE half.
        F16 = "f16",
    }
}

choice! {
    /// Where passes run.
    ComputeDevice {
        /// The processor.
        Cpu = "cpu",
        /// An NVIDIA GPU (a program built with the feature `cuda`).
        Cuda = "cuda",
    }
}

section! {
    /// The supervised fine-tuned model the game starts from.
    ["model"] Model {
        /// A Hugging Face folder, a `.gguf` file, a hub id (`org/name` or `org/name@revision`), `builtin:demo`, or
        /// `random:config.json` (fresh weights of that configuration, from `seed`).
        source: ModelSource = "\"builtin:demo\"";
        /// Architecture plugin; `model_type` of the model's configuration where it is not given.
        arch: Option<String> = "";
        /// How dense weights are kept. On the processor arithmetic is f32 whatever is chosen; on a GPU passes compute in it (f32 or bf16).
        dtype: Dtype = "\"f32\"";
        /// Where passes run.
        device: ComputeDevice = "\"cpu\"";
        /// Folder or GGUF file whose tokenizer is used; the model's own where it is not given.
        tokenizer: Option<PathBuf> = "";
        /// A Jinja file used instead of the tokenizer's chat template, or `plain`: prompts are taken as they are.
        chat_template: Option<String> = "";
    }
}

section! {
    /// Plugins beyond those in the binary's own folder.
    ["plugins"] Plugins {
        /// Plugin files (`librandori_plugin_NAME.so`) or folders of them. Loading a plugin runs its code: name only
        /// what you trust.
        paths: Vec<PathBuf> = "[]";
    }
}

choice! {
    /// Shape of a data file.
    DataFormat {
        /// Told by its fields.
        Auto = "auto",
        /// `messages: [{role, content}]`.
        Messages = "messages",
        /// `prompt`, `response`.
        PromptResponse = "prompt-response",
        /// `instruction`, `input`, `output`.
        Alpaca = "alpaca",
        /// `conversations: [{from, value}]`.
        ShareGpt = "sharegpt",
        /// `real`, `generated`.
        Spin = "spin",
        /// `chosen`, `rejected`.
        Preference = "preference",
        /// `question`, `answer`.
        QuestionAnswer = "question-answer",
    }
}

choice! {
    /// Which assistant turns are responses.
    DataTurns {
        /// The last one.
        Last = "last",
        /// Each, with everything before it as its prompt.
        Every = "every",
    }
}

choice! {
    /// What happens to calculator annotations.
    OnCalculator {
        /// They stay.
        Keep = "keep",
        /// They go.
        Remove = "remove",
    }
}

choice! {
    /// What happens to an unwanted example.
    OnBad {
        /// Use it.
        Keep = "keep",
        /// Leave it out and count it.
        Drop = "drop",
        /// Stop with an error naming it.
        Error = "error",
    }
}

section! {
    /// The human responses, and what counts as a usable pair.
    ["data"] Data {
        /// Training data: JSONL or Parquet, one file or several, or `builtin:demo`.
        train: Files = "\"builtin:demo\"";
        /// Validation data: settings are chosen on it.
        validation: Files = "[]";
        /// Held-out data: only measured on. Where it is empty, the validation data is measured on.
        held_out: Files = "[]";
        /// Share of the training data, from its end, kept aside as validation where `data.validation` is empty.
        validation_share: f64 = "0.0", Bound::between(0.0, 0.5);
        /// Shape of the files.
        format: DataFormat = "\"auto\"";
        /// Which assistant turns are responses.
        turns: DataTurns = "\"last\"";
        /// GSM8K's calculator annotations (`<<48/2=24>>`) in responses.
        calculator: OnCalculator = "\"keep\"";
        /// A system message put before prompts that have none.
        system: Option<String> = "";
        /// Use the first so many training examples.
        limit: Option<usize> = "", Bound::at_least(1.0);
        /// Longest prompt, in tokens.
        max_prompt_tokens: usize = "512", Bound::at_least(1.0);
        /// Longest human response, in tokens, its end of turn included; see `cut_real` for longer ones.
        max_response_tokens: usize = "512", Bound::at_least(1.0);
        /// Responses without a token besides the end of turn.
        empty: OnBad = "\"drop\"";
        /// Pairs whose two responses are the same: they have no gradient.
        identical: OnBad = "\"drop\"";
        /// Generated responses cut at the token limit: they carry no end of turn into the loss.
        cut: OnBad = "\"keep\"";
        /// Human responses cut at their limit. One that never ends tells the two players apart by that alone.
        cut_real: OnBad = "\"drop\"";
        /// Prompts longer than `max_prompt_tokens`; `keep` shortens them on the left.
        too_long: OnBad = "\"drop\"";
    }
}

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
        rank: usize = "16", Bound::at_least(1.0);
        /// The update is scaled by alpha / rank.
        alpha: f64 = "32.0", Bound::above(0.0);
        /// Scale by alpha / sqrt(rank) instead.
        rslora: bool = "false";
        /// Dropout in front of the update, in SFT only: the paper's game plays without.
        dropout: f64 = "0.0", Bound::between(0.0, 0.9);
        /// Projections that get an update: names (`q_proj`), patterns over full names, `regex:…`, or `all-linear`.
        targets: Texts = "\"all-linear\"";
        /// Projections left out although `targets` names them, spelt alike.
        exclude: Texts = "[]";
        /// Other ranks: `["PATTERN=RANK", …]`; a pattern is a regular expression that the projection's name ends with
        /// (PEFT's rank_pattern), the first that fits counts.
        rank_pattern: Texts = "[]";
        /// Other alphas, likewise: `["PATTERN=ALPHA", …]`.
        alpha_pattern: Texts = "[]";
        /// Train each output's magnitude apart from its direction (DoRA).
        dora: bool = "false";
        /// Modules trained in full beside the update: `["lm_head"]`. vLLM takes no such adapter; export it merged.
        modules_to_save: Texts = "[]";
        /// How the base of `qlora` is quantised.
        quant: QuantKind = "\"nf4\"";
        /// Quantise NF4's block scales too (0.37 bits a weight less).
        double_quant: bool = "true";
        /// A PEFT adapter folder to start from instead of a fresh one; rank, alpha and targets are then its own. A list
        /// is a stack: the start is their sum.
        init: Files = "[]";
    }
}

section! {
    /// How players answer.
    ["generate"] Generate {
        /// Most tokens of an answer.
        max_new_tokens: usize = "256", Bound::at_least(1.0);
        /// Fewest tokens before an answer may end.
        min_new_tokens: usize = "1", Bound::at_least(0.0);
        /// Answers decoded at a time.
        batch: usize = "16", Bound::at_least(1.0);
        /// Prompts answered between two saves; a killed run repeats at most so many.
        chunk: usize = "64", Bound::at_least(1.0);
        /// Samplers in order, each a plugin's item with its options; none: the model's own distribution (temperature 1),
        /// which is what the theory asks for.
        sampling: Vec<PluginChoice> = "[]";
    }
}

section! {
    /// What tells real from generated. Every other key here is an option of the chosen loss (`randori plugins` lists
    /// them), checked by the plugin's declaration; a number may be a list, one per iteration (`beta = [0.1, 0.1, 5.0]`).
    ["loss"] Loss {
        /// A loss plugin's item.
        name: String = "\"spin\"";
    }
}

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
        epochs: PerIteration<usize> = "1", Bound::at_least(1.0);
        /// Pairs in a step.
        batch: usize = "32", Bound::at_least(1.0);
        /// Tokens computed at a time; a step's pairs are split so and their gradients summed exactly. `auto`: as many as
        /// the memory that is free when the run begins allows, 4096 at most; the run's folder then holds the number.
        micro_batch_tokens: OrAuto = "4096", Bound::at_least(1.0);
        /// The learning rate's course after warm-up.
        schedule: ScheduleKind = "\"linear\"";
        /// Share of the steps in which the learning rate rises from zero.
        warmup: f64 = "0.1", Bound::between(0.0, 1.0);
        /// Longest gradient; a longer one is scaled to it. 0: never.
        clip: f64 = "1.0", Bound::at_least(0.0);
        /// Decoupled weight decay.
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
        /// Keep block inputs only and compute each block again in the backward pass: less memory, a third more time.
        checkpoint: bool = "false";
        /// On a GPU: parameters and the optimiser's state stay in the machine's memory, and the optimiser works there.
        offload_optimizer: bool = "false";
        /// Of the inputs that checkpointing keeps, let those that are not computed on wait in pinned memory of the host, copied
        /// while the GPU computes: less of its memory, the same results. Wants `train.checkpoint` and `model.device = "cuda"`.
        offload_inputs: bool = "false";
        /// Steps between two saves; a killed run repeats at most so many.
        save_every: usize = "50", Bound::at_least(1.0);
    }
}

section! {
    /// The game.
    ["game"] Game {
        /// Iterations: the policy of one is the opponent of the next.
        iterations: usize = "3", Bound::at_least(1.0);
        /// How many iterations' pairs are trained on: 1, or 2 for the paper's (this one's and the one's before, scored
        /// again by the current opponent).
        window: usize = "2", Bound::at_least(1.0);
        /// Stop after so many iterations in a row in which the policy cannot tell held-out real from generated: the
        /// opponent is as good as the data. 0: play every iteration.
        stop_patience: usize = "0", Bound::at_least(0.0);
        /// Standard errors above one half that an accuracy must be to count as told apart.
        stop_noise: f64 = "2.0", Bound::at_least(0.0);
        /// Margin that must be exceeded to count as told apart.
        stop_margin: f64 = "0.0";
    }
}

section! {
    /// What is measured after every iteration, on the held-out data.
    ["eval"] Eval {
        /// Use the first so many held-out examples.
        limit: Option<usize> = "", Bound::at_least(1.0);
        /// One sampled answer for each seed; the spread over seeds is reported.
        seeds: Vec<u64> = "[1, 2, 3]";
        /// Most tokens of an answer; `generate.max_new_tokens` where it is not given.
        max_new_tokens: Option<usize> = "", Bound::at_least(1.0);
        /// Samplers of the measured answers; none: temperature 1.
        sampling: Vec<PluginChoice> = "[]";
        /// How an answer is checked: `exact` (the whole text), `after:####` (what follows the last `####`, as a number
        /// where both are), or `none`.
        answer: String = "\"exact\"";
    }
}

section! {
    /// A supervised stage before the game (and `randori sft`).
    ["sft"] Sft {
        /// Passes over the training data; 0: none, the model is already fine-tuned.
        epochs: usize = "0", Bound::at_least(0.0);
        /// The optimiser; its constants are those of `[train]`.
        optimizer: OptimizerKind = "\"adamw\"";
        /// Learning rate at its highest.
        lr: f64 = "2e-4", Bound::above(0.0);
        /// Examples in a step.
        batch: usize = "32", Bound::at_least(1.0);
        /// The learning rate's course after warm-up.
        schedule: ScheduleKind = "\"cosine\"";
        /// Share of the steps in which the learning rate rises from zero.
        warmup: f64 = "0.05", Bound::between(0.0, 1.0);
        /// Decoupled weight decay.
        weight_decay: f64 = "0.0", Bound::at_least(0.0);
    }
}

choice! {
    /// What decides between settings on the validation split.
    ChosenBy {
        /// The share of right sampled answers.
        ExactMatch = "exact_match",
        /// The negative log-likelihood of the real responses.
        Nll = "nll",
    }
}

section! {
    /// What the game is compared with.
    ["compare"] Compare {
        /// The game is played once for each seed and means are given with 95 % intervals; empty: once, with `seed`.
        seeds: Vec<u64> = "[]";
        /// Spend the game's trained tokens on more supervised fine-tuning from the same start (the paper's baseline).
        continued_sft: bool = "false";
        /// What decides on the validation split between its settings: `exact_match` or `nll`.
        choose: ChosenBy = "\"exact_match\"";
        /// Its learning rates.
        lrs: Vec<f64> = "[2e-5, 5e-5, 1e-4]", Bound::above(0.0);
        /// Its epochs; 0: as many as the game's trained tokens pay for, which are never exceeded.
        epochs: Vec<usize> = "[0]", Bound::at_least(0.0);
    }
}

/// Sections in order, with their documentation.
pub const SECTIONS: &[(&str, &[&str])] = &[
    (Run::NAME, Run::DOC),
    (Model::NAME, Model::DOC),
    (Plugins::NAME, Plugins::DOC),
    (Data::NAME, Data::DOC),
    (Adapter::NAME, Adapter::DOC),
    (Generate::NAME, Generate::DOC),
    (Loss::NAME, Loss::DOC),
    (Train::NAME, Train::DOC),
    (Game::NAME, Game::DOC),
    (Eval::NAME, Eval::DOC),
    (Sft::NAME, Sft::DOC),
    (Compare::NAME, Compare::DOC),
];

/// Every key in order.
pub(super) fn all() -> Vec<Key> {
    let each = [
        Run::keys(),
        Model::keys(),
        Plugins::keys(),
        Data::keys(),
        Adapter::keys(),
        Generate::keys(),
        Loss::keys(),
        Train::keys(),
        Game::keys(),
        Eval::keys(),
        Sft::keys(),
        Compare::keys(),
    ];
    each.into_iter().flatten().collect()
}
