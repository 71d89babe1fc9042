//! Micro-batches: which sequences run together under a token budget. Sequences are packed, not padded, so the cost
//! of a micro-batch is the sum of its lengths.

/// Consecutive runs of `0..lens.len()` whose lengths sum to at most `budget` tokens, in order.
///
/// A sequence longer than the budget stands alone: it is the caller's to refuse it, with its place.
pub fn pack(lens: &[usize], budget: usize) -> Vec<Vec<usize>> {
    fill(lens, (0..lens.len()).collect(), budget)
}

/// The same with sequences of like length side by side, longest first, so that the biggest micro-batch comes first
/// and a lack of memory shows at once. Deterministic: equal lengths keep their order.
pub fn pack_by_length(lens: &[usize], budget: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lens.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(lens[i]));
    fill(lens, order, budget)
}

fn fill(lens: &[usize], order: Vec<usize>, budget: usize) -> Vec<Vec<usize>> {
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut used = 0usize;
    for index in order {
        match batches.last_mut() {
            Some(batch) if used.saturating_add(lens[index]) <= budget => {
                batch.push(index);
                used += lens[index];
            }
            _ => {
                batches.push(vec![index]);
                used = lens[index];
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept_and_the_budget_holds() {
        let lens = [3, 4, 5, 9, 1, 1, 20, 2];
        let plan = pack(&lens, 10);
        assert_eq!(
            plan,
            [vec![0, 1], vec![2], vec![3, 4], vec![5], vec![6], vec![7]]
        );
        assert_eq!(plan.concat(), (0..lens.len()).collect::<Vec<_>>());
    }

    #[test]
    fn by_length_puts_the_longest_first_and_keeps_ties_in_order() {
        assert_eq!(pack_by_length(&[3, 9, 3, 4], 10), [vec![1], vec![3, 0, 2]]);
    }

    #[test]
    fn nothing_packs_to_nothing() {
        assert!(pack(&[], 10).is_empty());
        assert_eq!(pack(&[5, 5], 0), [vec![0], vec![1]]);
    }
}
