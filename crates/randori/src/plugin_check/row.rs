//! A row of the table that `randori plugins check` prints.

use anyhow::Result;

/// What became of one check.
pub(super) enum Verdict {
    /// It holds.
    Holds,
    /// It does not, or broke off.
    Fails,
    /// Nothing to hold: a form that cannot express this model, or what is only counted.
    Open,
}

/// A row of the table.
pub(super) struct Row {
    pub what: &'static str,
    pub verdict: Verdict,
    pub figures: String,
}

impl Row {
    pub fn of(what: &'static str, holds: bool, figures: String) -> Row {
        let verdict = if holds {
            Verdict::Holds
        } else {
            Verdict::Fails
        };
        Row {
            what,
            verdict,
            figures,
        }
    }

    pub fn open(what: &'static str, figures: String) -> Row {
        Row {
            what,
            verdict: Verdict::Open,
            figures,
        }
    }

    /// The row of a check that may break off: then the error is the figure.
    pub fn checked(what: &'static str, row: Result<Row>) -> Row {
        row.unwrap_or_else(|e| Row::of(what, false, crate::one_line(&e)))
    }

    pub fn shown(&self) -> String {
        let verdict = match self.verdict {
            Verdict::Holds => "ok",
            Verdict::Fails => "FAILS",
            Verdict::Open => "-",
        };
        format!("{:<17} {verdict:<6} {}", self.what, self.figures)
    }
}
