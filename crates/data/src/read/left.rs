//! Counts of rows and fields that were not used, so that no data is lost silently.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::counts::counted;

/// Maximum number of unread keys listed by name; the rest are counted.
const NAMED: usize = 12;

/// Parts of a data set that did not become examples.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Invalid rows, left out because of [`BadRows::Drop`](crate::BadRows).
    pub bad_rows: usize,
    /// Place and fault of the first of them.
    pub first_bad: Option<String>,
    /// Rows without anything to train: `"label": false`, or all responses excluded.
    pub untrained_rows: usize,
    /// Responses excluded from training (`"train": false`, `"weight": 0`) in rows that have others.
    pub untrained: usize,
    /// Responses before the last of their conversation, left out because of
    /// [`Turns::Last`](crate::Turns::Last).
    #[serde(default, skip_serializing_if = "is_none")]
    pub earlier: usize,
    /// Unread keys, with the number of rows that have each. Keys passed to the chat template are
    /// not among them.
    pub unread: BTreeMap<String, usize>,
}

/// Whether nothing was counted: such a count is not written.
pub(crate) fn is_none(count: &usize) -> bool {
    *count == 0
}

impl Left {
    /// Number of rows left out.
    pub fn rows(&self) -> usize {
        self.bad_rows + self.untrained_rows
    }

    /// Adds another file's counts.
    pub fn add(&mut self, other: Left) {
        self.bad_rows += other.bad_rows;
        self.first_bad = self.first_bad.take().or(other.first_bad);
        self.untrained_rows += other.untrained_rows;
        self.untrained += other.untrained;
        self.earlier += other.earlier;
        for (key, rows) in other.unread {
            *self.unread.entry(key).or_default() += rows;
        }
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if self.bad_rows > 0 {
            let first = self.first_bad.as_deref().unwrap_or_default();
            parts.push(format!(
                "{} dropped (first: {first})",
                counted(self.bad_rows, "bad row")
            ));
        }
        if self.untrained_rows > 0 {
            parts.push(format!(
                "{} with nothing to train",
                counted(self.untrained_rows, "row")
            ));
        }
        if self.untrained > 0 {
            let more = match parts.is_empty() {
                true => "",
                false => "more ",
            };
            parts.push(format!(
                "{} marked as not to be trained",
                counted(self.untrained, &format!("{more}response"))
            ));
        }
        if self.earlier > 0 {
            let one = self.earlier == 1;
            parts.push(format!(
                "{} before the last of {} left out (data.turns = \"every\" trains {})",
                counted(self.earlier, "answer"),
                if one {
                    "its conversation"
                } else {
                    "their conversations"
                },
                if one { "it" } else { "them" },
            ));
        }
        if !self.unread.is_empty() {
            let mut keys: Vec<(&String, &usize)> = self.unread.iter().collect();
            keys.sort_by_key(|(_, rows)| std::cmp::Reverse(**rows)); // stable: then by name
            let named: Vec<String> = keys
                .iter()
                .take(NAMED)
                .map(|(key, rows)| format!("`{}` ({})", key.escape_debug(), counted(**rows, "row")))
                .collect();
            let more = match keys.len().saturating_sub(NAMED) {
                0 => String::new(),
                more => format!(" and {}", counted(more, "other")),
            };
            parts.push(format!("keys nobody reads: {}{more}", named.join(", ")));
        }
        f.write_str(&parts.join("; "))
    }
}
