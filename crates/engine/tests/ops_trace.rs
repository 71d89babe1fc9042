//! The shapes-only run: what it finds, and that it and the eager run refuse the same things in the
//! same words.

use std::sync::Arc;

use crate::ops::{Block, Llama, Probe, base, rope};
use randori_engine::{Base, Packed, Player, Weight, trace, trace::Use};
use randori_sdk::seam::{
    AttnSpec, Backend, Growth, Id, LongRope, OpResult, RopeSpec, RouteSpec, Unary,
};

#[test]
fn a_llamas_trace() {
    let t = trace(&Llama::tiny()).unwrap();
    assert_eq!((t.width, t.vocab), (24, 29));
    let names: Vec<&str> = t.weights.iter().map(|w| w.name.as_str()).collect();
    assert_eq!(names[0], "model.embed_tokens.weight");
    assert_eq!(names[1], "model.layers.0.input_layernorm.weight");
    assert_eq!(
        names.len(),
        1 + 3 * 9 + 1,
        "the tied head asks for nothing new"
    );
    let find = |name: &str| t.weights.iter().find(|w| w.name == name).unwrap();
    assert_eq!(
        find("model.layers.2.self_attn.k_proj.weight").shape,
        [12, 24]
    );
    assert_eq!(
        find("model.layers.2.self_attn.k_proj.weight").used_as,
        Use::Linear
    );
    assert_eq!(find("model.embed_tokens.weight").used_as, Use::Embed);
    assert_eq!(find("model.norm.weight").used_as, Use::Norm);
    let block = 24 * 24 * 2 + 24 * 12 * 2 + 3 * 24 * 40;
    assert_eq!(t.flops_per_token, (2 * 3 * block) as f64);
    assert_eq!(t.flops_per_head_row, (2 * 24 * 29) as f64);
    assert_eq!(t.flops_per_token_pair, (3 * 4 * 24) as f64);
    assert_eq!(t.cache_bytes_per_token, 3 * 2 * 4 * 12);
    let down = t
        .linears
        .iter()
        .find(|l| l.name == "model.layers.1.mlp.down_proj")
        .unwrap();
    assert_eq!((down.inputs, down.outputs, down.layer), (40, 24, Some(1)));
    assert_eq!(t.linears.last().unwrap().layer, None);
    // saved by a block: x, h, q, k (turned), v, attention's result, its lse, x', h', gate, up, the
    // product
    let floats = 24 + 24 + 24 + 12 + 12 + 24 + 4 + 24 + 24 + 3 * 40;
    assert_eq!(t.block_bytes_per_token, 4 * floats);
    assert_eq!(t.activation_bytes_per_token, 3 * 4 * floats);
}

#[test]
fn an_expert_costs_its_share() {
    let block: Block = Box::new(|g, _, x| {
        let router = g.linear("router", x, 4, false)?;
        let route = RouteSpec::top(1);
        g.moe(router, x, &route, &mut |g, e, x| {
            g.linear(&format!("expert{e}"), x, 8, false).unwrap_or(0)
        })
    });
    let t = trace(&Probe {
        vocab: 5,
        width: 8,
        layers: 1,
        block,
    })
    .unwrap();
    assert_eq!(t.flops_per_token, (2 * 8 * 4 + 2 * 8 * 8) as f64);
    assert_eq!(t.linears.len(), 6); // router, four experts, head
}

/// `random:` starts the one scale at 1, the other at 0.
#[test]
fn a_scale_to_which_one_is_added_is_told_from_a_plain_one() {
    let block: Block = Box::new(|g, _, x| {
        let x = g.rms_norm("plain", x, 1e-6, 0.0)?;
        g.rms_norm("plus", x, 1e-6, 1.0)
    });
    let t = trace(&Probe {
        vocab: 5,
        width: 8,
        layers: 1,
        block,
    })
    .unwrap();
    let find = |name: &str| t.weights.iter().find(|w| w.name == name).unwrap().used_as;
    assert_eq!(find("plain.weight"), Use::Norm);
    assert_eq!(find("plus.weight"), Use::NormPlus);
}

