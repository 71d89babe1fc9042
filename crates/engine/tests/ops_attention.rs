//! Packed attention against each response alone and against a naive O(n²) f64 reference; cached
//! against uncached.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::needless_range_loop
)]

use crate::ops::{self, Block, Llama, Probe, Random, base, floats, naive::Case, rope};
use randori_engine::{KvCache, Packed, Player, SlotTokens};
use randori_sdk::seam::{AttnSpec, Binary, RopeSpec, RouteSpec};

/// Every row of a packed plan against the f64 reference of its sequence alone.
fn check(kv_heads: usize, spec: AttnSpec, turn: RopeSpec) {
    Case::new(kv_heads, spec, turn).check();
}

#[test]
fn packed_rows_equal_a_naive_f64_reference() {
    let plain = AttnSpec::default();
    check(4, plain, rope(3));
    check(
        2,
        plain,
        RopeSpec {
            interleaved: true,
            ..rope(3)
        },
    );
    check(
        1,
        AttnSpec {
            scale: Some(0.3),
            ..plain
        },
        RopeSpec {
            mscale: 1.2,
            ..rope(2)
        },
    );
    check(
        2,
        AttnSpec {
            softcap: Some(2.0),
            ..plain
        },
        rope(3),
    );
}

#[test]
fn windows_shorter_than_the_sequence() {
    for window in [1, 2, 5, 33, 64, 65, 100] {
        check(
            2,
            AttnSpec {
                window: Some(window),
                ..AttnSpec::default()
            },
            rope(3),
        );
    }
}

#[test]
fn sinks_chunks_and_values_of_another_width() {
    for (window, chunk, value_dim, sinks) in [
        (None, None, 6, true),
        (Some(5), None, 6, true),
        (None, Some(1), 6, false),
        (None, Some(7), 6, false),
        (None, Some(64), 6, false),
        (Some(20), Some(33), 6, false),
        (None, Some(1000), 6, false),
        (None, None, 1, false),
        (None, None, 9, false),
        (Some(30), Some(70), 10, true),
    ] {
        let spec = AttnSpec {
            window,
            chunk,
            ..AttnSpec::default()
        };
        Case {
            value_dim,
            sinks,
            ..Case::new(2, spec, rope(3))
        }
        .check();
    }
}

/// A chunk that no sequence leaves is none, to the bit.
#[test]
fn a_chunk_of_the_whole_sequence_changes_no_bit() {
    let of = |chunk| {
        let spec = AttnSpec {
            chunk,
            ..AttnSpec::default()
        };
        let base = Case::new(2, spec, rope(3)).base();
        let mut plan = Packed::default();
        let mut random = Random(8);
        let (p, a) = (random.tokens(70, 17), random.tokens(80, 17));
        plan.push(&p, &[&a]);
        ops::bits(&Player::bare(base).hidden(&plan).unwrap())
    };
    // 70 tokens and all of the response but its last
    assert_eq!(of(None), of(Some(149)));
    assert_ne!(of(None), of(Some(148)));
}

#[test]
fn a_pair_that_shares_its_prompt_scores_as_each_response_alone() {
    for window in [None, Some(4)] {
        let player = Player::full(base(
            Llama {
                window,
                ..Llama::tiny()
            },
            2,
        ))
        .unwrap();
        let mut random = Random(3);
        let (p, a, b) = (
            random.tokens(9, 29),
            random.tokens(7, 29),
            random.tokens(12, 29),
        );
        let plan = |responses: &[&[u32]]| {
            let mut plan = Packed::default();
            plan.push(&p, responses);
            plan
        };
        let together = player.logps(&plan(&[&a, &b])).unwrap();
        let apart = [
            player.logps(&plan(&[&a])).unwrap(),
            player.logps(&plan(&[&b])).unwrap(),
        ]
        .concat();
        for (t, a) in together.iter().zip(&apart) {
            assert!((t - a).abs() < 1e-5, "{t} together, {a} apart");
        }
        let both = ops::gradients(&player, &plan(&[&a, &b]), &Default::default());
        let mut sum = randori_engine::Grads::new();
        let slopes = ops::slopes(&plan(&[&a, &b]));
        for (response, slopes) in [(&a, &slopes[..a.len()]), (&b, &slopes[a.len()..])] {
            let plan = plan(&[response]);
            player
                .forward_backward(
                    &plan,
                    &Default::default(),
                    &mut |_| Ok(slopes.to_vec()),
                    &mut sum,
                )
                .unwrap();
        }
        for (name, g) in &both {
            for (x, y) in floats(g).iter().zip(floats(&sum[name])) {
                assert!((x - y).abs() < 1e-4, "{name}: {x} together, {y} apart");
            }
        }
    }
}

