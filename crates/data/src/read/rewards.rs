//! Rewards that a data set gives the two responses of a pair, under the names that people use.

use serde_json::{Map, Value};

use super::values::{number, present};
use crate::{Error, Place, Result};

/// The columns of the real (chosen) and the generated (rejected) response's reward.
pub(super) const COLUMNS: [[&str; 2]; 8] = [
    ["reward_real", "reward_generated"],
    ["reward_chosen", "reward_rejected"],
    ["score_real", "score_generated"],
    ["score_chosen", "score_rejected"],
    ["chosen_reward", "rejected_reward"],
    ["chosen_score", "rejected_score"],
    ["chosen_rating", "rejected_rating"],
    ["chosen-rating", "rejected-rating"],
];

/// The one column that holds both, real (chosen) first.
pub(super) const BOTH: &str = "reward";

/// The pair's rewards, and the keys they stand under.
pub(super) fn rewards(
    place: &Place,
    map: &Map<String, Value>,
) -> Result<Option<([f64; 2], &'static [&'static str])>> {
    if let Some(Value::Array(both)) = present(map, BOTH) {
        return match both.as_slice() {
            [real, other] => Ok(
                match (number(place, BOTH, real)?, number(place, BOTH, other)?) {
                    (Some(real), Some(other)) => Some(([real, other], &[BOTH])),
                    _ => None,
                },
            ),
            _ => {
                let what = format!("`{BOTH}` should be two numbers, has {}", both.len());
                Err(Error::example(place, what))
            }
        };
    }
    for columns in &COLUMNS {
        let mut found = [None; 2];
        for (found, key) in found.iter_mut().zip(columns) {
            if let Some(value) = present(map, key) {
                *found = number(place, key, value)?;
            }
        }
        match found {
            [Some(real), Some(other)] => return Ok(Some(([real, other], columns))),
            [None, None] => {}
            [first, _] => {
                let (has, lacks) = match first {
                    Some(_) => (columns[0], columns[1]),
                    None => (columns[1], columns[0]),
                };
                let what = format!("`{has}` without `{lacks}`: a pair has two rewards or none");
                return Err(Error::example(place, what));
            }
        }
    }
    Ok(None)
}
