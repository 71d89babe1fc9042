//! Columns of a data set under names of its own, put under the names that rows are read by.

use serde_json::{Map, Value};

use super::Left;
use crate::{Error, Place, Result};

/// Names under which a shape has what it cannot be without.
const NEEDED: [&str; 15] = [
    "prompt",
    "response",
    "completion",
    "messages",
    "conversations",
    "instruction",
    "output",
    "question",
    "answer",
    "chosen",
    "rejected",
    "real",
    "generated",
    "input",
    "text",
];

/// Names of what a row may have besides.
const BESIDES: [&str; 16] = [
    "system",
    "history",
    "context",
    "tools",
    "documents",
    "chat_template_kwargs",
    "label",
    "train",
    "weight",
    "truncated",
    "reward",
    "reward_real",
    "reward_generated",
    "reward_chosen",
    "reward_rejected",
    "kto_tag",
];

/// Which column holds what: a name that rows are read by ([`Columns::names`]), and the name that
/// the data set gives it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Columns(pub Vec<(String, String)>);

impl Columns {
    /// Every name that a column can be read as.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NEEDED.into_iter().chain(BESIDES)
    }

    /// Whether a column is said for this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(own, _)| own == name)
    }

    /// The name that a column is read as: its own where nothing else is said.
    pub(super) fn read_as<'a>(&'a self, column: &'a str) -> &'a str {
        let said = self.0.iter().find(|(_, theirs)| theirs == column);
        said.map_or(column, |(own, _)| own.as_str())
    }

    /// Whether rows may lack the column that is said for this name. Alpaca's input is there for
    /// some instructions only.
    fn is_optional(&self, name: &str) -> bool {
        BESIDES.contains(&name) || (name == "input" && self.has("instruction"))
    }
}

/// Puts columns of one file under the names that rows are read by.
pub(super) struct Renamed {
    /// Names and columns, of which no row so far had the column.
    unseen: Vec<(String, String)>,
    /// The keys of the first row.
    first: String,
    /// That row's keys one by one.
    keys: Vec<String>,
}

impl Renamed {
    pub(super) fn new(columns: &Columns) -> Self {
        Self {
            unseen: columns.0.clone(),
            first: String::new(),
            keys: Vec::new(),
        }
    }

    /// Renames the columns of one row. A column that already has a name which another is read as is
    /// left out, and counted.
    ///
    /// # Errors
    /// A column that the row lacks, unless rows may.
    pub(super) fn row(
        &mut self,
        columns: &Columns,
        place: &Place,
        row: &mut Value,
        left: &mut Left,
    ) -> Result<()> {
        let Value::Object(map) = row else {
            return Ok(()); // refused later
        };
        if columns.0.is_empty() {
            return Ok(());
        }
        if self.keys.is_empty() {
            self.first = keys_of(map);
            self.keys = map.keys().cloned().collect();
        }
        self.unseen.retain(|(_, column)| !map.contains_key(column));
        let lacks = |(name, column): &&(String, String)| {
            !map.contains_key(column) && !columns.is_optional(name)
        };
        if let Some((name, column)) = columns.0.iter().find(lacks) {
            let keys: Vec<&str> = map.keys().map(String::as_str).collect();
            let what = absent(name, column, &keys, &keys_of(map));
            return Err(Error::example(place, what));
        }
        let moved: Vec<(&String, Value)> = columns
            .0
            .iter()
            .filter_map(|(name, column)| Some((name, map.remove(column)?)))
            .collect();
        for (name, value) in moved {
            if map.insert(name.clone(), value).is_some() {
                *left.unread.entry(name.clone()).or_default() += 1;
            }
        }
        Ok(())
    }

    /// The error at a file's end about a column that no row had; once.
    pub(super) fn end(&mut self, file: &str) -> Option<Error> {
        let unseen = std::mem::take(&mut self.unseen);
        let (name, column) = unseen.first().filter(|_| !self.keys.is_empty())?;
        let keys: Vec<&str> = self.keys.iter().map(String::as_str).collect();
        Some(Error::file(file, absent(name, column, &keys, &self.first)))
    }
}

/// `no column `anwser`, which data.columns reads as `response`; nearest: `answer`; there are …`.
fn absent(name: &str, column: &str, keys: &[&str], all: &str) -> String {
    let distance = |key: &&&str| strsim::osa_distance(column, key);
    // a third of the letters differ, or one of two to five, as in names of keys
    let letters = column.chars().count();
    let most = (letters / 3).max(letters.saturating_sub(1).min(1));
    let near = |key: &&&str| distance(key) <= most;
    let near = keys.iter().min_by_key(distance).filter(near);
    let near = near.map_or(String::new(), |key| {
        format!("; nearest: `{}`", key.escape_debug())
    });
    format!(
        "no column `{}`, which data.columns reads as `{name}`{near}; there are {all}",
        column.escape_debug()
    )
}

/// Lists a row's keys, for errors.
pub(super) fn keys_of(map: &Map<String, Value>) -> String {
    match map.is_empty() {
        true => "(none)".to_owned(),
        false => map
            .keys()
            .map(|key| format!("`{}`", key.escape_debug()))
            .collect::<Vec<_>>()
            .join(", "),
    }
}
