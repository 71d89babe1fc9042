//! Rewards of a pair's two responses in a data set, under their common column names.

use serde_json::{Map, Value};

use super::values::{number, present};
use crate::{Error, Place, Result};

/// Columns of the real (chosen) and the generated (rejected) response's reward.
const COLUMNS: [[&str; 2]; 8] = [
    ["reward_real", "reward_generated"],
    ["reward_chosen", "reward_rejected"],
    ["score_real", "score_generated"],
    ["score_chosen", "score_rejected"],
    ["chosen_reward", "rejected_reward"],
    ["chosen_score", "rejected_score"],
    ["chosen_rating", "rejected_rating"],
    ["chosen-rating", "rejected-rating"],
];

/// A column with both rewards, real (chosen) first.
const BOTH: &str = "reward";

/// The columns with this row's rewards, if any.
pub(super) fn columns(map: &Map<String, Value>) -> Option<&'static [&'static str]> {
    all_columns(map).next()
}

/// All sets of columns in which this row has rewards.
fn all_columns(map: &Map<String, Value>) -> impl Iterator<Item = &'static [&'static str]> {
    let both = matches!(present(map, BOTH), Some(Value::Array(_)));
    let both: Option<&'static [&'static str]> = both.then_some(&[BOTH]);
    let has = |pair: &&[&str; 2]| pair.iter().any(|key| present(map, key).is_some());
    let pairs = COLUMNS.iter().filter(has).map(|pair| pair.as_slice());
    both.into_iter().chain(pairs)
}

/// The pair's rewards, the real (chosen) response's first; an error if two sets of columns differ.
pub(super) fn rewards(place: &Place, map: &Map<String, Value>) -> Result<Option<[f64; 2]>> {
    let mut found: Option<(&str, [f64; 2])> = None;
    for keys in all_columns(map) {
        let Some(these) = rewards_in(place, map, keys)? else {
            continue;
        };
        match found {
            None => found = Some((keys[0], these)),
            Some((first, others)) if others != these => {
                let what = format!(
                    "`{first}` says the rewards {others:?} and `{}` {these:?}; leave one of them",
                    keys[0]
                );
                return Err(Error::example(place, what));
            }
            Some(_) => {}
        }
    }
    Ok(found.map(|(_, rewards)| rewards))
}

/// The rewards in one set of columns.
fn rewards_in(
    place: &Place,
    map: &Map<String, Value>,
    keys: &'static [&'static str],
) -> Result<Option<[f64; 2]>> {
    let refuse = |what: String| Err(Error::example(place, what));
    let given: Vec<(&str, Option<&Value>)> = match keys {
        [both] => match present(map, both).and_then(Value::as_array) {
            Some(list) => list.iter().map(|value| (*both, Some(value))).collect(),
            None => Vec::new(),
        },
        keys => keys.iter().map(|key| (*key, present(map, key))).collect(),
    };
    let [(real_key, real), (other_key, other)] = given[..] else {
        return refuse(format!(
            "`{BOTH}` should be two numbers, has {}",
            given.len()
        ));
    };
    let number_of = |key: &str, value: Option<&Value>| match value {
        Some(value) => number(place, key, value),
        None => Ok(None),
    };
    match (number_of(real_key, real)?, number_of(other_key, other)?) {
        (Some(real), Some(other)) => Ok(Some([real, other])),
        (None, None) => Ok(None),
        (Some(_), None) => refuse(alone(real_key, other_key)),
        (None, Some(_)) => refuse(alone(other_key, real_key)),
    }
}

fn alone(has: &str, lacks: &str) -> String {
    format!("`{has}` without `{lacks}`: a pair has two rewards or none")
}
