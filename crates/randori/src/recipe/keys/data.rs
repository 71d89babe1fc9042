//! Keys of the data.

use randori_data::Columns;

use crate::recipe::keys::most;
use crate::recipe::plural::{DataSets, Validation};
use crate::recipe::refusal::RecipeError;
use crate::recipe::section::Section;
use crate::recipe::setting::{Bound, Key, OnResume, Setting, choice};
use crate::recipe::source::Entries;
use crate::recipe::variables::Variables;

choice! {
    /// Shape of a data file.
    DataFormat {
        /// Told by its fields.
        Auto = "auto",
        /// `messages: [{role, content}]`.
        Messages = "messages",
        /// `prompt`, `response`.
        PromptResponse = "prompt-response",
        /// `instruction`, `input`, `output`; Dolly's `context` and `response` too.
        Alpaca = "alpaca",
        /// `conversations: [{from, value}]`.
        ShareGpt = "sharegpt",
        /// `real`, `generated`.
        Spin = "spin",
        /// `chosen`, `rejected`.
        Preference = "preference",
        /// `question`, `answer` or `response`.
        QuestionAnswer = "question-answer",
        /// `input`, `output`, without another prompt.
        InputOutput = "input-output",
        /// `text`: without a prompt, for supervised training alone.
        Text = "text",
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

choice! {
    /// What happens to a row that is no example.
    OnBadRow {
        /// Stop with an error naming it.
        Error = "error",
        /// Leave it out and count it.
        Drop = "drop",
    }
}

choice! {
    /// What happens to pairs of equal responses.
    OnIdentical {
        /// Left out where the loss gives them no gradient, used where it does (asked where
        /// pairs are screened).
        Auto = "auto",
        /// Use them.
        Keep = "keep",
        /// Leave them out and count them.
        Drop = "drop",
        /// Stop with an error naming it.
        Error = "error",
    }
}

section! {
    /// The human responses, and what counts as a usable pair.
    ["data"] Data {
        /// Training data: JSONL, JSON, CSV, TSV or Parquet, a file, a folder of them or several,
        /// data sets of the hub (`org/name`, `org/name@revision:split`; docs/reference/data.md), or
        /// `builtin:demo`. It has no default; `train --pairs`, `score`, `chat` and `export` need
        /// none.
        train: DataSets = "";
        /// Validation data: settings are chosen on it. Where neither it nor `data.held_out` is
        /// named, 5 % of the training data (16 prompts at least) is kept aside for it, by a hash of
        /// the prompt (docs/reference/data.md); `none` turns that off: `run` then wants
        /// `data.held_out`.
        validation: Validation = "[]";
        /// Held-out data: only measured on. Where it is empty, the validation data is measured on.
        held_out: DataSets = "[]";
        /// Share of the training data kept aside as validation, by a hash of the prompt, where
        /// `data.validation` is empty; beside `data.held_out` too, and without a least number. 0:
        /// none.
        validation_share: Option<f64> = "", Bound::between(0.0, 0.5);
        /// Shape of the files.
        format: DataFormat = "\"auto\"";
        /// Columns of the files under names of their own, by what they are read as:
        /// `{prompt = "question", response = "answer"}` (docs/reference/data.md).
        columns: Columns = "{}";
        /// Which assistant turns are responses.
        turns: DataTurns = "\"last\"";
        /// GSM8K's calculator annotations (`<<48/2=24>>`) in responses.
        calculator: OnCalculator = "\"keep\"";
        /// A system message put before prompts that have none.
        system: Option<String> = "";
        /// Variables of the chat template, in training, generation and chat alike:
        /// `{enable_thinking = false}`. A row's own `chat_template_kwargs` go before them. `tools`
        /// and `documents` are lists of objects; `chat_template` names the template to render with.
        template_args: Variables = "{}";
        /// Use the first so many training examples. Every row is read and checked all the same:
        /// what is kept aside for validation is chosen among all.
        limit: Option<usize> = "", Bound::at_least(1.0);
        /// Rows that are no example: no shape fits, a field holds what it cannot, the chat template
        /// refuses them (docs/reference/data.md). Dropped ones are counted, and the first is named.
        bad_rows: OnBadRow = "\"error\"";
        /// Longest prompt, in tokens.
        max_prompt_tokens: usize = "512", Bound::between(1.0, most::TOKENS);
        /// Longest human response, in tokens, its end of turn included; see `cut_real` for longer
        /// ones.
        max_response_tokens: usize = "512", Bound::between(1.0, most::TOKENS);
        /// Responses without a token besides the end of turn.
        empty: OnBad = "\"drop\"";
        /// Pairs whose two responses are the same. A loss of the margin alone gives them no
        /// gradient, one with another term does: `auto` asks the loss, with its options, and drops
        /// or keeps them accordingly.
        identical: OnIdentical = "\"auto\"";
        /// Generated responses cut at the token limit: they carry no end of turn into the loss.
        cut: OnBad = "\"keep\"";
        /// Human responses cut at their limit. One that never ends tells the two players apart by
        /// that alone.
        cut_real: OnBad = "\"drop\"";
        /// Prompts longer than `max_prompt_tokens`; `keep` shortens them on the left.
        too_long: OnBad = "\"drop\"";
    }
}

/// How much of the training data is kept aside as validation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    /// Of all prompts, in 0..=0.5.
    pub share: f64,
    /// Fewest prompts; twice as many must be there, or none is kept aside.
    pub least: usize,
}

impl Data {
    /// What is kept aside where the recipe does not say how much.
    const USUAL: Share = Share {
        share: 0.05,
        least: 16,
    };

    /// What is kept aside of the training data; `None` where other data is named to measure on, or
    /// nothing is wanted.
    pub fn kept_aside(&self) -> Option<Share> {
        if self.validation == Validation::Off || !self.validation.sets().is_empty() {
            return None;
        }
        match self.validation_share {
            Some(share) => (share > 0.0).then_some(Share { share, least: 0 }),
            None => self.held_out.0.is_empty().then_some(Self::USUAL),
        }
    }
}
