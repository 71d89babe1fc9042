//! Selection of the projections that get an update.

use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex, PoisonError},
};

use fancy_regex::Regex;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The projections that get an update. In a file as PEFT spells `target_modules`: a list of names,
/// a regular expression, or `"all-linear"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "Spelling", into = "Spelling")]
pub enum Targets {
    /// Each entry is a name's last components (`q_proj`, `self_attn.q_proj`), or, with `*`, `?` or
    /// `[…]` in it, a glob over the whole name (`model.layers.1?.*.v_proj`; `*` crosses dots).
    Names(Vec<String>),
    /// A regular expression that must match the whole name.
    Regex(String),
    /// Every projection except the head.
    AllLinear,
}

/// PEFT's spelling of [`Targets::AllLinear`].
const ALL_LINEAR: &str = "all-linear";
/// Maximum number of cached compiled patterns; more than any adapter has.
const MOST_COMPILED: usize = 256;
/// Names of heads (a tied one has the embedding's name), which "all-linear" leaves out as PEFT
/// does.
const HEADS: [&str; 2] = ["lm_head", "embed_tokens"];

impl Targets {
    /// Validates names and patterns.
    ///
    /// # Errors
    /// An empty list, or an invalid pattern with what is wrong with it.
    pub fn check(&self) -> Result<()> {
        match self {
            Targets::Names(names) if names.is_empty() => Err(Error::rule(
                "a LoRA needs at least one target; the list is empty",
            )),
            Targets::Names(names) => names
                .iter()
                .filter(|n| is_glob(n))
                .try_for_each(|n| pattern(&glob(n), n).map(drop)),
            Targets::Regex(text) => pattern(text, text).map(drop),
            Targets::AllLinear => Ok(()),
        }
    }

    /// Whether this projection is selected. A pattern that [`Targets::check`] refuses matches
    /// nothing.
    pub fn wants(&self, projection: &str) -> bool {
        match self {
            Targets::Names(names) => names.iter().any(|name| named(name, projection)),
            Targets::Regex(text) => matches(text, projection),
            Targets::AllLinear => !HEADS
                .iter()
                .any(|head| ends_with_components(projection, head)),
        }
    }
}

/// Whether one entry of a list of names matches this projection.
pub(crate) fn named(entry: &str, projection: &str) -> bool {
    if is_glob(entry) {
        matches(&glob(entry), projection)
    } else {
        ends_with_components(projection, entry)
    }
}

/// Whether `name` ends with the components of `end`: `self_attn.q_proj` and `q_proj` end
/// `model.layers.0.self_attn.q_proj`; `proj` does not.
pub(crate) fn ends_with_components(name: &str, end: &str) -> bool {
    name.strip_suffix(end)
        .is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

pub(crate) fn is_glob(name: &str) -> bool {
    name.contains(['*', '?', '['])
}

/// Converts a glob to a regular expression.
fn glob(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '*' => out.push_str(".*"),
            '?' => out.push('.'),
            '[' | ']' | '-' | '^' => out.push(c),
            '!' => out.push('^'),
            c => out.push_str(&fancy_regex::escape(&c.to_string())),
        }
    }
    out
}

/// Compiles a pattern, with a cache, since patterns are looked up at every pass. Python's patterns
/// have look-around, which adapters of vision models use to leave towers out.
fn pattern(text: &str, as_written: &str) -> Result<Regex> {
    static COMPILED: LazyLock<Mutex<HashMap<String, Regex>>> = LazyLock::new(Mutex::default);
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = compiled.get(text) {
        return Ok(known.clone());
    }
    let new = Regex::new(&format!("^(?:{text})$")).map_err(|e| {
        Error::rule(format!(
            "the LoRA target `{as_written}` is not a pattern: {e}"
        ))
    })?;
    if compiled.len() >= MOST_COMPILED {
        compiled.clear();
    }
    compiled.insert(text.to_string(), new.clone());
    Ok(new)
}

/// The value of the first pattern that matches the end of this name (whole components), as PEFT
/// looks up its patterns.
pub(crate) fn pattern_key<T: Copy>(patterns: &[(String, T)], name: &str) -> Option<T> {
    let found = patterns.iter().find(|(key, _)| key_fits(key, name));
    found.map(|(_, value)| *value)
}

/// Whether a key of a rank or alpha pattern matches this projection.
pub(crate) fn key_fits(key: &str, name: &str) -> bool {
    matches(&format!("(.*\\.)?(?:{key})"), name)
}

fn matches(text: &str, name: &str) -> bool {
    pattern(text, text).is_ok_and(|p| p.is_match(name).unwrap_or(false))
}

/// Serialised forms of [`Targets`].
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Spelling {
    List(Vec<String>),
    Text(String),
}

impl From<Spelling> for Targets {
    fn from(s: Spelling) -> Self {
        match s {
            Spelling::List(names) => Targets::Names(names),
            Spelling::Text(t) if t == ALL_LINEAR => Targets::AllLinear,
            Spelling::Text(t) => Targets::Regex(t),
        }
    }
}

impl From<Targets> for Spelling {
    fn from(t: Targets) -> Self {
        match t {
            Targets::Names(names) => Spelling::List(names),
            Targets::Regex(text) => Spelling::Text(text),
            Targets::AllLinear => Spelling::Text(ALL_LINEAR.into()),
        }
    }
}
