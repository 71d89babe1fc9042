//! Counts of what happened to examples on their way to token ids, for the run's report.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Left;

/// Change made to a response because its prompt ends with reasoning, usually open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Opened {
    /// None: the prompt opens no reasoning, or the response continues inside it.
    #[default]
    AsItIs,
    /// Its opening mark was removed, since the prompt has it.
    Once,
    /// Its reasoning, in a field that the template ignores, was written inside.
    Inside,
    /// It has no reasoning: the closing mark was put before it.
    Closed,
    /// It has no reasoning, and the closing mark is unknown: it is trained inside.
    LeftOpen,
    /// The prompt has closed reasoning already (`enable_thinking = false`): its reasoning was
    /// removed.
    Dropped,
}

/// Numbers of examples read, kept, and affected by each rule. An example may count under several.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Examples read, including rows left out while reading.
    pub read: usize,
    /// Examples kept.
    pub kept: usize,
    /// Examples dropped because their prompt is too long.
    pub prompt_too_long: usize,
    /// Prompts shortened on the left to fit.
    pub prompt_shortened: usize,
    /// Real responses that hold nothing but the end-of-turn token.
    pub empty_real: usize,
    /// Generated (rejected) responses that are empty.
    pub empty_generated: usize,
    /// Pairs whose two responses have the same tokens.
    pub identical: usize,
    /// Real responses truncated at a limit: they have no end-of-turn token.
    pub cut_real: usize,
    /// Those of them that were dropped for it.
    #[serde(default, skip_serializing_if = "crate::read::is_none")]
    pub real_too_long: usize,
    /// Generated (rejected) responses truncated at a limit: they have no end-of-turn token.
    pub cut_generated: usize,
    /// Responses whose opening reasoning mark was removed, since the prompt ends with it.
    #[serde(default)]
    pub reasoning_once: usize,
    /// Responses whose reasoning, in a field that the template ignores, was written after the
    /// prompt's opening mark.
    #[serde(default)]
    pub reasoning_inside: usize,
    /// Responses without reasoning that begin with the closing mark, since the prompt opens
    /// reasoning.
    #[serde(default)]
    pub reasoning_closed: usize,
    /// Responses without reasoning trained after the prompt's opening mark, since its closing mark
    /// is unknown.
    #[serde(default)]
    pub reasoning_left_open: usize,
    /// Responses whose reasoning was removed, since the prompt has closed reasoning already.
    #[serde(default)]
    pub reasoning_dropped: usize,
    /// Keys of the data that the chat template does not read, with the number of examples that have
    /// each.
    #[serde(default)]
    pub unread: BTreeMap<String, usize>,
    /// Tokens of the kept prompts.
    pub prompt_tokens: usize,
    /// Tokens of the kept real responses.
    pub real_tokens: usize,
    /// Tokens of the kept generated (rejected) responses.
    pub generated_tokens: usize,
    /// Rows of the files that did not become examples.
    #[serde(default)]
    pub left: Left,
}

impl Counts {
    /// Adds what reading left out.
    pub fn and(mut self, left: Left) -> Self {
        self.read += left.rows();
        self.left.add(left);
        self
    }

    /// Counts a change made to a response because of open reasoning.
    pub(crate) fn opened(&mut self, what: Opened) {
        match what {
            Opened::AsItIs => {}
            Opened::Once => self.reasoning_once += 1,
            Opened::Inside => self.reasoning_inside += 1,
            Opened::Closed => self.reasoning_closed += 1,
            Opened::LeftOpen => self.reasoning_left_open += 1,
            Opened::Dropped => self.reasoning_dropped += 1,
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} examples kept", self.kept, self.read)?;
        for (count, whose, what) in [
            (self.prompt_too_long, "prompt", "too long"),
            (self.prompt_shortened, "prompt", "shortened on the left"),
            (self.empty_real, "real response", "empty"),
            (self.empty_generated, "generated response", "empty"),
            (self.identical, "pair", "identical"),
            (self.real_too_long, "real response", "too long"),
            (
                self.cut_real.saturating_sub(self.real_too_long),
                "real response",
                "cut",
            ),
            (self.cut_generated, "generated response", "cut"),
            (
                self.reasoning_once,
                "answer",
                "without the opening of reasoning that the prompt has",
            ),
            (
                self.reasoning_inside,
                "answer",
                "with reasoning put inside what the prompt opens",
            ),
            (
                self.reasoning_closed,
                "answer",
                "without reasoning: an empty one is closed before",
            ),
            (
                self.reasoning_left_open,
                "answer",
                "trained inside the reasoning that the prompt opens (what closes it is not known)",
            ),
            (
                self.reasoning_dropped,
                "answer",
                "with reasoning left out, since the prompt has closed it already",
            ),
        ] {
            if count > 0 {
                write!(f, ", {} {what}", counted(count, whose))?;
            }
        }
        for (key, examples) in &self.unread {
            write!(f, ", `{key}` of {examples} not read by the chat template")?;
        }
        if self.kept > 0 {
            write!(
                f,
                "; tokens: {} prompt, {} real",
                self.prompt_tokens, self.real_tokens
            )?;
            if self.generated_tokens > 0 {
                write!(f, ", {} generated", self.generated_tokens)?;
            }
        }
        let left = self.left.to_string();
        if !left.is_empty() {
            write!(f, "; {left}")?;
        }
        Ok(())
    }
}

/// A number of things in words: `1 row`, `2 rows`.
pub(crate) fn counted(number: usize, what: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {what}{ending}")
}