/// What the trace says of a faulty block; the eager run must say the same.
fn refused(
    block: impl Fn(&mut dyn Backend, Id) -> OpResult + Send + Sync + Clone + 'static,
) -> String {
    let probe = |block: Block| Probe {
        vocab: 5,
        width: 8,
        layers: 1,
        block,
    };
    let faulty = block.clone();
    let traced = trace(&probe(Box::new(move |g, _, x| faulty(g, x))))
        .unwrap_err()
        .to_string();
    // weights of a sound probe, the arch of the faulty one
    let sound = base(probe(Box::new(|_, _, x| Ok(x))), 1);
    let arch = probe(Box::new(move |g, _, x| block(g, x)));
    let base = Base {
        arch: Arc::new(arch),
        config: sound.config.clone(),
        weights: sound.weights.clone(),
        squares: Default::default(),
        compute: Default::default(),
    };
    let mut plan = Packed::default();
    plan.push(&[1, 2, 3], &[&[1, 2]]);
    let eager = Player::bare(Arc::new(base))
        .hidden(&plan)
        .unwrap_err()
        .to_string();
    assert_eq!(traced, eager);
    traced
}

#[test]
fn faults_are_named_in_both_runs() {
    let has = |text: String, parts: &[&str]| {
        assert!(parts.iter().all(|p| text.contains(p)), "{text}");
    };
    has(
        refused(|g, x| g.unflatten(x, 3)),
        &["`probe`, block 0", "8 values into 3"],
    );
    has(refused(|g, x| g.flatten(x)), &["flatten", "[8]"]);
    has(
        refused(|g, x| g.narrow(x, 5, 4)),
        &["4 values from 5 of an axis of 8"],
    );
    has(refused(|g, x| g.narrow(x, usize::MAX, 2)), &["narrow"]);
    has(refused(|g, _| g.concat(&[])), &["at least one"]);
    has(
        refused(|g, _| g.unary(Unary::Silu, 99)),
        &["value 99 does not exist"],
    );
    has(
        refused(|g, _| g.unary(Unary::Silu, 0)),
        &["value 0 does not exist"],
    );
    has(refused(|g, x| g.affine(x, f64::NAN, 0.0)), &["finite"]);
    has(
        refused(|g, x| g.rope(x, &rope(2))),
        &["(heads, head_dim)", "[8]"],
    );
    has(
        refused(|g, x| {
            let x = g.unflatten(x, 2)?;
            g.rope(x, &rope(3))
        }),
        &["3 frequencies", "head_dim of 4"],
    );
    has(
        refused(|g, x| {
            let x = g.unflatten(x, 2)?;
            g.rope(
                x,
                &RopeSpec {
                    mscale: f32::INFINITY,
                    ..rope(1)
                },
            )
        }),
        &["finite", "inf"],
    );
    let rotation = |spec: RopeSpec| {
        refused(move |g, x| {
            let x = g.unflatten(x, 2)?;
            g.rope(x, &spec)
        })
    };
    let growing = |beta, every, pairs| RopeSpec {
        growth: Some(Growth { beta, every }),
        ..rope(pairs)
    };
    let long = |after, inv_freq: &[f32]| RopeSpec {
        long: Some(LongRope {
            after,
            inv_freq: inv_freq.to_vec(),
        }),
        ..rope(2)
    };
    for (refusal, says) in [
        (rotation(growing(0.1, 4, 1)), ["whole heads", "not 1 pairs"]),
        (
            rotation(growing(0.1, 0, 2)),
            ["at least 1 position", "0.1 and 0"],
        ),
        (
            rotation(growing(f64::NAN, 4, 2)),
            ["finite beta", "NaN and 4"],
        ),
        (
            rotation(long(9, &[1.0])),
            ["2 frequencies", "1 for more than 9"],
        ),
        (
            rotation(long(0, &[1.0, 0.5])),
            ["more than 0 tokens", "for more than 0"],
        ),
        (rotation(long(9, &[1.0, f32::NAN])), ["finite", "NaN"]),
    ] {
        has(refusal, &says);
    }
    let twice = Probe {
        vocab: 5,
        width: 8,
        layers: 1,
        block: Box::new(move |g, _, x| {
            let h = g.unflatten(x, 2)?;
            let h = g.rope(h, &long(9, &[1.0, 0.5]))?;
            g.rope(h, &long(8, &[1.0, 0.5]))
        }),
    };
    let error = trace(&twice).unwrap_err().to_string();
    has(error, &["beyond 9 tokens and beyond 8", "one length"]);
    let attention = |q: usize, k: usize, spec: AttnSpec| {
        refused(move |g, x| {
            let (q, k) = (g.unflatten(x, q)?, g.unflatten(x, k)?);
            g.attention(q, k, k, &spec)
        })
    };
    has(
        attention(2, 4, AttnSpec::default()),
        &["head_dim", "[2, 4]", "[4, 2]"],
    );
    has(
        attention(
            2,
            2,
            AttnSpec {
                window: Some(0),
                ..Default::default()
            },
        ),
        &["window", "not 0"],
    );
    has(
        attention(
            2,
            2,
            AttnSpec {
                softcap: Some(0.0),
                ..Default::default()
            },
        ),
        &["softcap"],
    );
    has(
        attention(
            2,
            2,
            AttnSpec {
                scale: Some(f32::NAN),
                ..Default::default()
            },
        ),
        &["scale", "NaN"],
    );
    has(
        refused(|g, x| {
            let router = g.narrow(x, 0, 3)?;
            g.moe(router, x, &RouteSpec::top(4), &mut |_, _, x| x)
        }),
        &["1 to 3", "not 4"],
    );
    has(
        refused(|g, x| {
            let route = RouteSpec {
                bias: Some(x),
                ..RouteSpec::top(1)
            };
            let router = g.narrow(x, 0, 3)?;
            g.moe(router, x, &route, &mut |_, _, x| x)
        }),
        &["a bias for each of 3 experts", "[8]"],
    );
    for (count, top, best, says) in [
        (3, 1, 1, "groups of equally many of 4 experts, not 3"),
        (2, 0, 1, "the best of 2 groups of 2: 0 of them"),
        (2, 3, 1, "the best of 2 groups of 2: 3 of them"),
        (4, 1, 1, "chooses 2 experts of the best of 4 groups of 1: 1"),
        (2, 1, 3, "scores a group by 1 to 2 of its 2 experts, not 3"),
        (2, 1, 0, "scores a group by 1 to 2 of its 2 experts, not 0"),
    ] {
        let route = RouteSpec::top(2).within_groups(count, top, best);
        let error = refused(move |g, x| {
            let router = g.narrow(x, 0, 4)?;
            g.moe(router, x, &route, &mut |_, _, x| x)
        });
        has(error, &[says]);
    }
    has(
        refused(|g, x| {
            let b = g.narrow(x, 0, 3)?;
            g.binary(randori_sdk::seam::Binary::Add, x, b)
        }),
        &["[3] to [8]"],
    );
    has(
        refused(|g, x| {
            let router = g.narrow(x, 0, 2)?;
            g.moe(router, x, &RouteSpec::top(2), &mut |_, _, _| 0)
        }),
        &["expert 0 failed"],
    );
}

