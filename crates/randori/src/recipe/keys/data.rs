//! Keys of the data.

use crate::recipe::plural::DataSets;
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
        /// Training data: JSONL, JSON, CSV, TSV or Parquet, one file or several, data sets of the
        /// hub (`org/name`, `org/name@revision:split`; docs/reference/data.md), or `builtin:demo`.
        train: DataSets = "\"builtin:demo\"";
        /// Validation data: settings are chosen on it.
        validation: DataSets = "[]";
        /// Held-out data: only measured on. Where it is empty, the validation data is measured on.
        held_out: DataSets = "[]";
        /// Share of the training data, from its end, kept aside as validation where
        /// `data.validation` is empty.
        validation_share: f64 = "0.0", Bound::between(0.0, 0.5);
        /// Shape of the files.
        format: DataFormat = "\"auto\"";
        /// Which assistant turns are responses.
        turns: DataTurns = "\"last\"";
        /// GSM8K's calculator annotations (`<<48/2=24>>`) in responses.
        calculator: OnCalculator = "\"keep\"";
        /// A system message put before prompts that have none.
        system: Option<String> = "";
        /// Variables of the chat template, in training, generation and chat alike:
        /// `{enable_thinking = false}`. A row's own `chat_template_kwargs` go before them.
        template_args: Variables = "{}";
        /// Use the first so many training examples. Every row is read and checked all the same: the
        /// share for validation lies behind them.
        limit: Option<usize> = "", Bound::at_least(1.0);
        /// Rows that are no example: no shape fits, a field holds what it cannot, the chat template
        /// refuses them (docs/reference/data.md). Dropped ones are counted, and the first is named.
        bad_rows: OnBadRow = "\"error\"";
        /// Longest prompt, in tokens.
        max_prompt_tokens: usize = "512", Bound::at_least(1.0);
        /// Longest human response, in tokens, its end of turn included; see `cut_real` for longer
        /// ones.
        max_response_tokens: usize = "512", Bound::at_least(1.0);
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
