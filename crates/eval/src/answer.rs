//! Exact match of a whole response, or of the answer after a mark (GSM8K's `#### 72`).

use std::str::FromStr;

/// Errors of an evaluation's settings.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Error {
    /// The recipe's `eval.answer` is no known rule.
    #[error(
        "eval.answer must be \"exact\", \"after:MARK\" (such as \"after:####\") or \"none\", got {0:?}"
    )]
    Rule(String),
}

/// How a response is compared with the human one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// The whole text, without white space at both ends.
    Exact,
    /// The first line after the last occurrence of the mark; numbers are compared as numbers
    /// (`1,200` = `1200.0` = `$1200`). A response without the mark is wrong.
    After(String),
}

impl FromStr for Check {
    type Err = Error;

    fn from_str(rule: &str) -> Result<Self, Error> {
        match rule.split_once(':') {
            None if rule == "exact" => Ok(Check::Exact),
            Some(("after", mark)) if !mark.is_empty() => Ok(Check::After(mark.to_string())),
            _ => Err(Error::Rule(rule.to_string())),
        }
    }
}

impl Check {
    /// Whether `response` contains the same answer as `wanted`.
    pub fn right(&self, response: &str, wanted: &str) -> bool {
        match self {
            Check::Exact => response.trim() == wanted.trim(),
            Check::After(mark) => match (after(response, mark), after(wanted, mark)) {
                (Some(a), Some(b)) => same_value(a, b),
                _ => false,
            },
        }
    }

    /// Whether the response has the form in which an answer can be found.
    pub fn in_form(&self, response: &str) -> bool {
        match self {
            Check::Exact => !response.trim().is_empty(),
            Check::After(mark) => after(response, mark).is_some_and(|a| !a.is_empty()),
        }
    }
}

fn after<'a>(text: &'a str, mark: &str) -> Option<&'a str> {
    let at = text.rfind(mark)? + mark.len();
    text[at..].lines().next().map(str::trim)
}

fn same_value(a: &str, b: &str) -> bool {
    let number = |s: &str| {
        let plain: String = s
            .chars()
            .filter(|c| !matches!(c, ',' | '$' | '%' | ' '))
            .collect();
        plain
            .trim_end_matches('.')
            .parse::<f64>()
            .ok()
            .filter(|x| x.is_finite())
    };
    match (number(a), number(b)) {
        (Some(x), Some(y)) => x == y,
        _ => a == b,
    }
}

/// A running count of correct answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Number of answers counted.
    pub seen: usize,
    /// Number of correct ones.
    pub right: usize,
}

impl Tally {
    /// Counts one answer.
    pub fn add(&mut self, right: bool) {
        self.seen += 1;
        self.right += usize::from(right);
    }

    /// Share of correct answers, 0..=1; `None` before the first.
    pub fn share(&self) -> Option<f64> {
        (self.seen > 0).then(|| self.right as f64 / self.seen as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: &str, response: &str, wanted: &str, right: bool) {
        let c: Check = rule.parse().unwrap();
        assert_eq!(
            c.right(response, wanted),
            right,
            "{rule}: {response:?} against {wanted:?}"
        );
    }

    #[test]
    fn whole_responses() {
        check("exact", "The answer is 4.", "The answer is 4.", true);
        check("exact", " The answer is 4.\n", "The answer is 4.", true);
        check("exact", "the answer is 4.", "The answer is 4.", false);
        check("exact", "", "4", false);
    }

    #[test]
    fn numbers_after_a_mark() {
        check("after:####", "2+2\n#### 4", "so\n#### 4", true);
        check("after:####", "#### 1,200", "#### 1200", true);
        check("after:####", "#### $1200.00", "#### 1200", true);
        check("after:####", "#### 4\nand more", "#### 4", true);
        check("after:####", "#### 5\n#### 4", "#### 4", true); // the last mark counts
        check("after:####", "4", "#### 4", false);
        check("after:####", "####", "#### 4", false);
        check("after:####", "#### 44", "#### 4", false);
        check("after:####", "#### nan", "#### nan", true); // as text, not as a number
    }

    #[test]
    fn form_is_apart_from_truth() {
        let c: Check = "after:####".parse().unwrap();
        assert!(c.in_form("#### 5") && !c.in_form("#### ") && !c.in_form("5"));
    }

    #[test]
    fn unknown_rules_are_refused() {
        for bad in ["", "Exact", "after", "after:", "regex:x"] {
            assert_eq!(bad.parse::<Check>(), Err(Error::Rule(bad.to_string())));
        }
    }
}
