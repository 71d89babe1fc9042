//! Keys of the game: how players answer, the loss, the rules, what is measured and compared.

use crate::recipe::keys::most;
use crate::recipe::plural::PluginChoice;
use crate::recipe::refusal::RecipeError;
use crate::recipe::section::Section;
use crate::recipe::setting::{Bound, Key, OnResume, Setting, choice};
use crate::recipe::source::Entries;

section! {
    /// How players answer.
    ["generate"] Generate {
        /// Most tokens of an answer.
        max_new_tokens: usize = "256", Bound::between(1.0, most::TOKENS);
        /// Fewest tokens before an answer may end.
        min_new_tokens: usize = "1", Bound::between(0.0, most::TOKENS);
        /// Answers decoded at a time.
        batch: usize = "16", Bound::between(1.0, most::AT_ONCE) => Memory;
        /// Prompts answered between two saves; a killed run repeats at most so many.
        chunk: usize = "64", Bound::between(1.0, most::AT_ONCE) => Memory;
        /// Samplers in order, each a plugin's item with its options; none: the model's own
        /// distribution (temperature 1), which is what the theory asks for.
        sampling: Vec<PluginChoice> = "[]";
    }
}

section! {
    /// What tells real from generated. Every other key here is an option of the chosen loss
    /// (`randori plugins` lists them), checked by the plugin's declaration; a number may be a list,
    /// one per iteration (`beta = [0.1, 0.1, 5.0]`).
    ["loss"] Loss {
        /// A loss plugin's item.
        name: String = "\"spin\"";
    }
}

section! {
    /// The game.
    ["game"] Game {
        /// Iterations: the policy of one is the opponent of the next.
        iterations: usize = "3", Bound::between(1.0, most::ITERATIONS) => Free;
        /// How many iterations' pairs are trained on: 1, or 2 for the paper's (this one's and the
        /// one's before, scored again by the current opponent).
        window: usize = "2", Bound::between(1.0, most::ITERATIONS);
        /// Stop after so many iterations in a row in which the policy cannot tell held-out real
        /// from generated: the opponent is as good as the data. 0: play every iteration.
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
        /// One sampled answer for each seed, of which there is at least one; the spread over seeds
        /// is reported.
        seeds: Vec<u64> = "[1, 2, 3]";
        /// Most tokens of an answer; `generate.max_new_tokens` where it is not given.
        max_new_tokens: Option<usize> = "", Bound::between(1.0, most::TOKENS);
        /// Samplers of the measured answers; none: temperature 1.
        sampling: Vec<PluginChoice> = "[]";
        /// How an answer is checked: `exact` (the whole text), `after:####` (what follows the last
        /// `####`, as a number where both are), or `none`.
        answer: String = "\"exact\"";
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
        /// The game is played once for each seed, and the intervals then say what another seed
        /// would change, beside what other held-out prompts would (docs/explanation/spin.md);
        /// empty: once, with `seed`. Games that were played stay where they are.
        seeds: Vec<u64> = "[]" => Free;
        /// Spend the game's trained tokens on more supervised fine-tuning from the same start (the
        /// paper's baseline).
        continued_sft: bool = "false";
        /// What decides on the validation split between its settings: `exact_match` or `nll`.
        choose: ChosenBy = "\"exact_match\"";
        /// Its learning rates.
        lrs: Vec<f64> = "[2e-5, 5e-5, 1e-4]", Bound::above(0.0);
        /// Its epochs; 0: as many as the game's trained tokens pay for, which are never exceeded.
        epochs: Vec<usize> = "[0]", Bound::between(0.0, most::EPOCHS);
    }
}
