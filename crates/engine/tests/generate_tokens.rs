//! Generation: against step-by-step decoding without a cache, known distributions, stop rules and
//! bad input.

use std::sync::Arc;

use randori_engine::{GenerateOptions, Generation, Player, generate};
use randori_sdk::seam::SamplerFn;

use crate::tiny::*;

fn options(max: usize, min: usize, slots: usize, stop: &[u32]) -> GenerateOptions {
    GenerateOptions {
        max_new_tokens: max,
        min_new_tokens: min,
        slots,
        stop: stop.to_vec(),
        seed: 5,
        iteration: 1,
        first_sequence: 0,
        ..GenerateOptions::default()
    }
}

fn run(
    player: &Player,
    prompts: &[Vec<u32>],
    samplers: &[Arc<dyn SamplerFn>],
    o: &GenerateOptions,
) -> Vec<Generation> {
    generate(player, prompts, samplers, o, &mut |_| {}).unwrap()
}

fn error(
    player: &Player,
    prompts: &[Vec<u32>],
    samplers: &[Arc<dyn SamplerFn>],
    o: &GenerateOptions,
) -> String {
    generate(player, prompts, samplers, o, &mut |_| {})
        .unwrap_err()
        .to_string()
}

#[test]
fn greedy_is_step_by_step_argmax_without_a_cache() {
    let player = Player::bare(llama());
    let prompts = lists(3, 5, 1..9, VOCAB);
    let stop = [4, 9];
    for (prompt, out) in prompts.iter().zip(run(
        &player,
        &prompts,
        &[greedy()],
        &options(12, 2, 2, &stop),
    )) {
        let (mut tokens, mut ended) = (prompt.clone(), false);
        while !ended && tokens.len() < prompt.len() + 12 {
            let mut logps = next_logps(&player, &tokens, VOCAB);
            let own = logps.clone();
            let position = tokens.len() - prompt.len();
            if position < 2 {
                stop.iter()
                    .for_each(|&s| logps[s as usize] = f64::NEG_INFINITY);
            }
            let best = argmax(&logps);
            assert_eq!(out.tokens[position], best as u32);
            assert!((out.logps[position] as f64 - own[best]).abs() < 1e-4);
            assert_eq!(out.behaviour[position], 0.0);
            tokens.push(best as u32);
            ended = position >= 2 && stop.contains(&(best as u32));
        }
        assert_eq!(out.tokens, tokens[prompt.len()..]);
        assert_eq!(out.ended, ended);
    }
}

/// Only the last piece's row is drawn from; the prompt spans three pieces and more than one step's
/// budget.
#[test]
fn long_prompts_enter_in_pieces() {
    let player = Player::bare(llama());
    let prompts = lists(4, 3, 1100..1300, VOCAB);
    for (prompt, out) in
        prompts
            .iter()
            .zip(run(&player, &prompts, &[greedy()], &options(2, 0, 3, &[])))
    {
        assert_eq!(
            out.tokens[0] as usize,
            argmax(&next_logps(&player, prompt, VOCAB))
        );
        assert_eq!(out.tokens.len(), 2);
    }
}

#[test]
fn the_number_of_slots_and_the_neighbours_change_nothing() {
    let player = lora();
    let prompts = lists(8, 11, 1..7, VOCAB);
    let o = |slots| options(15, 1, slots, &[0, 1]);
    let one = run(&player, &prompts, &[temperature::<8>()], &o(1));
    assert!(
        one.iter().any(|g| g.ended) && one.iter().any(|g| !g.ended),
        "both ends should occur"
    );
    for slots in [2, 4, 11, 50] {
        for (a, b) in one
            .iter()
            .zip(run(&player, &prompts, &[temperature::<8>()], &o(slots)))
        {
            assert_eq!((&a.tokens, a.ended), (&b.tokens, b.ended), "{slots} slots");
            for (a, b) in a
                .logps
                .iter()
                .chain(&a.behaviour)
                .zip(b.logps.iter().chain(&b.behaviour))
            {
                assert!((a - b).abs() < 1e-5);
            }
        }
    }
    // the second half alone, counted on, is the second half of the whole
    let rest = run(
        &player,
        &prompts[5..],
        &[temperature::<8>()],
        &GenerateOptions {
            first_sequence: 5,
            ..o(3)
        },
    );
    assert!(
        one[5..]
            .iter()
            .zip(&rest)
            .all(|(a, b)| a.tokens == b.tokens)
    );
    let other = run(
        &player,
        &prompts,
        &[temperature::<8>()],
        &GenerateOptions {
            iteration: 2,
            ..o(3)
        },
    );
    assert!(
        one.iter().zip(&other).any(|(a, b)| a.tokens != b.tokens),
        "another iteration draws anew"
    );
}