#[test]
fn cached_steps_equal_the_uncached_pass() {
    for window in [None, Some(3), Some(1)] {
        let arch = Llama {
            window,
            ..Llama::tiny()
        };
        cached_equals_uncached(&Player::bare(base(arch, 2)));
    }
}

/// Which experts a token goes to depends on nobody else in the pass.
#[test]
fn cached_steps_of_a_mixture_equal_the_uncached_pass() {
    let block: Block = Box::new(|g, layer, x| {
        let name = |part: &str| format!("{layer}.{part}");
        let q = g.linear(&name("q"), x, 24, false)?;
        let q = g.unflatten(q, 2)?;
        let y = g.attention(q, q, q, &AttnSpec::default())?;
        let y = g.flatten(y)?;
        let x = g.binary(Binary::Add, x, y)?;
        let router = g.linear(&name("router"), x, 6, false)?;
        let bias = g.linear(&name("bias"), x, 6, true)?;
        let route = RouteSpec {
            bias: Some(bias),
            ..RouteSpec::top(2)
                .sigmoid()
                .normalised()
                .within_groups(3, 2, 2)
        };
        let y = g.moe(router, x, &route, &mut |g, e, x| {
            g.linear(&name(&format!("experts.{e}")), x, 24, false)
                .unwrap_or(0)
        })?;
        g.binary(Binary::Add, x, y)
    });
    let probe = Probe {
        vocab: 29,
        width: 24,
        layers: 2,
        block,
    };
    cached_equals_uncached(&Player::bare(base(probe, 2)));
}

/// Prompts and single tokens on both sides of chunks' borders.
#[test]
fn cached_steps_with_sinks_chunks_and_narrow_values_equal_the_uncached_pass() {
    for (window, chunk, sinks, value_dim) in [
        (None, None, true, 12),
        (Some(3), None, true, 12),
        (None, Some(4), false, 12),
        (None, Some(1), true, 7),
        (Some(2), Some(3), true, 15),
    ] {
        let block: Block = Box::new(move |g, layer, x| {
            let name = |part: &str| format!("{layer}.{part}");
            let q = g.linear(&name("q"), x, 24, false)?;
            let v = g.linear(&name("v"), x, value_dim, false)?;
            let k = g.narrow(q, 0, 12)?;
            let (q, k, v) = (g.unflatten(q, 2)?, g.unflatten(k, 1)?, g.unflatten(v, 1)?);
            let sinks = match sinks {
                true => Some(g.param(&name("sinks"), &[2])?),
                false => None,
            };
            let spec = AttnSpec {
                window,
                chunk,
                sinks,
                ..AttnSpec::default()
            };
            let y = g.attention(q, k, v, &spec)?;
            let y = g.flatten(y)?;
            let y = g.linear(&name("o"), y, 24, false)?;
            g.binary(Binary::Add, x, y)
        });
        let probe = Probe {
            vocab: 29,
            width: 24,
            layers: 2,
            block,
        };
        cached_equals_uncached(&Player::bare(base(probe, 2)));
    }
}

