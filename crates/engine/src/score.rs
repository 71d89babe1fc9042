//! Summed response log-probs of many prompts, in packed micro-batches: the opponent's constants of an iteration,
//! and every held-out measure.

use std::ops::Range;

use crate::{Error, Packed, Player, Result};

/// A prompt and the responses to it that are scored (they share the prompt's computation).
#[derive(Debug, Clone)]
pub struct ScoreItem<'a> {
    /// Token ids, at least one.
    pub prompt: &'a [u32],
    /// Token ids of each response, the end-of-turn token included where there is one.
    pub responses: Vec<&'a [u32]>,
}

/// log p(response | prompt), summed over each response's tokens in f64, natural logarithm; one inner entry per
/// response. An empty response scores 0. Items are packed in order until a micro-batch holds `micro_batch_tokens`
/// rows (a larger item stands alone). `progress` is told items and rows done.
///
/// # Errors
/// An empty prompt, `micro_batch_tokens` of 0, a log-prob that is not finite (naming the item), or the engine's own.
pub fn score(
    player: &Player,
    items: &[ScoreItem],
    micro_batch_tokens: usize,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Vec<f64>>> {
    if let Some(i) = items.iter().position(|item| item.prompt.is_empty()) {
        return Err(Error::rule(format!(
            "item {i} to score has an empty prompt; it needs at least one token"
        )));
    }
    let sizes: Vec<usize> = items
        .iter()
        .map(|item| rows(item.prompt, &item.responses))
        .collect();
    let mut scores = Vec::with_capacity(items.len());
    let mut tokens = 0;
    for range in fill(&sizes, micro_batch_tokens)? {
        let mut plan = Packed::default();
        for item in &items[range.clone()] {
            plan.push(item.prompt, &item.responses);
        }
        let mut sums = sums(&plan, &player.logps(&plan)?)?.into_iter();
        for item in &items[range] {
            let of_item: Vec<f64> = sums.by_ref().take(item.responses.len()).collect();
            if let Some(bad) = of_item.iter().find(|logp| !logp.is_finite()) {
                let i = scores.len();
                return Err(Error::rule(format!(
                    "item {i} to score: a response's log-prob is {bad}, not a finite number"
                )));
            }
            scores.push(of_item);
        }
        tokens += plan.ids.len();
        progress(scores.len(), tokens);
    }
    Ok(scores)
}

/// How many rows [`Packed::push`] makes of a prompt and its responses.
pub(crate) fn rows(prompt: &[u32], responses: &[&[u32]]) -> usize {
    prompt.len()
        + responses
            .iter()
            .map(|r| r.len().saturating_sub(1))
            .sum::<usize>()
}

/// Consecutive ranges, each as long as its sizes' sum stays within `budget`; one that is larger stands alone.
pub(crate) fn fill(sizes: &[usize], budget: usize) -> Result<Vec<Range<usize>>> {
    if budget == 0 {
        return Err(Error::rule(
            "micro_batch_tokens is 0; a micro-batch holds at least one token",
        ));
    }
    let mut ranges = Vec::new();
    let (mut start, mut held) = (0, 0);
    for (i, &size) in sizes.iter().enumerate() {
        if i > start && held + size > budget {
            ranges.push(start..i);
            (start, held) = (i, 0);
        }
        held += size;
    }
    if start < sizes.len() {
        ranges.push(start..sizes.len());
    }
    Ok(ranges)
}

/// Target log-probs summed by response.
pub(crate) fn sums(plan: &Packed, logps: &[f64]) -> Result<Vec<f64>> {
    if logps.len() != plan.targets.len() {
        return Err(Error::rule(format!(
            "{} log-probs came back for {} targets",
            logps.len(),
            plan.targets.len()
        )));
    }
    let mut sums = vec![0.0; plan.seqs];
    for (target, logp) in plan.targets.iter().zip(logps) {
        sums[target.seq] += logp;
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_fill_up_to_the_budget_and_cover_everything_in_order() {
        assert_eq!(
            fill(&[3, 3, 4, 11, 2, 9], 10).unwrap(),
            [0..3, 3..4, 4..5, 5..6]
        );
        assert_eq!(
            fill(&[3, 3, 4], 100).unwrap().as_slice(),
            std::slice::from_ref(&(0..3))
        );
        assert!(fill(&[], 4).unwrap().is_empty());
        assert!(fill(&[1], 0).is_err());
    }

    #[test]
    fn rows_are_what_the_plan_holds() {
        let (prompt, a, b): (&[u32], &[u32], &[u32]) = (&[1, 2, 3], &[4, 5, 6], &[7]);
        let mut plan = Packed::default();
        plan.push(prompt, &[a, b, &[]]);
        assert_eq!(rows(prompt, &[a, b, &[]]), plan.ids.len());
        assert_eq!(sums(&plan, &[1.0, 2.0, 4.0, 8.0]).unwrap(), [7.0, 8.0, 0.0]);
        assert!(sums(&plan, &[1.0]).is_err());
    }
}