#[test]
fn a_trace_refuses_two_shapes_of_one_weight_and_a_block_of_another_width() {
    let probe = |block: Block| {
        trace(&Probe {
            vocab: 5,
            width: 8,
            layers: 1,
            block,
        })
        .unwrap_err()
        .to_string()
    };
    let text = probe(Box::new(|g, _, x| {
        g.linear("a", x, 8, false)?;
        g.linear("a", x, 4, false)
    }));
    assert!(
        text.contains("`a.weight`") && text.contains("[8, 8]") && text.contains("[4, 8]"),
        "{text}"
    );
    let text = probe(Box::new(|g, _, x| g.narrow(x, 0, 4)));
    assert!(text.contains("[4]") && text.contains("(8)"), "{text}");
    let text = probe(Box::new(|g, _, x| g.embed("embed", x, 5, 8)));
    assert!(text.contains("token ids"), "{text}");
}

#[test]
fn a_weight_that_is_missing_or_misshapen_is_named() {
    let sound = base(Llama::tiny(), 1);
    let mut plan = Packed::default();
    plan.push(&[1, 2, 3], &[&[1, 2]]);
    let with = |change: &dyn Fn(&mut std::collections::HashMap<String, Weight>)| {
        let mut weights = sound.weights.clone();
        change(&mut weights);
        let base = Base {
            arch: sound.arch.clone(),
            config: sound.config.clone(),
            weights,
            squares: Default::default(),
            compute: Default::default(),
        };
        Player::bare(Arc::new(base))
            .logps(&plan)
            .unwrap_err()
            .to_string()
    };
    let name = "model.layers.1.mlp.up_proj.weight";
    let text = with(&|w| drop(w.remove(name)));
    assert!(text.contains(name) && text.contains("block 1"), "{text}");
    let text = with(&|w| {
        let norm = w["model.norm.weight"].clone();
        w.insert(name.into(), norm);
    });
    assert!(text.contains("[24]") && text.contains("[40, 24]"), "{text}");
}