fn cached_equals_uncached(player: &Player) {
    let mut random = Random(31);
    let sequences: Vec<Vec<u32>> = [13, 6, 9].iter().map(|n| random.tokens(*n, 29)).collect();
    let mut cache = KvCache::new(player, 4);
    // slot 2 held something else before
    player
        .step(
            &mut cache,
            &[SlotTokens {
                slot: 2,
                tokens: &[1, 2, 3],
            }],
        )
        .unwrap();
    cache.clear(2);
    // prompts of different lengths together, then token by token, with some left out of some
    // steps
    let slots = [2, 0, 3];
    let mut done = [4usize, 1, 3];
    let batch: Vec<SlotTokens> = (0..3)
        .map(|i| SlotTokens {
            slot: slots[i],
            tokens: &sequences[i][..done[i]],
        })
        .collect();
    let mut logits = vec![vec![]; 3];
    let first = player.step(&mut cache, &batch).unwrap();
    for i in 0..3 {
        logits[i] = floats(&first.get(i).unwrap());
    }
    let mut steps = 0;
    loop {
        for i in 0..3 {
            check_logits(player, &sequences[i][..done[i]], &logits[i]);
        }
        let at: Vec<usize> = (0..3)
            .filter(|i| done[*i] < sequences[*i].len() && (steps + i) % 3 != 0)
            .collect();
        steps += 1;
        if (0..3).all(|i| done[i] == sequences[i].len()) {
            break;
        }
        if at.is_empty() {
            continue;
        }
        let batch: Vec<SlotTokens> = at
            .iter()
            .map(|&i| SlotTokens {
                slot: slots[i],
                tokens: &sequences[i][done[i]..done[i] + 1],
            })
            .collect();
        let out = player.step(&mut cache, &batch).unwrap();
        for (n, &i) in at.iter().enumerate() {
            logits[i] = floats(&out.get(n).unwrap());
            done[i] += 1;
            assert_eq!(cache.len(slots[i]), done[i]);
        }
    }
    assert!(cache.bytes() > 0);
}

/// Log-soft-max of the logits after `tokens` against the packed pass's log-probs.
fn check_logits(player: &Player, tokens: &[u32], logits: &[f32]) {
    let total = logits.iter().map(|l| f64::from(*l).exp()).sum::<f64>().ln();
    for next in [0u32, 7, 28] {
        let mut plan = Packed::default();
        plan.push(tokens, &[&[next]]);
        let want = player.logps(&plan).unwrap()[0];
        let got = f64::from(logits[next as usize]) - total;
        assert!(
            (got - want).abs() < 1e-5,
            "after {} tokens: {got} cached, {want} uncached",
            tokens.len()
        );
    }
}

#[test]
fn a_step_refuses_what_it_cannot_mean() {
    let player = Player::bare(base(Llama::tiny(), 2));
    let mut cache = KvCache::new(&player, 2);
    let step = |cache: &mut KvCache, batch: &[(usize, &[u32])]| {
        let batch: Vec<SlotTokens> = batch
            .iter()
            .map(|(slot, tokens)| SlotTokens {
                slot: *slot,
                tokens,
            })
            .collect();
        player
            .step(cache, &batch)
            .map(drop)
            .map_err(|e| e.to_string())
    };
    assert!(
        step(&mut cache, &[])
            .unwrap_err()
            .contains("at least one entry")
    );
    assert!(
        step(&mut cache, &[(2, &[1])])
            .unwrap_err()
            .contains("slot 2")
    );
    assert!(
        step(&mut cache, &[(0, &[])])
            .unwrap_err()
            .contains("slot 0")
    );
    assert!(
        step(&mut cache, &[(0, &[1]), (0, &[2])])
            .unwrap_err()
            .contains("different slots")
    );
    assert!(
        step(&mut cache, &[(0, &[1, 29])])
            .unwrap_err()
            .contains("token 29")
    );
    // a refused step leaves nothing behind
    step(&mut cache, &[(0, &[1, 2])]).unwrap();
    assert!(step(&mut cache, &[(0, &[3]), (1, &[99])]).is_err());
    let ids = [3];
    let entry = [SlotTokens {
        slot: 0,
        tokens: &ids,
    }];
    let logits = player.step(&mut cache, &entry).unwrap();
    check_logits(&player, &[1, 2, 3], &floats(&logits.get(0).unwrap()));
}
