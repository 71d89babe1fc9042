//! What happened to the examples on their way to token ids, for the run's report.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How many examples were read, kept, and touched by each rule. An example may count under several.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Examples that came in.
    pub read: usize,
    /// Examples that went out.
    pub kept: usize,
    /// Examples dropped because their prompt is too long.
    pub prompt_too_long: usize,
    /// Prompts shortened on the left to fit.
    pub prompt_shortened: usize,
    /// Real responses with nothing in them but the end of turn.
    pub empty_real: usize,
    /// Generated (rejected) responses with nothing in them.
    pub empty_generated: usize,
    /// Pairs whose two responses are the same tokens.
    pub identical: usize,
    /// Real responses cut at a limit: they have no end-of-turn.
    pub cut_real: usize,
    /// Generated (rejected) responses cut at a limit: they have no end-of-turn.
    pub cut_generated: usize,
    /// Tokens of the kept prompts.
    pub prompt_tokens: usize,
    /// Tokens of the kept real responses.
    pub real_tokens: usize,
    /// Tokens of the kept generated (rejected) responses.
    pub generated_tokens: usize,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} examples kept", self.kept, self.read)?;
        for (count, what) in [
            (self.prompt_too_long, "prompts too long"),
            (self.prompt_shortened, "prompts shortened on the left"),
            (self.empty_real, "real responses empty"),
            (self.empty_generated, "generated responses empty"),
            (self.identical, "pairs identical"),
            (self.cut_real, "real responses cut"),
            (self.cut_generated, "generated responses cut"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
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
        Ok(())
    }
}
