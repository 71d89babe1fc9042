//! How large the fullest packed micro-batch of a stage is.

use randori_kernels::QUERIES;

/// A packed micro-batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packing {
    /// Tokens computed: prompts once, responses but for their last token.
    pub rows: usize,
    /// Response tokens.
    pub targets: usize,
    /// Most tokens that one attends to: a prompt and a response.
    pub keys: usize,
    /// (query, key) pairs in all, as attention's blocks of queries go over them.
    pub attended: u64,
    /// Whether a step has more than one of them: gradients are then there from the beginning.
    pub several: bool,
}

impl Packing {
    /// The fullest micro-batch of items of a prompt and responses of these lengths, at most `batch`
    /// items and `tokens` rows; one larger item stands alone.
    pub fn fullest(prompt: usize, responses: &[usize], batch: usize, tokens: usize) -> Self {
        let item = Packing::item(prompt, responses);
        let all = item.saturating_mul(batch.max(1));
        let rows = item.max(tokens.min(all));
        let targets = responses.iter().sum::<usize>();
        let of_responses = responses
            .iter()
            .map(|r| attended(prompt, r.saturating_sub(1)));
        let of_item = attended(0, prompt) + of_responses.sum::<u64>();
        Packing {
            rows,
            targets: (rows * targets).div_ceil(item.max(1)),
            keys: prompt + responses.iter().max().unwrap_or(&0),
            attended: of_item * rows as u64 / item.max(1) as u64,
            several: all > rows,
        }
    }

    /// Rows of one prompt with its responses: what a response's last token would predict is not
    /// asked.
    pub fn item(prompt: usize, responses: &[usize]) -> usize {
        let each = responses.iter().map(|r| r.saturating_sub(1));
        prompt + each.sum::<usize>()
    }
}

/// (query, key) pairs of `n` queries in a row behind `before` keys: a block of queries sees all
/// keys up to its last.
pub(super) fn attended(before: usize, n: usize) -> u64 {
    let block = |from: usize| {
        let to = n.min(from + QUERIES);
        (to - from) as u64 * (before + to) as u64
    };
    (0..n).step_by(QUERIES).map(block).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_micro_batch_is_as_full_as_its_items_allow() {
        let of = |batch, tokens| Packing::fullest(100, &[51, 51], batch, tokens);
        assert_eq!(
            (of(1, 4096).rows, of(1, 4096).targets, of(1, 4096).several),
            (200, 102, false)
        );
        assert_eq!(
            (
                of(64, 1000).rows,
                of(64, 1000).targets,
                of(64, 1000).several
            ),
            (1000, 510, true)
        );
        assert_eq!((of(64, 10).rows, of(64, 10).keys), (200, 151)); // a larger item stands alone
        // blocks of 64 queries, all of which see as far as the last
        let of_prompt = 64 * 64 + 36 * 100;
        let of_pair = of_prompt + 2 * 50 * 150;
        assert_eq!(of(1, 4096).attended, of_pair);
        assert_eq!(of(64, 1000).attended, 5 * of_pair);
    }
}
