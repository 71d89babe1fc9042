//! Packed attention against each response alone and against a naive O(n²) f64 reference; cached
//! against uncached.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::needless_range_loop
)]

use std::sync::Arc;

use crate::ops::{self, Block, Llama, Probe, Random, base, floats, rope};
use randori_engine::{Base, KvCache, Packed, Player, SlotTokens, Weight};
use randori_sdk::seam::{AttnSpec, Binary, RopeSpec, RouteSpec};

const VOCAB: usize = 17;
const HEADS: usize = 4;
const D: usize = 6;

/// One block that is nothing but rotated, grouped attention over projections.
fn attention(kv_heads: usize, spec: AttnSpec, turn: RopeSpec) -> Arc<Base> {
    let block: Block = Box::new(move |g, _, x| {
        let q = g.linear("q", x, HEADS * D, false)?;
        let k = g.linear("k", x, kv_heads * D, false)?;
        let v = g.linear("v", x, kv_heads * D, false)?;
        let (q, k, v) = (
            g.unflatten(q, HEADS)?,
            g.unflatten(k, kv_heads)?,
            g.unflatten(v, kv_heads)?,
        );
        let (q, k) = (g.rope(q, &turn)?, g.rope(k, &turn)?);
        let o = g.attention(q, k, v, &spec)?;
        g.flatten(o)
    });
    base(
        Probe {
            vocab: VOCAB,
            width: HEADS * D,
            layers: 1,
            block,
        },
        21,
    )
}

fn matrix(base: &Base, name: &str) -> (Vec<f64>, usize) {
    let Weight::Dense(t) = &base.weights[&format!("{name}.weight")] else {
        panic!()
    };
    (
        floats(t).iter().map(|v| f64::from(*v)).collect(),
        t.dims()[1],
    )
}

fn project(w: &(Vec<f64>, usize), x: &[f64]) -> Vec<f64> {
    w.0.chunks(w.1)
        .map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum())
        .collect()
}

fn turned(x: &[f64], spec: &RopeSpec, position: usize) -> Vec<f64> {
    let mut y = x.to_vec();
    let n = spec.inv_freq.len();
    for head in 0..x.len() / D {
        for (i, f) in spec.inv_freq.iter().enumerate() {
            let (a, b) = if spec.interleaved {
                (2 * i, 2 * i + 1)
            } else {
                (i, i + n)
            };
            let (a, b) = (head * D + a, head * D + b);
            let (s, c) = (position as f64 * f64::from(*f)).sin_cos();
            let m = f64::from(spec.mscale);
            y[a] = m * (x[a] * c - x[b] * s);
            y[b] = m * (x[a] * s + x[b] * c);
        }
    }
    y
}

/// The whole block in f64, one sequence, every pair of tokens.
fn reference(
    base: &Base,
    ids: &[u32],
    kv_heads: usize,
    spec: &AttnSpec,
    turn: &RopeSpec,
) -> Vec<Vec<f64>> {
    let (table, width) = matrix(base, "embed");
    let x: Vec<&[f64]> = ids
        .iter()
        .map(|i| &table[*i as usize * width..][..width])
        .collect();
    let all = |name: &str| -> Vec<Vec<f64>> {
        let w = matrix(base, name);
        x.iter().map(|x| project(&w, x)).collect()
    };
    let spun = |rows: Vec<Vec<f64>>| -> Vec<Vec<f64>> {
        rows.iter()
            .enumerate()
            .map(|(p, r)| turned(r, turn, p))
            .collect()
    };
    let (q, k, v) = (spun(all("q")), spun(all("k")), all("v"));
    let scale = spec.scale.map_or((D as f64).powf(-0.5), f64::from);
    let window = spec.window.unwrap_or(usize::MAX);
    (0..ids.len())
        .map(|i| {
            let mut out = vec![0.0; HEADS * D];
            for head in 0..HEADS {
                let at = head / (HEADS / kv_heads) * D;
                let keys: Vec<usize> = (0..=i).filter(|j| i - j < window).collect();
                let scores: Vec<f64> = keys
                    .iter()
                    .map(|&j| {
                        let s: f64 = (0..D)
                            .map(|c| q[i][head * D + c] * k[j][at + c])
                            .sum::<f64>()
                            * scale;
                        spec.softcap
                            .map_or(s, |cap| f64::from(cap) * (s / f64::from(cap)).tanh())
                    })
                    .collect();
                let total: f64 = scores.iter().map(|s| s.exp()).sum();
                for (s, &j) in scores.iter().zip(&keys) {
                    for c in 0..D {
                        out[head * D + c] += s.exp() / total * v[j][at + c];
                    }
                }
            }
            out
        })
        .collect()
}

fn close(got: &[f32], want: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len());
    for (g, w) in got.iter().zip(want) {
        assert!((f64::from(*g) - w).abs() < tolerance, "{what}: {g} for {w}");
    }
}

/// Every row of a packed plan against the f64 reference of its sequence alone.
fn check(kv_heads: usize, spec: AttnSpec, turn: RopeSpec) {
    let base = attention(kv_heads, spec, turn.clone());
    let player = Player::bare(base.clone());
    let mut random = Random(8);
    let mut plan = Packed::default();
    let mut sequences = Vec::new();
    // longer than a block of queries (64), so that blocks, ranges and windows meet
    for (prompt, responses) in [(70, vec![90, 3]), (1, vec![2, 5]), (4, vec![150])] {
        let p = random.tokens(prompt, VOCAB);
        let rs: Vec<Vec<u32>> = responses.iter().map(|n| random.tokens(*n, VOCAB)).collect();
        let start = plan.ids.len();
        plan.push(&p, &rs.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let mut row = start + p.len();
        for r in rs {
            sequences.push((start, row, p.clone(), r.clone()));
            row += r.len() - 1;
        }
    }
    let hidden = floats(&player.hidden(&plan).unwrap());
    let width = HEADS * D;
    for (prompt_row, row, prompt, response) in sequences {
        let ids = [&prompt[..], &response[..response.len() - 1]].concat();
        let want = reference(&base, &ids, kv_heads, &spec, &turn);
        for (i, want) in want.iter().enumerate() {
            let at = if i < prompt.len() {
                prompt_row + i
            } else {
                row + i - prompt.len()
            };
            close(
                &hidden[at * width..][..width],
                want,
                2e-5,
                &format!("{spec:?}, position {i}"),
            );
        }
    }
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