#[test]
fn log_probs_are_the_models_own_and_those_of_the_draw() {
    let player = fixed(&[1.0, 0.0, -1.0]);
    let log_soft_max = |t: f64| {
        let total: f64 = [1.0, 0.0, -1.0].map(|l: f64| (l / t).exp()).iter().sum();
        [1.0, 0.0, -1.0].map(|l: f64| l / t - total.ln())
    };
    let (own, cold) = (log_soft_max(1.0), log_soft_max(0.5));
    for out in run(
        &player,
        &[vec![0], vec![1]],
        &[temperature::<5>()],
        &options(20, 0, 2, &[]),
    ) {
        for (i, &token) in out.tokens.iter().enumerate() {
            assert!((out.logps[i] as f64 - own[token as usize]).abs() < 1e-6);
            assert!((out.behaviour[i] as f64 - cold[token as usize]).abs() < 1e-6);
        }
    }
    let plain = run(&player, &[vec![0]], &[], &options(20, 0, 1, &[]));
    assert_eq!(plain[0].logps, plain[0].behaviour);
}

#[test]
fn frequencies_match_the_soft_max() {
    let logits = [0.3f32, -1.0, 1.2, 0.0, -0.4, 0.9];
    let n = 6000;
    let prompts = vec![vec![0u32]; n / 20];
    for (samplers, t) in [(vec![], 1.0), (vec![temperature::<20>()], 2.0)] {
        let mut counts = [0u32; 6];
        for out in run(
            &fixed(&logits),
            &prompts,
            &samplers,
            &options(20, 0, 64, &[]),
        ) {
            out.tokens
                .iter()
                .for_each(|&token| counts[token as usize] += 1);
        }
        let weights = logits.map(|l| (l as f64 / t).exp());
        let total: f64 = weights.iter().sum();
        let chi: f64 = weights
            .iter()
            .zip(counts)
            .map(|(w, count)| {
                (count as f64 - n as f64 * w / total).powi(2) / (n as f64 * w / total)
            })
            .sum();
        // 5 degrees of freedom: 20.5 is exceeded once in a thousand
        assert!(
            chi < 20.5,
            "temperature {t}: chi-square {chi}, counts {counts:?}"
        );
    }
}

/// 0 -> 1 -> 2 -> 3 -> 0 …, each nearly certain.
fn cycle() -> Player {
    let logit = |t: usize, next| if next == (t + 1) % 4 { 50.0 } else { 0.0 };
    let table: Vec<Vec<f32>> = (0..4)
        .map(|t| (0..4).map(|next| logit(t, next)).collect())
        .collect();
    Player::bare(bigram(&table))
}

#[test]
fn any_stop_id_ends_and_is_kept_and_a_cut_response_has_none() {
    let player = cycle();
    let prompts = [vec![0], vec![2]];
    let out = run(&player, &prompts, &[], &options(10, 0, 2, &[3, 1]));
    assert_eq!(
        (out[0].tokens.as_slice(), out[0].ended),
        ([1].as_slice(), true)
    );
    assert_eq!(
        (out[1].tokens.as_slice(), out[1].ended),
        ([3].as_slice(), true)
    );
    let out = run(&player, &prompts, &[], &options(2, 0, 2, &[0]));
    assert_eq!(
        (out[0].tokens.as_slice(), out[0].ended),
        ([1, 2].as_slice(), false)
    );
    assert_eq!(
        (out[1].tokens.as_slice(), out[1].ended),
        ([3, 0].as_slice(), true)
    );
    let none = run(&player, &prompts, &[], &options(0, 0, 2, &[0]));
    assert!(none.iter().all(|g| g.tokens.is_empty() && !g.ended));
}

#[test]
fn stop_ids_are_masked_until_min_new_tokens() {
    // after 0 comes 1; while 1 is forbidden something else is drawn, even by a sampler that would
    // bring it back
    let stubborn: Arc<dyn SamplerFn> =
        Arc::new(Reshape("stubborn", |_: &[u32], l: &mut [f32]| l[1] = 60.0));
    for samplers in [vec![], vec![stubborn]] {
        let out = run(
            &cycle(),
            &vec![vec![0]; 8],
            &samplers,
            &options(40, 3, 8, &[1]),
        );
        for out in out {
            assert!(out.tokens[..3].iter().all(|&t| t != 1), "{:?}", out.tokens);
            assert!(out.ended && *out.tokens.last().unwrap() == 1);
            // the model's own log-prob knows nothing of the mask
            assert!(
                out.logps
                    .iter()
                    .zip(&out.behaviour)
                    .take(1)
                    .all(|(own, drawn)| own < drawn)
            );
        }
    }
}

