//! Which columns of a data set hold what, where they are called otherwise than rows are read by.

use std::path::Path;

use randori_data::{Columns, column_names};

/// A name that rows are read by, and what data sets call the same, the likeliest first: words in
/// lower case.
type Near = (&'static str, &'static [&'static str]);

const PROMPT: Near = (
    "prompt",
    &[
        "prompt",
        "question",
        "instruction",
        "query",
        "problem",
        "request",
        "user",
        "human",
        "task",
        "input",
        "source",
    ],
);
const RESPONSE: Near = (
    "response",
    &[
        "response",
        "answer",
        "completion",
        "output",
        "solution",
        "reply",
        "assistant",
        "gpt",
        "target",
    ],
);
const CHOSEN: Near = (
    "chosen",
    &[
        "chosen",
        "preferred",
        "accepted",
        "better",
        "winner",
        "good",
    ],
);
const REJECTED: Near = (
    "rejected",
    &[
        "rejected",
        "dispreferred",
        "refused",
        "worse",
        "loser",
        "bad",
    ],
);
const MESSAGES: Near = (
    "messages",
    &[
        "messages",
        "conversation",
        "dialogue",
        "dialog",
        "chat",
        "turns",
    ],
);

/// The columns of a data file that look like prompts and responses, or, for `pairs`, like the two
/// responses to a prompt; `None` where none do, or all have the names that rows are read by.
pub fn near(file: &Path, pairs: bool) -> Option<Columns> {
    let names = column_names(file).ok()?; // whoever reads the rows says what is wrong
    among(&names, pairs)
}

fn among(names: &[String], pairs: bool) -> Option<Columns> {
    let sought: [&[Near]; 2] = match pairs {
        true => [&[PROMPT, CHOSEN, REJECTED], &[CHOSEN, REJECTED]],
        false => [&[PROMPT, RESPONSE], &[MESSAGES]],
    };
    let found = sought.into_iter().find_map(|wanted| all(names, wanted))?;
    let other: Vec<(String, String)> = found
        .into_iter()
        .filter(|(own, theirs)| own != theirs)
        .collect();
    (!other.is_empty()).then_some(Columns(other))
}

/// A column for each name, none twice.
fn all(names: &[String], wanted: &[Near]) -> Option<Vec<(String, String)>> {
    let mut found: Vec<(String, String)> = Vec::new();
    for (own, near) in wanted {
        let column = one(names, near)?;
        if found.iter().any(|(_, theirs)| theirs == column) {
            return None;
        }
        found.push(((*own).to_owned(), column.clone()));
    }
    Some(found)
}

/// The column that is called by one of these words, or else the only one with it among its own.
fn one<'a>(names: &'a [String], near: &[&str]) -> Option<&'a String> {
    let is = |name: &str, word: &str| words(name).collect::<String>() == word;
    let has = |name: &str, word: &str| words(name).any(|own| own == word);
    let whole = |word: &&str| names.iter().find(|name| is(name, word));
    let within = |word: &&str| {
        let mut those = names.iter().filter(|name| has(name, word));
        those.next().filter(|_| those.next().is_none())
    };
    near.iter()
        .find_map(whole)
        .or_else(|| near.iter().find_map(within))
}

/// The words of a column's name, in lower case.
fn words(name: &str) -> impl Iterator<Item = String> {
    let parts = name.split(|c: char| !c.is_alphanumeric());
    parts.filter(|part| !part.is_empty()).map(str::to_lowercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(names: &str, pairs: bool, want: &[(&str, &str)]) {
        let names: Vec<String> = names.split(", ").map(str::to_owned).collect();
        let found = among(&names, pairs).map_or_else(Vec::new, |columns| columns.0);
        let found: Vec<(&str, &str)> = found.iter().map(|(a, b)| (&**a, &**b)).collect();
        assert_eq!(found, want, "{names:?}");
    }

    #[test]
    fn columns_are_found_by_their_names_and_by_words_in_them() {
        // TruthfulQA's
        check(
            "Type, Category, Question, Best Answer, Correct Answers, Incorrect Answers, Source",
            false,
            &[("prompt", "Question"), ("response", "Best Answer")],
        );
        check(
            "id, user_prompt, model-output",
            false,
            &[("prompt", "user_prompt"), ("response", "model-output")],
        );
        check("prompt, Solution", false, &[("response", "Solution")]);
        check("id, Dialogue", false, &[("messages", "Dialogue")]);
        check(
            "question, preferred, dispreferred",
            true,
            &[
                ("prompt", "question"),
                ("chosen", "preferred"),
                ("rejected", "dispreferred"),
            ],
        );
        check(
            "good_answer, bad_answer",
            true,
            &[("chosen", "good_answer"), ("rejected", "bad_answer")],
        );
    }

    #[test]
    fn no_guess_where_two_columns_are_as_near_or_nothing_is() {
        check("height, width", false, &[]);
        check("question, first answer, second answer", false, &[]);
        check("prompt, response", false, &[]); // read by these names anyway
        check("question, answer", true, &[]);
    }
}
