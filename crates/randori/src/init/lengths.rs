//! How long the examples of a data set are, and limits that keep most of them.

use randori_data::Encoded;

/// Limits are multiples of so many tokens.
const STEP: usize = 16;
/// A limit is at most so many times the length that [`MOST`] of the examples keep to: a few that
/// are far longer would make every stage take more.
const TIMES: usize = 2;
const MOST: f64 = 0.95;

/// Lengths in tokens of the examples of one or several parts of the data; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spread {
    /// All of them, in order.
    all: Vec<usize>,
    /// Each part's, in order: of a small part most examples are kept too.
    parts: Vec<Vec<usize>>,
}

/// The length that this share of the examples, which are in order, does not exceed.
fn at(sorted: &[usize], share: f64) -> usize {
    let count = (share * sorted.len() as f64).ceil() as usize;
    let last = sorted.len().saturating_sub(1);
    let at = count.saturating_sub(1).min(last);
    sorted.get(at).copied().unwrap_or(1)
}

impl Spread {
    fn of(mut parts: Vec<Vec<usize>>) -> Spread {
        parts.iter_mut().for_each(|part| part.sort_unstable());
        let mut all = parts.concat();
        all.sort_unstable();
        Spread { all, parts }
    }

    /// The length that this share of all examples does not exceed.
    pub fn at(&self, share: f64) -> usize {
        at(&self.all, share)
    }

    /// A limit that keeps this share of each part's examples, but for those that are far longer
    /// than the part's others.
    pub fn limit(&self, share: f64) -> usize {
        let of_part = |part: &Vec<usize>| {
            let most = (TIMES * at(part, MOST)).max(STEP);
            at(part, share).clamp(1, most).next_multiple_of(STEP)
        };
        self.parts.iter().map(of_part).max().unwrap_or(STEP)
    }

    /// In words.
    pub fn words(&self) -> String {
        format!(
            "half have up to {} tokens, 95 % up to {}, the longest {}",
            self.at(0.5),
            self.at(0.95),
            self.at(1.0)
        )
    }
}

/// Lengths of prompts, and of the longer of each example's responses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// Of prompts.
    pub prompts: Spread,
    /// Of responses, their end of turn included.
    pub responses: Spread,
}

impl Lengths {
    /// Of the examples of these parts: what is trained on, and what is measured on.
    pub fn of(parts: &[&[Encoded]]) -> Lengths {
        let longer = |example: &Encoded| {
            let other = example.rejected.as_ref().map_or(0, |other| other.ids.len());
            example.response.len().max(other)
        };
        let prompt = |example: &Encoded| example.prompt.len();
        let lengths = |of: &dyn Fn(&Encoded) -> usize| {
            let each = parts.iter();
            Spread::of(each.map(|part| part.iter().map(of).collect()).collect())
        };
        Lengths {
            prompts: lengths(&prompt),
            responses: lengths(&longer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(lengths: impl Iterator<Item = usize>) -> Spread {
        Spread::of(vec![lengths.collect()])
    }

    /// Right values by counting: of 1..=100, 95 do not exceed 95.
    #[test]
    fn a_share_of_the_lengths_does_not_exceed_its_quantile() {
        let spread = one((1..=100).rev());
        for (share, length) in [(0.5, 50), (0.95, 95), (0.951, 96), (1.0, 100), (0.0, 1)] {
            assert_eq!(spread.at(share), length, "{share}");
        }
        assert_eq!((spread.limit(0.95), spread.limit(1.0)), (96, 112));
    }

    #[test]
    fn one_far_longer_example_does_not_set_the_limit() {
        let spread = one((1..=100).chain([4000]));
        assert_eq!(spread.at(1.0), 4000);
        assert_eq!(spread.limit(1.0), 192); // twice the 96 that 95 % keep to
        let short = one([1; 40].into_iter().chain([30]));
        assert_eq!(short.limit(1.0), 16);
    }

    #[test]
    fn one_length_is_enough() {
        let spread = one([7].into_iter());
        assert_eq!((spread.at(0.5), spread.limit(1.0)), (7, 16));
    }

    /// 16 rows of 200 tokens among 400 of 10 would be far longer than 95 % of all.
    #[test]
    fn most_of_a_small_part_is_kept() {
        let spread = Spread::of(vec![vec![10; 400], vec![200; 16]]);
        assert_eq!((spread.at(0.95), spread.at(1.0)), (10, 200));
        for share in [0.95, 1.0] {
            assert_eq!(spread.limit(share), 208);
        }
        // a part that has no rows changes nothing
        assert_eq!(Spread::of(vec![vec![7], vec![]]).limit(1.0), 16);
    }
}
