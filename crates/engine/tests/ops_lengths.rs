//! Rotation that depends on how long a whole sequence is (longrope): packed passes, cached steps
//! and generation against models that rotate by one list alone; and queries that grow with their
//! position.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use crate::ops::{Block, Probe, Random, base, floats, gradients, rope, slopes};
use randori_engine::{
    Base, GenerateOptions, Grads, KvCache, Packed, PassOptions, Player, ScoreItem, SlotTokens,
    generate, score,
};
use randori_sdk::seam::{AttnSpec, Binary, Growth, LongRope, RopeSpec};

const VOCAB: usize = 17;
const WIDTH: usize = 12;
/// Tokens beyond which all of a sequence is rotated otherwise.
const BORDER: usize = 10;

/// Two residual blocks of rotated attention; the same weights whatever `turn` is.
fn attention(turn: RopeSpec) -> Arc<Base> {
    let block: Block = Box::new(move |g, layer, x| {
        let linear = |g: &mut dyn randori_sdk::seam::Backend, name: &str| {
            let y = g.linear(&format!("layers.{layer}.{name}"), x, WIDTH, false)?;
            g.unflatten(y, 2)
        };
        let (q, k, v) = (linear(g, "q")?, linear(g, "k")?, linear(g, "v")?);
        let (q, k) = (g.rope(q, &turn)?, g.rope(k, &turn)?);
        let o = g.attention(q, k, v, &AttnSpec::default())?;
        let o = g.flatten(o)?;
        g.binary(Binary::Add, x, o)
    });
    let probe = Probe {
        vocab: VOCAB,
        width: WIDTH,
        layers: 2,
        block,
    };
    base(probe, 5)
}

/// Frequencies of short and of long sequences.
fn lists() -> [RopeSpec; 2] {
    let long = RopeSpec {
        inv_freq: rope(3).inv_freq.iter().map(|f| f / 3.0).collect(),
        mscale: 1.2,
        ..rope(3)
    };
    let short = RopeSpec {
        mscale: 1.2,
        ..rope(3)
    };
    [short, long]
}

/// The model that changes at the border, and those that rotate by one list alone.
fn players() -> [Player; 3] {
    let [short, long] = lists();
    let both = RopeSpec {
        long: Some(LongRope {
            after: BORDER,
            inv_freq: long.inv_freq.clone(),
        }),
        ..short.clone()
    };
    [both, short, long].map(|turn| Player::full(attention(turn)).unwrap())
}

/// Prompt, a response that makes a long sequence, one that makes a short one, another long one.
fn texts() -> (Vec<u32>, [Vec<u32>; 3]) {
    let mut random = Random(3);
    let mut some = |n| random.tokens(n, VOCAB);
    // 4 + 7 is the first long one, 4 + 6 the last short one
    (some(4), [some(7), some(6), some(9)])
}

#[test]
fn each_response_is_scored_by_its_own_length() {
    let [both, short, long] = players();
    assert_eq!(both.border(), Some(BORDER));
    assert_eq!((short.border(), long.border()), (None, None));
    let (prompt, responses) = texts();
    let all: Vec<&[u32]> = responses.iter().map(Vec::as_slice).collect();
    let of = |player: &Player, responses: &[&[u32]]| {
        let item = ScoreItem {
            prompt: &prompt,
            responses: responses.to_vec(),
        };
        score(player, &[item], 1000, &mut |_| ()).unwrap().remove(0)
    };
    let [a, b, c] = all[..] else { panic!() };
    let want = [of(&long, &[a])[0], of(&short, &[b])[0], of(&long, &[c])[0]];
    let got = of(&both, &all);
    for (got, want) in got.iter().zip(want) {
        assert!((got - want).abs() < 1e-5, "{got} for {want}");
    }
    let other = of(&short, &[a])[0];
    assert!((other - want[0]).abs() > 1e-2, "the lists hardly differ");
    // responses of one token lie on a side too
    let ends: [&[u32]; 2] = [&a[..1], c];
    let want = [of(&short, &[ends[0]])[0], of(&long, &[c])[0]];
    for (got, want) in of(&both, &ends).iter().zip(want) {
        assert!((got - want).abs() < 1e-5, "{got} for {want}");
    }
}

#[test]
fn gradients_are_those_of_each_side() {
    let [both, short, long] = players();
    let (prompt, [a, b, _]) = texts();
    let mut plan = Packed::with_border(both.border());
    plan.push(&prompt, &[&a, &b]);
    let roots = plan.segments.iter().filter(|s| s.parent.is_none());
    assert_eq!((roots.count(), plan.seqs), (2, 2));
    let each = slopes(&plan);
    let checkpointed = PassOptions {
        checkpoint: true,
        ..PassOptions::default()
    };
    let mut want = Grads::new();
    for (player, response, slopes) in [
        (&long, &a, &each[..a.len()]),
        (&short, &b, &each[a.len()..]),
    ] {
        let mut plan = Packed::default();
        plan.push(&prompt, &[response]);
        let mut given = |_: &[f64]| Ok(slopes.to_vec());
        let options = PassOptions::default();
        player
            .forward_backward(&plan, &options, &mut given, &mut want)
            .unwrap();
    }
    for options in [PassOptions::default(), checkpointed] {
        let got = gradients(&both, &plan, &options);
        assert_eq!(got.len(), want.len());
        for (name, grad) in &got {
            for (g, w) in floats(grad).iter().zip(floats(&want[name])) {
                assert!((g - w).abs() < 1e-4, "{name}: {g} for {w}");
            }
        }
    }
}