#[test]
fn progress_counts_up_to_everything() {
    let mut seen = vec![];
    let prompts = vec![vec![0]; 5];
    generate(&cycle(), &prompts, &[], &options(3, 0, 2, &[]), &mut |p| {
        seen.push((p.done, p.tokens))
    })
    .unwrap();
    assert!(seen.is_sorted());
    assert_eq!(seen.last(), Some(&(5, 15)));
    assert_eq!(
        seen.len(),
        9,
        "3 rounds of 3 tokens: a freed slot is refilled at once"
    );
}

/// Samplers see prompt and response, have fresh state per sequence and draws of their own.
#[test]
fn samplers_get_state_tokens_and_draws() {
    use randori_sdk::seam::{SamplerState, Step};
    struct Counting(Vec<f64>, usize);
    impl SamplerFn for Counting {
        fn name(&self) -> &str {
            "counting"
        }
        fn begin(&self) -> Box<dyn SamplerState> {
            Box::new(Counting(vec![], 0))
        }
    }
    impl SamplerState for Counting {
        fn apply(&mut self, step: &mut Step, logits: &mut [f32]) -> Result<(), String> {
            assert_eq!(step.tokens.len() - step.prompt, self.1);
            assert_eq!(step.tokens[..step.prompt], [2, 3]);
            self.0.extend([(step.uniform)(), (step.uniform)()]);
            let distinct: std::collections::BTreeSet<_> =
                self.0.iter().map(|u| u.to_bits()).collect();
            assert_eq!(distinct.len(), self.0.len());
            logits.fill(f32::NEG_INFINITY);
            logits[self.1] = 0.0;
            Ok(())
        }
        fn accept(&mut self, token: u32, logp: f32) {
            assert_eq!((token as usize, logp), (self.1, 0.0));
            self.1 += 1;
        }
    }
    let out = run(
        &cycle(),
        &vec![vec![2, 3]; 3],
        &[Arc::new(Counting(vec![], 0))],
        &options(4, 0, 2, &[]),
    );
    assert!(out.iter().all(|g| g.tokens == [0, 1, 2, 3]));
}

#[test]
fn bad_input_is_one_clear_error() {
    let player = cycle();
    let o = options(8, 0, 2, &[]);
    assert!(error(&player, &[vec![1], vec![]], &[], &o).contains("prompt 1 is empty"));
    assert!(error(&player, &[vec![1]], &[], &options(2, 3, 1, &[])).contains("min_new_tokens (3)"));
    assert!(error(&player, &[vec![1]], &[], &options(2, 0, 0, &[])).contains("slots"));
    assert!(
        error(&player, &[vec![1]], &[], &options(2, 1, 1, &[0, 1, 2, 3]))
            .contains("min_new_tokens")
    );

    let nothing: Arc<dyn SamplerFn> = Arc::new(Reshape("nothing", |_: &[u32], l: &mut [f32]| {
        l.fill(f32::NEG_INFINITY)
    }));
    let e = error(
        &player,
        &[vec![1]],
        &[greedy(), nothing],
        &GenerateOptions {
            first_sequence: 7,
            ..o.clone()
        },
    );
    assert!(
        e.contains("sequence 7") && e.contains("sampler nothing left no token"),
        "{e}"
    );
    let nan: Arc<dyn SamplerFn> = Arc::new(Reshape("nan", |t: &[u32], l: &mut [f32]| {
        l[2] = (t.len() as f32 - 3.0).sqrt()
    }));
    let e = error(&player, &[vec![1]], &[nan], &o);
    assert!(e.contains("sampler nan") && e.contains("token 2"), "{e}");

    // 0 -> 1 -> 2, and after 2 the model breaks: the second sequence reaches it at its first token
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut table: Vec<Vec<f32>> = vec![vec![0.0; 4]; 4];
        (table[0][1], table[1][2], table[2][3]) = (50.0, 50.0, bad);
        let broken = Player::bare(bigram(&table));
        // an identity embedding times infinity is NaN everywhere else: any such logit is refused
        let e = error(&broken, &[vec![0]], &[], &o);
        assert!(
            e.contains("sequence 0, response token") && e.contains("not a finite number"),
            "{e}"
        );
    }
}
