//! Scoring: against one token at a time, whatever the micro-batches.

use randori_engine::{Player, ScoreItem, score};

use crate::tiny::*;

fn items<'a>(prompts: &'a [Vec<u32>], responses: &'a [Vec<u32>]) -> Vec<ScoreItem<'a>> {
    let pair = |(i, prompt): (usize, &'a Vec<u32>)| {
        let responses = responses[2 * i..2 * i + 2]
            .iter()
            .map(|r| r.as_slice())
            .collect();
        ScoreItem { prompt, responses }
    };
    prompts.iter().enumerate().map(pair).collect()
}

#[test]
fn a_score_is_the_sum_of_next_token_log_probs() {
    let player = Player::bare(llama());
    let (prompts, responses) = (lists(1, 4, 1..6, VOCAB), lists(2, 8, 1..7, VOCAB));
    let items = items(&prompts, &responses);
    let scores = score(&player, &items, 1000, &mut |_| {}).unwrap();
    for (item, scores) in items.iter().zip(scores) {
        for (response, score) in item.responses.iter().zip(scores) {
            let mut tokens = item.prompt.to_vec();
            let mut sum = 0.0;
            for &token in *response {
                sum += next_logps(&player, &tokens, VOCAB)[token as usize];
                tokens.push(token);
            }
            assert!((score - sum).abs() < 1e-4, "{score} {sum}");
        }
    }
}

#[test]
fn micro_batches_change_nothing_and_progress_arrives() {
    let player = lora();
    let (prompts, responses) = (lists(5, 9, 1..6, VOCAB), lists(6, 18, 0..7, VOCAB));
    let items = items(&prompts, &responses);
    let mut whole_tokens = 0;
    let whole = score(&player, &items, 10_000, &mut |p| whole_tokens = p.tokens).unwrap();
    for budget in [1, 20, 45] {
        let mut seen = vec![];
        let parts = score(&player, &items, budget, &mut |p| {
            seen.push((p.done, p.tokens))
        })
        .unwrap();
        for (a, b) in whole.iter().flatten().zip(parts.iter().flatten()) {
            assert!((a - b).abs() < 1e-4);
        }
        assert_eq!(seen.last(), Some(&(9, whole_tokens)));
        assert_eq!(
            parts,
            score(&player, &items, budget, &mut |_| {}).unwrap(),
            "the same twice, to the bit"
        );
    }
    let empty = items
        .iter()
        .zip(&whole)
        .flat_map(|(item, s)| item.responses.iter().zip(s));
    assert!(empty.filter(|(r, _)| r.is_empty()).all(|(_, s)| *s == 0.0));
}

#[test]
fn a_known_distribution_is_scored_exactly() {
    let uniform = fixed(&[0.5; 8]);
    let item = ScoreItem {
        prompt: &[1],
        responses: vec![&[2, 3, 4], &[0]],
    };
    let scores = score(&uniform, &[item], 10, &mut |_| {}).unwrap();
    assert!(
        (scores[0][0] + 3.0 * 8f64.ln()).abs() < 1e-6 && (scores[0][1] + 8f64.ln()).abs() < 1e-6
    );
}

#[test]
fn bad_items_are_named() {
    let player = fixed(&[0.0, f32::NAN]);
    let good = ScoreItem {
        prompt: &[0],
        responses: vec![&[0]],
    };
    let e = score(
        &player,
        &[
            good.clone(),
            ScoreItem {
                prompt: &[],
                responses: vec![],
            },
        ],
        8,
        &mut |_| {},
    )
    .unwrap_err();
    assert!(e.to_string().contains("item 1"), "{e}");
    let e = score(&player, std::slice::from_ref(&good), 8, &mut |_| {}).unwrap_err();
    assert!(
        e.to_string().contains("item 0") && e.to_string().contains("finite"),
        "{e}"
    );
    assert!(score(&fixed(&[0.0]), &[good], 0, &mut |_| {}).is_err());
}