#[test]
fn a_prompt_that_both_sides_share_is_refused() {
    let [both, ..] = players();
    let (prompt, [a, b, _]) = texts();
    let mut plan = Packed::default(); // knows of no border
    plan.push(&prompt, &[&a, &b]);
    let error = both.logps(&plan).unwrap_err().to_string();
    let says = "sequences of 10 and of 11 tokens share rows: of one longer than 10 tokens";
    assert!(error.contains(says), "{error}");
}

/// Logits of the last of these tokens, fed in pieces into slot 0.
fn step(player: &Player, cache: &mut KvCache, tokens: &[u32]) -> Result<Vec<f32>, String> {
    let batch = [SlotTokens { slot: 0, tokens }];
    let logits = player.step(cache, &batch).map_err(|e| e.to_string())?;
    Ok(floats(&logits))
}

#[test]
fn a_cached_sequence_stays_on_the_side_that_it_began_on() {
    let [both, short, long] = players();
    let tokens = Random(7).tokens(13, VOCAB);
    let whole = |player: &Player, n: usize| {
        step(player, &mut KvCache::new(player, 1), &tokens[..n]).unwrap()
    };
    let near = |got: Vec<f32>, want: Vec<f32>| {
        let off = got.iter().zip(&want).map(|(g, w)| (g - w).abs());
        off.fold(0.0, f32::max) < 1e-5
    };
    // a long prompt in pieces, said beforehand, and what follows it
    let mut cache = KvCache::new(&both, 1);
    cache.expect(0, 12);
    step(&both, &mut cache, &tokens[..5]).unwrap();
    step(&both, &mut cache, &tokens[5..12]).unwrap();
    let got = step(&both, &mut cache, &tokens[12..]).unwrap();
    assert!(near(got.clone(), whole(&long, 13)) && !near(got, whole(&short, 13)));
    // a short one up to the border, and no further
    cache.clear(0);
    step(&both, &mut cache, &tokens[..7]).unwrap();
    let got = step(&both, &mut cache, &tokens[7..10]).unwrap();
    assert!(near(got, whole(&short, 10)));
    let error = step(&both, &mut cache, &tokens[10..11]).unwrap_err();
    let says = "sequences of 10 and of 11 tokens share rows";
    assert!(error.contains(says), "{error}");
    // the slot's next sequence knows nothing of it
    cache.clear(0);
    let got = step(&both, &mut cache, &tokens[..11]).unwrap();
    assert!(near(got, whole(&long, 11)));
}

#[test]
fn generation_ends_at_the_border_or_began_beyond_it() {
    let [both, short, long] = players();
    let mut random = Random(9);
    let prompts: Vec<Vec<u32>> = [4, 9, 10, 600].map(|n| random.tokens(n, VOCAB)).to_vec();
    let options = GenerateOptions {
        max_new_tokens: 8,
        slots: 2,
        ..GenerateOptions::default()
    };
    let of = |player: &Player| generate(player, &prompts, &[], &options, &mut |_| ()).unwrap();
    let (got, short, long) = (of(&both), of(&short), of(&long));
    let tokens = |i: usize| got[i].tokens.as_slice();
    assert_eq!(tokens(0), &short[0].tokens[..6]);
    assert_eq!(tokens(1), &short[1].tokens[..1]);
    assert!(!got[0].ended && !got[1].ended);
    assert_eq!(
        (tokens(2), tokens(3)),
        (&long[2].tokens[..], &long[3].tokens[..])
    );
}

#[test]
fn a_sequence_longer_than_the_frequencies_reach_is_refused() {
    let turn = RopeSpec {
        long: Some(LongRope {
            after: BORDER,
            inv_freq: Vec::new(),
        }),
        ..rope(3)
    };
    let player = Player::bare(attention(turn));
    let tokens = Random(7).tokens(11, VOCAB);
    let mut cache = KvCache::new(&player, 1);
    assert!(step(&player, &mut cache, &tokens[..10]).is_ok());
    let error = step(&player, &mut KvCache::new(&player, 1), &tokens).unwrap_err();
    assert!(
        error.contains("a sequence is longer than 10 tokens"),
        "{error}"
    );
}

#[test]
fn queries_grow_with_their_position() {
    let growth = Growth {
        beta: 0.5,
        every: 4,
    };
    for (position, steps) in [(0, 0.0), (3, 0.0), (4, 1.0), (11, 2.0), (12, 3.0)] {
        let off = growth.at(position) - (1.0 + 0.5 * f64::ln(1.0 + steps));
        assert!(off.abs() < 1e-12, "position {position}");
    }
    assert_eq!(growth.at(3), 1.0);
    let growing = Player::bare(attention(RopeSpec {
        growth: Some(growth),
        ..rope(3)
    }));
    let tokens = Random(7).tokens(9, VOCAB);
    let mut plan = Packed::default();
    plan.push(&tokens[..4], &[&tokens[4..]]);
    let packed = floats(&growing.hidden(&plan).unwrap());
    // within the first step nothing grows
    let plain = Player::bare(attention(rope(3)));
    let still = floats(&plain.hidden(&plan).unwrap());
    let same = |row: usize| packed[row * WIDTH..][..WIDTH] == still[row * WIDTH..][..WIDTH];
    assert_eq!([0, 3, 4, 7].map(same), [true, true, false, false]);
    // and a cache sees the same positions
    let mut cache = KvCache::new(&growing, 1);
    let mut last = Vec::new();
    for piece in [&tokens[..2], &tokens[2..6], &tokens[6..]] {
        last = step(&growing, &mut cache, piece).unwrap();
    }
    let whole = step(&growing, &mut KvCache::new(&growing, 1), &tokens).unwrap();
    let off = last.iter().zip(&whole).map(|(g, w)| (g - w).abs());
    assert!(off.fold(0.0, f32::max) < 1e-5);
}
