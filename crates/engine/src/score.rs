//! Summed response log-probs of many prompts, in packed micro-batches: the opponent's constants of
//! an iteration, and every held-out measure.

use std::ops::Range;

use randori_kernels::{Error, Result};

use crate::{Packed, Player, Progress};

/// A prompt and the responses to it that are scored (they share the prompt's computation).
#[derive(Debug, Clone)]
pub struct ScoreItem<'a> {
    /// Token ids, at least one.
    pub prompt: &'a [u32],
    /// Token ids of each response, the end-of-turn token included where there is one.
    pub responses: Vec<&'a [u32]>,
}

/// log p(response | prompt), summed over each response's tokens in f64, natural logarithm; one
/// inner entry per response. An empty response scores 0. Items are packed in order until a
/// micro-batch holds `micro_batch_tokens` rows (a larger item stands alone). When memory runs out,
/// micro-batches are halved; a score changes by no more than rounding.
///
/// # Errors
/// An empty prompt, `micro_batch_tokens` of 0, a log-prob that is not finite (naming the item), no
/// memory for an item alone, or the engine's own.
pub fn score(
    player: &Player,
    items: &[ScoreItem],
    micro_batch_tokens: usize,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<Vec<f64>>> {
    let summed = |responses: Vec<Vec<f64>>| responses.iter().map(|tokens| sum(tokens)).collect();
    each_item(player, items, micro_batch_tokens, progress, &summed)
}

/// log p of each token of a response given prompt and what goes before it: one list per response,
/// of its tokens in order. Their [`sum`] is, bit for bit, what [`score`] gives.
///
/// # Errors
/// As [`score`].
pub fn score_tokens(
    player: &Player,
    items: &[ScoreItem],
    micro_batch_tokens: usize,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<Vec<Vec<f64>>>> {
    each_item(player, items, micro_batch_tokens, progress, &|tokens| {
        tokens
    })
}

/// The sum of a response's log-probs, in order; 0 of none.
pub fn sum(tokens: &[f64]) -> f64 {
    tokens.iter().fold(0.0, |sum, logp| sum + logp)
}

/// Scores all items; of each, what is `kept` of its responses' log-probs by token.
fn each_item<T>(
    player: &Player,
    items: &[ScoreItem],
    micro_batch_tokens: usize,
    progress: &mut dyn FnMut(Progress),
    kept: &dyn Fn(Vec<Vec<f64>>) -> T,
) -> Result<Vec<T>> {
    if let Some(i) = items.iter().position(|item| item.prompt.is_empty()) {
        return Err(Error::rule(format!(
            "item {i} to score has an empty prompt; it needs at least one token"
        )));
    }
    check_budget(micro_batch_tokens)?;
    let border = player.border();
    let sizes: Vec<usize> = items
        .iter()
        .map(|item| Packed::count_rows(border, item.prompt, &item.responses))
        .collect();
    let mut scores = Vec::with_capacity(items.len());
    let (mut tokens, mut at_once) = (0, micro_batch_tokens);
    while scores.len() < items.len() {
        let from = scores.len();
        let count = count_within(&sizes[from..], at_once);
        let rows: usize = sizes[from..from + count].iter().sum();
        match score_batch(player, border, &items[from..from + count], from) {
            Ok(new) => scores.extend(new.into_iter().map(kept)),
            Err(e) if e.is_out_of_memory() && count > 1 => {
                at_once = at_once.min(rows).div_ceil(2);
                continue;
            }
            Err(e) if e.is_out_of_memory() => {
                return Err(Error::OutOfMemory(format!(
                    "item {from} to score: no memory for it alone, {rows} rows ({e}); hold the base in less (model.dtype, adapter.kind = \"qlora\") or take shorter items (data.max_prompt_tokens, data.max_response_tokens, generate.max_new_tokens)"
                )));
            }
            Err(e) => return Err(e),
        }
        tokens += rows;
        progress(Progress {
            done: scores.len(),
            tokens,
            at_once,
        });
    }
    Ok(scores)
}

/// A micro-batch's log-probs by item, response and token; the first item's number is `from`.
fn score_batch(
    player: &Player,
    border: Option<usize>,
    items: &[ScoreItem],
    from: usize,
) -> Result<Vec<Vec<Vec<f64>>>> {
    let mut plan = Packed::with_border(border);
    for item in items {
        plan.push(item.prompt, &item.responses);
    }
    let mut all = by_response(&plan, &player.logps(&plan)?)?.into_iter();
    let mut scores = Vec::with_capacity(items.len());
    for (i, item) in items.iter().enumerate() {
        let of_item: Vec<Vec<f64>> = all.by_ref().take(item.responses.len()).collect();
        let sums = of_item.iter().map(|tokens| sum(tokens));
        if let Some(bad) = sums.into_iter().find(|logp| !logp.is_finite()) {
            return Err(Error::rule(format!(
                "item {} to score: a response's log-prob is {bad}, not a finite number",
                from + i
            )));
        }
        scores.push(of_item);
    }
    Ok(scores)
}

/// Consecutive ranges, each as long as its sizes' sum stays within `budget`; one that is larger
/// stands alone.
pub(crate) fn split(sizes: &[usize], budget: usize) -> Result<Vec<Range<usize>>> {
    check_budget(budget)?;
    let (mut ranges, mut start) = (Vec::new(), 0);
    while start < sizes.len() {
        let end = start + count_within(&sizes[start..], budget);
        ranges.push(start..end);
        start = end;
    }
    Ok(ranges)
}

/// How many of the first sizes stay within `budget` together, at least one.
fn count_within(sizes: &[usize], budget: usize) -> usize {
    let sums = sizes.iter().scan(0, |sum, size| {
        *sum += size;
        Some(*sum)
    });
    sums.take_while(|sum| *sum <= budget).count().max(1)
}

fn check_budget(micro_batch_tokens: usize) -> Result<()> {
    match micro_batch_tokens {
        0 => Err(Error::rule(
            "micro_batch_tokens is 0; a micro-batch holds at least one token",
        )),
        _ => Ok(()),
    }
}

/// Target log-probs summed by response.
pub(crate) fn sum_by_response(plan: &Packed, logps: &[f64]) -> Result<Vec<f64>> {
    let all = by_response(plan, logps)?;
    Ok(all.iter().map(|tokens| sum(tokens)).collect())
}

/// Target log-probs, a list for each response.
fn by_response(plan: &Packed, logps: &[f64]) -> Result<Vec<Vec<f64>>> {
    if logps.len() != plan.targets.len() {
        return Err(Error::rule(format!(
            "{} log-probs came back for {} targets",
            logps.len(),
            plan.targets.len()
        )));
    }
    let mut all = vec![Vec::new(); plan.seqs];
    for (target, logp) in plan.targets.iter().zip(logps) {
        all[target.seq].push(*logp);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_fill_up_to_the_budget_and_cover_everything_in_order() {
        assert_eq!(
            split(&[3, 3, 4, 11, 2, 9], 10).unwrap(),
            [0..3, 3..4, 4..5, 5..6]
        );
        assert_eq!(
            split(&[3, 3, 4], 100).unwrap().as_slice(),
            std::slice::from_ref(&(0..3))
        );
        assert!(split(&[], 4).unwrap().is_empty());
        assert!(split(&[1], 0).is_err());
    }

    #[test]
    fn rows_are_what_the_plan_holds() {
        let (prompt, a, b): (&[u32], &[u32], &[u32]) = (&[1, 2, 3], &[4, 5, 6], &[7]);
        for border in [None, Some(4), Some(5), Some(6)] {
            let mut plan = Packed::with_border(border);
            plan.push(prompt, &[a, b, &[]]);
            let rows = Packed::count_rows(border, prompt, &[a, b, &[]]);
            assert_eq!(rows, plan.ids.len(), "{border:?}");
        }
        let mut plan = Packed::default();
        plan.push(prompt, &[a, b, &[]]);
        assert_eq!(
            sum_by_response(&plan, &[1.0, 2.0, 4.0, 8.0]).unwrap(),
            [7.0, 8.0, 0.0]
        );
        assert!(sum_by_response(&plan, &[1.0]).is_err());
        assert_eq!(
            by_response(&plan, &[1.0, 2.0, 4.0, 8.0]).unwrap(),
            [vec![1.0, 2.0, 4.0], vec![8.0], vec![]]
        );
    }
}
