//! How long the examples of a data set are, and limits that keep most of them.

use randori_data::Encoded;

/// Limits are multiples of so many tokens.
const STEP: usize = 16;
/// A limit is at most so many times the length that [`MOST`] of the examples keep to: a few that
/// are far longer would make every stage take more.
const TIMES: usize = 2;
const MOST: f64 = 0.95;

/// Lengths in tokens, in order; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spread(Vec<usize>);

impl Spread {
    fn of(lengths: impl Iterator<Item = usize>) -> Spread {
        let mut sorted: Vec<usize> = lengths.collect();
        sorted.sort_unstable();
        Spread(sorted)
    }

    /// The length that this share of the examples does not exceed.
    pub fn at(&self, share: f64) -> usize {
        let count = (share * self.0.len() as f64).ceil() as usize;
        let last = self.0.len().saturating_sub(1);
        let at = count.saturating_sub(1).min(last);
        self.0.get(at).copied().unwrap_or(1)
    }

    /// A limit that keeps this share of the examples, but for those that are far longer than the
    /// others.
    pub fn limit(&self, share: f64) -> usize {
        let most = (TIMES * self.at(MOST)).max(STEP);
        self.at(share).clamp(1, most).next_multiple_of(STEP)
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
    /// Of these examples.
    pub fn of(examples: &[Encoded]) -> Lengths {
        let longer = |example: &Encoded| {
            let other = example.rejected.as_ref().map_or(0, |other| other.ids.len());
            example.response.len().max(other)
        };
        Lengths {
            prompts: Spread::of(examples.iter().map(|example| example.prompt.len())),
            responses: Spread::of(examples.iter().map(longer)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Right values by counting: of 1..=100, 95 do not exceed 95.
    #[test]
    fn a_share_of_the_lengths_does_not_exceed_its_quantile() {
        let spread = Spread::of((1..=100).rev());
        for (share, length) in [(0.5, 50), (0.95, 95), (0.951, 96), (1.0, 100), (0.0, 1)] {
            assert_eq!(spread.at(share), length, "{share}");
        }
        assert_eq!((spread.limit(0.95), spread.limit(1.0)), (96, 112));
    }

    #[test]
    fn one_far_longer_example_does_not_set_the_limit() {
        let spread = Spread::of((1..=100).chain([4000]));
        assert_eq!(spread.at(1.0), 4000);
        assert_eq!(spread.limit(1.0), 192); // twice the 96 that 95 % keep to
        let short = Spread::of([1; 40].into_iter().chain([30]));
        assert_eq!(short.limit(1.0), 16);
    }

    #[test]
    fn one_length_is_enough() {
        let spread = Spread::of([7].into_iter());
        assert_eq!((spread.at(0.5), spread.limit(1.0)), (7, 16));
    }
}
