//! Filters between a response and its metric (`filter_list`), of tasks with one response a
//! question.

use serde_json::Value;

use super::pattern::Pattern;

/// One step of a filter.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// What an expression finds; the number of the match (negative: from the end), and what stands
    /// for none.
    Regex {
        /// The expression.
        pattern: Pattern,
        /// Which of the matches.
        select: i64,
        /// What stands for no match.
        fallback: String,
    },
    /// Without white space at both ends.
    Strip,
    /// In small letters.
    Lower,
    /// In capital letters.
    Upper,
    /// The first of the responses, which is the only one.
    First,
}

impl Step {
    /// Reads one entry of a filter.
    pub(super) fn read(entry: &Value) -> Result<Step, String> {
        let name = entry["function"].as_str().unwrap_or_default();
        let mut known: &[&str] = &["function"];
        let step = match name {
            "regex" => {
                known = &["function", "regex_pattern", "group_select", "fallback"];
                let written = match &entry["regex_pattern"] {
                    Value::Null => r"#### (\-?[0-9\.\,]+)",
                    given => given.as_str().ok_or("`regex_pattern` must be a text")?,
                };
                let fallback = entry["fallback"].as_str().unwrap_or("[invalid]");
                Step::Regex {
                    pattern: Pattern::new(written)?,
                    select: entry["group_select"].as_i64().unwrap_or(0),
                    fallback: fallback.to_owned(),
                }
            }
            "remove_whitespace" => Step::Strip,
            "lowercase" => Step::Lower,
            "uppercase" => Step::Upper,
            "take_first" => Step::First,
            other => return Err(format!("the filter `{other}` is not built in")),
        };
        let keys = entry.as_object().into_iter().flatten().map(|(key, _)| key);
        match keys.into_iter().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(format!("the filter `{name}` has no option `{key}` here")),
            None => Ok(step),
        }
    }

    /// What it makes of a response.
    pub(super) fn apply(&self, response: String) -> Result<String, String> {
        Ok(match self {
            Step::First => response,
            Step::Strip => super::doc::stripped(&response).to_owned(),
            Step::Lower => response.to_lowercase(),
            Step::Upper => response.to_uppercase(),
            Step::Regex {
                pattern,
                select,
                fallback,
            } => {
                let found = pattern.find_all(&response)?;
                if found.is_empty() {
                    return Ok(fallback.clone());
                }
                let place = match *select {
                    back @ ..0 => found.len() as i64 + back,
                    from => from,
                };
                let one = usize::try_from(place).ok().and_then(|at| found.get(at));
                let one = one.ok_or_else(|| {
                    let n = found.len();
                    format!("group_select is {select}, but a response has {n} matches")
                })?;
                match one {
                    Some(text) => super::doc::stripped(text).to_owned(),
                    None => super::doc::stripped(fallback).to_owned(),
                }
            }
        })
    }
}
